package storetest

import (
	"bytes"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Dump is every key and value of the store's key space, as etcd has them: to
// look for what must not be there.
func Dump(tb testing.TB, s *store.Store) []byte {
	tb.Helper()
	resp, err := s.Client().Get(tb.Context(), "\x00", clientv3.WithFromKey())
	if err != nil {
		tb.Fatalf("dump the store: %v", err)
	}
	var out bytes.Buffer
	for _, kv := range resp.Kvs {
		out.Write(kv.Key)
		out.WriteByte('\n')
		out.Write(kv.Value)
		out.WriteByte('\n')
	}
	return out.Bytes()
}
