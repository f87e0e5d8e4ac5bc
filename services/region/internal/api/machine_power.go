package api

import (
	"context"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/api/query"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// StartMachine starts a machine.
func (s *machines) StartMachine(ctx context.Context, req *vmhostv1.StartMachineRequest) (*vmhostv1.Operation, error) {
	return s.power(ctx, req, &vmhostv1.BatchChangePowerRequest{Verb: vmhostv1.OperationVerb_OPERATION_VERB_START})
}

// StopMachine stops a machine.
func (s *machines) StopMachine(ctx context.Context, req *vmhostv1.StopMachineRequest) (*vmhostv1.Operation, error) {
	return s.power(ctx, req, &vmhostv1.BatchChangePowerRequest{
		Verb: vmhostv1.OperationVerb_OPERATION_VERB_STOP, GracePeriod: req.GetGracePeriod(), Mode: req.GetMode(),
	})
}

// ResetMachine resets a machine.
func (s *machines) ResetMachine(ctx context.Context, req *vmhostv1.ResetMachineRequest) (*vmhostv1.Operation, error) {
	return s.power(ctx, req, &vmhostv1.BatchChangePowerRequest{Verb: vmhostv1.OperationVerb_OPERATION_VERB_RESET})
}

// CycleMachine turns a machine off and on again.
func (s *machines) CycleMachine(ctx context.Context, req *vmhostv1.CycleMachineRequest) (*vmhostv1.Operation, error) {
	return s.power(ctx, req, &vmhostv1.BatchChangePowerRequest{
		Verb: vmhostv1.OperationVerb_OPERATION_VERB_CYCLE, GracePeriod: req.GetGracePeriod(),
	})
}

// PauseMachine pauses a machine.
func (s *machines) PauseMachine(ctx context.Context, req *vmhostv1.PauseMachineRequest) (*vmhostv1.Operation, error) {
	return s.power(ctx, req, &vmhostv1.BatchChangePowerRequest{Verb: vmhostv1.OperationVerb_OPERATION_VERB_PAUSE})
}

// ResumeMachine lets a paused machine run again.
func (s *machines) ResumeMachine(ctx context.Context, req *vmhostv1.ResumeMachineRequest) (*vmhostv1.Operation, error) {
	return s.power(ctx, req, &vmhostv1.BatchChangePowerRequest{Verb: vmhostv1.OperationVerb_OPERATION_VERB_RESUME})
}

type powerRequest interface {
	mutationRequest
	GetName() string
}

func (s *machines) power(ctx context.Context, req powerRequest, want *vmhostv1.BatchChangePowerRequest) (*vmhostv1.Operation, error) {
	want.RequestId, want.ValidateOnly = req.GetRequestId(), req.GetValidateOnly()
	return s.operations.Power(ctx, principal(ctx), req.GetName(), want)
}

// BatchChangePower changes the power of many machines at once.
func (s *machines) BatchChangePower(ctx context.Context, req *vmhostv1.BatchChangePowerRequest) (*vmhostv1.BatchChangePowerResponse, error) {
	filter, err := query.CompileFilter((*vmhostv1.Machine)(nil).ProtoReflect().Descriptor(), req.GetFilter())
	if err != nil {
		return nil, apierror.InvalidField("filter", "%s", err)
	}
	return s.operations.BatchPower(ctx, principal(ctx), req, func(v *store.View) ([]string, error) {
		var names []string
		for uid, r := range store.Machines.All(v) {
			if filter.Match(view.Machine(v, s.seen, r)) {
				names = append(names, machinesCollection+uid)
			}
		}
		return names, nil
	})
}

// MoveMachine brings a machine to another host.
func (s *machines) MoveMachine(ctx context.Context, req *vmhostv1.MoveMachineRequest) (*vmhostv1.Operation, error) {
	return s.operations.Move(ctx, principal(ctx), req)
}

// AdoptMachine takes a discovered machine over.
func (s *machines) AdoptMachine(ctx context.Context, req *vmhostv1.AdoptMachineRequest) (*vmhostv1.Operation, error) {
	return s.operations.Adopt(ctx, principal(ctx), req)
}

// ReleaseMachine gives a machine back.
func (s *machines) ReleaseMachine(ctx context.Context, req *vmhostv1.ReleaseMachineRequest) (*vmhostv1.Operation, error) {
	return s.operations.Release(ctx, principal(ctx), req)
}
