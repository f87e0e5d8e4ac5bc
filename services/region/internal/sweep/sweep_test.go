package sweep

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

func ids[T proto.Message](f store.Family[T], v *store.View) string {
	var out []string
	for id := range f.All(v) {
		out = append(out, id)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func commit(t *testing.T, s *store.Store, tx *store.Txn) {
	t.Helper()
	if _, err := s.Commit(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsPastItsTimeGoesAndNothingElse(t *testing.T) {
	s := storetest.New(t)
	now := time.Now()
	at := func(age time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-age)) }
	tx := store.NewTxn()
	operation := func(id string, made, ended *timestamppb.Timestamp) {
		store.Put(tx, store.Operations, &storev1.StoredOperation{Resource: &vmhostv1.Operation{CreateTime: made, EndTime: ended}}, id)
	}
	operation("running", at(30*24*time.Hour), nil)
	operation("recent", at(30*24*time.Hour), at(KeepOperations-time.Minute))
	operation("old", at(30*24*time.Hour), at(KeepOperations+time.Minute))
	for id, age := range map[string]time.Duration{"recent": KeepRequests - time.Minute, "old": KeepRequests + time.Minute} {
		store.Put(tx, store.Requests, &storev1.StoredRequest{CreateTime: at(age)}, "alice", id)
	}
	for id, age := range map[string]time.Duration{"1-old": KeepEvents + time.Minute, "2-recent": KeepEvents - time.Minute} {
		store.Put(tx, store.Events, &storev1.StoredEvent{Resource: &vmhostv1.Event{Id: id, Time: at(age)}}, id)
	}
	store.Put(tx, store.Zones, &storev1.StoredZone{}, "a")
	commit(t, s, tx)

	sweeper := New(s, slog.New(slog.DiscardHandler))
	removed, err := sweeper.Sweep(t.Context(), now)
	if err != nil || removed != 3 {
		t.Errorf("removed %d, %v", removed, err)
	}
	v := s.Cached()
	if got := ids(store.Operations, v) + "|" + ids(store.Requests, v) + "|" + ids(store.Events, v) + "|" + ids(store.Zones, v); got != "recent running|alice/recent|2-recent|a" {
		t.Errorf("left: %s", got)
	}
	if removed, err := sweeper.Sweep(t.Context(), now); err != nil || removed != 0 {
		t.Errorf("again: %d, %v", removed, err)
	}
}

func TestEventsAreBoundedAndSeveralRegionsSweepAtOnce(t *testing.T) {
	client := storetest.Client(t)
	s := storetest.On(t, client)
	now := time.Now()
	const events = 450 // more than four transactions
	for begin := 0; begin < events; begin += 90 {
		tx := store.NewTxn()
		for i := begin; i < begin+90; i++ {
			id := fmt.Sprintf("%06d", i)
			store.Put(tx, store.Events, &storev1.StoredEvent{Resource: &vmhostv1.Event{Id: id, Time: timestamppb.New(now)}}, id)
		}
		commit(t, s, tx)
	}
	var wg sync.WaitGroup
	for range 3 {
		sweeper := New(storetest.On(t, client), slog.New(slog.DiscardHandler))
		sweeper.maxEvents = 10
		wg.Go(func() {
			if _, err := sweeper.Sweep(t.Context(), now); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	v, err := s.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(ids(store.Events, v)); len(got) != 10 || got[0] != "000440" {
		t.Errorf("left: %v", got)
	}
}
