package ledger

import (
	"strings"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Release adds to a transaction that machines give everything back: capacity,
// name, record and what was seen of them. Call it only when the hypervisor was
// seen without them (P4), or when their host is forgotten. The transaction holds
// only if neither the machines nor the ledgers changed since the view; run it by
// WithTurn, or it can lose its race on a busy host. The answer is how many of the
// machines the view has.
func Release(tx *store.Txn, v *store.View, uids ...string) int {
	released := 0
	ledgers := map[string]*storev1.StoredLedger{}
	for _, uid := range uids {
		machine, ok := store.Machines.Get(v, uid)
		if !ok {
			continue
		}
		released++
		r := machine.Value.GetResource()
		host, pool := strings.TrimPrefix(r.GetVmHost(), "vmHosts/"), strings.TrimPrefix(r.GetResourcePool(), "resourcePools/")
		tx.IfRevision(store.Machines.Key(uid), machine.Revision)
		tx.Delete(store.Machines.Key(uid))
		tx.Delete(store.Names.Key(pool, r.GetHostname()))
		tx.Delete(store.Seen.Key(host, r.GetHypervisorUuid()))
		if _, ok := ledgers[host]; !ok {
			led, _ := store.Ledgers.Get(v, host)
			tx.IfRevision(store.Ledgers.Key(host), led.Revision)
			ledgers[host] = proto.CloneOf(led.Value)
		}
		if ledgers[host] != nil {
			subtract(ledgers[host], machine.Value.GetCommitment())
		}
	}
	for host, value := range ledgers {
		if value != nil {
			store.Put(tx, store.Ledgers, value, host)
		}
	}
	return released
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
