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

	"github.com/tidwall/btree"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
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
	client *clientv3.Client
	log    *slog.Logger
	ready  chan struct{}

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
	s := &Store{
		client:   client,
		log:      log.With("component", "store"),
		ready:    make(chan struct{}),
		advanced: make(chan struct{}),
		subs:     map[*Subscription]struct{}{},
	}
	s.current.Store(&View{tree: btree.NewMap[string, *entry](treeDegree)})
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
	watch := s.client.Watch(wctx, Root, clientv3.WithPrefix(), clientv3.WithRev(revision+1), clientv3.WithProgressNotify())
	s.mu.Lock()
	s.progress = func() error { return s.client.RequestProgress(wctx) }
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

// list reads everything at one revision and delivers the difference. While a page
// is being taken in the next one is under way.
func (s *Store) list(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var pages errgroup.Group
	defer func() { _ = pages.Wait() }() // its error is known by then, or is of cancel
	arrived := make(chan *clientv3.GetResponse)
	pages.Go(func() error {
		defer close(arrived)
		return s.pages(ctx, arrived)
	})
	old := s.current.Load()
	l := listing{store: s, old: old, first: old.tree.Len() == 0, next: old.tree.Copy()}
	for page := range arrived {
		if l.revision == 0 {
			l.revision = page.Header.Revision
		}
		for _, kv := range page.Kvs {
			l.take(kv)
		}
	}
	if err := pages.Wait(); err != nil {
		return 0, err
	}
	l.finish()
	return l.revision, nil
}

// pages reads everything under Root, at one revision. For each page etcd goes
// through all keys that are left, to count them; so pages are large.
func (s *Store) pages(ctx context.Context, to chan<- *clientv3.GetResponse) error {
	end := clientv3.GetPrefixRangeEnd(Root)
	limit := int64(firstPage)
	var revision int64
	for key := Root; ; {
		resp, err := s.client.Get(ctx, key, clientv3.WithRange(end), clientv3.WithLimit(limit), clientv3.WithRev(revision))
		if err != nil {
			return err
		}
		if revision == 0 {
			revision = resp.Header.Revision
		}
		select {
		case to <- resp:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if !resp.More {
			return nil
		}
		key = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
		size := 0
		for _, kv := range resp.Kvs {
			size += len(kv.Key) + len(kv.Value)
		}
		limit = min(max(pageBytes*int64(len(resp.Kvs))/int64(max(size, 1)), firstPage), maxPage)
	}
}

// listing is a list on its way into the copy.
type listing struct {
	store    *Store
	old      *View
	first    bool // the copy was empty, and most likely nobody has to be told
	next     *tree
	revision int64
	seen     map[string]struct{}
	changes  []Change
}

// take takes in a key.
func (l *listing) take(kv *mvccpb.KeyValue) {
	e, value := l.store.read(kv, nil)
	if e == nil {
		return
	}
	if l.first {
		l.next.Load(string(kv.Key), e) // in order, so that the tree is packed
		return
	}
	if l.seen == nil {
		l.seen = make(map[string]struct{}, l.old.tree.Len())
	}
	key := string(kv.Key)
	l.seen[key] = struct{}{}
	was, ok := l.old.tree.Get(key)
	if ok && was.modRevision == e.modRevision {
		return
	}
	l.next.Set(key, e)
	l.changes = append(l.changes, change(key, was, e, value))
}

// finish makes what was listed the copy and delivers what differs from the copy
// before.
func (l *listing) finish() {
	l.old.tree.Scan(func(key string, e *entry) bool {
		if _, ok := l.seen[key]; !ok {
			l.next.Delete(key)
			l.changes = append(l.changes, change(key, e, nil, nil))
		}
		return true
	})
	s := l.store
	s.gifts.clear()
	if l.first {
		s.advanceUntold(&View{tree: l.next, Revision: l.revision})
	} else {
		s.advance(&View{tree: l.next, Revision: l.revision}, l.changes)
	}
	select {
	case <-s.ready:
	default:
		close(s.ready)
	}
}

// advanceUntold is advance for changes that nobody has made a list of: whoever
// subscribed already has to begin anew.
func (s *Store) advanceUntold(v *View) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sub := range s.subs {
		sub.end(ErrLagged)
	}
	s.move(v)
}

// read makes an entry of a key and its value, which is decoded if it is not known
// already; nil, and a line in the log, for one that is not understood: it must not
// take the region down.
func (s *Store) read(kv *mvccpb.KeyValue, known proto.Message) (*entry, proto.Message) {
	key := string(kv.Key)
	f := familyOf(key)
	if f == nil {
		s.log.Warn("key of no known family", "key", key)
		return nil, nil
	}
	e, value, err := newEntry(f, kv, known)
	if err != nil {
		s.log.Error("value cannot be read", "key", key, "error", err)
		return nil, nil
	}
	return e, value
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
	next := old.tree.Copy()
	changes := make([]Change, 0, len(events))
	revision := old.Revision
	for _, ev := range events {
		if ev.Kv.ModRevision <= old.Revision {
			return fmt.Errorf("watch went back from revision %d to %d", old.Revision, ev.Kv.ModRevision)
		}
		revision = max(revision, ev.Kv.ModRevision)
		key := string(ev.Kv.Key)
		if ev.Type == clientv3.EventTypeDelete {
			if was, ok := next.Delete(key); ok {
				changes = append(changes, change(key, was, nil, nil))
			}
			continue
		}
		if e, value := s.read(ev.Kv, s.gifts.take(ev.Kv)); e != nil {
			was, _ := next.Set(key, e)
			changes = append(changes, change(key, was, e, value))
		}
	}
	s.advance(&View{tree: next, Revision: revision}, changes)
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
