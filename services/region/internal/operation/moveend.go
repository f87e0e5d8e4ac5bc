package operation

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// A move ends in one of three ways. The step succeeded: the machine is on its
// destination, and the source was seen without it. It failed, and nothing of the
// machine is on the destination: it is where and as it was. Or neither is known:
// then it keeps what it holds on both (P4), and the next move of it, or its
// deletion, finds out.
//
// What is known is decided here, and is never a guess. A step that failed because
// a hypervisor did not answer, or let nobody in, may have left anything anywhere;
// the operation remembers that by its cause. From then on a failure of which the
// rack may have looked at nothing is none.

// moved ends a move whose step succeeded.
func (c *change) moved(ctx context.Context, next *storev1.StoredOperation) error {
	c.op = next
	end := c.finished(succeeded, nil)
	end.Cause = nil
	if m, ok := store.Machines.Get(c.view, next.GetMachineUid()); ok && m.Value.GetMove() != nil {
		m.Value = ledger.Moved(c.view, m.Value)
		shown := view.Machine(c.view, c.engine.cfg.Seen, m)
		shown.Etag = "" // known only after the transaction
		var err error
		if end.Resource.Response, err = packed(shown); err != nil {
			return err
		}
	}
	return c.byTurns(ctx, end, func(tx *store.Txn, v *store.View) { ledger.EndMove(tx, v, c.op.GetMachineUid()) })
}

// moveFailed takes in a failure of a move's step.
func (c *change) moveFailed(ctx context.Context, next *storev1.StoredOperation, cause *vmhostv1.OperationError, class rackv1.ErrorClass) error {
	again := false
	switch class {
	case rackv1.ErrorClass_ERROR_CLASS_BUSY, rackv1.ErrorClass_ERROR_CLASS_STALE_EPOCH:
		again = true
	case rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE, rackv1.ErrorClass_ERROR_CLASS_TIMEOUT, rackv1.ErrorClass_ERROR_CLASS_UNSPECIFIED,
		rackv1.ErrorClass_ERROR_CLASS_AUTH, rackv1.ErrorClass_ERROR_CLASS_HOST_KEY:
		again, next.Cause = true, cause
	case rackv1.ErrorClass_ERROR_CLASS_UNSUPPORTED:
		// A rack that cannot move anything says so without having looked.
		again = c.doubted() || c.changedHands()
	default:
	}
	if next.GetCause() == nil && c.changedHands() && again {
		next.Cause = cause // of what another rack did before nothing is known
	}
	// A destination that shows it is not without it, whatever the rack says.
	if again || c.seenThere() {
		return c.again(ctx, next)
	}
	s := next.GetResource().GetSteps()[next.GetStep()]
	s.EndTime = timestamppb.Now()
	c.op, next.StepId, next.Cause = next, "", nil
	return c.undoMove(ctx, c.finished(failed, cause))
}

// endMove ends a move before its step came to anything.
func (c *change) endMove(ctx context.Context, phase vmhostv1.OperationPhase, why *vmhostv1.OperationError) error {
	if c.op.GetStepId() == "" && !c.doubted() && !c.seenThere() {
		return c.undoMove(ctx, c.finished(phase, why))
	}
	// Not cancelled either: something may be left behind.
	why.Message += "; whether the machine is on " + c.op.GetResource().GetVmHost() + " or on " + destination(c.op) + " is not known, and it holds room on both"
	why.Hint = "move it again, which goes on from there; or delete it, which cleans up both"
	return c.end(ctx, c.finished(failed, why), vmhostv1.MachinePhase_MACHINE_PHASE_UNSPECIFIED)
}

// undoMove ends a move: the machine is where and as it was.
func (c *change) undoMove(ctx context.Context, end *storev1.StoredOperation) error {
	return c.byTurns(ctx, end, func(tx *store.Txn, v *store.View) { ledger.UndoMove(tx, v, c.op.GetMachineUid()) })
}

// doubted says whether a try ended of which it is not known what it left.
func (c *change) doubted() bool { return c.op.GetCause() != nil }

// changedHands says whether the host was given to another rack, or again to the
// same, since the step was begun: then two may have worked on it.
func (c *change) changedHands() bool {
	_, epoch := c.engine.rackOf(c.view, c.op)
	return planned(c.op).GetEpoch() != epoch
}

// seenThere says whether the destination was last seen with the machine.
func (c *change) seenThere() bool {
	m, ok := store.Machines.Get(c.view, c.op.GetMachineUid())
	if !ok {
		return false
	}
	_, seen := store.Seen.Get(c.view, idOf(destination(c.op)), m.Value.GetResource().GetHypervisorUuid())
	return seen
}

// whyNotMoved is the reason and the hint of a step's failure where those of other
// steps do not fit.
func whyNotMoved(class rackv1.ErrorClass, reason vmhostv1.ErrorReason, hint string) (vmhostv1.ErrorReason, string) {
	const elsewhere = "the machine is where and as it was; move it to another host"
	switch class {
	case rackv1.ErrorClass_ERROR_CLASS_EXISTS, rackv1.ErrorClass_ERROR_CLASS_FOREIGN:
		return reason, elsewhere + ", or look at what is in its way"
	case rackv1.ErrorClass_ERROR_CLASS_CAPACITY:
		return reason, elsewhere + ", or free something on the destination"
	case rackv1.ErrorClass_ERROR_CLASS_UNSUPPORTED:
		return reason, "the machine is where and as it was; stop it and move it then"
	case rackv1.ErrorClass_ERROR_CLASS_REFUSED:
		return vmhostv1.ErrorReason_WRONG_STATE, "the machine is where and as it was; stop it first, or allow it to be stopped (allow_offline)"
	case rackv1.ErrorClass_ERROR_CLASS_AUTH, rackv1.ErrorClass_ERROR_CLASS_HOST_KEY:
		return reason, "look at both hosts; it is tried again by itself"
	default:
		return reason, hint
	}
}

// refusedMove is the record of a move that was not begun, as part of another
// operation.
func refusedMove(op *storev1.StoredOperation, r *vmhostv1.Machine, why *vmhostv1.OperationError) *storev1.StoredOperation {
	out := proto.CloneOf(op)
	out.MachineUid, out.Plan = r.GetUid(), nil
	o := out.GetResource()
	o.Target, o.VmHost, o.Steps = r.GetName(), r.GetVmHost(), nil
	o.Phase, o.Error, o.Message, o.EndTime = failed, why, why.GetMessage(), o.GetCreateTime()
	if o.GetError().GetCode() == 0 {
		o.Error.Code = int32(codes.FailedPrecondition)
	}
	return out
}
