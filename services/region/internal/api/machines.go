package api

import (
	"context"
	"iter"

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

type machines struct {
	vmhostv1.UnimplementedMachineServiceServer
	*base
	discovered *discovered
	composer   Composer
	operations Operations
	consoles   Consoles
}

func principal(ctx context.Context) string { return interceptor.PrincipalFrom(ctx).Name }

// ComposeMachine makes a machine.
func (s *machines) ComposeMachine(ctx context.Context, req *vmhostv1.ComposeMachineRequest) (*vmhostv1.Operation, error) {
	if err := s.checkCompose(ctx, req); err != nil {
		return nil, err
	}
	if !req.GetValidateOnly() {
		return s.composer.Compose(ctx, principal(ctx), req)
	}
	plan, err := s.composer.Plan(ctx, req)
	if err != nil {
		return nil, err
	}
	response, err := anypb.New(plan)
	if err != nil {
		return nil, err
	}
	return &vmhostv1.Operation{
		Verb: vmhostv1.OperationVerb_OPERATION_VERB_COMPOSE, VmHost: plan.GetPlacement().GetVmHost(), Principal: principal(ctx), Response: response,
	}, nil
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
		return view.Machine(v, s.seen, r), nil
	}
	if m, ok := view.FindDiscovered(v, s.seen, idOf(req.GetName())); ok {
		return m, nil
	}
	return nil, apierror.NotFound(req.GetName())
}

// ListMachines are all machines, composed and discovered.
func (s *machines) ListMachines(ctx context.Context, req *vmhostv1.ListMachinesRequest) (*vmhostv1.ListMachinesResponse, error) {
	return answerSorted(ctx, s.base, vmhostv1.MachineService_ListMachines_FullMethodName, req, s.items,
		func(page []*vmhostv1.Machine, next string) *vmhostv1.ListMachinesResponse {
			return &vmhostv1.ListMachinesResponse{Machines: page, NextPageToken: next}
		})
}

// DeleteMachine decomposes a machine.
func (s *machines) DeleteMachine(ctx context.Context, req *vmhostv1.DeleteMachineRequest) (*vmhostv1.Operation, error) {
	return s.operations.Delete(ctx, principal(ctx), req)
}

// busy says which operation works on a machine.
func busy(m *vmhostv1.Machine) error {
	return apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_MACHINE_BUSY, "%s is being worked on by %s", m.GetName(), m.GetOperation()).
		With("resource", m.GetName()).With("operation", m.GetOperation()).
		WithHint("wait for it, or cancel it with `vmhostctl operation cancel %s`", idOf(m.GetOperation()))
}

// QueryMachinePower asks the hypervisor now whether the machine runs.
func (s *machines) QueryMachinePower(ctx context.Context, req *vmhostv1.QueryMachinePowerRequest) (*vmhostv1.Operation, error) {
	return s.operations.Query(ctx, principal(ctx), req.GetName())
}

// items are all machines, ours and discovered, behind a name, in the order of
// their names.
func (s *machines) items(v *store.View, after string) iter.Seq[query.Item] {
	ours := itemsAfter(store.Machines, machinesCollection, func(v *store.View, r store.Record[*storev1.StoredMachine]) proto.Message {
		return view.OwnMachine(v, s.seen, r)
	}, func(b []byte, v *store.View, r store.Stored[*storev1.StoredMachine]) ([]byte, error) {
		return view.AppendMachine(b, v, s.seen, s.known, r)
	})
	return inOrder(ours(v, after), s.discovered.items(after, func(p place) proto.Message {
		host, ok := store.VmHosts.Get(v, p.host)
		if !ok {
			return nil
		}
		seen, ok := store.Seen.Get(v, p.host, p.domain)
		if !ok {
			return nil
		}
		if view.Known(v, host.Value.GetResource(), seen.Value.GetObservation()) {
			return nil // since, or not yet in this view
		}
		return view.Discovered(v, s.seen, host.Value.GetResource(), seen)
	}))
}
