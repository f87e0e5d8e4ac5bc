package inventory

import (
	"log/slog"
	"sync"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// cluster is two hosts of one cluster and one of another, with a machine on a.
type cluster struct {
	*world
	epochs   map[string]int64
	sessions map[string]*Assembler
}

const volumes = 1 << 30

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{world: newWorld(t), epochs: map[string]int64{}, sessions: map[string]*Assembler{}}
	for host, group := range map[string]string{"a": "g", "b": "g", "x": "other", "y": "", "z": ""} {
		uid := uuid.NewString()
		c.put(func(tx *store.Txn) {
			store.Put(tx, store.VmHosts, &storev1.StoredVmHost{Resource: &vmhostv1.VmHost{
				Name: "vmHosts/" + host, Uid: uid, ClusterGroup: group, Zone: "zones/zone-" + host, ClusterMember: host,
			}}, host)
			store.Put(tx, store.Assignments, &storev1.StoredAssignment{Rack: "r1", VmHostUid: uid}, host)
		})
		a, _ := store.Assignments.Get(c.store.Cached(), host)
		c.epochs[host] = a.Revision
	}
	c.machine("a", 1)
	c.on(c.inv, "a", c.sees(1))
	c.on(c.inv, "b")
	c.put(func(tx *store.Txn) { tx.DeletePrefix(store.Events.Prefix()) })
	return c
}

// machine is a machine of ours with what it holds.
func (c *cluster) machine(host string, n int) {
	c.t.Helper()
	m := &storev1.StoredMachine{
		Resource: &vmhostv1.Machine{
			Name: "machines/" + id(n), Uid: id(n), HypervisorUuid: id(n), Hostname: "web", HypervisorName: "web", VmHost: "vmHosts/" + host,
			Zone: "zones/zone-" + host, ResourcePool: "resourcePools/default", Phase: vmhostv1.MachinePhase_MACHINE_PHASE_READY,
		},
		Commitment: &storev1.Commitment{Cores: 2, MemoryMib: 100, StorageBytes: map[string]int64{"default": volumes}, PinnedCores: []int32{3}},
	}
	c.put(func(tx *store.Txn) {
		store.Put(tx, store.Machines, m, id(n))
		store.Put(tx, store.Ledgers, &storev1.StoredLedger{Total: m.GetCommitment(), Machines: 1}, host)
	})
}

func (c *cluster) sees(n int) *rackv1.MachineObservation {
	m := domain(n, "web", true)
	m.Uid = id(n)
	return m
}

// on is a whole report of a host.
func (c *cluster) on(inv *Inventory, host string, machines ...*rackv1.MachineObservation) {
	c.t.Helper()
	c.sessions[host] = NewAssembler()
	c.must(inv.Report(c.t.Context(), "r1", c.sessions[host].Add(&rackv1.HostInventory{
		VmHost: "vmHosts/" + host, Epoch: c.epochs[host], Last: true, Machines: machines, Observation: observation(),
	})))
}

// later is a delta of a host.
func (c *cluster) later(host string, gone ...string) {
	c.t.Helper()
	c.must(c.inv.Report(c.t.Context(), "r1", c.sessions[host].Add(&rackv1.HostInventory{
		VmHost: "vmHosts/" + host, Epoch: c.epochs[host], Last: true, Delta: true, GoneUuids: gone,
	})))
}

func (c *cluster) at(n int) string {
	m, _ := store.Machines.Get(c.store.Cached(), id(n))
	return m.Value.GetResource().GetVmHost()
}

// balanced says whether every ledger is the sum over its machines, and foreign
// use what it is by definition (P1).
func (c *cluster) balanced() {
	c.t.Helper()
	v := c.store.Cached()
	for host, spec := range store.VmHosts.All(v) {
		want := ledger.Recount(v, host)
		l, _ := store.Ledgers.Get(v, host)
		if l.Value.GetMachines() != want.GetMachines() || l.Value.GetTotal().GetCores() != want.GetTotal().GetCores() ||
			l.Value.GetTotal().GetStorageBytes()["default"] != want.GetTotal().GetStorageBytes()["default"] || len(l.Value.GetTotal().GetPinnedCores()) != len(want.GetTotal().GetPinnedCores()) {
			c.t.Errorf("ledger of %s is %v, its machines hold %v", host, l.Value, want)
		}
		o, ok := store.Observed.Get(v, host)
		if sum := foreign(uncommitted(v, spec.Value.GetResource(), nil, after(v, host, nil)), nil); ok && !proto.Equal(o.Value.GetObservation().GetForeign(), sum) {
			c.t.Errorf("foreign use of %s is %v, its machines use %v", host, o.Value.GetObservation().GetForeign(), sum)
		}
	}
}

