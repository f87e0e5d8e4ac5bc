package executor_test

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func moveStep(id, uid string, epoch int64) *rackv1.Step {
	s := step("h1", id, epoch)
	s.Operation = "operations/move"
	s.Action = &rackv1.Step_MoveMachine{MoveMachine: &rackv1.MoveMachine{
		Machine: machine(uid), Moved: machine(uid), Live: true, AllowOffline: true,
		Destination: &rackv1.MoveDestination{VmHost: "vmHosts/h2", Uid: "uid-h2", Type: vmhostv1.VmHostType_VM_HOST_TYPE_FAKE, Address: "fake://h2"},
	}}
	return s
}

// moving is a bubble with running machines on h1, which is assigned.
func moving(t *testing.T, test func(r *rig, from, to *fake.Host), uids ...string) {
	t.Helper()
	bubble(t, 2, func(r *rig) {
		r.assign("h1", 1)
		for i, uid := range uids {
			id := string(rune('a' + i))
			r.Do(t.Context(), createStep("h1", "make-"+id, uid, 1))
			r.Do(t.Context(), powerStep("h1", "start-"+id, uid, 1, start1))
		}
		wait(time.Second)
		test(r, r.fleet.Host("h1"), r.fleet.Host("h2"))
	})
}

func TestAMachineIsMovedAndItsObservationIsThatOfTheDestination(t *testing.T) {
	moving(t, func(r *rig, from, to *fake.Host) {
		to.SetPassword("right")
		to.SetHostKey("key")
		s := moveStep("op/0/1", "m", 1)
		d := s.GetMoveMachine().GetDestination()
		d.HostKey, d.SealedCredential, d.Project, d.ClusterMember = "key", seal("move/operations/move", "right"), "p", "node2"
		s.GetMoveMachine().Moved.Disks[0].Volume = "vmhost-m-there"
		r.Do(t.Context(), s)
		wait(time.Second)
		res := r.result("op/0/1")
		if res.GetError() != nil || res.GetMachine().GetUid() != "m" || res.GetMachine().GetPowerState() != on || res.GetMachine().GetDisks()[0].GetVolume() != "vmhost-m-there" {
			t.Errorf("result %v", res)
		}
		if res.GetMove().GetHow() != rackv1.MoveHow_MOVE_HOW_LIVE || res.GetMove().GetNotLive() != "" {
			t.Errorf("it was moved %v", res.GetMove())
		}
		if from.Get("m") != nil || to.Get("m") == nil {
			t.Errorf("on the source %v, on the destination %v", from.Get("m"), to.Get("m"))
		}
		if got := r.target(); got.Name != "vmHosts/h2" || got.Project != "p" || got.ClusterMember != "node2" {
			t.Errorf("the destination was opened as %+v", got)
		}
	}, "m")
}

func TestTheDestinationIsOpenedOnlyWithItsConfirmedKeyAndItsOwnCredential_P8(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(*rackv1.MoveDestination)
		class rackv1.ErrorClass
	}{
		"another host key":                  {func(d *rackv1.MoveDestination) { d.HostKey = "other" }, rackv1.ErrorClass_ERROR_CLASS_HOST_KEY},
		"a credential for another purpose":  {func(d *rackv1.MoveDestination) { d.SealedCredential = seal("check/operations/move", "right") }, rackv1.ErrorClass_ERROR_CLASS_AUTH},
		"a wrong password":                  {func(d *rackv1.MoveDestination) { d.SealedCredential = seal("move/operations/move", "wrong") }, rackv1.ErrorClass_ERROR_CLASS_AUTH},
		"a hypervisor of another kind":      {func(d *rackv1.MoveDestination) { d.Type = vmhostv1.VmHostType_VM_HOST_TYPE_LXD }, rackv1.ErrorClass_ERROR_CLASS_REFUSED},
		"an address where nothing answers":  {func(d *rackv1.MoveDestination) { d.Address = "fake://nobody" }, rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE},
		"the source as its own destination": {func(d *rackv1.MoveDestination) { d.Address, d.HostKey, d.SealedCredential = "fake://h1", "", nil }, rackv1.ErrorClass_ERROR_CLASS_REFUSED},
	} {
		t.Run(name, func(t *testing.T) {
			moving(t, func(r *rig, from, to *fake.Host) {
				to.SetPassword("right")
				to.SetHostKey("key")
				s := moveStep("op/0/1", "m", 1)
				d := s.GetMoveMachine().GetDestination()
				d.HostKey, d.SealedCredential = "key", seal("move/operations/move", "right")
				test.spoil(d)
				r.Do(t.Context(), s)
				wait(time.Second)
				res := r.result("op/0/1").GetError()
				if res.GetClass() != test.class || res.GetMessage() == "" {
					t.Errorf("result %v, want %v", res, test.class)
				}
				// What is connected to was looked at; the rest says that nothing was done.
				state, host := untouched, "vmHosts/h2"
				switch test.class {
				case rackv1.ErrorClass_ERROR_CLASS_REFUSED:
					if host = ""; d.GetType() == vmhostv1.VmHostType_VM_HOST_TYPE_FAKE {
						state = rackv1.MoveDestinationState_MOVE_DESTINATION_STATE_HAS // the source itself
					}
				default:
				}
				if res.GetDestination() != state || res.GetVmHost() != host {
					t.Errorf("destination %v of %q, want %v of %q", res.GetDestination(), res.GetVmHost(), state, host)
				}
				if from.Get("m").GetPowerState() != on || to.Get("m") != nil {
					t.Errorf("on the source %v, on the destination %v", from.Get("m"), to.Get("m"))
				}
				if r.region.status().GetError() != nil {
					t.Errorf("the source counts as not reached: %v", r.region.status())
				}
			}, "m")
		})
	}
}

