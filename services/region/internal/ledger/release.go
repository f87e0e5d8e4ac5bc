package ledger

import (
	"strings"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Release adds to a transaction that a machine gives everything back: its
// capacity, its name, its record and what was seen of it. Call it only when the
// hypervisor was seen without the machine (P4), or when its host is forgotten.
// The transaction holds only if neither the machine nor the ledger changed since
// the view; run it by WithTurn, or it can lose its race on a busy host. False
// when the view has no such machine.
func Release(tx *store.Txn, v *store.View, uid string) bool {
	machine, ok := store.Machines.Get(v, uid)
	if !ok {
		return false
	}
	r := machine.Value.GetResource()
	host, pool := strings.TrimPrefix(r.GetVmHost(), "vmHosts/"), strings.TrimPrefix(r.GetResourcePool(), "resourcePools/")
	tx.IfRevision(store.Machines.Key(uid), machine.Revision)
	tx.Delete(store.Machines.Key(uid))
	tx.Delete(store.Names.Key(pool, r.GetHostname()))
	tx.Delete(store.References.Key("pools", pool, "machines", uid))
	tx.Delete(store.Seen.Key(host, r.GetHypervisorUuid()))
	led, ok := store.Ledgers.Get(v, host)
	tx.IfRevision(store.Ledgers.Key(host), led.Revision)
	if ok {
		value := proto.CloneOf(led.Value)
		subtract(value, machine.Value.GetCommitment())
		store.Put(tx, store.Ledgers, value, host)
	}
	return true
}

// Recount is what the machines of a host hold together: what its ledger must say.
func Recount(v *store.View, host string) *storev1.StoredLedger {
	out := &storev1.StoredLedger{Total: &storev1.Commitment{}}
	for _, m := range store.Machines.All(v) {
		if m.Value.GetResource().GetVmHost() == "vmHosts/"+host {
			add(out, m.Value.GetCommitment())
		}
	}
	return out
}
