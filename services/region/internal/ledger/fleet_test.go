package ledger

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

func TestTheFleetOfAViewIsThatOfItsRecordsWhateverWasAskedBefore(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	r := rand.New(rand.NewPCG(1, 2))
	views := []*store.View{s.Cached()}
	for i := range 60 {
		id := fmt.Sprint("h", r.IntN(12))
		tx := store.NewTxn()
		switch r.IntN(5) {
		case 0:
			tx.Delete(store.VmHosts.Key(id))
		case 1:
			store.Put(tx, store.Ledgers, Recount(s.Cached(), id), id)
		default:
			spec, observed := hostRecord(id, int32(1+r.IntN(8)), 8192)
			spec.Resource.Tags = []string{fmt.Sprint("t", i%3)}
			store.Put(tx, store.VmHosts, spec, id)
			if r.IntN(2) == 0 {
				store.Put(tx, store.Observed, observed, id)
			}
		}
		commit(t, s, tx)
		views = append(views, s.Cached())
	}
	if _, ok := s.Cached().HostsChangedSince(views[len(views)-3].Revision); !ok {
		t.Error("views do not remember what changed, so that every host is read for each")
	}
	req := placement.Request{Cores: 2, MemoryMiB: 64, ResourcePool: "default", RequiredTags: []string{"t1"}}
	for range 200 {
		// Mostly forwards, and now and then a view that somebody has held.
		v := views[r.IntN(len(views))]
		got, want := l.Fleet(v), whole(v)
		if a, b := slices.Collect(got.Hosts()), slices.Collect(want.Hosts()); len(a) != len(b) {
			t.Fatalf("%d hosts, want %d", len(a), len(b))
		}
		x, y := got.Explain(&req, 100, 100), want.Explain(&req, 100, 100)
		if diff := cmp.Diff(y.Plan.Proto(), x.Plan.Proto(), protocmp.Transform()); diff != "" {
			t.Fatalf("at revision %d (-want +got):\n%s", v.Revision, diff)
		}
	}
}

func TestWhatThisProcessIsCommittingIsInTheDraft_P1(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addHost(t, s, "h", 4, 1<<20)
	before := s.Cached()
	for range 3 {
		if _, err := l.Compose(t.Context(), "p", &vmhostv1.ComposeMachineRequest{Cores: 1, Group: "web"}); err != nil {
			t.Fatal(err)
		}
	}
	// The view is older than the commits, and what was committed is known.
	if h := l.draft(before).Host("h"); h.Cores.Committed != 3 || h.In("default/web") != 3 {
		t.Errorf("committed in the draft: %+v, %+v", h.Cores, h.Groups)
	}
	if h := l.draft(s.Cached()).Host("h"); h.Cores.Committed != 3 || h.Machines != 3 {
		t.Errorf("committed in the view: %+v", h.Cores)
	}
	if len(l.ahead) != 0 {
		t.Errorf("%d ledgers are still held that the view has", len(l.ahead))
	}
}
