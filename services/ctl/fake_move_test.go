package ctl_test

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// MoveMachine brings a machine to the host that is named, or to h2.
func (f *fakeRegion) MoveMachine(_ context.Context, r *vmhostv1.MoveMachineRequest) (*vmhostv1.Operation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, err := byName(f.machines, r.GetName())
	if err != nil {
		return nil, err
	}
	if r.GetValidateOnly() {
		return &vmhostv1.Operation{Verb: vmhostv1.OperationVerb_OPERATION_VERB_MOVE, Response: anyOf(&vmhostv1.ComposePlan{Placement: f.placement})}, nil
	}
	from := m.GetVmHost()
	moved := proto.CloneOf(m)
	if moved.VmHost = r.GetVmHost(); moved.GetVmHost() == "" {
		moved.VmHost = "vmHosts/h2"
	}
	return f.begin(vmhostv1.OperationVerb_OPERATION_VERB_MOVE, m.GetName(), from, r.GetRequestId(), moved), nil
}

// DrainVmHost moves each machine of ours to h2, or says that those stay that
// refused names.
func (f *fakeRegion) DrainVmHost(_ context.Context, r *vmhostv1.DrainVmHostRequest) (*vmhostv1.Operation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := byName(f.hosts, r.GetName()); err != nil {
		return nil, err
	}
	result := &vmhostv1.DrainVmHostResult{}
	for _, m := range f.machines {
		if m.GetVmHost() != r.GetName() {
			continue
		}
		d := &vmhostv1.DrainedMachine{Machine: m.GetName(), To: "vmHosts/h2", How: "live", Operation: "operations/0197-child"}
		if f.refused[m.GetName()] {
			d.To, d.How = "", ""
			d.Error = &vmhostv1.OperationError{Code: int32(codes.ResourceExhausted), Reason: "NO_CAPACITY", Message: "none of 1 hosts fits", Hint: "add a host"}
			result.Stayed++
		} else {
			result.Moved++
		}
		if r.GetValidateOnly() {
			d.Operation = ""
		}
		result.Machines = append(result.Machines, d)
	}
	result.Held, result.HeldPlaces = f.drainHeld.GetHeld(), f.drainHeld.GetHeldPlaces()
	if r.GetValidateOnly() {
		return &vmhostv1.Operation{Verb: vmhostv1.OperationVerb_OPERATION_VERB_DRAIN, Target: r.GetName(), Response: anyOf(result)}, nil
	}
	if result.GetStayed() > 0 {
		f.failing = &vmhostv1.OperationError{Code: int32(codes.FailedPrecondition), Reason: "IN_USE", Message: "1 of its machines stays", Hint: "make room"}
	}
	return f.begin(vmhostv1.OperationVerb_OPERATION_VERB_DRAIN, r.GetName(), r.GetName(), r.GetRequestId(), result), nil
}
