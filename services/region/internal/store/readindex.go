package store

import (
	"context"
	"sync"
)

// readIndex asks etcd for its revision once for all callers that are waiting,
// like a read index in raft. A caller never gets an answer to a question that
// was asked before it came: that answer could be too old.
type readIndex struct {
	read func(context.Context) (int64, error)

	mu      sync.Mutex
	running bool
	next    *indexCall // asked for, not begun
}

type indexCall struct {
	done     chan struct{}
	revision int64
	err      error
}

func (r *readIndex) get(ctx context.Context) (int64, error) {
	r.mu.Lock()
	if r.next == nil {
		r.next = &indexCall{done: make(chan struct{})}
	}
	call := r.next
	if !r.running {
		r.running = true
		// The question is asked for several callers, so it does not end with the
		// first one's context.
		go r.run(context.WithoutCancel(ctx))
	}
	r.mu.Unlock()
	select {
	case <-call.done:
		return call.revision, call.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// run answers calls until there are none; it then ends, so that an idle store
// has no goroutine here.
func (r *readIndex) run(ctx context.Context) {
	for {
		r.mu.Lock()
		call := r.next
		if call == nil {
			r.running = false
			r.mu.Unlock()
			return
		}
		r.next = nil
		r.mu.Unlock()
		r.answer(ctx, call)
	}
}

func (r *readIndex) answer(ctx context.Context, call *indexCall) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	call.revision, call.err = r.read(ctx)
	close(call.done)
}
