package executor_test

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const (
	start1 = rackv1.PowerAction_POWER_ACTION_START
	on     = vmhostv1.PowerState_POWER_STATE_ON
	off    = vmhostv1.PowerState_POWER_STATE_OFF
)

func TestAMachineIsMadeStartedObservedAndRemoved(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.assign("h1", 3)
		ctx, host := t.Context(), r.fleet.Host("h1")
		r.Do(ctx, createStep("h1", "op/0/1", "m", 3))
		r.Do(ctx, powerStep("h1", "op/1/1", "m", 3, start1))
		observe := step("h1", "op/2/1", 3)
		observe.Action = &rackv1.Step_ObserveMachine{ObserveMachine: &rackv1.ObserveMachine{Uid: "m"}}
		r.Do(ctx, observe)
		wait(time.Second)
		for id, power := range map[string]vmhostv1.PowerState{"op/0/1": off, "op/1/1": on, "op/2/1": on} {
			if res := r.result(id); res.GetError() != nil || res.GetMachine().GetUid() != "m" || res.GetMachine().GetPowerState() != power {
				t.Errorf("result of %s is %v", id, res)
			}
		}
		remove := step("h1", "op2/0/1", 3)
		remove.Action = &rackv1.Step_DeleteMachine{DeleteMachine: &rackv1.DeleteMachine{Machine: machine("m")}}
		r.Do(ctx, remove)
		wait(time.Second)
		if res := r.result("op2/0/1"); res.GetError() != nil || len(host.All()) != 0 || len(host.Volumes("default")) != 0 {
			t.Errorf("result %v, machines %v, volumes %v", res, host.All(), host.Volumes("default"))
		}
		accepted := map[string]bool{}
		for _, m := range r.region.all() {
			if a := m.GetStepAccepted(); a != nil {
				accepted[a.GetId()] = true
			}
			if res := m.GetStepResult(); res != nil && !accepted[res.GetId()] {
				t.Errorf("result of %s came before it was accepted", res.GetId())
			}
		}
	})
}

func TestP7AStepWithAnOldEpochHasNoEffect(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.assign("h1", 5)
		r.Do(t.Context(), createStep("h1", "old", "m", 4))
		wait(time.Second)
		if res := r.result("old"); res.GetError().GetClass() != rackv1.ErrorClass_ERROR_CLASS_STALE_EPOCH {
			t.Errorf("result %v", res)
		}
		r.Assign(t.Context(), assignment("h1", 4)) // as late as the step
		r.Do(t.Context(), createStep("h1", "new", "m2", 5))
		wait(time.Second)
		if res := r.result("new"); res.GetError() != nil {
			t.Errorf("result %v", res)
		}
		r = r.restart()
		r.Assign(t.Context(), assignment("h1", 4))
		r.Do(t.Context(), createStep("h1", "older", "m", 4))
		wait(time.Minute)
		if got := r.fleet.Host("h1").Calls(fake.Create); got != 1 || len(r.region.inventories()) != 0 {
			t.Errorf("%d creates, want the one of epoch 5; inventories %v of epoch 4", got, r.region.inventories())
		}
		r.stop()
	})
}

func TestP7AStepThatWaitedIsRefusedWhenANewerEpochCame(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.assign("h1", 5)
		host := r.fleet.Host("h1")
		release := host.Hang(fake.Create)
		r.Do(t.Context(), createStep("h1", "first", "m", 5))
		r.Do(t.Context(), powerStep("h1", "second", "m", 5, start1))
		wait(time.Second)
		r.assign("h1", 6)
		release()
		wait(time.Second)
		if res := r.result("first"); res.GetError() != nil {
			t.Errorf("the step that ran: %v", res)
		}
		if res := r.result("second"); res.GetError().GetClass() != rackv1.ErrorClass_ERROR_CLASS_STALE_EPOCH || host.Calls(fake.SetPower) != 0 {
			t.Errorf("the step that waited: %v, %d calls", res, host.Calls(fake.SetPower))
		}
	})
}

func TestP3AStepThatIsSentAgainHasOneEffect(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.assign("h1", 1)
		host, create := r.fleet.Host("h1"), createStep("h1", "op/0/1", "m", 1)
		release := host.Hang(fake.Create)
		for range 3 {
			r.Do(t.Context(), create)
			wait(time.Second)
		}
		release()
		wait(time.Second)
		if got := len(r.region.results()); got != 1 {
			t.Errorf("%d results of one step", got)
		}
		r.Do(t.Context(), create) // the result was lost on its way
		wait(time.Second)
		if got := len(r.region.results()); got != 2 || host.Calls(fake.Create) != 1 {
			t.Errorf("%d results, want 2; %d creates, want 1", got, host.Calls(fake.Create))
		}
		r.Acknowledged("op/0/1")
		r = r.restart()
		wait(time.Second)
		if got := r.region.results(); len(got) != 0 {
			t.Errorf("an acknowledged result is sent again: %v", got)
		}
		r.stop()
	})
}

