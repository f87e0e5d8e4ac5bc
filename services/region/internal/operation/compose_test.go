package operation

import (
	"strings"
	"testing"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

func TestAComposeMakesAndStartsTheMachine(t *testing.T) {
	w := newWorld(t)
	told := make(chan *vmhostv1.Operation, 10)
	w.told = func(op *vmhostv1.Operation) { told <- op }
	w.run(nil)
	op := w.ended(w.compose(true).GetName())
	w.halt()
	if len(told) != 1 || (<-told).GetName() != op.GetName() {
		t.Error("the end of the operation was not told of exactly once")
	}
	if op.GetPhase() != succeeded || op.GetProgressPercent() != 100 || len(op.GetSteps()) != 2 || !op.GetSteps()[1].GetDone() {
		t.Errorf("operation %v", op)
	}
	m := &vmhostv1.Machine{}
	if err := op.GetResponse().UnmarshalTo(m); err != nil || m.GetName() != op.GetTarget() || m.GetPhase() != vmhostv1.MachinePhase_MACHINE_PHASE_READY || m.GetOperation() != "" {
		t.Errorf("response %v, %v", m, err)
	}
	if m := w.machine(op.GetTarget()); m.GetPhase() != vmhostv1.MachinePhase_MACHINE_PHASE_READY || m.GetOperation() != "" {
		t.Errorf("machine %v", m)
	}
	if on := w.rack.domains[uidOf(op.GetTarget())]; !on {
		t.Error("it does not run")
	}
	a, _ := store.Assignments.Get(w.store.Cached(), "h")
	for _, s := range w.rack.steps {
		if s.GetEpoch() != a.Revision || s.GetVmHostUid() != "uid-h" {
			t.Errorf("step with epoch %d of host %s (P7)", s.GetEpoch(), s.GetVmHostUid())
		}
	}
	w.checkBooks()
}

func TestEveryClassOfFailureOfACreate_P4(t *testing.T) {
	for _, tt := range []struct {
		class  class
		reason vmhostv1.ErrorReason // 0: tried again until it works
	}{
		{rackv1.ErrorClass_ERROR_CLASS_EXISTS, vmhostv1.ErrorReason_ALREADY_EXISTS},
		{rackv1.ErrorClass_ERROR_CLASS_FOREIGN, vmhostv1.ErrorReason_FOREIGN_OBJECT},
		{rackv1.ErrorClass_ERROR_CLASS_CAPACITY, vmhostv1.ErrorReason_HYPERVISOR_CAPACITY},
		{rackv1.ErrorClass_ERROR_CLASS_UNSUPPORTED, vmhostv1.ErrorReason_UNSUPPORTED},
		{rackv1.ErrorClass_ERROR_CLASS_REFUSED, vmhostv1.ErrorReason_HYPERVISOR_ERROR},
		{rackv1.ErrorClass_ERROR_CLASS_AUTH, vmhostv1.ErrorReason_HOST_AUTH_FAILED},
		{rackv1.ErrorClass_ERROR_CLASS_HOST_KEY, vmhostv1.ErrorReason_HOST_KEY_CHANGED},
		{rackv1.ErrorClass_ERROR_CLASS_NOT_FOUND, vmhostv1.ErrorReason_NOT_FOUND},
		{rackv1.ErrorClass_ERROR_CLASS_BUSY, 0},
		{rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE, 0},
		{rackv1.ErrorClass_ERROR_CLASS_TIMEOUT, 0},
		{rackv1.ErrorClass_ERROR_CLASS_UNSPECIFIED, 0},
		{rackv1.ErrorClass_ERROR_CLASS_STALE_EPOCH, 0},
	} {
		t.Run(tt.class.String(), func(t *testing.T) {
			w := newWorld(t)
			w.rack.script = failing("create", tt.class, 2)
			w.run(nil)
			op := w.ended(w.compose(false).GetName())
			if tt.reason == 0 {
				if op.GetPhase() != succeeded || len(w.rack.sent("create")) < 3 {
					t.Errorf("after %d tries: %v", len(w.rack.sent("create")), op)
				}
				w.checkBooks()
				return
			}
			if op.GetPhase() != failed || op.GetError().GetReason() != tt.reason.String() || !strings.Contains(op.GetError().GetMessage(), "own words") {
				t.Errorf("operation %v", op)
			}
			if len(w.rack.sent("delete")) != 1 || w.machine(op.GetTarget()) != nil {
				t.Errorf("%d deletes, machine %v", len(w.rack.sent("delete")), w.machine(op.GetTarget()))
			}
			led, _ := store.Ledgers.Get(w.store.Cached(), "h")
			if led.Value.GetMachines() != 0 {
				t.Errorf("ledger %v", led.Value)
			}
			w.checkBooks()
		})
	}
}

func TestWhatCannotBeUndoneKeepsItsCapacity_P4(t *testing.T) {
	w := newWorld(t)
	create, del := failing("create", rackv1.ErrorClass_ERROR_CLASS_CAPACITY, always), failing("delete", rackv1.ErrorClass_ERROR_CLASS_REFUSED, 1)
	w.rack.script = func(s *rackv1.Step, n int) *rackv1.StepError {
		if e := create(s, n); e != nil {
			return e
		}
		return del(s, n)
	}
	e := w.run(nil)
	op := w.ended(w.compose(false).GetName())
	if m := w.machine(op.GetTarget()); op.GetPhase() != failed || m.GetPhase() != vmhostv1.MachinePhase_MACHINE_PHASE_FAILED || m.GetOperation() != "" {
		t.Errorf("operation %v, machine %v", op, m)
	}
	led, _ := store.Ledgers.Get(w.store.Cached(), "h")
	if led.Value.GetMachines() != 1 {
		t.Errorf("ledger %v", led.Value)
	}
	// The user deletes it, and then it is given back.
	again, err := e.Delete(t.Context(), "alice", &vmhostv1.DeleteMachineRequest{Name: op.GetTarget()})
	if err != nil {
		t.Fatal(err)
	}
	if op := w.ended(again.GetName()); op.GetPhase() != succeeded || w.machine(op.GetTarget()) != nil {
		t.Errorf("delete %v", op)
	}
	w.checkBooks()
}

func TestAForeignMachineInTheWayOfTheDeleteIsNoProofOfAbsence_P4(t *testing.T) {
	w := newWorld(t)
	e := w.run(nil)
	op := w.ended(w.compose(false).GetName())
	w.rack.mu.Lock()
	w.rack.script = failing("delete", rackv1.ErrorClass_ERROR_CLASS_FOREIGN, always)
	w.rack.mu.Unlock()
	del, err := e.Delete(t.Context(), "alice", &vmhostv1.DeleteMachineRequest{Name: op.GetTarget()})
	if err != nil {
		t.Fatal(err)
	}
	if op := w.ended(del.GetName()); op.GetPhase() != failed || op.GetError().GetReason() != "FOREIGN_OBJECT" {
		t.Errorf("delete %v", op)
	}
	if led, _ := store.Ledgers.Get(w.store.Cached(), "h"); led.Value.GetMachines() != 1 {
		t.Errorf("ledger %v", led.Value)
	}
	w.checkBooks()
}

func TestAMachineThatDoesNotStartStays(t *testing.T) {
	w := newWorld(t)
	w.rack.script = failing("start", rackv1.ErrorClass_ERROR_CLASS_REFUSED, always)
	w.run(nil)
	op := w.ended(w.compose(true).GetName())
	if m := w.machine(op.GetTarget()); op.GetPhase() != failed || m.GetPhase() != vmhostv1.MachinePhase_MACHINE_PHASE_READY || !strings.Contains(op.GetError().GetMessage(), "not started") {
		t.Errorf("operation %v, machine %v", op, m)
	}
	w.checkBooks()
}

func TestAtItsDeadlineAComposeFailsAndKeepsItsCapacity_P4(t *testing.T) {
	for _, rack := range []bool{true, false} {
		w := newWorld(t)
		w.rack.script = failing("create", rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE, always)
		if !rack {
			w.rack.session = ""
		}
		name := w.compose(false).GetName()
		w.run(nil)
		if rack {
			w.eventually("an answer of the rack", func() bool {
				steps := w.operation(name).GetResource().GetSteps()
				return len(steps) > 0 && steps[0].GetError() != ""
			})
		}
		w.late(name)
		op := w.ended(name)
		if op.GetPhase() != failed || op.GetError().GetReason() != "DEADLINE" {
			t.Errorf("operation %v", op)
		}
		if rack != strings.Contains(op.GetError().GetMessage(), "own words") || rack == strings.Contains(op.GetError().GetMessage(), "no connected rack") {
			t.Errorf("message %q", op.GetError().GetMessage())
		}
		if m := w.machine(op.GetTarget()); m.GetPhase() != vmhostv1.MachinePhase_MACHINE_PHASE_FAILED {
			t.Errorf("machine %v", m)
		}
		if led, _ := store.Ledgers.Get(w.store.Cached(), "h"); led.Value.GetMachines() != 1 {
			t.Errorf("ledger %v", led.Value)
		}
		w.checkBooks()
		w.halt()
	}
}

func TestCancelUndoesACompose(t *testing.T) {
	for _, tt := range []struct {
		name    string
		script  func(*rackv1.Step, int) *rackv1.StepError
		session string
		deletes int
	}{
		{"before any rack heard of it", nil, "", 0},
		{"while it is tried again", failing("create", rackv1.ErrorClass_ERROR_CLASS_BUSY, always), "s1", 1},
		{"made, while the start is tried again", failing("start", rackv1.ErrorClass_ERROR_CLASS_BUSY, always), "s1", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.rack.script, w.rack.session = tt.script, tt.session
			e := w.run(nil)
			op := w.compose(true)
			if tt.deletes > 0 {
				w.eventually("second try", func() bool { return w.operation(op.GetName()).GetResource().GetAttempt() > 1 })
			}
			if got, err := e.Cancel(t.Context(), op.GetName()); err != nil || !got.GetCancelRequested() {
				t.Fatalf("cancel: %v, %v", got, err)
			}
			end := w.ended(op.GetName())
			if end.GetPhase() != cancelled || w.machine(op.GetTarget()) != nil || len(w.rack.sent("delete")) != tt.deletes {
				t.Errorf("operation %v, machine %v, %d deletes", end, w.machine(op.GetTarget()), len(w.rack.sent("delete")))
			}
			if got, err := e.Cancel(t.Context(), op.GetName()); err != nil || got.GetPhase() != cancelled {
				t.Errorf("cancelled again: %v, %v", got, err)
			}
			w.checkBooks()
		})
	}
}
