package store

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
)

// list reads everything at one revision and delivers the difference. While a page
// is being taken in the next one is under way.
func (s *Store) list(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var pages errgroup.Group
	defer func() { cancel(); _ = pages.Wait() }() // its error is known by then, or is of cancel
	arrived := make(chan *clientv3.GetResponse)
	pages.Go(func() error {
		defer close(arrived)
		return s.pages(ctx, arrived)
	})
	old := s.current.Load()
	l := listing{store: s, old: old, first: old.tree.len() == 0, next: old.tree.edit()}
	for page := range arrived {
		if l.revision == 0 {
			l.revision = page.Header.Revision
		}
		for _, kv := range page.Kvs {
			if err := l.take(kv); err != nil {
				return 0, err
			}
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
	load     treeLoad
	slab     slab
	next     *treeEdit
	revision int64
	seen     map[string]struct{}
	changes  []Change
}

// take takes in a key.
func (l *listing) take(kv *mvccpb.KeyValue) error {
	if l.first {
		return l.takeFirst(kv)
	}
	key := string(kv.Key)
	e, f, value := l.store.read(key, kv, nil)
	if f == nil {
		return nil
	}
	if l.seen == nil {
		l.seen = make(map[string]struct{}, l.old.tree.len())
	}
	l.seen[key] = struct{}{}
	was := l.old.tree.get(key)
	if was != nil && was.modRevision == e.modRevision {
		return nil
	}
	l.next.set(key, e)
	l.changes = append(l.changes, change(key, f, was, &e, value))
	return nil
}

// takeFirst takes in a key that comes in order, as a list has them.
func (l *listing) takeFirst(kv *mvccpb.KeyValue) error {
	key := string(kv.Key)
	f := l.store.family(key)
	if f == nil {
		return nil
	}
	e, err := newEntryUntold(f, kv, &l.slab)
	if err != nil {
		l.store.unreadable(key, err)
		return nil // one value that cannot be read must not take the region down
	}
	if !l.load.add(key, e) {
		return fmt.Errorf("etcd's list has %s out of order", key)
	}
	return nil
}

// finish makes what was listed the copy and delivers what differs from the copy
// before.
func (l *listing) finish() {
	s := l.store
	s.gifts.clear()
	if l.first {
		s.advanceUntold(&View{tree: l.load.done(), Revision: l.revision})
	} else {
		l.old.tree.ascend("", func(head, tail string, e *entry) bool {
			key := head + tail
			if _, ok := l.seen[key]; !ok {
				l.next.delete(key)
				l.changes = append(l.changes, change(key, familyOf(key), e, nil, nil))
			}
			return true
		})
		s.advance(&View{tree: l.next.done(), Revision: l.revision}, l.changes)
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
// already; no family, and a line in the log, for one that is not understood: it
// must not take the region down.
func (s *Store) read(key string, kv *mvccpb.KeyValue, known proto.Message) (entry, *kind, proto.Message) {
	f := s.family(key)
	if f == nil {
		return entry{}, nil, nil
	}
	e, value, err := newEntry(f, kv, known)
	if err != nil {
		s.unreadable(key, err)
		return entry{}, nil, nil
	}
	return e, f, value
}

func (s *Store) family(key string) *kind {
	f := familyOf(key)
	if f == nil {
		s.log.Warn("key of no known family", "key", key)
	}
	return f
}

func (s *Store) unreadable(key string, err error) {
	s.log.Error("value cannot be read", "key", key, "error", err)
}
