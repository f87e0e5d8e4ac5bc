package ledger

import (
	"iter"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// MachinesOn are the recorded machines of hosts, those of one host after those of
// another, in no order otherwise. Of a large fleet only few records are read:
// those of what is seen on the hosts. Where that is not all of what a ledger
// counts, as while a machine is composed, or missing, or a place is reserved, all
// records are gone through once.
func MachinesOn(v *store.View, hosts []string) iter.Seq2[string, *storev1.StoredMachine] {
	return func(yield func(uid string, m *storev1.StoredMachine) bool) {
		var rest map[string]bool
		for _, host := range hosts {
			found, all := seenOn(v, host)
			if !all {
				if rest == nil {
					rest = map[string]bool{}
				}
				rest[host] = true
				continue
			}
			for uid, m := range found {
				if !yield(uid, m) {
					return
				}
			}
		}
		if rest == nil {
			return
		}
		for uid, m := range store.Machines.All(v) {
			if rest[hostOf(m.Value)] && !yield(uid, m.Value) {
				return
			}
		}
	}
}

// seenOn are the recorded machines that are seen on a host, and whether those are
// all that its ledger counts.
func seenOn(v *store.View, host string) (found map[string]*storev1.StoredMachine, all bool) {
	led, ok := store.Ledgers.Get(v, host)
	if !ok || led.Value.GetMachines() == 0 {
		return nil, true
	}
	spec, ok := store.VmHosts.Get(v, host)
	if !ok {
		return nil, false
	}
	found = map[string]*storev1.StoredMachine{}
	for _, seen := range store.Seen.All(v, host) {
		if m, ours := view.Ours(v, spec.Value.GetResource(), seen.Value.GetObservation()); ours {
			found[m.Value.GetResource().GetUid()] = m.Value
		}
	}
	return found, len(found) == int(led.Value.GetMachines())
}
