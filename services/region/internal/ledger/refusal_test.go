package ledger

import (
	"testing"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// What is refused because of another of its batch is refused only when that one
// was committed: otherwise there may have been room all the time.
func TestARefusalForWhatWasNotCommittedIsDecidedAgain_P1(t *testing.T) {
	client := storetest.Client(t)
	mine, meddler := storetest.Meddle(t, client)
	s, other := storetest.On(t, mine), storetest.On(t, client)
	l, faster := open(t, s), open(t, other)
	addHost(t, s, "h", 4, 1<<20)
	waiting := func(cores int32, refused bool) *pending {
		w, err := newWant("alice", &vmhostv1.ComposeMachineRequest{Cores: cores, MemoryMib: 1, Diskless: true})
		if err != nil {
			t.Fatal(err)
		}
		p := newPending(w)
		p.refused = refused
		l.enqueue(p)
		return p
	}
	large, small := waiting(4, false), waiting(1, true)
	meddler.Before(func() {
		if _, err := faster.Compose(t.Context(), "bob", &vmhostv1.ComposeMachineRequest{Cores: 1, MemoryMib: 1, Diskless: true}); err != nil {
			t.Error(err)
		}
	})
	for range 10 {
		l.turn <- struct{}{}
		l.lead(t.Context())
	}
	for _, p := range []*pending{large, small} {
		select {
		case <-p.done:
		default:
			t.Fatal("not answered after ten batches")
		}
	}
	if apierror.Reason(large.err) != vmhostv1.ErrorReason_NO_CAPACITY || small.err != nil {
		t.Errorf("4 cores of 3: %v; 1 core of 3: %v", large.err, small.err)
	}
	checkBooks(t, s, "h")
}
