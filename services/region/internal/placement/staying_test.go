package placement

import (
	"strings"
	"testing"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// moving is a machine on h1 with a disk of 5 bytes in the pool that h1 and h2 share.
func moving(bound bool) Machine {
	return Machine{
		Name: "machines/m", Host: "h1", Held: &storev1.Commitment{Cores: 1, MemoryMib: 1, StorageBytes: map[string]int64{"vm": 5}},
		Request: Request{From: "h1", Cores: 1, MemoryMiB: 1, ResourcePool: "a", Disks: []Disk{{SizeBytes: 5, Pool: "vm", Held: "nfs://nas/vm", In: "vm", Bound: bound}}},
	}
}

// A pool that is full takes a disk that is in it already, by whatever name it has
// there, and holds as much afterwards as before.
func TestADiskStaysInAFullPool_P1(t *testing.T) {
	a, b := nas("h1", 50, 10), nas("h2", 40, 20) // and 10 are others'
	b.Pools[0].Name = "images"
	f := NewFleet([]*Host{a, b})
	if free := f.Host("h2").Pools[0].Free(); free != 0 {
		t.Fatalf("%d bytes are free: that proves nothing", free)
	}
	m := moving(false)
	plan := f.Choose(&m.Request)
	if plan.Host == nil || plan.Pools[0] != "images" || !plan.Stays(0) || !strings.Contains(plan.PoolReasons[0], "stays where it is") {
		t.Fatalf("%+v: %s", plan, plan.Summary())
	}
	if c := plan.Commitment(&m.Request); len(c.GetStorageBytes()) != 0 {
		t.Errorf("while it is moved it takes %v", c)
	}
	if c := plan.Arrived(&m.Request, m.Held); c.GetStorageBytes()["images"] != 5 || len(c.GetStorageBytes()) != 1 {
		t.Errorf("when it has arrived it holds %v", c)
	}
	moves, stranded := f.DrainPlan("h1", []Machine{m, m, m})
	if len(moves) != 3 || len(stranded) != 0 {
		t.Errorf("%d of 3 would be moved", len(moves))
	}
	// What is planned after a move finds the pool as full as it is.
	other := moving(false)
	other.Request.Disks[0] = Disk{SizeBytes: 1}
	other.Held = &storev1.Commitment{Cores: 1, MemoryMib: 1}
	if moves, stranded := f.DrainPlan("h1", []Machine{m, other}); len(moves) != 1 || len(stranded) != 1 {
		t.Errorf("%v would be moved into a full pool", moves)
	}
}

// It goes into no other pool, and not to a host that cannot have it now.
func TestADiskThatStaysGoesNowhereElse_P3(t *testing.T) {
	fast := Pool{Name: "vm", Active: true, Resource: NewResource(1000, 0, 1, 0, 0)}
	for word, tt := range map[string]struct {
		spoil  func(h2 *Host, m *Machine)
		staysT string // where it stays; empty: it does not
		why    string
	}{
		"another of the name": {func(h2 *Host, _ *Machine) { h2.Pools[0].Name = "images"; h2.Pools = append(h2.Pools, fast) }, "images", ""},
		"not running": {func(h2 *Host, _ *Machine) {
			h2.Pools[0].Active = false
			h2.Pools[0].Name = "images"
			h2.Pools = append(h2.Pools, fast)
		}, "", "storage pool images (nfs://nas/vm, which 2 hosts share), in which disk 0 of the machine stays, but it is not running"},
		"without the tag": {func(_ *Host, m *Machine) { m.Request.Disks[0].Tags = []string{"ssd"} }, "", "has storage pool vm, but not with tags ssd"},
		"under two names, one of them not running": {func(h2 *Host, _ *Machine) {
			twin := h2.Pools[0]
			h2.Pools[0].Active, twin.Name = false, "zwin"
			h2.Pools = append(h2.Pools, twin)
		}, "zwin", ""},
		"bound, and not there": {func(h2 *Host, m *Machine) {
			m.Request.Disks[0].Bound = true
			h2.Pools = []Pool{fast}
		}, "", "has not the storage pool that disk 0 of the machine is in (nfs://nas/vm), which cannot be copied"},
	} {
		t.Run(word, func(t *testing.T) {
			a, b, m := nas("h1", 60, 10), nas("h2", 30, 20), moving(false)
			tt.spoil(b, &m)
			plan := NewFleet([]*Host{a, b}).Choose(&m.Request)
			switch {
			case tt.staysT == "" && (plan.Host != nil || !strings.Contains(plan.Summary(), tt.why)):
				t.Errorf("%v: %s", plan.Pools, plan.Summary())
			case tt.staysT != "" && (plan.Host == nil || plan.Pools[0] != tt.staysT || !plan.Stays(0)):
				t.Errorf("%v: %s", plan.Pools, plan.Summary())
			}
		})
	}
}

// A disk is copied to a host that has not the pool, unless it cannot be.
func TestADiskOfASharedPoolIsCopiedToOtherHosts(t *testing.T) {
	a, b := nas("h1", 60, 10), nas("h2", 0, 0)
	b.Pools[0].Identity = ""
	m := moving(false)
	plan := NewFleet([]*Host{a, b}).Choose(&m.Request)
	if plan.Host == nil || plan.Stays(0) || plan.Commitment(&m.Request).GetStorageBytes()["vm"] != 5 {
		t.Fatalf("%+v: %s", plan, plan.Summary())
	}
}

// While a machine is moved both hosts may show its disks: as ours they count once, so
// that what others use is not taken for ours.
func TestWhatIsSeenOnTwoHostsIsOursOnce_P1(t *testing.T) {
	show := func(ledger *storev1.StoredLedger) *storev1.StoredVmHostObservation {
		ledger.SharedPools = map[string]string{"vm": "nfs://nas/vm"}
		return &storev1.StoredVmHostObservation{Observation: &vmhostv1.VmHostObservation{
			StoragePools: []*vmhostv1.StoragePool{{Name: "vm", CapacityBytes: 100, AllocationBytes: 30, OursBytes: 20, Active: true}},
		}}
	}
	here := &storev1.StoredLedger{Total: &storev1.Commitment{StorageBytes: map[string]int64{"vm": 20}}}
	there := &storev1.StoredLedger{StayingBytes: map[string]int64{"vm": 20}}
	f := NewFleet([]*Host{NewHost(&storev1.StoredVmHost{Resource: &vmhostv1.VmHost{Name: "vmHosts/h1"}}, show(here), here), NewHost(&storev1.StoredVmHost{Resource: &vmhostv1.VmHost{Name: "vmHosts/h2"}}, show(there), there)})
	for h := range f.Hosts() {
		if p := h.Pools[0]; p.Committed != 20 || p.Foreign != 10 {
			t.Errorf("%s has %+v", h.ID, p)
		}
	}
}
