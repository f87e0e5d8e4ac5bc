package inventory

import (
	"testing"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// A copy under way is no use of others: the room for it is committed. It is ours as
// long as the machine holds that room, and never longer.
func TestACopyUnderWayIsOursAsLongAsRoomIsHeldForIt_P1(t *testing.T) {
	for word, end := range map[string]func(c *cluster, tx *store.Txn){
		"not moved": func(c *cluster, tx *store.Txn) { ledger.UndoMove(tx, c.store.Cached(), id(1)) },
		"deleted":   func(c *cluster, tx *store.Txn) { ledger.Release(tx, c.store.Cached(), id(1)) },
	} {
		t.Run(word, func(t *testing.T) {
			c := newCluster(t)
			report := func(host string, delta bool) {
				t.Helper()
				o := observation()
				o.StoragePools = []*vmhostv1.StoragePool{{
					Name: "default", Active: true, CapacityBytes: 1 << 40, AllocationBytes: 100 << 30, OursBytes: 10 << 30,
					UnclaimedBytes: map[string]int64{id(1): 30 << 30, id(2): 5 << 30},
				}}
				part := &rackv1.HostInventory{VmHost: "vmHosts/" + host, Epoch: c.epochs[host], Last: true, Delta: delta}
				if !delta {
					c.sessions[host] = NewAssembler()
					part.Observation = o
				}
				c.must(c.inv.Report(t.Context(), "r1", c.sessions[host].Add(part)))
			}
			others := func(when string, want int64) {
				t.Helper()
				o, _ := store.Observed.Get(c.store.Cached(), "b")
				p := o.Value.GetObservation().GetStoragePools()[0]
				if got := p.GetAllocationBytes() - p.GetOursBytes(); got != want<<30 {
					t.Errorf("%s others have %d GiB, want %d", when, got>>30, want)
				}
			}
			report("b", false)
			others("before the move", 90)
			c.move(1, "b")
			report("b", false)
			others("while it is copied", 60)
			report("b", true) // nothing has changed
			others("later", 60)
			c.put(func(tx *store.Txn) { end(c, tx) })
			others("after it", 90)
			report("b", false)
			others("when that is reported again", 90)
		})
	}
}

func TestWhatARackSaysOfUnclaimedVolumesIsBounded(t *testing.T) {
	in := map[string]int64{"no uuid": 5, id(3): -1, id(4): 1 << 62}
	for n := range 2 * maxUnclaimed {
		in[id(100+n)] = 1
	}
	out := cleanUnclaimed(in)
	if _, bad := out["no uuid"]; bad || len(out) != maxUnclaimed || out[id(3)] != 0 || out[id(4)] != maxBytes {
		t.Errorf("%d are left: %v", len(out), out)
	}
}
