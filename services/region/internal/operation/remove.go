package operation

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/request"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// removeWidth is how many machines of a host are removed side by side.
const removeWidth = 8

// Remove begins to take a host with its machines out of the fleet. It is cordoned
// at once. Errors: NOT_FOUND, ETAG_MISMATCH, WRONG_STATE (it is being removed or
// drained),
// REQUEST_ID_REUSED.
func (e *Engine) Remove(ctx context.Context, principal string, req *vmhostv1.RemoveVmHostRequest) (*vmhostv1.Operation, error) {
	id, err := request.New(principal, "RemoveVmHost", req)
	if err != nil {
		return nil, err
	}
	return e.begin(ctx, order{
		principal: principal, verb: vmhostv1.OperationVerb_OPERATION_VERB_REMOVE, id: id,
		deadline: e.cfg.Deadlines.Remove, validateOnly: req.GetValidateOnly(),
		decide: func(v *store.View, tx *store.Txn, op *storev1.StoredOperation) error {
			name, host := req.GetName(), idOf(req.GetName())
			h, ok := store.VmHosts.Get(v, host)
			if !ok {
				return apierror.NotFound(name)
			}
			if present := view.Etag(h.Revision); req.GetEtag() != "" && req.GetEtag() != present {
				return apierror.New(codes.Aborted, vmhostv1.ErrorReason_ETAG_MISMATCH, "%s has changed since it was read", name).
					With("resource", name).With("etag", present).WithHint("read it again, and decide whether to go on")
			}
			if err := notClearing(v, h.Value.GetResource()); err != nil {
				return err
			}
			op.Removal = &storev1.StoredRemoval{Mode: req.GetMode(), VmHostUid: h.Value.GetResource().GetUid()}
			op.Resource.Target, op.Resource.VmHost, op.Resource.Message = name, name, "beginning"
			cordon(tx, h, host)
			return nil
		},
	})
}

// beginRemoval begins with one machine, by an operation of its own.
func (c *change) beginRemoval(ctx context.Context, v *store.View, w *clearing, m store.Record[*storev1.StoredMachine]) error {
	verb, deadline := vmhostv1.OperationVerb_OPERATION_VERB_RELEASE, c.engine.cfg.Deadlines.Power
	if c.op.GetRemoval().GetMode() == vmhostv1.RemoveMode_REMOVE_MODE_DECOMPOSE {
		verb, deadline = vmhostv1.OperationVerb_OPERATION_VERB_DELETE, c.engine.cfg.Deadlines.Delete
	}
	op, err := c.child(verb, deadline)
	if err != nil {
		return err
	}
	next := proto.CloneOf(c.op)
	next.Removal.Begun++
	w.describe(v, next.GetResource(), 1)
	tx := c.begin(next)
	if err := claimRecord(v, tx, op, m, func(m *storev1.StoredMachine) error {
		if verb == vmhostv1.OperationVerb_OPERATION_VERB_DELETE {
			planDelete(v, op, m)
		} else {
			planRelease(op, m)
		}
		return nil
	}); err != nil {
		return err
	}
	return c.with(ctx, w, tx, next, op)
}

// removed ends the removal: the host goes if it has no machines of ours any more.
func (c *change) removed(ctx context.Context, stop *vmhostv1.OperationError) error {
	result := c.removeResult()
	left, coming := c.left()
	phase, stop := endOfClearing(left+len(coming) == 0, stop, notRemoved(c.op.GetResource().GetVmHost(), result, coming))
	result.Removed = phase == succeeded
	next := c.finished(phase, stop)
	var err error
	if next.Resource.Response, err = packed(result); err != nil {
		return err
	}
	tx := c.begin(next)
	if result.GetRemoved() {
		if err := c.engine.cfg.TakeOut(c.view, tx, hostOf(c.op)); err != nil {
			return err
		}
	}
	c.event(tx, next)
	err = c.last(ctx, tx, next)
	if errors.Is(err, store.ErrConflict) {
		c.engine.queue.add(c.uid) // something came to the host meanwhile
	}
	return err
}

func notRemoved(host string, result *vmhostv1.RemoveVmHostResult, coming []string) *vmhostv1.OperationError {
	users, first := failedOf(result.GetResults(), (*vmhostv1.BatchResult).GetName)
	message := fmt.Sprintf("%s stays, cordoned: %d of its machines could not be removed", host, result.GetFailed()) + first
	hint := "look at each machine's result; then remove the host again"
	if len(coming) > 0 {
		message += fmt.Sprintf("; %d machines may be on it because a move to it ended before that was known", len(coming))
		hint = "look at each machine's result, and move or delete those again that were being moved to it (" + coming[0] + "); then remove the host again"
	}
	return stillInUse(host, message, hint, append(users, coming...))
}
