package ctl_test

import (
	"context"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func (f *fakeRegion) CycleMachine(_ context.Context, r *vmhostv1.CycleMachineRequest) (*vmhostv1.Operation, error) {
	return f.act(vmhostv1.OperationVerb_OPERATION_VERB_CYCLE, r.GetName(), r.GetRequestId(), vmhostv1.PowerState_POWER_STATE_ON)
}

func (f *fakeRegion) PauseMachine(_ context.Context, r *vmhostv1.PauseMachineRequest) (*vmhostv1.Operation, error) {
	return f.act(vmhostv1.OperationVerb_OPERATION_VERB_PAUSE, r.GetName(), r.GetRequestId(), vmhostv1.PowerState_POWER_STATE_PAUSED)
}

func (f *fakeRegion) ResumeMachine(_ context.Context, r *vmhostv1.ResumeMachineRequest) (*vmhostv1.Operation, error) {
	return f.act(vmhostv1.OperationVerb_OPERATION_VERB_RESUME, r.GetName(), r.GetRequestId(), vmhostv1.PowerState_POWER_STATE_ON)
}

// BatchChangePower begins an operation for each machine, and refuses those that
// refused names.
func (f *fakeRegion) BatchChangePower(_ context.Context, r *vmhostv1.BatchChangePowerRequest) (*vmhostv1.BatchChangePowerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	wanted := r.GetNames()
	for _, m := range f.machines {
		ok, err := matches(m, r.GetFilter())
		if err != nil {
			return nil, err
		}
		if ok && r.GetFilter() != "" && m.GetOrigin() != vmhostv1.MachineOrigin_MACHINE_ORIGIN_DISCOVERED {
			wanted = append(wanted, m.GetName())
		}
	}
	answer := &vmhostv1.BatchChangePowerResponse{}
	for _, name := range wanted {
		result := &vmhostv1.BatchResult{Name: name}
		switch {
		case f.refused[name]:
			result.Error = &vmhostv1.OperationError{Code: int32(codes.FailedPrecondition), Reason: "MACHINE_BUSY", Message: "operations/1 is under way", Hint: "wait for it"}
		case r.GetValidateOnly():
			result.Operation = &vmhostv1.Operation{Verb: r.GetVerb(), Target: name}
		default:
			result.Operation = f.begin(r.GetVerb(), name, "vmHosts/h1", r.GetRequestId(), nil)
		}
		answer.Results = append(answer.Results, result)
	}
	return answer, nil
}

func (f *fakeRegion) AdoptMachine(_ context.Context, r *vmhostv1.AdoptMachineRequest) (*vmhostv1.Operation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, err := byName(f.machines, r.GetName())
	if err != nil {
		return nil, err
	}
	if m.GetOrigin() != vmhostv1.MachineOrigin_MACHINE_ORIGIN_DISCOVERED {
		return nil, apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE, "%s is ours already", r.GetName())
	}
	if !r.GetValidateOnly() {
		m.Origin, m.Hostname, m.Tags = vmhostv1.MachineOrigin_MACHINE_ORIGIN_ADOPTED, r.GetHostname(), r.GetTags()
	}
	return f.begin(vmhostv1.OperationVerb_OPERATION_VERB_ADOPT, m.GetName(), m.GetVmHost(), r.GetRequestId(), m), nil
}

func (f *fakeRegion) ReleaseMachine(_ context.Context, r *vmhostv1.ReleaseMachineRequest) (*vmhostv1.Operation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, err := byName(f.machines, r.GetName())
	if err != nil {
		return nil, err
	}
	found := proto.CloneOf(m)
	found.Name, found.Origin = "machines/eeee0000-0000-4000-8000-000000000000", vmhostv1.MachineOrigin_MACHINE_ORIGIN_DISCOVERED
	return f.begin(vmhostv1.OperationVerb_OPERATION_VERB_RELEASE, m.GetName(), m.GetVmHost(), r.GetRequestId(), found), nil
}

func (f *fakeRegion) RemoveVmHost(_ context.Context, r *vmhostv1.RemoveVmHostRequest) (*vmhostv1.Operation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := byName(f.hosts, r.GetName()); err != nil {
		return nil, err
	}
	verb := vmhostv1.OperationVerb_OPERATION_VERB_RELEASE
	if r.GetMode() == vmhostv1.RemoveMode_REMOVE_MODE_DECOMPOSE {
		verb = vmhostv1.OperationVerb_OPERATION_VERB_DELETE
	}
	result := &vmhostv1.RemoveVmHostResult{Removed: true}
	for _, m := range f.machines {
		if m.GetVmHost() != r.GetName() || m.GetOrigin() == vmhostv1.MachineOrigin_MACHINE_ORIGIN_DISCOVERED {
			continue
		}
		op := &vmhostv1.Operation{Name: "operations/0197-child", Verb: verb, Target: m.GetName(), Phase: vmhostv1.OperationPhase_OPERATION_PHASE_SUCCEEDED}
		if f.refused[m.GetName()] {
			op.Phase = vmhostv1.OperationPhase_OPERATION_PHASE_FAILED
			op.Error = &vmhostv1.OperationError{Code: int32(codes.Unavailable), Reason: "HYPERVISOR_ERROR", Message: "storage pool default is not active", Hint: "start it"}
			result.Removed = false
			result.Failed++
		} else {
			result.Succeeded++
		}
		result.Results = append(result.Results, &vmhostv1.BatchResult{Name: m.GetName(), Operation: op})
	}
	if !result.GetRemoved() {
		f.failing = &vmhostv1.OperationError{Code: int32(codes.FailedPrecondition), Reason: "IN_USE", Message: "1 of 2 machines is still there", Hint: "put it right, then remove the host again"}
	}
	return f.begin(vmhostv1.OperationVerb_OPERATION_VERB_REMOVE, r.GetName(), r.GetName(), r.GetRequestId(), result), nil
}

