package session

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// alone is a session without a store: it may send steps that name no host.
func alone(t *testing.T, to wire) *session {
	t.Helper()
	s := New(Config{Log: slog.New(slog.DiscardHandler), Hub: NewHub()})
	ss, err := newSession(s, to, "r1", "uid-r1")
	if err != nil {
		t.Fatal(err)
	}
	return ss
}

func (ss *session) isSending() bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return ss.sending
}

func TestASessionSendsInOrderAndHasNoGoroutineForItWhenNothingWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := wire{sent: make(chan *rackv1.ConnectResponse)}
		ss := alone(t, to)
		offer := func(from, to int) {
			for i := from; i < to; i++ {
				if !ss.offer(&rackv1.Step{Id: fmt.Sprint(i)}) {
					t.Fatalf("step %d has no room", i)
				}
			}
		}
		offer(0, 3)
		synctest.Wait()
		if ss.isSending() {
			t.Error("something is sent ahead of the Hello")
		}
		ss.beginSending()
		for round := range 3 {
			for i := range 3 {
				if id := to.next(t).GetStep().GetId(); id != fmt.Sprint(3*round+i) {
					t.Errorf("step %s in place of %d", id, 3*round+i)
				}
			}
			synctest.Wait()
			if ss.isSending() {
				t.Error("nothing waits, and yet a goroutine does")
			}
			if round < 2 {
				offer(3*round+3, 3*round+6)
			}
		}
	})
}

// Whether a rack keeps up counts from when something waits for it.
func TestARackThatHadNothingToTakeForLongIsNotBlamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := wire{sent: make(chan *rackv1.ConnectResponse)}
		ss := alone(t, to)
		ss.beginSending()
		time.Sleep(time.Hour) //nolint:forbidigo // fake clock
		waiting := 0
		for ss.offer(&rackv1.Step{Id: "s"}) {
			waiting++
		}
		if ss.over() || waiting < stepShare {
			t.Fatalf("%d steps wait, session ended: %v (%v)", waiting, ss.over(), ss.reason)
		}
		time.Sleep(3*ss.server.cfg.Heartbeat - time.Second) //nolint:forbidigo // fake clock
		if ss.offer(&rackv1.Step{Id: "s"}); ss.over() {
			t.Error("ended before its time was over")
		}
		<-to.sent // it takes one
		synctest.Wait()
		time.Sleep(3*ss.server.cfg.Heartbeat - time.Second) //nolint:forbidigo // fake clock
		for ss.offer(&rackv1.Step{Id: "s"}) {
		}
		if ss.over() {
			t.Error("ended though it had taken something")
		}
		time.Sleep(2 * time.Second) //nolint:forbidigo // fake clock
		if ss.offer(&rackv1.Step{Id: "s"}); ss.reason.GetReason() != vmhostv1.ErrorReason_CONFLICT {
			t.Errorf("it takes nothing: %v", ss.reason)
		}
		<-to.sent // the one that was under way; the rest is not sent
		synctest.Wait()
		if ss.queue(&rackv1.ConnectResponse{}) {
			t.Error("queued for a session that has ended")
		}
	})
}

func TestTheFarewellIsTheLastThingThatIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := wire{sent: make(chan *rackv1.ConnectResponse)}
		ss := alone(t, to)
		ss.beginSending()
		for range 10 {
			ss.offer(&rackv1.Step{Id: "s"})
		}
		synctest.Wait()
		ss.end(vmhostv1.ErrorReason_REGION_DRAINING, "bye")
		said := make(chan struct{})
		go func() { defer close(said); ss.sayFarewell(t.Context()) }()
		var got []string
		for range 2 {
			m := to.next(t)
			got = append(got, m.GetStep().GetId()+m.GetDisconnect().GetMessage())
		}
		if want := []string{"s", "bye"}; !slices.Equal(got, want) {
			t.Errorf("sent %v, want %v", got, want)
		}
		<-said
		ss.endSending()
		ss.syncAll()
		synctest.Wait() // nothing is sent any more: the bubble would not end
	})
}

func TestARackThatSaysNothingGetsNoSession(t *testing.T) {
	r := newRegion(t, storetest.Client(t), "region-1")
	addRack(t, r.store, "r1")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := rackv1.NewRackServiceClient(r.conn).Connect(metadata.AppendToOutgoingContext(ctx, "rack", "r1/uid-r1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); apierror.Reason(err) != vmhostv1.ErrorReason_DEADLINE || ctx.Err() != nil {
		t.Errorf("%v", err)
	}
}

func TestTheHostsOfARackAreKnownWithoutLookingThroughAll(t *testing.T) {
	s := storetest.New(t)
	assign := func(host, rack string) func(*store.Txn) {
		return func(tx *store.Txn) {
			store.Put(tx, store.Assignments, &storev1.StoredAssignment{Rack: rack, VmHostUid: "uid-" + host}, host)
		}
	}
	put(t, s, func(tx *store.Txn) {
		for i, rack := range []string{"r1", "r2", "r1"} {
			assign(fmt.Sprintf("h%d", i), rack)(tx)
		}
	})
	sub := s.Subscribe(t.Context())
	server := New(Config{Store: s, Hub: NewHub(), Log: slog.New(slog.DiscardHandler)})
	server.placed.load(sub.View)
	for _, change := range []func(*store.Txn){
		func(*store.Txn) {}, // what was there
		assign("h3", "r3"),
		assign("h0", "r2"),
		assign("h0", "r2"), // again, with another epoch
		func(tx *store.Txn) { tx.Delete(store.Assignments.Key("h1")) },
		func(tx *store.Txn) { tx.Delete(store.Assignments.Key("h3")) },
		assign("h1", "r1"),
	} {
		tx := store.NewTxn()
		change(tx)
		if tx.Writes() > 0 {
			if _, err := s.Commit(t.Context(), tx); err != nil {
				t.Fatal(err)
			}
			for _, c := range (<-sub.C).Changes {
				server.note(c)
			}
		}
		want := map[string][]string{}
		for host, a := range store.Assignments.All(s.Cached()) {
			want[a.Value.GetRack()] = append(want[a.Value.GetRack()], host)
		}
		for _, rack := range []string{"r1", "r2", "r3"} {
			got := server.placed.hosts(rack)
			if slices.Sort(got); !slices.Equal(got, want[rack]) {
				t.Errorf("hosts of %s: %v, want %v", rack, got, want[rack])
			}
		}
		if len(server.placed.byRack) != len(want) {
			t.Errorf("racks %v, want %v", server.placed.byRack, want)
		}
	}
}
