package operation

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// The removal of a host (remove.go) and its drain (drain.go) have this in common:
// they begin with its machines, some at a time, each by an operation of its own
// that names this one as its parent, and end when no machine is left that was not
// tried (clearingend.go). Everything follows from the records, so that any process goes
// on.

// clearing is what this process knows of such an operation: a copy of what
// follows from the records as of a revision of the operation. Whoever begins with
// a machine writes the operation too, so that a copy with its present revision is
// complete.
type clearing struct {
	host     string
	revision int64             // of the operation; 0: nothing is known
	todo     []string          // uids of machines that were not begun with
	active   map[string]string // uids of operations under way, with their machines
	ended    int               // machines whose operations have ended
	// Of a drain: destinations that a machine could not be brought to, by its uid,
	// and those that let nobody in, with why; by host.
	failed map[string]map[string]string
	barred map[string]string
}

// clears says whether an operation is a removal or a drain.
func clears(op *storev1.StoredOperation) bool { return op.GetRemoval() != nil || op.GetDrain() != nil }

// clearWord is what it does, as people call it.
func clearWord(op *storev1.StoredOperation) string {
	if op.GetDrain() != nil {
		return "drain"
	}
	return "removal"
}

// widthOf is how many machines are worked on side by side.
func widthOf(op *storev1.StoredOperation) int {
	if d := op.GetDrain(); d != nil {
		return int(d.GetMaxParallel())
	}
	return removeWidth
}

// notClearing refuses a host that is being removed or drained.
func notClearing(v *store.View, host *vmhostv1.VmHost) error {
	if !host.GetCordoned() {
		return nil // it would be
	}
	for _, op := range store.Operations.All(v) {
		if r := op.Value.GetResource(); clears(op.Value) && !ended(op.Value) && r.GetVmHost() == host.GetName() {
			done := "removed"
			if op.Value.GetDrain() != nil {
				done = "drained"
			}
			return apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE, "%s is being %s by %s", host.GetName(), done, r.GetName()).
				With("resource", host.GetName()).With("operation", r.GetName()).WithHint("wait for that operation, or cancel it")
		}
	}
	return nil
}

// cordon adds to a transaction that a host takes nothing new. It writes a host
// that is cordoned already as well: of two operations that begin at once one finds
// the other.
func cordon(tx *store.Txn, h store.Record[*storev1.StoredVmHost], host string) {
	next := proto.CloneOf(h.Value)
	next.Resource.Cordoned = true
	tx.IfRevision(store.VmHosts.Key(host), h.Revision)
	store.Put(tx, store.VmHosts, next, host)
}

// wakeClearing has the removal or drain of a host looked at, if there is one.
func (e *Engine) wakeClearing(host string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for uid, w := range e.clearings {
		if w.host == host && host != "" {
			e.queue.add(uid)
		}
	}
}

