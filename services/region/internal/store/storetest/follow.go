package storetest

import (
	"context"
	"fmt"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// At is a client of the etcd at a URL, which holds nothing of vmhost yet.
func At(tb testing.TB, url string) *store.Client {
	tb.Helper()
	client, err := store.Connect(tb.Context(), store.Endpoints{URLs: []string{url}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = client.Close() })
	resp, err := client.Get(tb.Context(), store.Root, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		tb.Fatalf("ask the etcd at %s what it holds: %v", url, err)
	}
	if n := resp.Count; n > 0 {
		tb.Fatalf("the etcd at %s has %d keys already", url, n)
	}
	return client
}

// Again is another client of the same etcd, as another process would have, of one
// that has no key space of its own.
func Again(tb testing.TB, client *store.Client) *store.Client {
	tb.Helper()
	other, err := store.Connect(tb.Context(), store.Endpoints{URLs: client.Endpoints()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = other.Close() })
	return other
}

// Mark writes to a key space and answers the revision of that: everything before
// has a smaller one.
func Mark(tb testing.TB, client *store.Client) (revision int64) {
	tb.Helper()
	resp, err := client.Put(tb.Context(), store.Deployment.Key(), "")
	if err != nil {
		tb.Fatalf("mark the end of the history: %v", err)
	}
	return resp.Header.GetRevision()
}

// Follow calls fn for every transaction of a key space in order, from the first
// one on and while others write, until it has seen the revision that until gets,
// or fn fails. It is History for what is too long to be kept.
func Follow(ctx context.Context, client *store.Client, until <-chan int64, fn func(Revision) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch := client.Watch(ctx, store.Root, clientv3.WithPrefix(), clientv3.WithRev(1))
	last, seen := int64(-1), int64(0)
	for last < 0 || seen < last {
		select {
		case last = <-until:
		case resp, open := <-watch:
			if err := resp.Err(); err != nil || !open {
				return fmt.Errorf("the watch ended after revision %d: %w", seen, err)
			}
			// A transaction never comes in two parts.
			var now Revision
			for i, e := range resp.Events {
				kv := e.Kv
				if i == 0 || kv.ModRevision != seen {
					seen = kv.ModRevision
					now = Revision{Number: seen, Changed: map[string][]byte{}}
				}
				now.Changed[string(kv.Key)] = kv.Value
				if e.Type == clientv3.EventTypeDelete {
					now.Changed[string(kv.Key)] = nil
				} else if kv.Value == nil {
					now.Changed[string(kv.Key)] = []byte{}
				}
				if next := i + 1; next == len(resp.Events) || resp.Events[next].Kv.ModRevision != seen {
					if err := fn(now); err != nil {
						return fmt.Errorf("revision %d: %w", seen, err)
					}
				}
			}
		}
	}
	return nil
}

// Meddler is a client that lets something happen just before a transaction is
// sent.
type Meddler struct {
	clientv3.KV

	mu     sync.Mutex
	before func()
}

// Meddle is a client of the same key space with its meddler.
func Meddle(tb testing.TB, client *store.Client) (*store.Client, *Meddler) {
	tb.Helper()
	m := &Meddler{KV: client.KV}
	out := clientv3.NewCtxClient(tb.Context())
	out.KV, out.Watcher, out.Lease = m, client.Watcher, client.Lease
	return out, m
}

// Before sets what is called before the next transaction, once. What is called may
// set the next.
func (m *Meddler) Before(fn func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.before = fn
}

// Txn begins a transaction.
func (m *Meddler) Txn(ctx context.Context) clientv3.Txn {
	m.mu.Lock()
	before := m.before
	m.before = nil
	m.mu.Unlock()
	if before != nil {
		before()
	}
	return m.KV.Txn(ctx)
}
