package api

import (
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// batchOf is what the store says of n events of one revision.
func batchOf(revision int64, n int) store.Batch {
	b := store.Batch{Revision: revision}
	for i := range n {
		b.Changes = append(b.Changes, store.Change{
			Family: store.Events.Name(), ModRevision: revision,
			New: &storev1.StoredEvent{Resource: &vmhostv1.Event{Id: fmt.Sprintf("%d-%06d", revision, i)}},
		})
	}
	return b
}

func TestTheFirstEventGoesAtOnceAndThoseAfterItTogether(t *testing.T) {
	for name, tc := range map[string]struct {
		watchers int
		rest     time.Duration // after the first
	}{
		"one watcher":             {1, 0},
		"a hundred":               {100, 50 * time.Millisecond},
		"a thousand":              {1000, longestRest},
		"more do not wait longer": {3000, longestRest},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newEventHub(nil, slog.New(slog.DiscardHandler))
				h.publish(nil, 1)
				var w *watcher
				for range tc.watchers {
					var err error
					if _, w, err = h.everything(nil); err != nil {
						t.Fatal(err)
					}
				}
				batches := make(chan store.Batch)
				go h.follow(batches)
				defer close(batches)
				handed := func() int {
					synctest.Wait()
					select {
					case d := <-w.c:
						return len(d.events)
					default:
						return 0
					}
				}
				revision := int64(1)
				happens := func(n int) {
					revision++
					batches <- batchOf(revision, n)
				}
				for _, silence := range []time.Duration{0, 10 * time.Second} {
					time.Sleep(silence) //nolint:forbidigo // fake clock
					if happens(1); handed() != 1 {
						t.Fatal("the first event is held back")
					}
				}
				if happens(0); handed() != 0 { // something without an event
					t.Error("handed something out of nothing")
				}
				if tc.rest == 0 {
					for range 3 {
						if happens(2); handed() != 2 {
							t.Error("an event is held back for one watcher")
						}
					}
					return
				}
				for range 5 {
					if happens(2); handed() != 0 {
						t.Error("an event is not gathered")
					}
				}
				time.Sleep(tc.rest - 1) //nolint:forbidigo // fake clock
				if handed() != 0 {
					t.Errorf("handed out before %v", tc.rest)
				}
				time.Sleep(time.Nanosecond) //nolint:forbidigo // fake clock
				if n := handed(); n != 10 {
					t.Errorf("after %v: %d events, want 10", tc.rest, n)
				}
				// Many are not held back: what waits is bounded.
				if happens(mostGathered); handed() != mostGathered {
					t.Error("a thousand events are held back")
				}
			})
		})
	}
}

func TestWhatWasGatheredIsHandedOutWhenTheStoreEnds(t *testing.T) {
	h := newEventHub(nil, slog.New(slog.DiscardHandler))
	h.publish(nil, 1)
	var w *watcher
	for range 1000 {
		var err error
		if _, w, err = h.everything(nil); err != nil {
			t.Fatal(err)
		}
	}
	batches := make(chan store.Batch)
	ended := make(chan struct{})
	go func() { h.follow(batches); close(ended) }()
	batches <- batchOf(2, 1)
	batches <- batchOf(3, 2)
	close(batches)
	<-ended
	got := 0
	for len(w.c) > 0 {
		got += len((<-w.c).events)
	}
	if got != 3 || h.head != 3 {
		t.Errorf("%d events of 3, head %d", got, h.head)
	}
}