func TestP3AnUnknownOutcomeIsMadeGoodByTheNextAttempt(t *testing.T) {
	for name, fault := range map[string]fake.Fault{
		"the effect happened": {AfterEffect: true}, "half of it happened": {HalfMade: true}, "nothing happened": {Err: hypervisor.ErrUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(r *rig) {
				r.assign("h1", 1)
				host := r.fleet.Host("h1")
				host.Inject(fake.Create, fault)
				r.Do(t.Context(), createStep("h1", "op/0/1", "m", 1))
				wait(time.Minute)
				if res := r.result("op/0/1"); res.GetError() == nil || res.GetError().GetMessage() == "" {
					t.Errorf("first attempt: %v", res)
				}
				r.Do(t.Context(), createStep("h1", "op/0/2", "m", 1))
				wait(time.Minute)
				if res := r.result("op/0/2"); res.GetError() != nil || len(host.All()) != 1 || len(host.Volumes("default")) != 1 {
					t.Errorf("second attempt: %v, machines %v, volumes %v", res, host.All(), host.Volumes("default"))
				}
			})
		})
	}
}

func TestP3AStepInterruptedByTheEndOfTheProcessIsDoneByTheNext(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.assign("h1", 1)
		host := r.fleet.Host("h1")
		release := host.Hang(fake.Create)
		r.Do(t.Context(), createStep("h1", "op/0/1", "m", 1))
		wait(time.Second)
		r = r.restart()
		if got := r.region.results(); len(got) != 0 {
			t.Errorf("a step that was cut off has a result: %v", got)
		}
		if ids, err := r.journal.Interrupted(); err != nil || len(ids) != 1 {
			t.Errorf("interrupted steps %v, error %v", ids, err)
		}
		release()
		r.assign("h1", 1)
		r.Do(t.Context(), createStep("h1", "op/0/1", "m", 1))
		wait(time.Second)
		if res := r.result("op/0/1"); res.GetError() != nil || len(host.All()) != 1 {
			t.Errorf("result %v, machines %v", res, host.All())
		}
		r.stop()
	})
}

func TestStepsAreSerialPerMachineAndParallelOnAHost(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.assign("h1", 1)
		host := r.fleet.Host("h1")
		host.SetLatency(fake.Create, time.Second)
		host.SetLatency(fake.SetPower, time.Second)
		for i := range 12 {
			uid := fmt.Sprint(i)
			r.Do(t.Context(), createStep("h1", uid+"/0/1", uid, 1))
			r.Do(t.Context(), powerStep("h1", uid+"/1/1", uid, 1, start1))
		}
		wait(6*time.Second + 10*time.Millisecond)
		for _, res := range r.region.results() {
			if res.GetError() != nil {
				t.Errorf("result %v", res)
			}
		}
		if n := len(r.region.results()); n != 24 || host.Overlaps() != 0 || host.MostInFlight() != 4 {
			t.Errorf("%d of 24 steps of a second ended in 6 seconds, %d overlaps, %d at once", n, host.Overlaps(), host.MostInFlight())
		}
	})
}

func TestAHypervisorThatHangsBlocksNoOther(t *testing.T) {
	bubble(t, 2, func(r *rig) {
		r.assign("h1", 1)
		r.assign("h2", 1)
		defer r.fleet.Host("h1").Hang(fake.Any)()
		for i := range 10 {
			r.Do(t.Context(), createStep("h1", fmt.Sprintf("hung/%d", i), fmt.Sprint("hung", i), 1))
		}
		r.Do(t.Context(), createStep("h2", "good", "good", 1))
		wait(time.Second)
		if res := r.result("good"); res.GetError() != nil {
			t.Errorf("result %v", res)
		}
		wait(10 * time.Minute)
		for i := range 10 {
			class := r.result(fmt.Sprintf("hung/%d", i)).GetError().GetClass()
			if class != rackv1.ErrorClass_ERROR_CLASS_TIMEOUT && class != rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE {
				t.Errorf("step %d ended as %v", i, class)
			}
		}
		if s := r.region.statuses(); len(s) == 0 {
			t.Error("nothing was said of the host that hangs")
		}
	})
}