const untouched = rackv1.MoveDestinationState_MOVE_DESTINATION_STATE_UNTOUCHED

// A rack says what it knows of the destination after a failure, and never more: of
// a step that it began with in another life it knows nothing until it has looked.
func TestARackThatIsNotLetInSaysWhetherItHasDoneAnythingBefore_P4(t *testing.T) {
	moving(t, func(r *rig, from, to *fake.Host) {
		to.SetPassword("right")
		s := moveStep("op/0/1", "m", 1)
		s.GetMoveMachine().Destination.SealedCredential = seal("move/operations/move", "right")
		release := to.Hang(fake.Receive)
		r.Do(t.Context(), s)
		wait(time.Second)
		r = r.restart() // with the step under way
		release()
		to.SetPassword("another")
		r.assign("h1", 1)
		r.Do(t.Context(), s)
		wait(time.Second)
		if res := r.result("op/0/1").GetError(); res.GetClass() != rackv1.ErrorClass_ERROR_CLASS_AUTH || res.GetDestination() != rackv1.MoveDestinationState_MOVE_DESTINATION_STATE_UNSPECIFIED {
			t.Errorf("result %v, but the rack had begun with it", res)
		}
		s.Id = "op/0/2"
		r.Do(t.Context(), s)
		wait(time.Second)
		if res := r.result("op/0/2").GetError(); res.GetDestination() != untouched {
			t.Errorf("result %v", res)
		}
		r.stop()
	}, "m")
}

func TestAfterAFailedMoveTheDestinationIsLookedAt_P4(t *testing.T) {
	class := func(c error) fake.Fault {
		return fake.Fault{Err: &hypervisor.Error{Class: c, Op: "x", Err: errors.New("injected")}}
	}
	for name, test := range map[string]struct {
		inject func(from, to *fake.Host)
		want   rackv1.MoveDestinationState
	}{
		"nothing arrived":            {func(_, to *fake.Host) { to.Inject(fake.Receive, class(hypervisor.ErrCapacity)) }, rackv1.MoveDestinationState_MOVE_DESTINATION_STATE_WITHOUT},
		"only the source is left":    {func(from, _ *fake.Host) { from.Inject(fake.Vacate, class(hypervisor.ErrRefused)) }, rackv1.MoveDestinationState_MOVE_DESTINATION_STATE_HAS},
		"refused before anything is": {func(from, _ *fake.Host) { from.Inject(fake.Move, class(hypervisor.ErrUnsupported)) }, rackv1.MoveDestinationState_MOVE_DESTINATION_STATE_WITHOUT},
	} {
		t.Run(name, func(t *testing.T) {
			moving(t, func(r *rig, from, to *fake.Host) {
				test.inject(from, to)
				r.Do(t.Context(), moveStep("op/0/1", "m", 1))
				wait(time.Second)
				if res := r.result("op/0/1").GetError(); res.GetDestination() != test.want {
					t.Errorf("result %v, want %v", res, test.want)
				}
			}, "m")
		})
	}
}

func TestMovesDoNotHoldUpTheOtherMachinesOfTheirHost(t *testing.T) {
	uids := []string{"m1", "m2", "m3", "m4", "m5", "m6"}
	moving(t, func(r *rig, from, to *fake.Host) {
		release := to.Hang(fake.Receive)
		for _, uid := range uids[:5] { // one more than run at once
			s := moveStep("move-"+uid, uid, 1)
			s.Timeout = durationpb.New(time.Hour)
			r.Do(t.Context(), s)
		}
		wait(time.Second)
		if n := to.Calls(fake.Receive); n != 4 {
			t.Errorf("%d machines are being copied, want 4", n)
		}
		r.Do(t.Context(), powerStep("h1", "stop", "m6", 1, rackv1.PowerAction_POWER_ACTION_STOP))
		r.Do(t.Context(), powerStep("h1", "behind", "m1", 1, rackv1.PowerAction_POWER_ACTION_START))
		wait(time.Second)
		if res := r.result("stop"); res.GetError() != nil || from.Get("m6").GetPowerState() == on {
			t.Errorf("a stop beside moves: %v", res)
		}
		if res := r.region.results(); len(res) != 2*len(uids)+1 {
			t.Errorf("%d results, the steps behind a move of their machine must wait", len(res))
		}
		release()
		wait(time.Second)
		if n := len(to.All()); n != 5 {
			t.Errorf("%d machines were moved, want 5", n)
		}
	}, uids...)
}