// clear does whatever the removal or drain of a host asks for now: it begins with
// more of its machines, or ends.
func (e *Engine) clear(ctx context.Context, c *change) (time.Duration, error) {
	rack, _ := e.rackOf(c.view, c.op)
	_, connected := store.Sessions.Get(c.view, rack)
	if connected && e.cfg.Sender.Session(rack) == "" {
		return 0, nil // the process that drives the host's other operations drives this one
	}
	w := e.clearingOf(c)
	if w.settle(c.view) {
		w.scan(c)
	}
	stop := c.whyStop()
	if stop.GetReason() == vmhostv1.ErrorReason_CANCELLED.String() {
		if err := e.cancelAll(ctx, c.op, w); err != nil {
			return 0, err
		}
	}
	if c.op.GetRemoval() != nil && (stop == nil || stop.GetReason() == vmhostv1.ErrorReason_DEADLINE.String()) {
		if dropped, err := c.dropHeld(ctx, w); dropped || err != nil {
			return e.cfg.RetryMin, err
		}
	}
	if stop == nil && len(w.todo) > 0 && (!connected || !seenReady(c.view, w.host)) {
		return e.cfg.FullPass, c.say(ctx, w)
	}
	for stop == nil && len(w.todo) > 0 && len(w.active) < widthOf(c.op) {
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
	if c.revision > c.view.Revision {
		return e.cfg.RetryMin, nil // a machine was refused just now, which the view does not have
	}
	// Looked at whole once more: machines can have come to the host.
	w.scan(c)
	if len(w.active) > 0 || stop == nil && len(w.todo) > 0 {
		return e.cfg.RetryMin, nil
	}
	if arriving(c.view, w.host) != "" && stop == nil {
		return e.cfg.FullPass, c.say(ctx, w)
	}
	if c.op.GetDrain() != nil {
		return 0, c.drained(ctx, stop)
	}
	return 0, c.removed(ctx, stop)
}

// arriving is a machine, by its uid, that an operation is moving to the host;
// empty: none is.
func arriving(v *store.View, host string) string {
	for uid, m := range store.Machines.All(v) {
		if m.Value.GetMove().GetVmHost() == host && notBusy(v, m.Value.GetResource()) != nil {
			return uid
		}
	}
	return ""
}

// whyStop is why no more machines are begun with; nil when they are.
func (c *change) whyStop() *vmhostv1.OperationError {
	r := c.op.GetResource()
	host, _ := store.VmHosts.Get(c.view, hostOf(c.op))
	hint := "remove the host again to go on"
	if c.op.GetDrain() != nil {
		hint = "drain the host again to go on"
	}
	switch {
	case r.GetCancelRequested():
		return cancelledByUser()
	case time.Until(r.GetDeadlineTime().AsTime()) <= 0:
		return &vmhostv1.OperationError{
			Code: int32(codes.DeadlineExceeded), Reason: vmhostv1.ErrorReason_DEADLINE.String(),
			Message: "not all machines of " + r.GetVmHost() + " were begun with in time", Hint: hint,
		}
	case !host.Value.GetResource().GetCordoned():
		return &vmhostv1.OperationError{
			Code: int32(codes.FailedPrecondition), Reason: vmhostv1.ErrorReason_WRONG_STATE.String(),
			Message: r.GetVmHost() + " was uncordoned meanwhile, which stops its " + clearWord(c.op), Hint: hint,
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

// clearingOf is what is known of the operation, of its present revision.
func (e *Engine) clearingOf(c *change) *clearing {
	e.mu.Lock()
	w := e.clearings[c.uid]
	if w == nil {
		w = &clearing{host: hostOf(c.op)}
		e.clearings[c.uid] = w
	}
	e.mu.Unlock()
	if w.revision != c.revision {
		w.scan(c)
	}
	return w
}

// scan learns everything from the records.
func (w *clearing) scan(c *change) {
	w.revision, w.todo, w.active, w.ended = c.revision, nil, map[string]string{}, 0
	w.failed, w.barred = map[string]map[string]string{}, map[string]string{}
	tried := map[string]bool{}
	for uid, op := range store.Operations.All(c.view) {
		if op.Value.GetParent() != c.op.GetResource().GetName() {
			continue
		}
		tried[op.Value.GetMachineUid()] = !w.elsewhere(op.Value)
		if !ended(op.Value) {
			w.active[uid] = op.Value.GetMachineUid()
		}
	}
	for _, is := range tried {
		if is {
			w.ended++
		}
	}
	w.ended -= len(w.active)
	for uid, m := range store.Machines.All(c.view) {
		if !tried[uid] && m.Value.GetResource().GetVmHost() == "vmHosts/"+w.host {
			w.todo = append(w.todo, uid)
		}
	}
	if c.op.GetDrain() != nil && len(w.todo) > 1 {
		c.engine.largestFirst(c.view, w.host, w.todo)
	}
}

// settle notices which operations have ended. True when one of them is no end for
// its machine, and all has to be looked at anew.
func (w *clearing) settle(v *store.View) (again bool) {
	for uid := range w.active {
		if op, ok := store.Operations.Get(v, uid); !ok || ended(op.Value) {
			delete(w.active, uid)
			w.ended++
			again = again || op.Value.GetElsewhere()
		}
	}
	return again
}

// beginNext begins with one machine that nobody works on; false when there is
// none.
func (c *change) beginNext(ctx context.Context, w *clearing) (bool, error) {
	v := c.engine.store.Cached()
	var busy []string
	defer func() { w.todo = slices.Concat(busy, w.todo) }()
	for len(w.todo) > 0 {
		uid := w.todo[0]
		w.todo = w.todo[1:]
		m, ok := store.Machines.Get(v, uid)
		if !ok || m.Value.GetResource().GetVmHost() != "vmHosts/"+w.host {
			continue // gone by itself
		}
		begin := c.beginRemoval
		if c.op.GetDrain() != nil {
			begin = c.beginMove
		}
		err := begin(ctx, v, w, m)
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

// child is a new operation on one of the machines.
func (c *change) child(verb vmhostv1.OperationVerb, deadline time.Duration) (*storev1.StoredOperation, error) {
	uid, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("choose an operation uid: %w", err)
	}
	parent, now := c.op.GetResource(), time.Now()
	return &storev1.StoredOperation{Parent: parent.GetName(), Resource: &vmhostv1.Operation{
		Name: "operations/" + uid.String(), Verb: verb, Phase: pending, Message: "waiting for a rack", Principal: parent.GetPrincipal(),
		CreateTime: timestamppb.New(now), UpdateTime: timestamppb.New(now), DeadlineTime: timestamppb.New(now.Add(deadline)),
	}}, nil
}

// with records the child and the operation that it is a part of, which counts it.
func (c *change) with(ctx context.Context, w *clearing, tx *store.Txn, next, child *storev1.StoredOperation) error {
	uid := idOf(child.GetResource().GetName())
	tx.IfAbsent(store.Operations.Key(uid))
	store.Put(tx, store.Operations, child, uid)
	if err := c.commit(ctx, tx); err != nil {
		return err
	}
	c.op, w.revision = next, c.revision
	if ended(child) {
		w.ended++
	} else {
		w.active[uid] = child.GetMachineUid()
	}
	return nil
}
