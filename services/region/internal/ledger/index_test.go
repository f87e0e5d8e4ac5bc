package ledger

import (
	"testing"

	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

func TestClaimsOfMACsGoWhenTheIndexHasThem(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addHost(t, s, "h", 1000, 1<<20)
	claims := func() int {
		l.index.mu.Lock()
		defer l.index.mu.Unlock()
		return len(l.index.claimed)
	}
	for range 20 {
		if _, err := l.Compose(t.Context(), "alice", small()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() bool {
		l.index.prune(s.Cached())
		return claims() == 0
	})
	// With an older view they are needed.
	before := s.Cached()
	if _, err := l.Compose(t.Context(), "alice", small()); err != nil {
		t.Fatal(err)
	}
	if l.index.prune(before); claims() != 1 {
		t.Errorf("%d claims", claims())
	}
}
