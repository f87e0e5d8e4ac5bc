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
// What is known is decided here, and is never a guess. A rack says whether it has
// looked at the destination after a failure, or has done nothing at all. A try that
// ended because a hypervisor did not answer may have left anything anywhere; the
// operation remembers that by its cause. From then on only a look proves something.

// moved ends a move whose step succeeded.
func (c *change) moved(ctx context.Context, next *storev1.StoredOperation, how *rackv1.MoveOutcome) error {
	c.op = next
	end := c.finished(succeeded, nil)
	end.Cause = nil
	if how != nil {
		end.Move = &rackv1.MoveOutcome{How: how.GetHow(), NotLive: clip(how.GetNotLive())}
	}
	end.Resource.Message = movedMessage(end)
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
func (c *change) moveFailed(ctx context.Context, next *storev1.StoredOperation, cause *vmhostv1.OperationError, e *rackv1.StepError) error {
	definite, doubt := c.proves(e)
	if next.GetCause() == nil && (doubt || !definite && c.changedHands()) {
		next.Cause = cause // of what another rack did before nothing is known either
	}
	// A destination that shows it is not without it, whatever the rack says.
	if !definite || c.seenThere() {
		return c.again(ctx, next)
	}
	s := next.GetResource().GetSteps()[next.GetStep()]
	s.EndTime = timestamppb.Now()
	next.Elsewhere = ofDestination(c.op, e)
	c.op, next.StepId, next.Cause = next, "", nil
	return c.undoMove(ctx, c.finished(failed, cause))
}

// proves says whether a failure is for good and the destination is known to be
// without the machine, and whether it leaves doubt about that.
func (c *change) proves(e *rackv1.StepError) (definite, doubt bool) {
	// Nothing was done by this try, and there was no other of which it is not known
	// what it left.
	clean := !c.doubted() && !c.changedHands()
	var looked, untouched, has bool
	switch e.GetDestination() {
	case rackv1.MoveDestinationState_MOVE_DESTINATION_STATE_WITHOUT:
		looked = true
	case rackv1.MoveDestinationState_MOVE_DESTINATION_STATE_UNTOUCHED:
		untouched = true
	case rackv1.MoveDestinationState_MOVE_DESTINATION_STATE_HAS:
		has = true
	default:
	}
	switch e.GetClass() {
	case rackv1.ErrorClass_ERROR_CLASS_STALE_EPOCH:
		return false, false
	case rackv1.ErrorClass_ERROR_CLASS_BUSY:
		return false, !looked && !untouched
	case rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE, rackv1.ErrorClass_ERROR_CLASS_TIMEOUT, rackv1.ErrorClass_ERROR_CLASS_UNSPECIFIED:
		return false, !untouched // who looked, and found nothing, may have left volumes
	case rackv1.ErrorClass_ERROR_CLASS_AUTH, rackv1.ErrorClass_ERROR_CLASS_HOST_KEY:
		if c.op.GetParent() != "" && !ofDestination(c.op, e) {
			return false, !looked && !untouched // a drain waits for its host
		}
		return looked || untouched && clean, !looked && !untouched
	case rackv1.ErrorClass_ERROR_CLASS_UNSUPPORTED:
		// An older rack that cannot move anything says so without having looked.
		return looked || !has && clean, has
	default:
		return looked || !has && (!untouched || clean), has
	}
}

// ofDestination says whether a move failed for something that another destination
// may not have.
func ofDestination(op *storev1.StoredOperation, e *rackv1.StepError) bool {
	return e.GetVmHost() != "" && e.GetVmHost() == destination(op)
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
