package etcd_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/zap/zapcore"

	"github.com/vmhost-project/vmhost/services/standalone/internal/etcd"
)

func TestWhatWasWrittenIsThereAfterARestart(t *testing.T) {
	dir := t.TempDir()
	for i := range 3 {
		s, err := etcd.Start(t.Context(), dir, zapcore.AddSync(os.Stderr))
		if err != nil {
			t.Fatal(err)
		}
		for k := range i {
			resp, err := s.Client().Get(t.Context(), fmt.Sprint("key", k))
			if err != nil || len(resp.Kvs) != 1 {
				t.Fatalf("start %d: key%d: %v, %v", i, k, resp, err)
			}
		}
		if _, err := s.Client().Put(t.Context(), fmt.Sprint("key", i), "v"); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
}
