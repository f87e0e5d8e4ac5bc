package operation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// describe says how far it is, with so many machines more under way, and
// what it waits for.
func (w *clearing) describe(v *store.View, r *vmhostv1.Operation, more int) {
	all := w.ended + len(w.active) + len(w.todo) + more
	r.Phase = running
	r.Message = fmt.Sprintf("%d of %d machines ended, %d under way", w.ended, all, len(w.active)+more)
	r.ProgressPercent = int32(100 * w.ended / max(all, 1))
	if r.GetCancelRequested() {
		r.Message = "cancelling: " + r.GetMessage()
	}
	if why := w.waitsFor(v, r); why != "" {
		r.Message += "; " + why
	}
}

// waitsFor is what holds it up, empty when nothing does: the host, one
// of its machines that did not go at the first try, or one that
// somebody else works on.
func (w *clearing) waitsFor(v *store.View, r *vmhostv1.Operation) string {
	if len(w.todo) > 0 && !r.GetCancelRequested() && !seenReady(v, w.host) {
		return "waiting for vmHosts/" + w.host + " to be reached"
	}
	stuck, first := 0, ""
	for _, uid := range slices.Sorted(maps.Keys(w.active)) {
		op, _ := store.Operations.Get(v, uid)
		steps := op.Value.GetResource().GetSteps()
		if len(steps) == 0 || steps[0].GetError() == "" || ended(op.Value) {
			continue
		}
		if stuck++; stuck == 1 {
			first = hostnameOf(v, w.active[uid]) + ", which is tried again after: " + shorten(steps[0].GetError())
		}
	}
	switch {
	case stuck == 1:
		return "waiting for " + first
	case stuck > 1:
		return fmt.Sprintf("waiting for %d machines, the first is %s", stuck, first)
	case len(w.active) == 0 && len(w.todo) > 0:
		m, _ := store.Machines.Get(v, w.todo[0])
		if busy := m.Value.GetResource().GetOperation(); busy != "" {
			return "waiting for " + hostnameOf(v, w.todo[0]) + ", on which " + busy + " works"
		}
	case len(w.active)+len(w.todo) == 0 && !r.GetCancelRequested():
		if uid := arriving(v, w.host); uid != "" {
			return "waiting for " + hostnameOf(v, uid) + ", which is being moved to vmHosts/" + w.host
		}
	}
	return ""
}

// hostnameOf is what a machine is called by its users.
func hostnameOf(v *store.View, uid string) string {
	if m, ok := store.Machines.Get(v, uid); ok && m.Value.GetResource().GetHostname() != "" {
		return m.Value.GetResource().GetHostname()
	}
	return "machines/" + uid
}

// say records how far it is, if that is not what was said last.
func (c *change) say(ctx context.Context, w *clearing) error {
	next := proto.CloneOf(c.op)
	w.describe(c.engine.store.Cached(), next.GetResource(), 0)
	if proto.Equal(next, c.op) {
		return nil
	}
	if err := c.commit(ctx, c.begin(next)); err != nil {
		return err
	}
	w.revision = c.revision
	return nil
}

// cancelAll asks the operations on single machines to end: those that wait for
// another try do so at once, those whose step is with a rack when that ends. A
// move goes on once a rack had it: ended early it would leave its machine where
// nobody knows.
func (e *Engine) cancelAll(ctx context.Context, op *storev1.StoredOperation, w *clearing) error {
	var all error
	for _, uid := range slices.Sorted(maps.Keys(w.active)) {
		child, _ := store.Operations.Get(e.store.Cached(), uid)
		if op.GetDrain() != nil && (child.Value.GetStepId() != "" || child.Value.GetCause() != nil) {
			continue
		}
		if _, err := e.Cancel(ctx, "operations/"+uid); err != nil {
			all = errors.Join(all, fmt.Errorf("cancel operations/%s: %w", uid, err))
		}
	}
	return all
}
