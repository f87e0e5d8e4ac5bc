package api_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const (
	verbStart = vmhostv1.OperationVerb_OPERATION_VERB_START
	verbStop  = vmhostv1.OperationVerb_OPERATION_VERB_STOP
)

// Every way to ask for power becomes an operation of its verb, and is refused for
// the same reasons.
func TestEveryChangeOfPowerIsAnOperation(t *testing.T) {
	f := start(t)
	ctx := f.as(storev1.Role_ROLE_COMPOSER)
	f.ready(f.addHost(f.admin(), "h1"))
	calls := map[vmhostv1.OperationVerb]func(name, id string, only bool) (*vmhostv1.Operation, error){
		verbStart: func(name, id string, only bool) (*vmhostv1.Operation, error) {
			return f.mach.StartMachine(ctx, &vmhostv1.StartMachineRequest{Name: name, RequestId: id, ValidateOnly: only})
		},
		verbStop: func(name, id string, only bool) (*vmhostv1.Operation, error) {
			return f.mach.StopMachine(ctx, &vmhostv1.StopMachineRequest{Name: name, RequestId: id, ValidateOnly: only, Mode: vmhostv1.StopMode_STOP_MODE_HARD})
		},
		vmhostv1.OperationVerb_OPERATION_VERB_RESET: func(name, id string, only bool) (*vmhostv1.Operation, error) {
			return f.mach.ResetMachine(ctx, &vmhostv1.ResetMachineRequest{Name: name, RequestId: id, ValidateOnly: only})
		},
		vmhostv1.OperationVerb_OPERATION_VERB_CYCLE: func(name, id string, only bool) (*vmhostv1.Operation, error) {
			return f.mach.CycleMachine(ctx, &vmhostv1.CycleMachineRequest{Name: name, RequestId: id, ValidateOnly: only, GracePeriod: durationpb.New(time.Second)})
		},
		vmhostv1.OperationVerb_OPERATION_VERB_PAUSE: func(name, id string, only bool) (*vmhostv1.Operation, error) {
			return f.mach.PauseMachine(ctx, &vmhostv1.PauseMachineRequest{Name: name, RequestId: id, ValidateOnly: only})
		},
		vmhostv1.OperationVerb_OPERATION_VERB_RESUME: func(name, id string, only bool) (*vmhostv1.Operation, error) {
			return f.mach.ResumeMachine(ctx, &vmhostv1.ResumeMachineRequest{Name: name, RequestId: id, ValidateOnly: only})
		},
	}
	for verb, call := range calls {
		name := f.compose(ctx, "").GetTarget()
		for _, only := range []bool{true, false} {
			_, err := call(name, "", only)
			wantReason(t, verb.String()+" while composing", err, codes.FailedPrecondition, vmhostv1.ErrorReason_MACHINE_BUSY)
			_, err = call("machines/none", "", only)
			wantReason(t, verb.String()+" of nothing", err, codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND)
		}
		f.settle(name)
		if op, err := call(name, "", true); err != nil || op.GetName() != "" || op.GetVerb() != verb || op.GetTarget() != name {
			t.Errorf("%s, validate_only: %v, %v", verb, op, err)
		}
		id := uuid.NewString()
		op, err := call(name, id, false)
		if err != nil || op.GetVerb() != verb || op.GetTarget() != name {
			t.Fatalf("%s: %v, %v", verb, op, err)
		}
		if again, err := call(name, id, false); err != nil || again.GetName() != op.GetName() {
			t.Errorf("%s repeated: %v, %v (P2)", verb, again, err)
		}
	}
	_, err := f.mach.StopMachine(ctx, &vmhostv1.StopMachineRequest{Name: "machines/x", Mode: vmhostv1.StopMode_STOP_MODE_HARD, GracePeriod: durationpb.New(time.Second)})
	wantReason(t, "a hard stop with a grace", err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "grace_period")
}

