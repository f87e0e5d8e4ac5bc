package api

import (
	"context"
	"iter"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/api/query"
	"github.com/vmhost-project/vmhost/services/region/internal/interceptor"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// defaultGrace is how long a guest may take to stop when the request does not
// say.
const defaultGrace = 60 * time.Second

type machines struct {
	vmhostv1.UnimplementedMachineServiceServer
	*base
	composer   Composer
	operations Operations
}

func principal(ctx context.Context) string { return interceptor.PrincipalFrom(ctx).Name }

// planned is the answer to a validate_only call for work on a hypervisor.
func planned(ctx context.Context, verb vmhostv1.OperationVerb, target, vmHost string) *vmhostv1.Operation {
	return &vmhostv1.Operation{Verb: verb, Target: target, VmHost: vmHost, Principal: principal(ctx)}
}

// ComposeMachine makes a machine.
func (s *machines) ComposeMachine(ctx context.Context, req *vmhostv1.ComposeMachineRequest) (*vmhostv1.Operation, error) {
	if err := s.checkCompose(ctx, req); err != nil {
		return nil, err
	}
	if !req.GetValidateOnly() {
		return s.composer.Compose(ctx, principal(ctx), req)
	}
	placement, err := s.composer.Plan(ctx, req)
	if err != nil {
		return nil, err
	}
	response, err := anypb.New(&vmhostv1.ComposePlan{Placement: placement})
	if err != nil {
		return nil, err
	}
	op := planned(ctx, vmhostv1.OperationVerb_OPERATION_VERB_COMPOSE, "", placement.GetVmHost())
	op.Response = response
	return op, nil
}

// checkCompose refuses what no host could make: references to what does not
// exist, and fields that contradict each other.
func (s *machines) checkCompose(ctx context.Context, req *vmhostv1.ComposeMachineRequest) error {
	if req.GetDiskless() && len(req.GetDisks()) > 0 {
		return apierror.InvalidField("diskless", "is set together with disks")
	}
	zone, err := reference("zone", req.GetZone(), zonesCollection, "")
	if err != nil {
		return err
	}
	pool, err := reference("resource_pool", req.GetResourcePool(), resourcePoolsCollection, defaultID)
	if err != nil {
		return err
	}
	host, err := reference("vm_host", req.GetVmHost(), vmHostsCollection, "")
	if err != nil {
		return err
	}
	v, err := s.store.View(ctx)
	if err != nil {
		return err
	}
	unused := store.NewTxn()
	if err := mustExist(v, unused, store.ResourcePools, "resource_pool", resourcePoolsCollection+pool); err != nil {
		return err
	}
	if zone != "" {
		if err := mustExist(v, unused, store.Zones, "zone", zonesCollection+zone); err != nil {
			return err
		}
	}
	if host == "" {
		return nil
	}
	return mustExist(v, unused, store.VmHosts, "vm_host", vmHostsCollection+host)
}

// GetMachine is one machine.
func (s *machines) GetMachine(ctx context.Context, req *vmhostv1.GetMachineRequest) (*vmhostv1.Machine, error) {
	v, err := s.store.View(ctx)
	if err != nil {
		return nil, err
	}
	if r, ok := store.Machines.Get(v, idOf(req.GetName())); ok {
		return view.Machine(v, r), nil
	}
	if m, ok := view.FindDiscovered(v, idOf(req.GetName())); ok {
		return m, nil
	}
	return nil, apierror.NotFound(req.GetName())
}

// ListMachines are all machines, composed and discovered.
func (s *machines) ListMachines(ctx context.Context, req *vmhostv1.ListMachinesRequest) (*vmhostv1.ListMachinesResponse, error) {
	page, next, err := answerList[*vmhostv1.Machine](ctx, s.base, vmhostv1.MachineService_ListMachines_FullMethodName, req, "name", machineItems)
	if err != nil {
		return nil, err
	}
	return &vmhostv1.ListMachinesResponse{Machines: page, NextPageToken: next}, nil
}

// own finds a machine of ours. One that was only found is refused: nothing is
// done to it (promise P5).
func (s *machines) own(ctx context.Context, name string) (store.Record[*storev1.StoredMachine], error) {
	v, err := s.store.View(ctx)
	if err != nil {
		return store.Record[*storev1.StoredMachine]{}, err
	}
	r, ok := store.Machines.Get(v, idOf(name))
	if ok {
		return r, nil
	}
	if m, found := view.FindDiscovered(v, idOf(name)); found {
		return r, apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_FOREIGN_OBJECT, "%s (%s on %s) was not made by vmhost and is never changed", name, m.GetHypervisorName(), m.GetVmHost()).
			With("resource", name).With("vm_host", m.GetVmHost()).
			WithHint("change it on its hypervisor")
	}
	return r, apierror.NotFound(name)
}