func TestAStepOnAHostThatIsDownSaysWhyAndWaitsNotLong(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		host := r.fleet.Host("h1")
		host.Crash()
		r.assign("h1", 1)
		r.Do(t.Context(), createStep("h1", "op/0/1", "m", 1))
		wait(20 * time.Second)
		if res := r.result("op/0/1"); res.GetError().GetClass() != rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE || res.GetError().GetMessage() == "" {
			t.Errorf("result %v", res)
		}
		wait(time.Hour) // the waits between tries are long by now
		host.Recover()
		r.Do(t.Context(), createStep("h1", "op/0/2", "m", 1))
		wait(time.Millisecond)
		if res := r.result("op/0/2"); res.GetError() != nil {
			t.Errorf("a step does not have the connection tried: %v", res)
		}
	})
}

func TestStepsThatCannotBeTakenAreRefused(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.Do(t.Context(), createStep("h1", "unassigned", "m", 1))
		wait(time.Second)
		if got := r.result("unassigned").GetError().GetClass(); got != rackv1.ErrorClass_ERROR_CLASS_BUSY {
			t.Errorf("a step on a host that is not assigned ended as %v", got)
		}
		r.assign("h1", 1)
		r.Do(t.Context(), step("h1", "unknown", 1))
		wait(time.Second)
		if got := r.result("unknown").GetError().GetClass(); got != rackv1.ErrorClass_ERROR_CLASS_UNSUPPORTED {
			t.Errorf("an action of a newer region ended as %v", got)
		}
		defer r.fleet.Host("h1").Hang(fake.Create)()
		for i := range 300 {
			r.Do(t.Context(), createStep("h1", fmt.Sprint(i), fmt.Sprint(i), 1))
		}
		wait(time.Second)
		if got := len(r.region.results()) - 2; got != 300-256 {
			t.Errorf("%d of 300 steps were refused, want those above 256", got)
		}
	})
}

func TestCutOffItFinishesWhatItAcceptedAndReportsLater(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.assign("h1", 1)
		host := r.fleet.Host("h1")
		host.SetLatency(fake.Create, time.Minute)
		create := createStep("h1", "op/0/1", "m", 1)
		create.Timeout = durationpb.New(time.Hour)
		r.Do(t.Context(), create)
		wait(time.Second)
		r.disconnect()
		wait(time.Millisecond)
		reads := host.Calls(fake.Machines)
		wait(time.Hour)
		if len(host.All()) != 1 || host.Calls(fake.Machines) != reads {
			t.Errorf("machines %v; %d readings that nobody hears of", host.All(), host.Calls(fake.Machines)-reads)
		}
		r.connect()
		wait(time.Second)
		if res := r.result("op/0/1"); res.GetError() != nil || res.GetMachine().GetUid() != "m" {
			t.Errorf("result %v", res)
		}
		if inv := r.region.inventories(); len(inv) == 0 || inv[0].GetDelta() || len(inv[0].GetMachines()) != 1 || !r.region.status().GetReachable() {
			t.Errorf("inventories %v, status %v", inv, r.region.status())
		}
	})
}

func TestAnUnassignedHostFinishesItsStepsAndIsLeft(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.assign("h1", 1)
		host := r.fleet.Host("h1")
		host.SetLatency(fake.Create, 10*time.Second)
		r.Do(t.Context(), createStep("h1", "op/0/1", "m", 1))
		r.Do(t.Context(), powerStep("h1", "op/1/1", "m", 1, start1))
		wait(time.Second)
		r.Unassign(t.Context(), "uid-h1")
		r.Unassign(t.Context(), "uid-unknown")
		wait(time.Minute)
		if res := r.result("op/1/1"); res.GetError() != nil {
			t.Errorf("result %v", res)
		}
		calls := host.Calls(fake.Any)
		wait(time.Hour)
		if got := host.Calls(fake.Any); got != calls {
			t.Errorf("%d calls to a host that is not assigned", got-calls)
		}
		r.assign("h1", 2)
		if got := host.Calls(fake.Open); got != 2 {
			t.Errorf("assigned again, it was opened %d times in all, want 2", got)
		}
	})
}

func TestAHostThatWasTakenAwayWhileCutOffIsLeft(t *testing.T) {
	bubble(t, 2, func(r *rig) {
		r.assign("h1", 1)
		r.assign("h2", 1)
		r.disconnect()
		wait(time.Minute)
		r.connect()
		r.assign("h1", 1) // h2 went to another rack
		wait(5 * time.Minute)
		kept, left := r.fleet.Host("h1").Calls(fake.Any), r.fleet.Host("h2").Calls(fake.Any)
		wait(time.Hour)
		if n := r.fleet.Host("h1").Calls(fake.Any); n == kept {
			t.Error("the host that was assigned again is not read")
		}
		if n := r.fleet.Host("h2").Calls(fake.Any); n != left {
			t.Errorf("%d calls to the host that was not", n-left)
		}
	})
}
