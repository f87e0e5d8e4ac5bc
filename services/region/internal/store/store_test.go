package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

func zone(description string) *storev1.StoredZone {
	return &storev1.StoredZone{Resource: &vmhostv1.Zone{Description: description}}
}

func put(t *testing.T, s *store.Store, id, description string) int64 {
	t.Helper()
	tx := store.NewTxn()
	store.Put(tx, store.Zones, zone(description), id)
	rev, err := s.Commit(t.Context(), tx)
	if err != nil {
		t.Fatalf("put %s: %v", id, err)
	}
	return rev
}

func TestAProcessReadsWhatItWrote(t *testing.T) {
	s := storetest.New(t)
	rev := put(t, s, "a", "first")
	got, ok := store.Zones.Get(s.Cached(), "a")
	if !ok || got.Revision != rev || got.CreateRevision != rev {
		t.Fatalf("got %+v, %v; want revision %d", got, ok, rev)
	}
	if diff := cmp.Diff(zone("first"), got.Value, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestAViewHasWhatAnotherProcessWroteBefore(t *testing.T) {
	client := storetest.Client(t)
	a, b := storetest.On(t, client), storetest.On(t, client)
	for i := range 200 {
		want := fmt.Sprint(i)
		put(t, a, "z", want)
		v, err := b.View(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, _ := store.Zones.Get(v, "z")
		if got.Value.GetResource().GetDescription() != want {
			t.Fatalf("view has %q after %q was acknowledged", got.Value.GetResource().GetDescription(), want)
		}
	}
}

func TestAViewNeverChanges(t *testing.T) {
	s := storetest.New(t)
	put(t, s, "a", "before")
	v := s.Cached()
	put(t, s, "a", "after")
	put(t, s, "b", "new")
	if got, _ := store.Zones.Get(v, "a"); got.Value.GetResource().GetDescription() != "before" {
		t.Error("a snapshot saw a later change")
	}
	if _, ok := store.Zones.Get(v, "b"); ok {
		t.Error("a snapshot saw a later key")
	}
}

func TestATransactionWhoseCompareFailsWritesNothing(t *testing.T) {
	s := storetest.New(t)
	rev := put(t, s, "a", "one")
	put(t, s, "a", "two")
	for name, add := range map[string]func(*store.Txn){
		"stale revision": func(tx *store.Txn) { tx.IfRevision(store.Zones.Key("a"), rev) },
		"absent":         func(tx *store.Txn) { tx.IfAbsent(store.Zones.Key("a")) },
		"present":        func(tx *store.Txn) { tx.IfPresent(store.Zones.Key("x")) },
		"none":           func(tx *store.Txn) { tx.IfNone(store.Zones.Prefix()) },
	} {
		t.Run(name, func(t *testing.T) {
			tx := store.NewTxn()
			add(tx)
			store.Put(tx, store.Zones, zone("three"), "a")
			store.AddEvent(tx, &vmhostv1.Event{Type: "test"})
			if _, err := s.Commit(t.Context(), tx); !errors.Is(err, store.ErrConflict) {
				t.Fatalf("got %v, want ErrConflict", err)
			}
			if got, _ := store.Zones.Get(s.Cached(), "a"); got.Value.GetResource().GetDescription() != "two" {
				t.Error("something was written")
			}
			for id := range store.Events.All(s.Cached()) {
				t.Errorf("event %s was written", id)
			}
		})
	}
	tx := store.NewTxn()
	tx.IfNone(store.References.Prefix("zones", "a"))
	tx.IfPresent(store.Zones.Key("a"))
	tx.Delete(store.Zones.Key("a"))
	if _, err := s.Commit(t.Context(), tx); err != nil {
		t.Errorf("compares that hold: %v", err)
	}
}

func TestRecordsComeInOrderAndBelowTheirParts(t *testing.T) {
	s := storetest.New(t)
	tx := store.NewTxn()
	for _, host := range []string{"h1", "h10", "h2"} {
		for _, id := range []string{"b", "a"} {
			store.Put(tx, store.Seen, &storev1.StoredSeenMachine{}, host, id)
		}
	}
	if _, err := s.Commit(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	var got []string
	for id := range store.Seen.All(s.Cached(), "h1") {
		got = append(got, id)
	}
	for id := range store.Seen.AllAfter(s.Cached(), "h10/a") {
		got = append(got, id)
	}
	if diff := cmp.Diff([]string{"a", "b", "h10/b", "h2/a", "h2/b"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestASubscriberSeesEveryChangeInOrder(t *testing.T) {
	s := storetest.New(t)
	put(t, s, "z", "0")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sub := s.Subscribe(ctx)
	const n = 100
	go func() {
		for i := 1; i <= n; i++ {
			tx := store.NewTxn()
			store.Put(tx, store.Zones, zone(fmt.Sprint(i)), "z")
			_, _ = s.Commit(context.WithoutCancel(ctx), tx)
		}
	}()
	next := 1
	for b := range sub.C {
		for _, c := range b.Changes {
			o, _ := c.Old().(*storev1.StoredZone)
			is, _ := c.New.(*storev1.StoredZone)
			if o.GetResource().GetDescription() != fmt.Sprint(next-1) || is.GetResource().GetDescription() != fmt.Sprint(next) {
				t.Fatalf("change %d is from %v to %v", next, o, is)
			}
			next++
		}
		if next > n {
			cancel()
		}
	}
	if next != n+1 {
		t.Errorf("saw %d of %d changes, then %v", next-1, n, sub.Err())
	}
}

func TestAStoreThatWasCompactedUnderTheWatchListsAgainAndDeliversTheDifference(t *testing.T) {
	client := storetest.Client(t)
	writer := storetest.On(t, client)
	put(t, writer, "kept", "old")
	put(t, writer, "gone", "x")

	// A store that is stopped, misses changes, and runs again on the same copy.
	late := store.New(client, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { _ = late.Run(ctx) })
	<-late.Ready()
	cancel()
	wg.Wait()

	put(t, writer, "kept", "new")
	tx := store.NewTxn()
	tx.Delete(store.Zones.Key("gone"))
	rev, err := writer.Commit(t.Context(), tx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Compact(t.Context(), rev); err != nil {
		t.Fatal(err)
	}

	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	sub := late.Subscribe(ctx)
	wg.Go(func() { _ = late.Run(ctx) })
	got := map[string]string{}
	for b := range sub.C {
		for _, c := range b.Changes {
			is, _ := c.New.(*storev1.StoredZone)
			got[store.Zones.ID(c.Key)] = is.GetResource().GetDescription()
		}
		if len(got) == 2 {
			break
		}
	}
	cancel()
	wg.Wait()
	if diff := cmp.Diff(map[string]string{"kept": "new", "gone": ""}, got); diff != "" {
		t.Error(diff)
	}
}

func TestALargeTransactionIsOne(t *testing.T) {
	s := storetest.New(t)
	tx := store.NewTxn()
	for i := range store.MaxCompares {
		tx.IfAbsent(store.Zones.Key(fmt.Sprint(i)))
	}
	for i := range store.MaxWrites {
		store.Put(tx, store.Zones, zone("x"), fmt.Sprint(i))
	}
	rev, err := s.Commit(t.Context(), tx)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for id, z := range store.Zones.All(s.Cached()) {
		if n++; z.Revision != rev {
			t.Errorf("zone %s was written at %d, not at %d", id, z.Revision, rev)
		}
	}
	if n != store.MaxWrites {
		t.Errorf("%d of %d were written", n, store.MaxWrites)
	}
	tx = store.NewTxn()
	tx.IfAbsent(store.Zones.Key("0"))
	for i := range 1000 {
		tx.Delete(store.Zones.Key(fmt.Sprint(i)))
	}
	if _, err := s.Commit(t.Context(), tx); !errors.Is(err, store.ErrConflict) {
		t.Errorf("got %v, want ErrConflict", err)
	}
	if _, ok := store.Zones.Get(s.Cached(), "999"); !ok {
		t.Error("a nested write was done although the compare failed")
	}
}
