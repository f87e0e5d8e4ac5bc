package operation

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

const nas = "nfs://nas/vm"

// declared says what is behind a host's pool; empty: it is the host's alone.
func declared(identity string) func(h *vmhostv1.VmHost) {
	return func(h *vmhostv1.VmHost) {
		h.Type = vmhostv1.VmHostType_VM_HOST_TYPE_FAKE
		h.SharedStoragePools = []*vmhostv1.SharedStoragePool{{StoragePool: "default", Identity: identity}}
	}
}

// sharing is a machine on h, a second host that shares the pool of its disk, and a rack
// that leaves disks where they are.
func (w *world) sharing() string {
	w.t.Helper()
	name := w.made()
	w.change("h", declared(nas))
	w.change("h2", declared(nas))
	w.can("fake")
	return name
}

// can has the rack connect anew, saying so of itself.
func (w *world) can(movers ...string) {
	w.t.Helper()
	w.sharedMovers = movers
	w.connect("able-" + strings.Join(movers, "-"))
}

// checkShared compares what shared pools say with what machines hold in them.
func (w *world) checkShared() {
	w.t.Helper()
	v, err := w.store.View(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if diff := cmp.Diff(ledger.RecountShared(v), ledger.SharedNow(v)); diff != "" {
		w.t.Errorf("shared pools (-machines +pools):\n%s", diff)
	}
}

func TestAMoveBetweenHostsThatShareAPoolLeavesTheDiskThere_P1_P3(t *testing.T) {
	w := newWorld(t)
	name := w.sharing()
	w.see("h", name, vmhostv1.PowerState_POWER_STATE_ON)
	held := ledger.SharedNow(w.store.Cached())
	plan := &vmhostv1.ComposePlan{}
	dry, err := w.mover().Move(t.Context(), "alice", &moveRequest{Name: name, ValidateOnly: true})
	if err != nil || dry.GetResponse().UnmarshalTo(plan) != nil || !strings.Contains(strings.Join(plan.GetPlacement().GetStoragePoolReasons(), ""), "stays where it is") {
		t.Errorf("dry run: %v, %v", plan, err)
	}
	drain, err := w.mover().Drain(t.Context(), "alice", &vmhostv1.DrainVmHostRequest{Name: "vmHosts/h", ValidateOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if d := drainedBy(t, drain).GetMachines()[0]; d.GetTo() != "vmHosts/h2" || d.GetStayingDisks() != 1 || d.GetCopiedDisks() != 0 {
		t.Errorf("a drain would do %v", d)
	}
	op := w.move(name)
	deadline := w.operation(op.GetName()).GetResource().GetDeadlineTime().AsTime().Sub(op.GetCreateTime().AsTime())
	if deadline.Hours() > 2.1 { // a disk of 8 GB is not copied
		t.Errorf("it may take %v", deadline)
	}
	w.run(nil)
	end := w.ended(op.GetName())
	if end.GetPhase() != succeeded || !strings.Contains(end.GetMessage(), "its disks stayed where they are") {
		t.Fatalf("operation %v", end)
	}
	step := w.rack.sent("move")[0].GetMoveMachine()
	if !slices.Equal(step.GetStayingDisks(), []int32{0}) || step.GetMoved().GetDisks()[0].GetVolume() != step.GetMachine().GetDisks()[0].GetVolume() {
		t.Errorf("the rack was told %v", step)
	}
	w.checkBooks()
	w.checkShared()
	if diff := cmp.Diff(held, ledger.SharedNow(w.store.Cached())); diff != "" || len(held) != 1 {
		t.Errorf("the pool held (before, after): %s", diff)
	}
}

// leftOpen is a machine whose disk stays, and whose move has ended without it being
// known where it is.
func leftOpen(t *testing.T) (w *world, name string) {
	t.Helper()
	w = newWorld(t)
	name = w.sharing()
	w.rack.script = failing("move", unknown, always)
	op := w.move(name)
	w.run(nil)
	w.eventually("a try", func() bool { return len(w.rack.sent("move")) > 0 })
	w.late(op.GetName())
	if end := w.ended(op.GetName()); end.GetPhase() != failed || w.stored(name).GetMove() == nil {
		t.Fatalf("operation %v", end)
	}
	return w, name
}

// Which disks stay is decided once: a move that goes on leaves alone what it left
// alone before, whatever is said of the pools by then.
func TestAMoveThatGoesOnLeavesTheSameDisksAlone_P3(t *testing.T) {
	w, name := leftOpen(t)
	w.halt()
	w.change("h2", declared(""))
	w.rack.mu.Lock()
	w.rack.script = nil
	before := len(w.rack.steps)
	w.rack.mu.Unlock()
	again := w.move(name)
	w.run(nil)
	if end := w.ended(again.GetName()); end.GetPhase() != succeeded {
		t.Fatalf("operation %v", end)
	}
	w.rack.mu.Lock()
	defer w.rack.mu.Unlock()
	for _, s := range w.rack.steps[before:] {
		if move := s.GetMoveMachine(); move != nil && !slices.Equal(move.GetStayingDisks(), []int32{0}) {
			t.Errorf("it goes on with %v", move.GetStayingDisks())
		}
	}
	w.checkShared()
}

// A rack that would copy such disks gets none of these steps, also when it was given
// the host after they were planned.
func TestARackThatCopiesGetsNoMoveWhoseDisksStay_P3(t *testing.T) {
	w := newWorld(t)
	name := w.sharing()
	w.can()
	_, err := w.mover().Move(t.Context(), "alice", &moveRequest{Name: name})
	if apierror.Reason(err) != vmhostv1.ErrorReason_NO_CAPACITY || !strings.Contains(err.Error(), "copied onto itself") || !strings.Contains(err.Error(), "leaves no disks where they are") {
		t.Errorf("planned for a rack that copies: %v", err)
	}
	w.can("fake")
	op := w.move(name)
	w.can()
	w.run(nil)
	other := w.compose(false) // is done beside it
	w.ended(other.GetName())
	if n := len(w.rack.sent("move")); n != 0 {
		t.Errorf("the rack got %d steps", n)
	}
	w.can("fake")
	if end := w.ended(op.GetName()); end.GetPhase() != succeeded {
		t.Errorf("operation %v", end)
	}
}

// While it is not known where a machine is, both hosts show its disk. It is removed
// when neither has the machine any more, and not before.
func TestADeletionRemovesADiskThatStaysLast_P3(t *testing.T) {
	w, name := leftOpen(t)
	gone, err := w.current().Delete(t.Context(), "alice", &vmhostv1.DeleteMachineRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	if end := w.ended(gone.GetName()); end.GetPhase() != succeeded {
		t.Fatalf("operation %v", end)
	}
	var disks []int
	for _, s := range w.rack.sent("delete") {
		disks = append(disks, len(s.GetDeleteMachine().GetMachine().GetDisks()))
	}
	if !slices.Equal(disks, []int{0, 1}) {
		t.Errorf("so many disks are removed on the destination and on the source: %v", disks)
	}
	w.checkBooks()
	w.checkShared()
	if held := ledger.SharedNow(w.store.Cached()); len(held) != 0 {
		t.Errorf("the pool still holds %v", held)
	}
}

// A machine that was found is moved with its disk in a pool that it cannot be copied
// out of, if it can stay there.
func TestAnAdoptedMachineMovesWhenItsDisksStay(t *testing.T) {
	w := newWorld(t)
	name := w.sharing()
	o, _ := store.Observed.Get(w.store.Cached(), "h")
	netfs := proto.CloneOf(o.Value)
	netfs.Observation.StoragePools[0].Type = "netfs"
	tx := store.NewTxn()
	store.Put(tx, store.Observed, netfs, "h")
	m := proto.CloneOf(w.stored(name))
	m.Resource.Origin = vmhostv1.MachineOrigin_MACHINE_ORIGIN_ADOPTED
	m.Resource.Disks[0].Volume = "old.qcow2"
	store.Put(tx, store.Machines, m, uidOf(name))
	w.put(tx)
	w.can()
	if _, err := w.mover().Move(t.Context(), "alice", &moveRequest{Name: name}); apierror.Reason(err) != vmhostv1.ErrorReason_UNSUPPORTED || !strings.Contains(err.Error(), "cannot stay in it") {
		t.Errorf("by a rack that copies: %v", err)
	}
	w.can("fake")
	op := w.move(name)
	if step := w.operation(op.GetName()).GetPlan()[0].GetMoveMachine(); step.GetMoved().GetDisks()[0].GetVolume() != "old.qcow2" || len(step.GetStayingDisks()) != 1 {
		t.Errorf("planned %v", step)
	}
}

// What one host does not show now may be there all the same: its pool is not read.
func TestAPoolThatIsNotReadIsNoWayAroundASharedOne_P3(t *testing.T) {
	w := newWorld(t)
	name := w.sharing()
	led, _ := store.Ledgers.Get(w.store.Cached(), "h2")
	blind := &storev1.StoredLedger{Total: led.Value.GetTotal(), Machines: led.Value.GetMachines()}
	tx := store.NewTxn()
	store.Put(tx, store.Ledgers, blind, "h2")
	w.put(tx)
	_, err := w.mover().Move(t.Context(), "alice", &moveRequest{Name: name})
	if apierror.Reason(err) != vmhostv1.ErrorReason_NO_CAPACITY || !strings.Contains(err.Error(), "does not show it now") {
		t.Errorf("moved by a copy: %v", err)
	}
}