func (c *cluster) moved(n int) {
	c.t.Helper()
	m, _ := store.Machines.Get(c.store.Cached(), id(1))
	if r := m.Value.GetResource(); r.GetVmHost() != "vmHosts/b" || r.GetZone() != "zones/zone-b" {
		c.t.Errorf("the record is %v", r)
	}
	e := c.events("machine.moved")
	if len(e) != n || e[0].GetResource() != "machines/"+id(1) || e[0].GetAttributes()["from"] != "vmHosts/a" || e[0].GetAttributes()["to"] != "vmHosts/b" {
		c.t.Errorf("events %v", e)
	}
	c.balanced()
}

func TestAMachineIsFollowedToAnotherHostOfItsCluster_P1(t *testing.T) {
	t.Run("seen there after the host before did not show it", func(t *testing.T) {
		c := newCluster(t)
		c.later("a", id(1))
		c.balanced()
		c.on(c.inv, "b", c.sees(1))
		c.moved(1)
	})
	t.Run("seen there first, by a change", func(t *testing.T) {
		c := newCluster(t)
		c.must(c.inv.Change(t.Context(), "r1", &rackv1.MachineChange{VmHost: "vmHosts/b", Epoch: c.epochs["b"], Change: &rackv1.MachineChange_Present{Present: c.sees(1)}}))
		// The host before was looked at before that: it only does not know yet.
		c.moved(1)
		c.later("a", id(1))
		c.moved(1)
		for _, kind := range []string{"machine.missing", "machine.vanished", "machine.discovered", "machine.found"} {
			if e := c.events(kind); len(e) != 0 {
				t.Errorf("%s: %v", kind, e)
			}
		}
	})
	t.Run("both show it: the record stays until one does not", func(t *testing.T) {
		c := newCluster(t)
		c.put(func(tx *store.Txn) { // seen before a's next report
			store.Put(tx, store.Seen, &storev1.StoredSeenMachine{Observation: c.sees(1), FirstSeenTime: timestamppb.Now()}, "b", id(1))
		})
		c.later("a")
		c.on(c.inv, "b", c.sees(1))
		if c.at(1) != "vmHosts/a" {
			t.Error("it was moved, though its host shows it")
		}
		c.balanced() // it counts as one of others there
		c.later("a", id(1))
		c.moved(1)
		if e := c.events("machine.missing"); len(e) != 0 {
			t.Errorf("it is not missing: %v", e)
		}
	})
}

func TestAMachineIsFollowedNowhereElse(t *testing.T) {
	c := newCluster(t)
	c.machine("y", 2)
	clone := c.sees(7)
	clone.Uid = id(1)
	project := c.sees(1)
	project.Project = "theirs"
	c.later("a", id(1))
	for host, m := range map[string]*rackv1.MachineObservation{
		"x": c.sees(1), // another cluster
		"y": c.sees(1), // no cluster
		"z": c.sees(2), // from no cluster to none
	} {
		c.on(c.inv, host, m)
	}
	c.on(c.inv, "b", clone, project)
	if c.at(1) != "vmHosts/a" || c.at(2) != "vmHosts/y" || len(c.events("machine.moved")) != 0 {
		t.Errorf("1 is at %s, 2 at %s", c.at(1), c.at(2))
	}
	c.balanced()
}

