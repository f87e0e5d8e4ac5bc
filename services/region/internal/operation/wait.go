package operation

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// maxWait bounds one Wait; it is also what an unset timeout means.
const maxWait = time.Minute

// Wait answers with the operation once it has ended, or as it is after the
// timeout. Errors: NOT_FOUND.
func (e *Engine) Wait(ctx context.Context, name string, timeout time.Duration) (*vmhostv1.Operation, error) {
	if timeout <= 0 || timeout > maxWait {
		timeout = maxWait
	}
	uid := strings.TrimPrefix(name, "operations/")
	v, err := e.store.View(ctx)
	if err != nil {
		return nil, unavailable(err)
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		done := e.waiter(uid)
		// Looked at after the waiter is in place, so that an end in between is not
		// missed.
		if newer := e.store.Cached(); newer.Revision > v.Revision {
			v = newer
		}
		rec, ok := store.Operations.Get(v, uid)
		if !ok {
			return nil, apierror.NotFound(name)
		}
		if ended(rec.Value) {
			return rec.Value.GetResource(), nil
		}
		select {
		case <-done:
		case <-timer.C:
			rec, ok := store.Operations.Get(e.store.Cached(), uid)
			if !ok {
				return nil, apierror.NotFound(name)
			}
			return rec.Value.GetResource(), nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// waiter is closed when the operation has ended. All who wait for one operation
// share it; one that nobody closes goes with the next full pass.
func (e *Engine) waiter(uid string) <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.waiters[uid]
	if c == nil {
		c = make(chan struct{})
		e.waiters[uid] = c
	}
	return c
}

// Cancel asks for an operation to end: before the next step is sent, and for a
// compose by undoing it. An operation that has ended is not changed. Errors:
// NOT_FOUND.
func (e *Engine) Cancel(ctx context.Context, name string) (*vmhostv1.Operation, error) {
	const tries = 20
	uid := strings.TrimPrefix(name, "operations/")
	for range tries {
		v, err := e.store.View(ctx)
		if err != nil {
			return nil, unavailable(err)
		}
		rec, ok := store.Operations.Get(v, uid)
		if !ok {
			return nil, apierror.NotFound(name)
		}
		if ended(rec.Value) || rec.Value.GetResource().GetCancelRequested() {
			return rec.Value.GetResource(), nil
		}
		c := &change{engine: e, view: v, uid: uid, revision: rec.Revision, op: rec.Value}
		next := proto.CloneOf(rec.Value)
		next.Resource.CancelRequested = true
		next.Resource.Message = "cancelling"
		err = c.commit(ctx, c.begin(next))
		if err == nil {
			return next.GetResource(), nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return nil, unavailable(err)
		}
	}
	return nil, apierror.New(codes.Aborted, vmhostv1.ErrorReason_CONFLICT, "%s moved %d times meanwhile", name, tries).WithHint("try again")
}
