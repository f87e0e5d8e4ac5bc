// Package store is the region's state: typed records in etcd, read from an
// immutable copy in memory and changed by transactions.
//
// Every process keeps a copy of everything under /vmhost/v1/, fed by one list and
// one watch. A View is a snapshot of that copy at one revision: reading it takes
// no lock and no request. View (the method) is linearizable: it asks etcd for its
// revision and waits until the copy has it. Commit returns when the copy has the
// write, so a process reads what it wrote.
//
// Invariants: the copy changes one etcd revision at a time; values in it are
// never modified (clone before changing one); a watch that breaks or was
// compacted is replaced by a new list, and the difference is delivered to
// subscribers like any other change, so that nothing is lost on a gap.
//
// Run owns one goroutine for the watch and ends it with its context. The package
// knows nothing of what the records mean.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Root is the prefix of every key.
const Root = "/vmhost/v1/"

// The list reads pages of about pageBytes, far from gRPC's message limit, of at
// most maxPage keys. How large keys are it learns from the first page.
const (
	firstPage = 2000
	maxPage   = 100_000
	pageBytes = 16 << 20
)

// Store is the region's state. Make one with New and keep Run going.
type Store struct {
	client  *clientv3.Client
	wire    *wire // nil: transactions are done by the client
	watcher clientv3.Watcher
	log     *slog.Logger
	ready   chan struct{}

	current atomic.Pointer[View]

	mu       sync.Mutex
	advanced chan struct{} // closed and replaced whenever current moves
	subs     map[*Subscription]struct{}
	progress func() error // asks etcd how far the watch under way is; nil without one

	readIndex readIndex
	gifts     gifts
}

// New makes a store over a client.
func New(client *clientv3.Client, log *slog.Logger) *Store {
	w := wireOf(client)
	s := &Store{
		client:   client,
		wire:     w,
		watcher:  watcher(client, w),
		log:      log.With("component", "store"),
		ready:    make(chan struct{}),
		advanced: make(chan struct{}),
		subs:     map[*Subscription]struct{}{},
	}
	s.current.Store(&View{tree: &tree{}})
	s.readIndex.read = s.serverRevision
	return s
}

// Client is the etcd client underneath, for leases and elections.
func (s *Store) Client() *clientv3.Client { return s.client }

// Ready is closed when the first list is in memory.
func (s *Store) Ready() <-chan struct{} { return s.ready }

// Cached is what this process has seen so far. Good for decisions that a
// transaction checks again; use View to answer a user.
func (s *Store) Cached() *View { return s.current.Load() }

// View is a snapshot at least as new as any write that was acknowledged, by any
// process, before the call.
func (s *Store) View(ctx context.Context) (*View, error) {
	revision, err := s.readIndex.get(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the store's revision: %w", err)
	}
	if err := s.Wait(ctx, revision); err != nil {
		return nil, err
	}
	return s.current.Load(), nil
}

func (s *Store) serverRevision(ctx context.Context) (int64, error) {
	resp, err := s.client.Get(ctx, Root+Deployment.prefix, clientv3.WithKeysOnly())
	if err != nil {
		return 0, err
	}
	return resp.Header.Revision, nil
}

// progressAfter is how long Wait trusts the watch to bring a revision by itself.
// A revision that changed nothing under Root never arrives as an event; then
// etcd is asked to say how far the watch is.
const progressAfter = 20 * time.Millisecond

// Wait returns when this process's copy has a revision.
func (s *Store) Wait(ctx context.Context, revision int64) error {
	timer := time.NewTimer(progressAfter)
	defer timer.Stop()
	for {
		s.mu.Lock()
		advanced, progress := s.advanced, s.progress
		s.mu.Unlock()
		if s.current.Load().Revision >= revision {
			return nil
		}
		select {
		case <-advanced:
		case <-timer.C:
			if progress != nil {
				if err := progress(); err != nil && ctx.Err() == nil {
					s.log.DebugContext(ctx, "progress request failed", "error", err)
				}
			}
			timer.Reset(progressAfter)
		case <-ctx.Done():
			return fmt.Errorf("wait for revision %d of the store: %w", revision, context.Cause(ctx))
		}
	}
}

// Run keeps the copy in memory until ctx ends. It returns an error only when ctx
// has ended.
func (s *Store) Run(ctx context.Context) error {
	defer s.closeSubscriptions(ctx)
	const pause = 200 * time.Millisecond
	for {
		err := s.listAndWatch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		s.log.WarnContext(ctx, "store watch ended, listing again", "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

func (s *Store) listAndWatch(ctx context.Context) error {
	revision, err := s.list(ctx)
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	wctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	watch := s.watcher.Watch(wctx, Root, clientv3.WithPrefix(), clientv3.WithRev(revision+1), clientv3.WithProgressNotify())
	s.mu.Lock()
	s.progress = func() error { return s.watcher.RequestProgress(wctx) }
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.progress = nil
		s.mu.Unlock()
	}()
	for resp := range watch {
		if err := resp.Err(); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		if err := s.applyEvents(resp.Events, resp.Header.Revision); err != nil {
			return err
		}
	}
	return errors.New("watch: channel closed")
}

// applyEvents applies one watch response; it can hold several revisions, and a
// revision is never split over two responses.
func (s *Store) applyEvents(events []*clientv3.Event, header int64) error {
	old := s.current.Load()
	if len(events) == 0 {
		if header > old.Revision { // a progress notification
			s.advance(&View{tree: old.tree, Revision: header}, nil)
		}
		return nil
	}
	next := old.tree.edit()
	changes := make([]Change, 0, len(events))
	puts := make([]setting, 0, len(events))
	revision := old.Revision
	// What is put one after another goes into the tree together, and is the last of
	// the changes.
	put := func() {
		next.setMany(puts)
		last := changes[len(changes)-len(puts):]
		for i := range last {
			last[i].was = puts[i].was
		}
		puts = puts[:0]
	}
	for _, ev := range events {
		if ev.Kv.ModRevision <= old.Revision {
			return fmt.Errorf("watch went back from revision %d to %d", old.Revision, ev.Kv.ModRevision)
		}
		revision = max(revision, ev.Kv.ModRevision)
		key := string(ev.Kv.Key)
		if ev.Type == clientv3.EventTypeDelete {
			put()
			if was, ok := next.delete(key); ok {
				changes = append(changes, change(key, familyOf(key), &was, nil, nil))
			}
			continue
		}
		if e, f, value := s.read(key, ev.Kv, s.gifts.take(key, ev.Kv)); f != nil {
			puts = append(puts, setting{key: key, entry: e})
			changes = append(changes, change(key, f, nil, &e, value))
		}
	}
	put()
	s.advance(&View{tree: next.done(), Revision: revision}, changes)
	return nil
}

func (s *Store) advance(v *View, changes []Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.current.Load()
	v.history = before.history.with(before.Revision, v.Revision, changes)
	s.move(v)
	if len(changes) == 0 {
		return
	}
	for sub := range s.subs {
		sub.deliver(Batch{Revision: v.Revision, Changes: changes})
	}
}

// move makes a view the copy; the lock is held.
func (s *Store) move(v *View) {
	s.current.Store(v)
	close(s.advanced)
	s.advanced = make(chan struct{})
}
