package store

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/protobuf/proto"
)

// ErrLagged says that a subscriber did not keep up and missed changes.
var ErrLagged = errors.New("subscriber lagged behind the store")

// subscriptionBuffer bounds what a slow subscriber holds in memory.
const subscriptionBuffer = 4096

// Change is one key that changed.
type Change struct {
	// Key is the etcd key.
	Key string
	// Family is the Name of the key's family.
	Family string
	// New is the value now, nil when it was removed.
	New proto.Message
	// ModRevision is the key's revision; 0 when it was removed.
	ModRevision int64

	family *kind
	was    entry
}

// Old is the value before, nil when there was none.
func (c Change) Old() proto.Message {
	if c.was.modRevision == 0 {
		return nil
	}
	return c.was.value(c.family)
}

// Batch is all that changed up to one revision since the batch before.
type Batch struct {
	// Revision is the revision of the state after the changes.
	Revision int64
	// Changes are in the order in which they happened.
	Changes []Change
}

// Subscription delivers changes in order, without gaps. When C is closed, Err
// says why; after ErrLagged look at a View and subscribe again.
type Subscription struct {
	// C is closed when the subscription ends.
	C <-chan Batch
	// View is the state right before the first batch.
	View *View

	c    chan Batch
	mu   sync.Mutex
	err  error
	done bool
}

// Subscribe delivers every change after the subscription's View, until ctx ends.
func (s *Store) Subscribe(ctx context.Context) *Subscription {
	c := make(chan Batch, subscriptionBuffer)
	sub := &Subscription{C: c, c: c}
	s.mu.Lock()
	sub.View = s.current.Load()
	s.subs[sub] = struct{}{}
	s.mu.Unlock()
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.subs, sub)
		sub.end(context.Cause(ctx))
	})
	return sub
}

// Err says why C was closed.
func (sub *Subscription) Err() error {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	return sub.err
}

// deliver never blocks: the store does not wait for its slowest reader. Called
// under the store's lock, as is end.
func (sub *Subscription) deliver(b Batch) {
	sub.mu.Lock()
	done := sub.done
	sub.mu.Unlock()
	if done {
		return
	}
	select {
	case sub.c <- b:
	default:
		sub.end(ErrLagged)
	}
}

func (sub *Subscription) end(err error) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	if sub.done {
		return
	}
	sub.done, sub.err = true, err
	close(sub.c)
}

func (s *Store) closeSubscriptions(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sub := range s.subs {
		sub.end(context.Cause(ctx))
	}
	clear(s.subs)
}
