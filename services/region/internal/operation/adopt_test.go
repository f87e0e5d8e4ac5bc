package operation

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

type (
	adoptRequest   = vmhostv1.AdoptMachineRequest
	releaseRequest = vmhostv1.ReleaseMachineRequest
)

func (w *world) observed() *vmhostv1.VmHostObservation {
	o, _ := store.Observed.Get(w.store.Cached(), "h")
	return o.Value.GetObservation()
}

func (w *world) committed() *storev1.Commitment {
	l, _ := store.Ledgers.Get(w.store.Cached(), "h")
	return l.Value.GetTotal()
}

func TestAMachineIsAdoptedPoweredAndReleased(t *testing.T) {
	w := newWorld(t)
	e := w.run(nil)
	seen := &rackv1.MachineObservation{
		Uuid: uuid.NewString(), Name: "Legacy", Cores: 4, MemoryMib: 2048, Architecture: "x86_64", Autostart: true, Hugepages: true,
		PinnedCores: []int32{7, 3}, PowerState: vmhostv1.PowerState_POWER_STATE_ON,
		Disks: []*vmhostv1.MachineDisk{{StoragePool: "default", Volume: "legacy.qcow2", SizeBytes: 1 << 30, Device: "vda", Path: "/images/legacy.qcow2"}},
		Interfaces: []*vmhostv1.MachineInterface{{
			Mac: "52:54:00:00:00:01", Source: "default", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK, Addresses: []string{"10.0.0.9"},
			FixedAddress: "10.0.0.9",
		}},
	}
	name := w.legacy(seen, found("other", 2))[0]
	req := &adoptRequest{Name: name, Tags: []string{"db"}, RequestId: uuid.NewString()}
	plan := proto.CloneOf(req)
	plan.ValidateOnly = true
	if op, err := e.Adopt(t.Context(), "alice", plan); err != nil || op.GetName() != "" || w.machine(name) != nil {
		t.Errorf("validate_only: %v, %v", op, err)
	}
	op, err := e.Adopt(t.Context(), "alice", req)
	if err != nil {
		t.Fatal(err)
	}
	end := w.ended(op.GetName())
	if again, err := e.Adopt(t.Context(), "alice", req); err != nil || again.GetName() != op.GetName() {
		t.Errorf("repeated: %v, %v (P2)", again, err)
	}
	shown := &vmhostv1.Machine{}
	if err := end.GetResponse().UnmarshalTo(shown); err != nil || end.GetPhase() != succeeded {
		t.Fatalf("%v: %v", err, end)
	}
	m := w.machine(name)
	if shown.GetName() != name || shown.GetPhase() != vmhostv1.MachinePhase_MACHINE_PHASE_READY || m.GetPhase() != shown.GetPhase() || m.GetOperation() != "" {
		t.Errorf("shown %v, recorded %v", shown, m)
	}
	want := &vmhostv1.Machine{
		Name: name, Uid: uidOf(name), Hostname: "legacy", Origin: vmhostv1.MachineOrigin_MACHINE_ORIGIN_ADOPTED, VmHost: "vmHosts/h", Zone: "zones/default",
		ResourcePool: "resourcePools/default", HypervisorName: "Legacy", HypervisorUuid: seen.GetUuid(), Architecture: "x86_64", Cores: 4, MemoryMib: 2048,
		Disks: seen.GetDisks(), Tags: []string{"db"}, Phase: vmhostv1.MachinePhase_MACHINE_PHASE_READY, PinnedCores: []int32{7, 3}, Hugepages: true, Autostart: true,
		Interfaces: []*vmhostv1.MachineInterface{{Mac: "52:54:00:00:00:01", Source: "default", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK, FixedAddress: "10.0.0.9"}},
	}
	if diff := cmp.Diff(want, m, protocmp.Transform(), protocmp.IgnoreFields(want, "create_time", "update_time")); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	// Committed is what was foreign; storage stays where it is counted.
	wantCommitted := &storev1.Commitment{Cores: 4, MemoryMib: 2048, HugepagesMib: 2048, PinnedCores: []int32{3, 7}, FixedAddresses: []string{"default/10.0.0.9"}}
	if diff := cmp.Diff(wantCommitted, w.committed(), protocmp.Transform()); diff != "" {
		t.Errorf("committed (-want +got):\n%s", diff)
	}
	if f := w.observed().GetForeign(); f.GetMachines() != 1 || f.GetCores() != 2 || f.GetMemoryMib() != 1024 || f.GetHugepagesMib() != 0 {
		t.Errorf("foreign %v", f)
	}
	if a := w.rack.sent("adopt")[0].GetAdoptMachine().GetMachine(); a.GetUid() != uidOf(name) || a.GetHypervisorUuid() != seen.GetUuid() || a.GetHypervisorName() != "Legacy" || a.GetOperation() != op.GetName() {
		t.Errorf("sent %v", a)
	}
	w.checkBooks()

	// From now on it is powered by both its names.
	start, err := e.Power(t.Context(), "alice", name, &vmhostv1.BatchChangePowerRequest{Verb: start})
	if err != nil {
		t.Fatal(err)
	}
	if end := w.ended(start.GetName()); end.GetPhase() != succeeded {
		t.Errorf("start: %v", end)
	}
	if p := w.rack.sent("start")[0].GetSetPower(); p.GetUid() != uidOf(name) || p.GetHypervisorUuid() != seen.GetUuid() || p.GetHypervisorName() != "Legacy" {
		t.Errorf("sent %v", p)
	}
	if _, err := e.Adopt(t.Context(), "alice", &adoptRequest{Name: name}); apierror.Reason(err) != vmhostv1.ErrorReason_WRONG_STATE {
		t.Errorf("adopted twice: %v", err)
	}

	etag := &releaseRequest{Name: name, Etag: "1"}
	if _, err := e.Release(t.Context(), "alice", etag); apierror.Reason(err) != vmhostv1.ErrorReason_ETAG_MISMATCH {
		t.Errorf("release of an old version: %v", err)
	}
	back, err := e.Release(t.Context(), "alice", &releaseRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	end = w.ended(back.GetName())
	if err := end.GetResponse().UnmarshalTo(shown); err != nil || shown.GetName() != name || shown.GetOrigin() != vmhostv1.MachineOrigin_MACHINE_ORIGIN_DISCOVERED {
		t.Errorf("response %v, %v", shown, err)
	}
	if w.machine(name) != nil || !allDiscovered(w)[name] || w.committed().GetCores() != 0 {
		t.Errorf("machine %v, committed %v", w.machine(name), w.committed())
	}
	if f := w.observed().GetForeign(); f.GetMachines() != 2 || f.GetCores() != 6 || f.GetHugepagesMib() != 2048 || !slices.Equal(f.GetPinnedCores(), []int32{3, 7}) {
		t.Errorf("foreign %v", f)
	}
	types := map[string]int{}
	for _, ev := range store.Events.All(w.store.Cached()) {
		types[ev.Value.GetResource().GetType()]++
	}
	if types["machine.adopted"] != 1 || types["machine.released"] != 1 || types["machine.started"] != 1 {
		t.Errorf("events %v", types)
	}
	w.checkBooks()
}

func TestWhatMustNotBeAdoptedIsRefused_P5(t *testing.T) {
	w := newWorld(t)
	w.rack.session = ""
	e := w.run(nil)
	composing := w.compose(false)
	hostnameOf := w.machine(composing.GetTarget()).GetHostname()
	odd, broken, copied, elsewhere := found("My Machine!", 1), found("broken", 1), found("copied", 1), found("elsewhere", 1)
	broken.Problem, copied.Uid, elsewhere.Project = "limits.memory: lots", uidOf(composing.GetTarget()), "other"
	names := w.legacy(odd, broken, copied, elsewhere, found("good", 1))
	before := w.committed()
	for _, tt := range []struct {
		name string
		req  *adoptRequest
		want vmhostv1.ErrorReason
	}{
		{"nothing", &adoptRequest{Name: "machines/x"}, vmhostv1.ErrorReason_NOT_FOUND},
		{"a machine that is being made", &adoptRequest{Name: composing.GetTarget()}, vmhostv1.ErrorReason_MACHINE_BUSY},
		{"a name that is no hostname", &adoptRequest{Name: names[0]}, vmhostv1.ErrorReason_INVALID_FIELD},
		{"one that could not be read", &adoptRequest{Name: names[1]}, vmhostv1.ErrorReason_WRONG_STATE},
		{"a copy of one of ours", &adoptRequest{Name: names[2]}, vmhostv1.ErrorReason_FOREIGN_OBJECT},
		{"one of another project", &adoptRequest{Name: names[3]}, vmhostv1.ErrorReason_FOREIGN_OBJECT},
		{"a hostname that is taken", &adoptRequest{Name: names[4], Hostname: hostnameOf}, vmhostv1.ErrorReason_ALREADY_EXISTS},
	} {
		if _, err := e.Adopt(t.Context(), "alice", tt.req); apierror.Reason(err) != tt.want {
			t.Errorf("%s: %v (%s)", tt.name, err, apierror.Reason(err))
		}
	}
	if diff := cmp.Diff(before, w.committed(), protocmp.Transform()); diff != "" {
		t.Errorf("a refusal took something:\n%s", diff)
	}
	if op, err := e.Adopt(t.Context(), "alice", &adoptRequest{Name: names[0], Hostname: "my-machine"}); err != nil || w.machine(op.GetTarget()).GetHostname() != "my-machine" {
		t.Errorf("with a hostname: %v, %v", op, err)
	}
	if _, err := e.Release(t.Context(), "alice", &releaseRequest{Name: names[4]}); apierror.Reason(err) != vmhostv1.ErrorReason_FOREIGN_OBJECT {
		t.Errorf("release of a discovered machine: %v", err)
	}
	if _, err := e.Release(t.Context(), "alice", &releaseRequest{Name: names[0]}); apierror.Reason(err) != vmhostv1.ErrorReason_MACHINE_BUSY {
		t.Errorf("release of a machine that is being adopted: %v", err)
	}
	w.checkBooks()
}

func TestAnAdoptionWithinAQuota(t *testing.T) {
	w := newWorld(t)
	e := w.run(nil)
	tx := store.NewTxn()
	store.Put(tx, store.ResourcePools, &storev1.StoredResourcePool{Resource: &vmhostv1.ResourcePool{
		Name: "resourcePools/default", Quota: &vmhostv1.ResourceQuota{Cores: proto.Int64(4)},
	}}, "default")
	store.Put(tx, store.PoolUsage, &storev1.StoredPoolUsage{Amount: &vmhostv1.ResourceAmount{}, Counted: true}, "default")
	w.put(tx)
	used := func() int64 {
		u, _ := store.PoolUsage.Get(w.store.Cached(), "default")
		return u.Value.GetAmount().GetCores()
	}
	names := w.legacy(found("big", 5), found("small", 3))
	if _, err := e.Adopt(t.Context(), "alice", &adoptRequest{Name: names[0]}); apierror.Reason(err) != vmhostv1.ErrorReason_QUOTA_EXCEEDED {
		t.Errorf("past the quota: %v", err)
	}
	op, err := e.Adopt(t.Context(), "alice", &adoptRequest{Name: names[1]})
	if err != nil {
		t.Fatal(err)
	}
	if w.ended(op.GetName()); used() != 3 {
		t.Errorf("%d cores used, want 3", used())
	}
	op, err = e.Release(t.Context(), "alice", &releaseRequest{Name: names[1]})
	if err != nil {
		t.Fatal(err)
	}
	if w.ended(op.GetName()); used() != 0 {
		t.Errorf("%d cores used, want 0", used())
	}
	w.checkBooks()
}

// Every class of failure of an adoption ends with the machine as it was, a
// discovered one, or with the machine adopted.
func TestAnAdoptionThatFailsIsUndone_P4(t *testing.T) {
	for _, c := range []class{
		rackv1.ErrorClass_ERROR_CLASS_FOREIGN, rackv1.ErrorClass_ERROR_CLASS_NOT_FOUND, rackv1.ErrorClass_ERROR_CLASS_REFUSED,
		rackv1.ErrorClass_ERROR_CLASS_UNSUPPORTED, rackv1.ErrorClass_ERROR_CLASS_AUTH, rackv1.ErrorClass_ERROR_CLASS_EXISTS,
	} {
		t.Run(c.String(), func(t *testing.T) {
			w := newWorld(t)
			w.rack.script = failing("adopt", c, always)
			e := w.run(nil)
			name := w.legacy(found("legacy", 4))[0]
			op, err := e.Adopt(t.Context(), "alice", &adoptRequest{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			if end := w.ended(op.GetName()); end.GetPhase() != failed || end.GetError().GetReason() == "" || !strings.Contains(end.GetError().GetMessage(), "own words") {
				t.Errorf("%v", end)
			}
			if w.machine(name) != nil || w.committed().GetCores() != 0 || w.observed().GetForeign().GetCores() != 4 || !allDiscovered(w)[name] {
				t.Errorf("machine %v, committed %v, foreign %v", w.machine(name), w.committed(), w.observed().GetForeign())
			}
			w.checkBooks()
		})
	}
}

func TestAnAdoptionIsGivenUpAtItsDeadlineOrByItsUser(t *testing.T) {
	for _, byUser := range []bool{false, true} {
		w := newWorld(t)
		w.rack.script = failing("adopt", rackv1.ErrorClass_ERROR_CLASS_BUSY, always)
		e := w.run(nil)
		name := w.legacy(found("legacy", 4))[0]
		op, err := e.Adopt(t.Context(), "alice", &adoptRequest{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		phase := failed
		if byUser {
			phase = cancelled
			_, err = e.Cancel(t.Context(), op.GetName())
		} else {
			w.late(op.GetName())
		}
		if end := w.ended(op.GetName()); err != nil || end.GetPhase() != phase || w.machine(name) != nil {
			t.Errorf("by the user %v: %v, machine %v", byUser, end, w.machine(name))
		}
		w.checkBooks()
	}
}

// A release that fails leaves the machine ours.
func TestAReleaseThatFailsLeavesTheMachine(t *testing.T) {
	for _, tt := range []struct {
		name  string
		class class
		phase vmhostv1.OperationPhase
		stop  func(w *world, e *Engine, op string)
	}{
		{"refused", rackv1.ErrorClass_ERROR_CLASS_REFUSED, failed, func(*world, *Engine, string) {}},
		{"deadline", rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE, failed, func(w *world, _ *Engine, op string) { w.late(op) }},
		{"cancelled", rackv1.ErrorClass_ERROR_CLASS_BUSY, cancelled, func(w *world, e *Engine, op string) { _, _ = e.Cancel(w.t.Context(), op) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.rack.script = failing("release", tt.class, always)
			e := w.run(nil)
			name := w.legacy(found("legacy", 4))[0]
			op, err := e.Adopt(t.Context(), "alice", &adoptRequest{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			w.ended(op.GetName())
			if op, err = e.Release(t.Context(), "alice", &releaseRequest{Name: name}); err != nil {
				t.Fatal(err)
			}
			tt.stop(w, e, op.GetName())
			if end := w.ended(op.GetName()); end.GetPhase() != tt.phase {
				t.Errorf("%v", end)
			}
			if m := w.machine(name); m.GetPhase() != vmhostv1.MachinePhase_MACHINE_PHASE_READY || m.GetOperation() != "" || w.committed().GetCores() != 4 {
				t.Errorf("machine %v, committed %v", m, w.committed())
			}
			w.checkBooks()
		})
	}
}

// A machine that vmhost composed is given away: it stays with its volumes, which
// count as foreign at once.
func TestAComposedMachineCanBeGivenAway_P1(t *testing.T) {
	w := newWorld(t)
	e := w.run(nil)
	name := w.ended(w.compose(false).GetName()).GetTarget()
	m := w.machine(name)
	const size = 8_000_000_000
	rec, _ := store.Observed.Get(w.store.Cached(), "h")
	next := proto.CloneOf(rec.Value)
	next.Observation.StoragePools[0].AllocationBytes, next.Observation.StoragePools[0].OursBytes = size+5, size
	tx := seenOf("h", &rackv1.MachineObservation{Uuid: m.GetHypervisorUuid(), Name: m.GetHypervisorName(), Uid: m.GetUid(), Cores: m.GetCores(), MemoryMib: m.GetMemoryMib()})
	store.Put(tx, store.Observed, next, "h")
	w.put(tx)
	op, err := e.Release(t.Context(), "alice", &releaseRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	end := w.ended(op.GetName())
	shown := &vmhostv1.Machine{}
	if err := end.GetResponse().UnmarshalTo(shown); err != nil || shown.GetUid() != view.DiscoveredUID("uid-h", m.GetHypervisorUuid()) {
		t.Errorf("response %v, %v", shown, err)
	}
	pool := w.observed().GetStoragePools()[0]
	if len(w.rack.sent("delete")) != 0 || w.committed().GetStorageBytes()["default"] != 0 || pool.GetAllocationBytes()-pool.GetOursBytes() != size+5 {
		t.Errorf("committed %v, pool %v", w.committed(), pool)
	}
	w.checkBooks()
}

// Of an adopted machine only volumes are removed that are nobody else's.
func TestADeletedAdoptedMachineTakesOnlyItsOwnVolumes_P5(t *testing.T) {
	w := newWorld(t)
	e := w.run(nil)
	rec, _ := store.Observed.Get(w.store.Cached(), "h")
	next := proto.CloneOf(rec.Value)
	next.Observation.StoragePools = []*vmhostv1.StoragePool{{Name: "default", Type: "dir", Active: true}, {Name: "nfs", Type: "netfs", Active: true}}
	tx := store.NewTxn()
	store.Put(tx, store.Observed, next, "h")
	w.put(tx)
	mine, other := found("mine", 1), found("other", 1)
	mine.Disks = []*vmhostv1.MachineDisk{
		{StoragePool: "default", Volume: "own", Path: "/p/own"},
		{StoragePool: "default", Volume: "shared", Path: "/p/shared"},
		{StoragePool: "default", Volume: "by-path", Path: "/p/by-path"},
		{StoragePool: "nfs", Volume: "network", Path: "/nfs/network"},
		{StoragePool: "unknown", Volume: "x"},
		{Path: "/dev/sdb"},
	}
	other.Disks = []*vmhostv1.MachineDisk{{StoragePool: "default", Volume: "shared"}, {Path: "/p/by-path"}}
	name := w.legacy(mine, other)[0]
	op, err := e.Adopt(t.Context(), "alice", &adoptRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	w.ended(op.GetName())
	if len(w.machine(name).GetDisks()) != len(mine.GetDisks()) {
		t.Errorf("recorded disks %v", w.machine(name).GetDisks())
	}
	del, err := e.Delete(t.Context(), "alice", &vmhostv1.DeleteMachineRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	if end := w.ended(del.GetName()); end.GetPhase() != succeeded {
		t.Fatalf("%v", end)
	}
	sent := w.rack.sent("delete")[0].GetDeleteMachine().GetMachine()
	if len(sent.GetDisks()) != 1 || sent.GetDisks()[0].GetVolume() != "own" || sent.GetOrigin() != vmhostv1.MachineOrigin_MACHINE_ORIGIN_ADOPTED || sent.GetHypervisorUuid() != mine.GetUuid() {
		t.Errorf("sent %v", sent)
	}
	if w.machine(name) != nil || allDiscovered(w)[name] || w.observed().GetForeign().GetCores() != 1 {
		t.Errorf("machine %v, foreign %v", w.machine(name), w.observed().GetForeign())
	}
	w.checkBooks()
}

// What DHCP was told for a composed machine is taken back with it.
func TestADeleteOfAComposedMachineKnowsItsFixedAddresses(t *testing.T) {
	interfaces := []*vmhostv1.MachineInterface{{Mac: "52:54:00:00:00:01", Source: "default", FixedAddress: "10.0.0.7"}}
	for origin, want := range map[vmhostv1.MachineOrigin]int{vmhostv1.MachineOrigin_MACHINE_ORIGIN_COMPOSED: 1, vmhostv1.MachineOrigin_MACHINE_ORIGIN_ADOPTED: 0} {
		w := newWorld(t)
		if got := toDelete(w.store.Cached(), &vmhostv1.Machine{Origin: origin, Interfaces: interfaces}).GetInterfaces(); len(got) != want {
			t.Errorf("%v: sent %v", origin, got)
		}
	}
}
