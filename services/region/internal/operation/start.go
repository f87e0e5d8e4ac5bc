package operation

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/request"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// How long steps may take.
const (
	deleteTimeout   = 5 * time.Minute
	powerTimeout    = 2 * time.Minute
	observeTimeout  = 30 * time.Second
	metadataTimeout = time.Minute
	refreshTimeout  = 90 * time.Second
	checkTimeout    = 90 * time.Second
)

func timeoutProto(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

// order is an operation to be begun.
type order struct {
	principal    string
	verb         vmhostv1.OperationVerb
	id           request.ID
	deadline     time.Duration
	validateOnly bool
	turn         bool // it changes what is committed, see Turn
	// decide looks at a view, refuses or fills the operation in, and adds its
	// demands and further writes to the transaction. It may be called again.
	decide func(v *store.View, tx *store.Txn, op *storev1.StoredOperation) error
}

// begin records an operation with its request_id in one transaction. A
// request_id that was used before for the same request answers with the
// operation of then.
func (e *Engine) begin(ctx context.Context, o order) (op *vmhostv1.Operation, err error) {
	if !o.turn || o.validateOnly {
		return e.beginNow(ctx, o)
	}
	err = e.cfg.Turn.WithTurn(ctx, func() error {
		op, err = e.beginNow(ctx, o)
		return err
	})
	return op, err
}

func (e *Engine) beginNow(ctx context.Context, o order) (*vmhostv1.Operation, error) {
	tries := 20
	if o.turn {
		tries = 50 // what is committed and seen on a host changes more often than a machine
	}
	uid, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("choose an operation uid: %w", err)
	}
	for range tries {
		v, err := e.store.View(ctx)
		if err != nil {
			return nil, unavailable(err)
		}
		if before, err := o.id.Operation(v); err != nil || before != nil {
			return before, err
		}
		now := time.Now()
		op := &storev1.StoredOperation{Resource: &vmhostv1.Operation{
			Name: "operations/" + uid.String(), Verb: o.verb, Phase: pending, Message: "waiting for a rack",
			Principal: o.principal, RequestId: o.id.RequestID(),
			CreateTime: timestamppb.New(now), UpdateTime: timestamppb.New(now), DeadlineTime: timestamppb.New(now.Add(o.deadline)),
		}}
		tx := store.NewTxn()
		tx.IfAbsent(store.Operations.Key(uid.String()))
		if err := o.decide(v, tx, op); err != nil {
			return nil, err
		}
		if o.validateOnly {
			op.Resource.Name = ""
			return op.GetResource(), nil
		}
		store.Put(tx, store.Operations, op, uid.String())
		o.id.RecordOperation(tx, op.GetResource().GetName())
		if _, err = e.commit(ctx, tx); err == nil {
			return op.GetResource(), nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return nil, unavailable(err)
		}
	}
	return nil, apierror.New(codes.Aborted, vmhostv1.ErrorReason_CONFLICT, "others changed the same records %d times meanwhile", tries).WithHint("try again")
}

func addStep(op *storev1.StoredOperation, verb string, timeout time.Duration, step *rackv1.Step) {
	step.Operation, step.Timeout = op.GetResource().GetName(), durationpb.New(timeout)
	step.VmHost = op.GetResource().GetVmHost()
	op.Plan = append(op.Plan, step)
	op.Resource.Steps = append(op.Resource.Steps, &vmhostv1.OperationStep{Verb: verb})
}

// Delete begins to remove a machine that vmhost composed. Errors: NOT_FOUND,
// FOREIGN_OBJECT, ETAG_MISMATCH, MACHINE_BUSY, REQUEST_ID_REUSED.
func (e *Engine) Delete(ctx context.Context, principal string, req *vmhostv1.DeleteMachineRequest) (*vmhostv1.Operation, error) {
	id, err := request.New(principal, "DeleteMachine", req)
	if err != nil {
		return nil, err
	}
	return e.begin(ctx, order{
		principal: principal, verb: vmhostv1.OperationVerb_OPERATION_VERB_DELETE, id: id,
		deadline: e.cfg.Deadlines.Delete, validateOnly: req.GetValidateOnly(),
		decide: func(v *store.View, tx *store.Txn, op *storev1.StoredOperation) error {
			m, err := e.ours(v, req.GetName())
			if err != nil {
				return err
			}
			if err := checkEtag(m, req.GetEtag()); err != nil {
				return err
			}
			return claimRecord(v, tx, op, m, func(m *storev1.StoredMachine) error {
				planDelete(v, op, m)
				return nil
			})
		},
	})
}

func planDelete(v *store.View, op *storev1.StoredOperation, m *storev1.StoredMachine) {
	m.GetResource().Phase = vmhostv1.MachinePhase_MACHINE_PHASE_DELETING
	onEach(op, m, func(r *vmhostv1.Machine) {
		if r != m.GetResource() {
			// What both hosts show goes last, when neither has the machine.
			r.Disks = copied(r.GetDisks(), m.GetMove().GetStayingDisks())
		}
		addStep(op, "delete", deleteTimeout, &rackv1.Step{Action: &rackv1.Step_DeleteMachine{DeleteMachine: &rackv1.DeleteMachine{Machine: toDelete(v, r)}}})
	})
}