func (f *fakeRegion) AddClusterMembers(_ context.Context, r *vmhostv1.AddClusterMembersRequest) (*vmhostv1.AddClusterMembersResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h, err := byName(f.hosts, r.GetName())
	if err != nil {
		return nil, err
	}
	other := proto.CloneOf(h)
	other.Name, other.ClusterMember = r.GetName()+"-m2", "m2"
	return &vmhostv1.AddClusterMembersResponse{VmHosts: []*vmhostv1.VmHost{h, other}, Added: []string{other.GetName()}}, nil
}

// ReadConsoleLog sends what the test put there, a few bytes at a time.
func (f *fakeRegion) ReadConsoleLog(r *vmhostv1.ReadConsoleLogRequest, s grpc.ServerStreamingServer[vmhostv1.ReadConsoleLogResponse]) error {
	if err := f.admit(s.Context(), "ReadConsoleLog", r); err != nil {
		return err
	}
	f.mu.Lock()
	log := f.consoleLog
	f.mu.Unlock()
	for len(log) > 0 {
		n := min(3, len(log))
		if err := s.Send(&vmhostv1.ReadConsoleLogResponse{Data: []byte(log[:n])}); err != nil {
			return err
		}
		log = log[n:]
	}
	return nil
}

// AttachConsole is a guest that answers every line with the same in brackets,
// and stops at `poweroff`. One client has it at a time: another needs force.
func (f *fakeRegion) AttachConsole(s grpc.BidiStreamingServer[vmhostv1.AttachConsoleRequest, vmhostv1.AttachConsoleResponse]) error {
	first, err := s.Recv()
	if err != nil {
		return err
	}
	if err := f.admit(s.Context(), "AttachConsole", first); err != nil {
		return err
	}
	taken := make(chan struct{})
	f.mu.Lock()
	busy := f.consoleTaken
	if busy == nil || first.GetForce() {
		if busy != nil {
			close(busy)
		}
		f.consoleTaken = taken
	}
	f.mu.Unlock()
	if busy != nil && !first.GetForce() {
		return apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_CONSOLE_BUSY, "somebody has it")
	}
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.consoleTaken == taken {
			f.consoleTaken = nil
		}
	}()
	attached := &vmhostv1.AttachedConsole{Machine: first.GetName(), Rack: "racks/r1"}
	if err := s.Send(&vmhostv1.AttachConsoleResponse{Message: &vmhostv1.AttachConsoleResponse_Attached{Attached: attached}}); err != nil {
		return err
	}
	over := make(chan error, 1)
	go func() { over <- f.guest(s) }()
	select {
	case err := <-over:
		return err
	case <-taken:
		return apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_CONSOLE_BUSY, "it was taken by admin")
	}
}

func (f *fakeRegion) guest(s grpc.BidiStreamingServer[vmhostv1.AttachConsoleRequest, vmhostv1.AttachConsoleResponse]) error {
	line := ""
	for {
		r, err := s.Recv()
		if err == io.EOF { //nolint:errorlint // as gRPC gives it
			return nil
		}
		if err != nil {
			return err
		}
		f.mu.Lock()
		f.typed += string(r.GetData())
		f.mu.Unlock()
		line += string(r.GetData())
		for {
			whole, rest, ok := strings.Cut(strings.ReplaceAll(line, "\r", "\n"), "\n")
			if !ok {
				break
			}
			line = rest
			if whole == "poweroff" {
				return nil
			}
			if whole == "slow" { // the answer comes when nothing is typed any more, if somebody is there
				answer := time.AfterFunc(300*time.Millisecond, func() {
					_ = s.Send(&vmhostv1.AttachConsoleResponse{Message: &vmhostv1.AttachConsoleResponse_Data{Data: []byte("done at last\r\n")}})
				})
				defer answer.Stop()
				continue
			}
			if err := s.Send(&vmhostv1.AttachConsoleResponse{Message: &vmhostv1.AttachConsoleResponse_Data{Data: []byte("\x1b[1m<" + whole + ">\x1b[0m\r\n")}}); err != nil {
				return err
			}
		}
	}
}
