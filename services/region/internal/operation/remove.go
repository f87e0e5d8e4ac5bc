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
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/request"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// removeWidth is how many machines of a host are removed side by side.
const removeWidth = 8

// removal is what this process knows of the removal of a host: a copy of what
// follows from the records as of a revision of the operation. Whoever begins with
// a machine writes the operation too, so that a copy with its present revision is
// complete.
type removal struct {
	host     string
	revision int64             // of the operation; 0: nothing is known
	todo     []string          // uids of machines that were not begun with
	active   map[string]string // uids of operations under way, with their machines
	ended    int               // operations on machines that have ended
}

// wakeRemoval has the removal of a host looked at, if there is one.
func (e *Engine) wakeRemoval(host string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for uid, r := range e.removals {
		if r.host == host && host != "" {
			e.queue.add(uid)
		}
	}
}

// Remove begins to take a host with its machines out of the fleet. It is cordoned
// at once. Errors: NOT_FOUND, ETAG_MISMATCH, WRONG_STATE (it is being removed),
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
			if err := notRemoving(v, h.Value.GetResource()); err != nil {
				return err
			}
			op.Removal = &storev1.StoredRemoval{Mode: req.GetMode(), VmHostUid: h.Value.GetResource().GetUid()}
			op.Resource.Target, op.Resource.VmHost, op.Resource.Message = name, name, "beginning"
			cordoned := proto.CloneOf(h.Value)
			cordoned.Resource.Cordoned = true
			// Also when it is cordoned already: of two removals that begin at once one
			// finds the other.
			tx.IfRevision(store.VmHosts.Key(host), h.Revision)
			store.Put(tx, store.VmHosts, cordoned, host)
			return nil
		},
	})
}

// notRemoving refuses a host that is being removed.
func notRemoving(v *store.View, host *vmhostv1.VmHost) error {
	if !host.GetCordoned() {
		return nil // it would be
	}
	for _, op := range store.Operations.All(v) {
		if r := op.Value.GetResource(); op.Value.GetRemoval() != nil && !ended(op.Value) && r.GetVmHost() == host.GetName() {
			return apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE, "%s is being removed by %s", host.GetName(), r.GetName()).
				With("resource", host.GetName()).With("operation", r.GetName()).WithHint("wait for that operation, or cancel it")
		}
	}
	return nil
}

// remove does whatever the removal of a host asks for now: it begins with more of
// its machines, or ends.
func (e *Engine) remove(ctx context.Context, c *change) (time.Duration, error) {
	rack, _ := e.rackOf(c.view, c.op)
	_, connected := store.Sessions.Get(c.view, rack)
	if connected && e.cfg.Sender.Session(rack) == "" {
		return 0, nil // the process that drives the host's other operations drives this one
	}
	w := e.removalOf(c)
	w.settle(c.view)
	stop := c.whyStop()
	if stop.GetReason() == vmhostv1.ErrorReason_CANCELLED.String() {
		if err := e.cancelAll(ctx, w); err != nil {
			return 0, err
		}
	}
	if stop == nil || stop.GetReason() == vmhostv1.ErrorReason_DEADLINE.String() {
		if dropped, err := c.dropHeld(ctx, w); dropped || err != nil {
			return e.cfg.RetryMin, err
		}
	}
	if stop == nil && len(w.todo) > 0 && (!connected || !seenReady(c.view, w.host)) {
		return e.cfg.FullPass, c.say(ctx, w)
	}
	for stop == nil && len(w.todo) > 0 && len(w.active) < removeWidth {
		begun, err := c.beginNext(ctx, w)
		if err != nil {
			return 0, err
		}
		if !begun { // all that are left are being worked on
			break
		}
	}
	if len(w.active) > 0 || stop == nil && len(w.todo) > 0 {
		return e.cfg.FullPass, c.say(ctx, w)
	}
	// Looked at whole once more: machines can have come to the host.
	w.scan(c)
	if len(w.active) > 0 || stop == nil && len(w.todo) > 0 {
		return e.cfg.RetryMin, nil
	}
	return 0, c.removed(ctx, stop)
}

// whyStop is why no more machines are begun with; nil when they are.
func (c *change) whyStop() *vmhostv1.OperationError {
	r := c.op.GetResource()
	host, _ := store.VmHosts.Get(c.view, hostOf(c.op))
	switch {
	case r.GetCancelRequested():
		return cancelledByUser()
	case time.Until(r.GetDeadlineTime().AsTime()) <= 0:
		return &vmhostv1.OperationError{
			Code: int32(codes.DeadlineExceeded), Reason: vmhostv1.ErrorReason_DEADLINE.String(),
			Message: "not all machines of " + r.GetVmHost() + " were begun with in time", Hint: "remove the host again to go on",
		}
	case !host.Value.GetResource().GetCordoned():
		return &vmhostv1.OperationError{
			Code: int32(codes.FailedPrecondition), Reason: vmhostv1.ErrorReason_WRONG_STATE.String(),
			Message: r.GetVmHost() + " was uncordoned meanwhile, which stops its removal", Hint: "remove the host again to go on",
			Metadata: map[string]string{"resource": r.GetVmHost()},
		}
	}
	return nil
}

// seenReady says whether machines on the host can be worked on now.
func seenReady(v *store.View, host string) bool {
	observed, _ := store.Observed.Get(v, host)
	return observed.Value.GetState() == vmhostv1.VmHostState_VM_HOST_STATE_READY
}

// removalOf is what is known of the removal, of its present revision.
func (e *Engine) removalOf(c *change) *removal {
	e.mu.Lock()
	w := e.removals[c.uid]
	if w == nil {
		w = &removal{host: hostOf(c.op)}
		e.removals[c.uid] = w
	}
	e.mu.Unlock()
	if w.revision != c.revision {
		w.scan(c)
	}
	return w
}