// onEach plans what is done to a machine wherever it can be: a move of it may have
// ended without it being known where it is. Its destination comes first, so that
// the operation ends on the host that the record names.
func onEach(op *storev1.StoredOperation, m *storev1.StoredMachine, plan func(r *vmhostv1.Machine)) {
	r := m.GetResource()
	if to := m.GetMove(); to != nil {
		there := proto.CloneOf(to.GetMoved())
		there.Operation, there.Phase = r.GetOperation(), r.GetPhase()
		op.Resource.VmHost = there.GetVmHost()
		plan(there)
		op.Resource.VmHost = r.GetVmHost()
	}
	plan(r)
	op.Resource.VmHost = op.GetPlan()[0].GetVmHost()
}

// Query begins to ask the hypervisor whether a machine runs, one of ours or not.
// It changes nothing and waits for no other operation. Errors: NOT_FOUND.
func (e *Engine) Query(ctx context.Context, principal, name string) (*vmhostv1.Operation, error) {
	return e.begin(ctx, order{
		principal: principal, verb: vmhostv1.OperationVerb_OPERATION_VERB_QUERY_POWER, deadline: e.cfg.Deadlines.Look,
		decide: func(v *store.View, tx *store.Txn, op *storev1.StoredOperation) error {
			uid := strings.TrimPrefix(name, "machines/")
			var host, uuid string
			if m, ok := store.Machines.Get(v, uid); ok {
				host, uuid = strings.TrimPrefix(m.Value.GetResource().GetVmHost(), "vmHosts/"), m.Value.GetResource().GetHypervisorUuid()
			} else if d, ok := view.FindDiscovered(v, e.cfg.Seen, uid); ok {
				host, uuid = strings.TrimPrefix(d.GetVmHost(), "vmHosts/"), d.GetHypervisorUuid()
			} else {
				return apierror.NotFound(name)
			}
			op.MachineUid = uid
			op.Resource.Target, op.Resource.VmHost = name, "vmHosts/"+host
			addStep(op, "query", observeTimeout, &rackv1.Step{Action: &rackv1.Step_ObserveMachine{ObserveMachine: &rackv1.ObserveMachine{Uid: uuid}}})
			return onHost(v, tx, op, host)
		},
	})
}

// Refresh begins to read a host anew. Errors: NOT_FOUND, REQUEST_ID_REUSED.
func (e *Engine) Refresh(ctx context.Context, principal string, req *vmhostv1.RefreshVmHostRequest) (*vmhostv1.Operation, error) {
	id, err := request.New(principal, "RefreshVmHost", req)
	if err != nil {
		return nil, err
	}
	return e.begin(ctx, order{
		principal: principal, verb: vmhostv1.OperationVerb_OPERATION_VERB_REFRESH, id: id,
		deadline: e.cfg.Deadlines.Look, validateOnly: req.GetValidateOnly(),
		decide: func(v *store.View, tx *store.Txn, op *storev1.StoredOperation) error {
			op.Resource.Target, op.Resource.VmHost = req.GetName(), req.GetName()
			addStep(op, "refresh", refreshTimeout, &rackv1.Step{Action: &rackv1.Step_RefreshHost{RefreshHost: &rackv1.RefreshHost{}}})
			return onHost(v, tx, op, strings.TrimPrefix(req.GetName(), "vmHosts/"))
		},
	})
}

// claim makes the operation the one that works on a machine of ours. set
// decides on the machine's record and adds the steps. A machine is refused of
// which it is not known where it is: started where it was it could run twice (P3).
func claim(v *store.View, tx *store.Txn, op *storev1.StoredOperation, m store.Record[*storev1.StoredMachine], set func(r *vmhostv1.Machine) error) error {
	return claimRecord(v, tx, op, m, func(next *storev1.StoredMachine) error {
		if next.GetMove() != nil {
			return moveOpen(next)
		}
		return set(next.GetResource())
	})
}

// claimRecord is claim for what can deal with a machine that may be on two hosts.
func claimRecord(v *store.View, tx *store.Txn, op *storev1.StoredOperation, m store.Record[*storev1.StoredMachine], set func(m *storev1.StoredMachine) error) error {
	r := m.Value.GetResource()
	if err := notBusy(v, r); err != nil {
		return err
	}
	op.MachineUid = r.GetUid()
	op.Resource.Target, op.Resource.VmHost = r.GetName(), r.GetVmHost()
	next := proto.CloneOf(m.Value)
	next.Resource.Operation, next.Resource.UpdateTime = op.GetResource().GetName(), op.GetResource().GetCreateTime()
	if err := set(next); err != nil {
		return err
	}
	tx.IfRevision(store.Machines.Key(r.GetUid()), m.Revision)
	store.Put(tx, store.Machines, next, r.GetUid())
	for _, host := range ledger.HostsOf(m.Value) {
		if err := onHost(v, tx, op, host); err != nil {
			return err
		}
	}
	return nil
}

// onHost binds the operation's steps on a host to the one that has the id now.
func onHost(v *store.View, tx *store.Txn, op *storev1.StoredOperation, host string) error {
	h, ok := store.VmHosts.Get(v, host)
	if !ok {
		return apierror.NotFound("vmHosts/" + host)
	}
	tx.IfPresent(store.VmHosts.Key(host))
	for _, s := range op.GetPlan() {
		if s.GetVmHost() == h.Value.GetResource().GetName() {
			s.VmHostUid = h.Value.GetResource().GetUid()
		}
	}
	return nil
}