// notBusy refuses a machine that another operation works on.
func notBusy(r store.Record[*storev1.StoredMachine]) error {
	if operation := r.Value.GetResource().GetOperation(); operation != "" {
		return apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_MACHINE_BUSY, "%s is being worked on by %s", r.Value.GetResource().GetName(), operation).
			With("operation", operation).WithHint("wait for it, or cancel it with `vmhostctl operation cancel %s`", idOf(operation))
	}
	return nil
}

// DeleteMachine decomposes a machine.
func (s *machines) DeleteMachine(ctx context.Context, req *vmhostv1.DeleteMachineRequest) (*vmhostv1.Operation, error) {
	// A repeated request is answered by the engine, also when the machine has gone
	// or changed since: only what can never be right is refused here.
	if req.GetRequestId() != "" && !req.GetValidateOnly() {
		if used, err := s.requestUsed(ctx, req.GetRequestId()); used || err != nil {
			if err != nil {
				return nil, err
			}
			return s.operations.Delete(ctx, principal(ctx), req)
		}
	}
	r, err := s.own(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	if err := checkEtag(req.GetName(), req.GetEtag(), r.Revision); err != nil {
		return nil, err
	}
	if req.GetValidateOnly() {
		if err := notBusy(r); err != nil {
			return nil, err
		}
		return planned(ctx, vmhostv1.OperationVerb_OPERATION_VERB_DELETE, req.GetName(), r.Value.GetResource().GetVmHost()), nil
	}
	return s.operations.Delete(ctx, principal(ctx), req)
}

// requestUsed says whether a request_id was recorded before.
func (s *machines) requestUsed(ctx context.Context, requestID string) (bool, error) {
	v, err := s.store.View(ctx)
	if err != nil {
		return false, err
	}
	_, ok := store.Requests.Get(v, requestKey(ctx, requestID)...)
	return ok, nil
}

// StartMachine starts a machine.
func (s *machines) StartMachine(ctx context.Context, req *vmhostv1.StartMachineRequest) (*vmhostv1.Operation, error) {
	return s.power(ctx, vmhostv1.OperationVerb_OPERATION_VERB_START, req, 0)
}

// StopMachine stops a machine.
func (s *machines) StopMachine(ctx context.Context, req *vmhostv1.StopMachineRequest) (*vmhostv1.Operation, error) {
	grace := defaultGrace
	if req.GetGracePeriod() != nil {
		grace = req.GetGracePeriod().AsDuration()
	}
	return s.power(ctx, vmhostv1.OperationVerb_OPERATION_VERB_STOP, req, grace)
}

// ResetMachine resets a machine.
func (s *machines) ResetMachine(ctx context.Context, req *vmhostv1.ResetMachineRequest) (*vmhostv1.Operation, error) {
	return s.power(ctx, vmhostv1.OperationVerb_OPERATION_VERB_RESET, req, 0)
}

type powerRequest interface {
	mutationRequest
	GetName() string
}

func (s *machines) power(ctx context.Context, verb vmhostv1.OperationVerb, req powerRequest, grace time.Duration) (*vmhostv1.Operation, error) {
	if req.GetRequestId() != "" && !req.GetValidateOnly() {
		used, err := s.requestUsed(ctx, req.GetRequestId())
		if err != nil {
			return nil, err
		}
		if used {
			return s.operations.Power(ctx, principal(ctx), verb, req.GetName(), grace, req.GetRequestId())
		}
	}
	r, err := s.own(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	if !req.GetValidateOnly() {
		return s.operations.Power(ctx, principal(ctx), verb, req.GetName(), grace, req.GetRequestId())
	}
	if err := notBusy(r); err != nil {
		return nil, err
	}
	return planned(ctx, verb, req.GetName(), r.Value.GetResource().GetVmHost()), nil
}

// QueryMachinePower asks the hypervisor now whether the machine runs.
func (s *machines) QueryMachinePower(ctx context.Context, req *vmhostv1.QueryMachinePowerRequest) (*vmhostv1.Operation, error) {
	if _, err := s.own(ctx, req.GetName()); err != nil {
		return nil, err
	}
	return s.operations.Query(ctx, principal(ctx), req.GetName())
}

// machineItems are all machines, ours and discovered.
func machineItems(v *store.View) iter.Seq[query.Item] {
	ours := itemsOf(store.Machines, machinesCollection, func(v *store.View, r store.Record[*storev1.StoredMachine]) proto.Message { return view.Machine(v, r) })
	return func(yield func(query.Item) bool) {
		for item := range ours(v) {
			if !yield(item) {
				return
			}
		}
		for host, seen := range view.AllDiscovered(v) {
			name := machinesCollection + view.DiscoveredUID(host.GetUid(), seen.Value.GetObservation().GetUuid())
			if !yield(query.Item{Name: name, Build: func() proto.Message { return view.Discovered(v, host, seen) }}) {
				return
			}
		}
	}
}