// scan learns everything from the records.
func (w *removal) scan(c *change) {
	w.revision, w.todo, w.active, w.ended = c.revision, nil, map[string]string{}, 0
	tried := map[string]bool{}
	for uid, op := range store.Operations.All(c.view) {
		if op.Value.GetParent() != c.op.GetResource().GetName() {
			continue
		}
		tried[op.Value.GetMachineUid()] = true
		if ended(op.Value) {
			w.ended++
		} else {
			w.active[uid] = op.Value.GetMachineUid()
		}
	}
	for uid, m := range store.Machines.All(c.view) {
		if !tried[uid] && m.Value.GetResource().GetVmHost() == "vmHosts/"+w.host {
			w.todo = append(w.todo, uid)
		}
	}
}

// settle notices which operations have ended.
func (w *removal) settle(v *store.View) {
	for uid := range w.active {
		if op, ok := store.Operations.Get(v, uid); !ok || ended(op.Value) {
			delete(w.active, uid)
			w.ended++
		}
	}
}

// beginNext begins with one machine that nobody works on; false when there is
// none.
func (c *change) beginNext(ctx context.Context, w *removal) (bool, error) {
	v := c.engine.store.Cached()
	var busy []string
	defer func() { w.todo = append(w.todo, busy...) }()
	for len(w.todo) > 0 {
		uid := w.todo[0]
		w.todo = w.todo[1:]
		m, ok := store.Machines.Get(v, uid)
		if !ok || m.Value.GetResource().GetVmHost() != "vmHosts/"+w.host {
			continue // gone by itself
		}
		err := c.beginWith(ctx, v, w, m)
		switch apierror.Reason(err) {
		case vmhostv1.ErrorReason_ERROR_REASON_UNSPECIFIED:
			return err == nil, err
		case vmhostv1.ErrorReason_MACHINE_BUSY:
			busy = append(busy, uid)
		default:
			return false, err
		}
	}
	return false, nil
}

// beginWith begins with one machine, by an operation of its own.
func (c *change) beginWith(ctx context.Context, v *store.View, w *removal, m store.Record[*storev1.StoredMachine]) error {
	uid, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("choose an operation uid: %w", err)
	}
	parent := c.op.GetResource()
	verb, deadline := vmhostv1.OperationVerb_OPERATION_VERB_RELEASE, c.engine.cfg.Deadlines.Power
	if c.op.GetRemoval().GetMode() == vmhostv1.RemoveMode_REMOVE_MODE_DECOMPOSE {
		verb, deadline = vmhostv1.OperationVerb_OPERATION_VERB_DELETE, c.engine.cfg.Deadlines.Delete
	}
	now := time.Now()
	op := &storev1.StoredOperation{Parent: parent.GetName(), Resource: &vmhostv1.Operation{
		Name: "operations/" + uid.String(), Verb: verb, Phase: pending, Message: "waiting for a rack", Principal: parent.GetPrincipal(),
		CreateTime: timestamppb.New(now), UpdateTime: timestamppb.New(now), DeadlineTime: timestamppb.New(now.Add(deadline)),
	}}
	next := proto.CloneOf(c.op)
	next.Removal.Begun++
	w.describe(v, next.GetResource(), 1)
	tx := c.begin(next)
	tx.IfAbsent(store.Operations.Key(uid.String()))
	if err := claim(v, tx, op, m, func(r *vmhostv1.Machine) error {
		if verb == vmhostv1.OperationVerb_OPERATION_VERB_DELETE {
			planDelete(v, op, r)
		} else {
			planRelease(op, r)
		}
		return nil
	}); err != nil {
		return err
	}
	store.Put(tx, store.Operations, op, uid.String())
	if err := c.commit(ctx, tx); err != nil {
		return err
	}
	c.op, w.revision = next, c.revision
	w.active[uid.String()] = m.Value.GetResource().GetUid()
	return nil
}

// removed ends the removal: the host goes if it has no machines of ours any more.
func (c *change) removed(ctx context.Context, stop *vmhostv1.OperationError) error {
	result := c.removeResult()
	left := false
	for _, m := range store.Machines.All(c.view) {
		if m.Value.GetResource().GetVmHost() == c.op.GetResource().GetVmHost() {
			left = true
			break
		}
	}
	phase := succeeded
	switch {
	case !left && (stop == nil || stop.GetReason() == vmhostv1.ErrorReason_DEADLINE.String()):
		stop, result.Removed = nil, true
	case stop == nil:
		phase, stop = failed, notRemoved(c.op.GetResource().GetVmHost(), result)
	case stop.GetReason() == vmhostv1.ErrorReason_CANCELLED.String():
		phase = cancelled
	default:
		phase = failed
	}
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

func notRemoved(host string, result *vmhostv1.RemoveVmHostResult) *vmhostv1.OperationError {
	out := &vmhostv1.OperationError{
		Code: int32(codes.FailedPrecondition), Reason: vmhostv1.ErrorReason_IN_USE.String(),
		Message:  fmt.Sprintf("%s stays, cordoned: %d of its machines could not be removed", host, result.GetFailed()),
		Hint:     "look at each machine's result; then remove the host again",
		Metadata: map[string]string{"resource": host},
	}
	var users []string
	for _, r := range result.GetResults() {
		if r.GetError() != nil && len(users) < maxNamed {
			users = append(users, r.GetName())
			if len(users) == 1 {
				out.Message += "; the first: " + r.GetError().GetMessage()
			}
		}
	}
	out.Metadata["users"] = strings.Join(users, ",")
	return out
}