func TestAMoveEndsAtItsDeadlineWithTheMachineAsItWas(t *testing.T) {
	moving(t, func(r *rig, from, to *fake.Host) {
		to.Hang(fake.Receive)
		s := moveStep("op/0/1", "m", 1)
		s.GetMoveMachine().Live = false
		r.Do(t.Context(), s)
		wait(30 * time.Second)
		if from.Get("m").GetPowerState() == on {
			t.Error("the machine was not stopped, so that this proves nothing")
		}
		wait(time.Minute)
		if res := r.result("op/0/1"); res.GetError().GetClass() != rackv1.ErrorClass_ERROR_CLASS_TIMEOUT {
			t.Errorf("result %v", res)
		}
		if from.Get("m").GetPowerState() != on || to.Get("m") != nil || len(to.Volumes("default")) > 0 {
			t.Errorf("on the source %v, on the destination %v and %v", from.Get("m"), to.Get("m"), to.Volumes("default"))
		}
	}, "m")
}

func TestAMoveInWhichTheRackDiesIsDoneByTheRepeatedStep_P3_P6(t *testing.T) {
	moving(t, func(r *rig, from, to *fake.Host) {
		from.Inject(fake.Move, fake.Fault{HalfMade: true})
		s := moveStep("op/0/1", "m", 1)
		s.GetMoveMachine().Live = false
		from.Hang(fake.Vacate)
		r.Do(t.Context(), s)
		wait(time.Second)
		// As the death leaves it: copied, not started, and the region has no answer.
		if from.Get("m").GetPowerState() == on || to.Get("m").GetPowerState() == on || to.Get("m") == nil {
			t.Fatalf("on the source %v, on the destination %v", from.Get("m"), to.Get("m"))
		}
		from.Hang(fake.Vacate)()
		r = r.restart()
		r.assign("h1", 1)
		s.Id = "op/0/2"
		r.Do(t.Context(), s)
		wait(time.Second)
		if res := r.result("op/0/2"); res.GetError() != nil || res.GetMachine().GetPowerState() != on {
			t.Errorf("result %v", res)
		}
		if from.Get("m") != nil || to.Get("m").GetPowerState() != on {
			t.Errorf("on the source %v, on the destination %v", from.Get("m"), to.Get("m"))
		}
		r.Do(t.Context(), s) // answered from the journal
		wait(time.Second)
		if n := from.Calls(fake.Move); n != 2 {
			t.Errorf("a step of one id was done again, %d moves in all", n)
		}
		r.stop()
	}, "m")
}

func TestAMoveIsLeftToTheNextEpoch_P7(t *testing.T) {
	moving(t, func(r *rig, from, to *fake.Host) {
		release := to.Hang(fake.Receive)
		s := moveStep("op/0/1", "m", 1)
		s.GetMoveMachine().Live = false
		r.Do(t.Context(), s)
		wait(time.Second)
		r.assign("h1", 2)
		wait(time.Second)
		for _, res := range r.region.results() {
			if res.GetId() == "op/0/1" {
				t.Errorf("a move of an epoch that is over has a result: %v", res)
			}
		}
		if from.Get("m").GetPowerState() == on {
			t.Error("something was changed after the epoch was over")
		}
		release()
		r.Do(t.Context(), moveStep("op/0/2", "m", 1))
		s = moveStep("op/0/3", "m", 2)
		s.GetMoveMachine().Live = false
		r.Do(t.Context(), s)
		wait(time.Second)
		if res := r.result("op/0/2"); res.GetError().GetClass() != rackv1.ErrorClass_ERROR_CLASS_STALE_EPOCH {
			t.Errorf("a step of the old epoch: %v", res)
		}
		if res := r.result("op/0/3"); res.GetError() != nil || res.GetMachine().GetPowerState() != on {
			t.Errorf("a step of the new epoch: %v", res)
		}
	}, "m")
}

func TestADriverThatMovesNothingSaysSo(t *testing.T) {
	bubble(t, 2, func(r *rig) {
		r.drivers[vmhostv1.VmHostType_VM_HOST_TYPE_FAKE] = plainOpener{r.fleet}
		r.assign("h1", 1)
		r.Do(t.Context(), moveStep("op/0/1", "m", 1))
		wait(time.Second)
		if res := r.result("op/0/1"); res.GetError().GetClass() != rackv1.ErrorClass_ERROR_CLASS_UNSUPPORTED {
			t.Errorf("result %v", res)
		}
	})
}

var _ hypervisor.Mover = muffledDriver{}
