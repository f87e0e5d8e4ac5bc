package ledgerbench_test

import (
	"testing"

	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
	"github.com/vmhost-project/vmhost/services/region/regiontest/ledgerbench"
)

func TestMachinesAreCommittedOncePerName(t *testing.T) {
	l, err := ledgerbench.Start(t.Context(), storetest.Client(t), 3)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, name := range []string{"one", "two"} {
		if err := l.Commit(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	if err := l.Commit(t.Context(), "one"); err == nil {
		t.Error("a name was committed twice")
	}
}