func TestABusyMachineIsFollowedWhenItIsFree(t *testing.T) {
	c := newCluster(t)
	operation := func(phase vmhostv1.OperationPhase, end *timestamppb.Timestamp) {
		c.put(func(tx *store.Txn) {
			store.Put(tx, store.Operations, &storev1.StoredOperation{Resource: &vmhostv1.Operation{Name: "operations/o", Phase: phase, EndTime: end}}, "o")
		})
	}
	operation(vmhostv1.OperationPhase_OPERATION_PHASE_RUNNING, nil)
	m, _ := store.Machines.Get(c.store.Cached(), id(1))
	next := proto.CloneOf(m.Value)
	next.Resource.Operation = "operations/o"
	c.put(func(tx *store.Txn) { store.Put(tx, store.Machines, next, id(1)) })
	c.later("a", id(1))
	c.on(c.inv, "b", c.sees(1))
	c.later("b")
	if c.at(1) != "vmHosts/a" {
		t.Error("it was moved though an operation works on it")
	}
	c.balanced()
	operation(vmhostv1.OperationPhase_OPERATION_PHASE_SUCCEEDED, timestamppb.Now())
	c.later("b") // a report without anything
	c.moved(1)
	revision := c.store.Cached().Revision
	c.later("b")
	if c.store.Cached().Revision != revision {
		t.Error("something is written though nothing changes")
	}
}

// What a host showed before it was lost says nothing of where a machine is now.
func TestAMachineIsNotFollowedToAHostThatIsNotReached(t *testing.T) {
	c := newCluster(t)
	c.put(func(tx *store.Txn) {
		store.Put(tx, store.Seen, &storev1.StoredSeenMachine{Observation: c.sees(1), FirstSeenTime: timestamppb.Now()}, "b", id(1))
	})
	c.must(c.inv.Status(t.Context(), "r1", &rackv1.HostStatus{VmHost: "vmHosts/b", Epoch: c.epochs["b"]}))
	c.later("a", id(1))
	if c.at(1) != "vmHosts/a" || len(c.events("machine.missing")) != 1 {
		t.Errorf("it is at %s, missing: %v", c.at(1), c.events("machine.missing"))
	}
	c.on(c.inv, "b", c.sees(1))
	c.moved(1)
}

// A delete that begins at the same time and the move exclude one another: what
// comes second sees what came first.
func TestAMoveAndADeleteOfAMachineExcludeOneAnother(t *testing.T) {
	for range 10 {
		c := newCluster(t)
		c.later("a", id(1))
		m, _ := store.Machines.Get(c.store.Cached(), id(1))
		deleting := proto.CloneOf(m.Value)
		deleting.Resource.Phase = vmhostv1.MachinePhase_MACHINE_PHASE_DELETING
		var began error
		var both sync.WaitGroup
		both.Go(func() { c.on(c.inv, "b", c.sees(1)) })
		both.Go(func() {
			tx := store.NewTxn()
			tx.IfRevision(store.Machines.Key(id(1)), m.Revision)
			store.Put(tx, store.Machines, deleting, id(1))
			_, began = c.store.Commit(t.Context(), tx)
		})
		both.Wait()
		if began == nil && c.at(1) != "vmHosts/a" || began != nil && c.at(1) != "vmHosts/b" {
			t.Errorf("the delete: %v, the machine is at %s", began, c.at(1))
		}
		c.balanced()
	}
}

func TestTwoRegionsFollowAMachineOnce(t *testing.T) {
	c := newCluster(t)
	client := c.store.Client()
	c.later("a", id(1))
	c.put(func(tx *store.Txn) { // what both regions are about to find
		store.Put(tx, store.Seen, &storev1.StoredSeenMachine{Observation: c.sees(1), FirstSeenTime: timestamppb.Now()}, "b", id(1))
	})
	o, _ := store.Observed.Get(c.store.Cached(), "b")
	counted := proto.CloneOf(o.Value)
	counted.Observation.Foreign = foreign(uncommitted(c.store.Cached(), mustHost(c, "b"), nil, after(c.store.Cached(), "b", nil)), nil)
	c.put(func(tx *store.Txn) { store.Put(tx, store.Observed, counted, "b") })
	var all sync.WaitGroup
	for range 4 {
		region := New(storetest.On(t, client), slog.New(slog.DiscardHandler))
		all.Go(func() {
			if err := region.follow(t.Context(), "b", id(1)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	v, err := c.store.View(t.Context())
	if err != nil || v.Revision == 0 {
		t.Fatal(err)
	}
	c.moved(1)
}

func mustHost(c *cluster, host string) *vmhostv1.VmHost {
	h, ok := store.VmHosts.Get(c.store.Cached(), host)
	if !ok {
		c.t.Fatalf("no host %s", host)
	}
	return h.Value.GetResource()
}
