package executor_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func adopted() *vmhostv1.Machine {
	return &vmhostv1.Machine{Uid: "m", HypervisorUuid: "f", HypervisorName: "foreign-f"}
}

func adoptStep(id string) *rackv1.Step {
	s := step("h1", id, 1)
	s.Action = &rackv1.Step_AdoptMachine{AdoptMachine: &rackv1.AdoptMachine{Machine: adopted()}}
	return s
}

func releaseStep(id string) *rackv1.Step {
	s := step("h1", id, 1)
	s.Action = &rackv1.Step_ReleaseMachine{ReleaseMachine: &rackv1.ReleaseMachine{Machine: adopted()}}
	return s
}

func TestAMachineIsAdoptedDrivenByItsOtherUUIDAndReleased(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		host := r.fleet.Host("h1")
		host.Put(foreign("f"))
		before := host.Get("f")
		r.assign("h1", 1)
		ctx := t.Context()
		r.Do(ctx, adoptStep("op/0/1"))
		power := powerStep("h1", "op2/0/1", "m", 1, start1)
		power.GetSetPower().HypervisorUuid, power.GetSetPower().HypervisorName = "f", "foreign-f"
		r.Do(ctx, power) // waits for its turn after the adoption
		wait(time.Second)
		if res := r.result("op/0/1"); res.GetError() != nil || res.GetMachine().GetUid() != "m" || res.GetMachine().GetUuid() != "f" || res.GetMachine().GetOperation() != "operations/op/0/1" {
			t.Errorf("adopted: %v", res)
		}
		if res := r.result("op2/0/1"); res.GetError() != nil || res.GetMachine().GetPowerState() != on {
			t.Errorf("started: %v", res)
		}
		stop := powerStep("h1", "op3/0/1", "m", 1, rackv1.PowerAction_POWER_ACTION_STOP)
		stop.GetSetPower().HypervisorUuid = "f"
		r.Do(ctx, stop)
		r.Do(ctx, releaseStep("op4/0/1"))
		wait(time.Second)
		if res := r.result("op4/0/1"); res.GetError() != nil {
			t.Errorf("released: %v", res)
		}
		if diff := cmp.Diff(before, host.Get("f"), protocmp.Transform()); diff != "" {
			t.Errorf("P5: what was adopted and released is another (-before +after):\n%s", diff)
		}
	})
}

func TestAdoptionIsJournalledLikeEveryChange_P3(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.fleet.Host("h1").Put(foreign("f"))
		r.assign("h1", 1)
		r.disconnect()
		r.Do(t.Context(), adoptStep("op/0/1"))
		wait(time.Second)
		r = r.restart() // its result was in the journal
		wait(time.Second)
		if res := r.result("op/0/1"); res.GetError() != nil {
			t.Errorf("result %v", res)
		}
		r.assign("h1", 1)
		r.Do(t.Context(), adoptStep("op/0/1"))
		wait(time.Second)
		if n := r.fleet.Host("h1").Calls(fake.Adopt); n != 1 {
			t.Errorf("a step of one id was done %d times", n)
		}
		r.stop()
	})
}

func TestAnotherOnesMachineIsNotAdopted(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		m := foreign("f")
		m.Uid = "of-another-deployment"
		r.fleet.Host("h1").Put(m)
		r.assign("h1", 1)
		r.Do(t.Context(), adoptStep("op/0/1"))
		wait(time.Second)
		if res := r.result("op/0/1"); res.GetError().GetClass() != rackv1.ErrorClass_ERROR_CLASS_FOREIGN {
			t.Errorf("result %v", res)
		}
	})
}

func TestTheTargetSaysProjectAndMember(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		a := assignment("h1", 1)
		a.Project, a.ClusterMember = "p", "node1"
		r.Assign(t.Context(), a)
		wait(time.Second)
		if to := r.target(); to.Project != "p" || to.ClusterMember != "node1" || to.Name != "vmHosts/h1" {
			t.Errorf("the driver was given %+v", to)
		}
		check := step("", "c", 0)
		check.VmHost, check.VmHostUid = "", ""
		check.Action = &rackv1.Step_CheckHost{CheckHost: &rackv1.CheckHost{Type: vmhostv1.VmHostType_VM_HOST_TYPE_FAKE, Address: "fake://h1", Project: "q"}}
		r.Do(t.Context(), check)
		wait(time.Second)
		if to := r.target(); to.Project != "q" {
			t.Errorf("a check gave the driver %+v", to)
		}
	})
}
