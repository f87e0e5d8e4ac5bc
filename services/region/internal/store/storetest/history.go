package storetest

import (
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Revision is one transaction of a key space.
type Revision struct {
	// Number is etcd's revision.
	Number int64
	// Changed has the keys that were written with their values, nil for one that
	// was removed.
	Changed map[string][]byte
}

// History is every transaction of the store's key space so far, in order: to
// check what must hold at every revision.
func History(tb testing.TB, s *store.Store) []Revision {
	tb.Helper()
	client := s.Client()
	// A last write says that all before it were seen.
	mark := store.Deployment.Key()
	end, err := client.Put(tb.Context(), mark, "")
	if err != nil {
		tb.Fatalf("mark the end of the history: %v", err)
	}
	if _, err := client.Delete(tb.Context(), mark); err != nil {
		tb.Fatalf("take the mark away: %v", err)
	}
	var out []Revision
	for resp := range client.Watch(tb.Context(), store.Root, clientv3.WithPrefix(), clientv3.WithRev(1)) {
		if err := resp.Err(); err != nil {
			tb.Fatalf("watch the history: %v", err)
		}
		for _, e := range resp.Events {
			if e.Kv.ModRevision >= end.Header.Revision {
				return out
			}
			if len(out) == 0 || out[len(out)-1].Number != e.Kv.ModRevision {
				out = append(out, Revision{Number: e.Kv.ModRevision, Changed: map[string][]byte{}})
			}
			value := e.Kv.Value
			if e.Type == clientv3.EventTypeDelete {
				value = nil
			}
			out[len(out)-1].Changed[string(e.Kv.Key)] = value
		}
	}
	tb.Fatal("the history ended before its end")
	return nil
}
