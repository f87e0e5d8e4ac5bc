package inventory

import (
	"testing"

	"google.golang.org/protobuf/proto"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// move records that a machine is being moved.
func (c *cluster) move(n int, to string) {
	c.t.Helper()
	m, _ := store.Machines.Get(c.store.Cached(), id(n))
	host, _ := store.VmHosts.Get(c.store.Cached(), to)
	next := proto.CloneOf(m.Value)
	moved := proto.CloneOf(m.Value.GetResource())
	moved.VmHost, moved.Zone = "vmHosts/"+to, "zones/zone-"+to
	next.Move = &storev1.StoredMove{VmHost: to, VmHostUid: host.Value.GetResource().GetUid(), Moved: moved, Commitment: m.Value.GetCommitment()}
	c.put(func(tx *store.Txn) {
		store.Put(tx, store.Machines, next, id(n))
		store.Put(tx, store.Ledgers, &storev1.StoredLedger{Total: m.Value.GetCommitment(), Machines: 1}, to)
	})
}

// While a machine is moved it is ours on both hosts, whichever of them shows it and
// in whatever order; nothing is told of it, and its record stays until the move
// has ended, also within a cluster.
func TestAMachineThatIsMovedIsOursOnBothHosts_P1(t *testing.T) {
	for _, to := range []string{"b", "y"} {
		t.Run("to "+to, func(t *testing.T) {
			c := newCluster(t)
			c.on(c.inv, to)
			c.move(1, to)
			arriving := c.sees(1)
			arriving.PowerState, arriving.Name = vmhostv1.PowerState_POWER_STATE_PAUSED, "web-arriving"
			running := c.sees(1)
			quiet := func(when string) {
				t.Helper()
				c.balanced()
				if at := c.at(1); at != "vmHosts/a" {
					t.Errorf("%s its record is on %s", when, at)
				}
				for _, host := range []string{"a", to} {
					o, _ := store.Observed.Get(c.store.Cached(), host)
					if f := o.Value.GetObservation().GetForeign(); f.GetMachines() != 0 || f.GetCores() != 0 {
						t.Errorf("%s %s has foreign use %v", when, host, f)
					}
				}
				for range view.AllDiscovered(c.store.Cached()) {
					t.Errorf("%s it is discovered", when)
				}
				for _, kind := range []string{"machine.missing", "machine.found", "machine.discovered", "machine.vanished", "machine.changed_outside", "machine.moved", "machine.power_changed"} {
					if e := c.events(kind); len(e) > 0 {
						t.Errorf("%s there is an event %v", when, e)
					}
				}
			}
			c.on(c.inv, to, arriving)
			quiet("when it arrives")
			c.on(c.inv, to, running)
			quiet("when it runs there")
			c.later("a", id(1))
			quiet("when it has left")
			c.on(c.inv, "a")
			quiet("when the source is read anew")
			m, _ := store.Machines.Get(c.store.Cached(), id(1))
			shown := view.Machine(c.store.Cached(), nil, m)
			kinds := map[string]bool{}
			for _, cond := range shown.GetConditions() {
				kinds[cond.GetType()] = true
			}
			if kinds["Missing"] || kinds["Changed"] || !kinds["MoveOpen"] {
				t.Errorf("conditions %v", shown.GetConditions())
			}
			c.put(func(tx *store.Txn) {
				if !ledger.EndMove(tx, c.store.Cached(), id(1)) {
					t.Error("it was not being moved")
				}
			})
			c.balanced()
			if at := c.at(1); at != "vmHosts/"+to {
				t.Errorf("after the move its record is on %s", at)
			}
			c.later(to, id(1)) // from now on it goes missing as others do
			if len(c.events("machine.missing")) != 1 {
				t.Error("nothing tells that it is missing")
			}
		})
	}
}

// What a machine took beyond its commitment goes with it, in the transaction that
// says that it is not there, and not with the next whole report of the host.
func TestWhatAMachineTookBeyondItsCommitmentGoesWithIt_P1(t *testing.T) {
	grown := func(c *cluster) *rackv1.MachineObservation {
		m := c.sees(1)
		m.Cores, m.MemoryMib, m.Hugepages = 8, 900, true
		return m
	}
	for word, tt := range map[string]struct {
		host string // on which it has grown
		end  func(c *cluster, tx *store.Txn)
	}{
		"moved":           {"a", func(c *cluster, tx *store.Txn) { ledger.EndMove(tx, c.store.Cached(), id(1)) }},
		"not moved":       {"b", func(c *cluster, tx *store.Txn) { ledger.UndoMove(tx, c.store.Cached(), id(1)) }},
		"deleted":         {"a", func(c *cluster, tx *store.Txn) { ledger.Release(tx, c.store.Cached(), id(1)) }},
		"deleted on both": {"b", func(c *cluster, tx *store.Txn) { ledger.Release(tx, c.store.Cached(), id(1)) }},
	} {
		t.Run(word, func(t *testing.T) {
			c := newCluster(t)
			c.move(1, "b")
			c.on(c.inv, tt.host, grown(c))
			o, _ := store.Observed.Get(c.store.Cached(), tt.host)
			if f := o.Value.GetObservation().GetForeign(); f.GetCores() != 6 || f.GetMemoryMib() != 800 || f.GetHugepagesMib() != 900 {
				t.Fatalf("it takes %v beyond its commitment, so that this proves nothing", f)
			}
			c.put(func(tx *store.Txn) { tt.end(c, tx) })
			c.balanced()
			c.later(tt.host, id(1)) // the rack tells that it is gone only now
			c.balanced()
		})
	}
	t.Run("followed", func(t *testing.T) {
		c := newCluster(t)
		c.on(c.inv, "a", grown(c))
		c.later("a", id(1))
		c.on(c.inv, "b", c.sees(1))
		c.moved(1)
	})
}