func TestManyMachinesByFilterAreOursOnly_P5(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	h := f.addHost(ctx, "h1")
	f.ready(h)
	f.see(h, &rackv1.MachineObservation{Uuid: uuid.NewString(), Name: "legacy", Cores: 1, MemoryMib: 512})
	var names []string
	for range 4 {
		names = append(names, f.compose(ctx, "").GetTarget())
		f.settle(names[len(names)-1])
	}
	slices.Sort(names)
	res, err := f.mach.BatchChangePower(ctx, &vmhostv1.BatchChangePowerRequest{Filter: "cores = 1", Verb: verbStart, RequestId: uuid.NewString()})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range res.GetResults() {
		got = append(got, r.GetName())
		if r.GetError() != nil || r.GetOperation().GetVerb() != verbStart {
			t.Errorf("%v", r)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, names) {
		t.Errorf("matched %v, want %v", got, names)
	}
	res, err = f.mach.BatchChangePower(ctx, &vmhostv1.BatchChangePowerRequest{Filter: "hostname = \"nobody\"", Verb: verbStart})
	if err != nil || len(res.GetResults()) != 0 {
		t.Errorf("nothing matched: %v, %v", res, err)
	}
	for what, req := range map[string]*vmhostv1.BatchChangePowerRequest{
		"a bad filter":    {Filter: "cores ~", Verb: verbStart},
		"no verb":         {Names: names},
		"a verb of other": {Names: names, Verb: vmhostv1.OperationVerb_OPERATION_VERB_DELETE},
		"the same twice":  {Names: []string{names[0], names[0]}, Verb: verbStart},
		"none":            {Verb: verbStart},
	} {
		_, err := f.mach.BatchChangePower(ctx, req)
		wantReason(t, what, err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD)
	}
}

func TestAMachineIsAdoptedAndReleasedByOperators(t *testing.T) {
	f := start(t)
	ctx := f.as(storev1.Role_ROLE_OPERATOR)
	h := f.addHost(ctx, "h1")
	f.ready(h)
	f.see(h, &rackv1.MachineObservation{Uuid: uuid.NewString(), Name: "legacy", Cores: 2, MemoryMib: 512})
	list, err := f.mach.ListMachines(ctx, &vmhostv1.ListMachinesRequest{})
	if err != nil || len(list.GetMachines()) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	name := list.GetMachines()[0].GetName()
	_, err = f.mach.AdoptMachine(f.as(storev1.Role_ROLE_COMPOSER), &vmhostv1.AdoptMachineRequest{Name: name})
	wantReason(t, "by a composer", err, codes.PermissionDenied, vmhostv1.ErrorReason_PERMISSION_DENIED)
	_, err = f.mach.ReleaseMachine(ctx, &vmhostv1.ReleaseMachineRequest{Name: name})
	wantReason(t, "release of a discovered one", err, codes.FailedPrecondition, vmhostv1.ErrorReason_FOREIGN_OBJECT)
	op, err := f.mach.AdoptMachine(ctx, &vmhostv1.AdoptMachineRequest{Name: name, Hostname: "db1", Tags: []string{"db"}})
	if err != nil || op.GetVerb() != vmhostv1.OperationVerb_OPERATION_VERB_ADOPT || op.GetTarget() != name || op.GetVmHost() != "vmHosts/h1" {
		t.Fatalf("%v, %v", op, err)
	}
	// It is one machine, before and after, and what its host carries is the same.
	list, err = f.mach.ListMachines(ctx, &vmhostv1.ListMachinesRequest{})
	if err != nil || len(list.GetMachines()) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	m := list.GetMachines()[0]
	if m.GetName() != name || m.GetHostname() != "db1" || m.GetOrigin() != vmhostv1.MachineOrigin_MACHINE_ORIGIN_ADOPTED || m.GetPhase() != vmhostv1.MachinePhase_MACHINE_PHASE_ADOPTING {
		t.Errorf("%v", m)
	}
	shown, err := f.hosts.GetVmHost(ctx, &vmhostv1.GetVmHostRequest{Name: "vmHosts/h1"})
	if err != nil || shown.GetUsage().GetCores().GetCommitted() != 2 || shown.GetUsage().GetCores().GetForeign() != 0 {
		t.Errorf("%v, %v", shown.GetUsage(), err)
	}
	_, err = f.mach.ReleaseMachine(ctx, &vmhostv1.ReleaseMachineRequest{Name: name})
	wantReason(t, "release while it is adopted", err, codes.FailedPrecondition, vmhostv1.ErrorReason_MACHINE_BUSY)
	f.settle(name)
	_, err = f.mach.AdoptMachine(ctx, &vmhostv1.AdoptMachineRequest{Name: name})
	wantReason(t, "adopted twice", err, codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE)
	if op, err := f.mach.ReleaseMachine(ctx, &vmhostv1.ReleaseMachineRequest{Name: name, Etag: "1"}); err == nil {
		t.Errorf("release of an old version: %v", op)
	}
	if op, err = f.mach.ReleaseMachine(ctx, &vmhostv1.ReleaseMachineRequest{Name: name}); err != nil || op.GetVerb() != vmhostv1.OperationVerb_OPERATION_VERB_RELEASE {
		t.Errorf("%v, %v", op, err)
	}
}

func TestAHostIsRemovedByAnOperation(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	h := f.addHost(ctx, "h1")
	remove := func(ctx context.Context, req *vmhostv1.RemoveVmHostRequest) (*vmhostv1.Operation, error) {
		req.Name = "vmHosts/h1"
		return f.hosts.RemoveVmHost(ctx, req)
	}
	const mode = vmhostv1.RemoveMode_REMOVE_MODE_FORGET
	_, err := remove(ctx, &vmhostv1.RemoveVmHostRequest{})
	wantReason(t, "without a mode", err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "mode")
	_, err = remove(f.as(storev1.Role_ROLE_COMPOSER), &vmhostv1.RemoveVmHostRequest{Mode: mode})
	wantReason(t, "by a composer", err, codes.PermissionDenied, vmhostv1.ErrorReason_PERMISSION_DENIED)
	_, err = remove(ctx, &vmhostv1.RemoveVmHostRequest{Mode: mode, Etag: "old"})
	wantReason(t, "of an old version", err, codes.Aborted, vmhostv1.ErrorReason_ETAG_MISMATCH)
	op, err := remove(ctx, &vmhostv1.RemoveVmHostRequest{Mode: mode, Etag: h.GetEtag()})
	if err != nil {
		t.Fatal(err)
	}
	end, err := f.ops.WaitOperation(ctx, &vmhostv1.WaitOperationRequest{Name: op.GetName(), Timeout: durationpb.New(20 * time.Second)})
	if err != nil || end.GetPhase() != vmhostv1.OperationPhase_OPERATION_PHASE_SUCCEEDED {
		t.Fatalf("%v, %v", end, err)
	}
	_, err = f.hosts.GetVmHost(ctx, &vmhostv1.GetVmHostRequest{Name: "vmHosts/h1"})
	wantReason(t, "the host", err, codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND)
	// Its address and its zone are free again.
	if again := f.addHost(ctx, "h1"); again.GetUid() == h.GetUid() {
		t.Error("the same host is back")
	}
}
