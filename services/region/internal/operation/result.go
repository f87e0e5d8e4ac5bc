package operation

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// Result records what a step of a rack came to. When it returns nil the result
// is recorded, or nobody waits for it any more, and it may be acknowledged.
func (e *Engine) Result(ctx context.Context, rack string, res *rackv1.StepResult) error {
	const tries = 20
	var err error
	uid, _, _ := strings.Cut(res.GetId(), "/")
	// This process sent the step after it had recorded it, so that its own copy
	// mostly knows what a result is for. What the copy does not know is looked up.
	v := e.store.Cached()
	rec, ok := store.Operations.Get(v, uid)
	for try := range tries {
		if try > 0 || !ok || rec.Value.GetStepId() != res.GetId() {
			if v, err = e.store.View(ctx); err != nil {
				return err
			}
			rec, ok = store.Operations.Get(v, uid)
		}
		if !ok || ended(rec.Value) || rec.Value.GetStepId() != res.GetId() {
			return nil
		}
		if driver, _ := e.rackOf(v, rec.Value); driver != rack {
			// The host was given to another rack, which does the same step.
			e.log.InfoContext(ctx, "result of a rack that does not drive the host", "step", res.GetId(), "rack", rack)
			return nil
		}
		c := &change{engine: e, view: v, uid: uid, revision: rec.Revision, op: rec.Value}
		if err = c.advance(ctx, rack, res); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return err
}

func (c *change) advance(ctx context.Context, rack string, res *rackv1.StepResult) error {
	if res.GetError() != nil {
		return c.failure(ctx, res.GetError())
	}
	return c.success(ctx, rack, res)
}

func (c *change) success(ctx context.Context, rack string, res *rackv1.StepResult) error {
	step := c.op.GetStep()
	next := proto.CloneOf(c.op)
	r := next.GetResource()
	s := r.GetSteps()[step]
	s.Done, s.Error, s.EndTime = true, "", timestamppb.Now()
	next.Step, next.StepId = step+1, ""
	r.Attempt, r.ProgressPercent = 0, 100*(step+1)/int32(len(r.GetSteps()))
	c.engine.proceed(c.uid)
	if r.GetPhase() == compensating {
		return c.undone(ctx, next)
	}
	compose, last := r.GetVerb() == vmhostv1.OperationVerb_OPERATION_VERB_COMPOSE, int(next.GetStep()) >= len(next.GetPlan())
	switch {
	case compose && r.GetCancelRequested():
		return c.compensate(ctx, next, cancelledByUser())
	case r.GetVerb() == vmhostv1.OperationVerb_OPERATION_VERB_MOVE:
		return c.moved(ctx, next, res.GetMove())
	case r.GetVerb() == vmhostv1.OperationVerb_OPERATION_VERB_DELETE && last:
		c.op = next
		return c.release(ctx, c.finished(succeeded, nil))
	case r.GetVerb() == vmhostv1.OperationVerb_OPERATION_VERB_RELEASE && last:
		return c.released(ctx, next, res)
	case !last:
		r.VmHost = next.GetPlan()[next.GetStep()].GetVmHost() // another one for a machine that may be on two
		tx := c.begin(next)
		if compose {
			c.machine(tx, func(m *vmhostv1.Machine) { m.Phase = vmhostv1.MachinePhase_MACHINE_PHASE_READY })
		}
		return c.commit(ctx, tx)
	}
	c.op = next
	end := c.finished(succeeded, nil)
	if response := c.response(rack, res); response != nil {
		var err error
		if end.Resource.Response, err = packed(response); err != nil {
			return err
		}
	}
	phase := vmhostv1.MachinePhase_MACHINE_PHASE_UNSPECIFIED
	if compose || r.GetVerb() == vmhostv1.OperationVerb_OPERATION_VERB_ADOPT {
		phase = vmhostv1.MachinePhase_MACHINE_PHASE_READY
	}
	return c.end(ctx, end, phase)
}

// released ends a release: our metadata is off the machine. The response is the
// machine as it is listed from now on.
func (c *change) released(ctx context.Context, next *storev1.StoredOperation, res *rackv1.StepResult) error {
	c.op = next
	last := c.finished(succeeded, nil)
	m, _ := store.Machines.Get(c.view, next.GetMachineUid())
	host, known := store.VmHosts.Get(c.view, hostOf(next))
	seen, there := store.Seen.Get(c.view, hostOf(next), m.Value.GetResource().GetHypervisorUuid())
	if known && there {
		found := view.Discovered(c.view, c.engine.cfg.Seen, host.Value.GetResource(), seen)
		found.Etag = ""
		var err error
		if last.Resource.Response, err = packed(found); err != nil {
			return err
		}
	}
	return c.letGo(ctx, last, res.GetMachine())
}

// undone ends a compose that was undone.
func (c *change) undone(ctx context.Context, next *storev1.StoredOperation) error {
	cause := c.op.GetCause()
	phase := failed
	if cause.GetReason() == vmhostv1.ErrorReason_CANCELLED.String() {
		phase = cancelled
	}
	c.op = next
	return c.release(ctx, c.finished(phase, cause))
}

// response is what the operation made or found.
func (c *change) response(rack string, res *rackv1.StepResult) proto.Message {
	r := c.op.GetResource()
	switch r.GetVerb() {
	case vmhostv1.OperationVerb_OPERATION_VERB_CHECK:
		check := &vmhostv1.CheckVmHostResult{}
		if res.GetCheck() != nil {
			check = proto.CloneOf(res.GetCheck())
		}
		check.Rack = "racks/" + rack
		return check
	case vmhostv1.OperationVerb_OPERATION_VERB_REFRESH:
		h, ok := store.VmHosts.Get(c.view, hostOf(c.op))
		if !ok {
			return nil // a host that is gone again is no failure of the step
		}
		return view.VmHost(c.view, c.engine.cfg.Seen, c.engine.cfg.Places, h)
	default:
		return c.shown()
	}
}

// shown is the operation's machine as it is after the operation.
func (c *change) shown() proto.Message {
	r := c.op.GetResource()
	rec, ok := store.Machines.Get(c.view, c.op.GetMachineUid())
	if !ok {
		if m, found := view.FindDiscovered(c.view, c.engine.cfg.Seen, c.op.GetMachineUid()); found {
			return m
		}
		return nil // a machine that is gone again is no failure of the step
	}
	// As the record will be: this transaction lets go of it.
	rec.Value = proto.CloneOf(rec.Value)
	if rec.Value.GetResource().GetOperation() == r.GetName() {
		rec.Value.Resource.Operation = ""
		if r.GetVerb() == vmhostv1.OperationVerb_OPERATION_VERB_COMPOSE || r.GetVerb() == vmhostv1.OperationVerb_OPERATION_VERB_ADOPT {
			rec.Value.Resource.Phase = vmhostv1.MachinePhase_MACHINE_PHASE_READY
		}
	}
	m := view.Machine(c.view, c.engine.cfg.Seen, rec)
	m.Etag = "" // known only after the transaction
	return m
}

func (c *change) failure(ctx context.Context, stepErr *rackv1.StepError) error {
	cause := why(c.op, stepErr)
	next := proto.CloneOf(c.op)
	r := next.GetResource()
	s := r.GetSteps()[next.GetStep()]
	s.Error = clip(stepErr.GetMessage())
	if s.GetError() == "" {
		s.Error = cause.GetReason()
	}
	verb := r.GetVerb()
	if verb == vmhostv1.OperationVerb_OPERATION_VERB_MOVE {
		return c.moveFailed(ctx, next, cause, stepErr)
	}
	if passing(c.op, stepErr.GetClass()) {
		return c.again(ctx, next)
	}
	s.EndTime = timestamppb.Now()
	c.op = next
	switch {
	case r.GetPhase() == compensating:
		if stepErr.GetClass() == rackv1.ErrorClass_ERROR_CLASS_FOREIGN && foundForeign(next.GetCause()) {
			// What stood in the way of the create stands there still; of ours there
			// is nothing.
			return c.undone(ctx, next)
		}
		cause.Message = next.GetCause().GetMessage() + "; undoing it failed: " + cause.GetMessage()
		return c.end(ctx, c.finished(failed, cause), vmhostv1.MachinePhase_MACHINE_PHASE_FAILED)
	case verb == vmhostv1.OperationVerb_OPERATION_VERB_COMPOSE && (next.GetStep() == 0 || r.GetCancelRequested()):
		if r.GetCancelRequested() {
			cause = cancelledByUser()
		}
		return c.compensate(ctx, next, cause)
	case verb == vmhostv1.OperationVerb_OPERATION_VERB_COMPOSE:
		cause.Message = "the machine was made but not started: " + cause.GetMessage()
		return c.end(ctx, c.finished(failed, cause), vmhostv1.MachinePhase_MACHINE_PHASE_READY)
	case verb == vmhostv1.OperationVerb_OPERATION_VERB_DELETE:
		return c.end(ctx, c.finished(failed, cause), vmhostv1.MachinePhase_MACHINE_PHASE_FAILED)
	case verb == vmhostv1.OperationVerb_OPERATION_VERB_ADOPT:
		return c.letGo(ctx, c.finished(failed, cause), nil)
	case verb == vmhostv1.OperationVerb_OPERATION_VERB_RELEASE:
		return c.end(ctx, c.finished(failed, cause), c.restPhase())
	default:
		return c.end(ctx, c.finished(failed, cause), vmhostv1.MachinePhase_MACHINE_PHASE_UNSPECIFIED)
	}
}

// again has the step tried again. A user who wants the operation to end is
// heard before that, by whoever looks at it next.
func (c *change) again(ctx context.Context, next *storev1.StoredOperation) error {
	r := next.GetResource()
	next.StepId = ""
	r.Message = r.GetSteps()[next.GetStep()].GetVerb() + " is tried again after: " + r.GetSteps()[next.GetStep()].GetError()
	c.engine.postpone(c.uid)
	return c.commit(ctx, c.begin(next))
}
