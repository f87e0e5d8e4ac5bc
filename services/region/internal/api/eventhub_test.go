package api

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/api/query"
)

func someEvents(from, to int64) []placedEvent {
	var out []placedEvent
	for r := from; r <= to; r++ {
		out = append(out, placedEvent{revision: r, event: &vmhostv1.Event{Id: fmt.Sprintf("%08d", r)}})
	}
	return out
}

// everything is a watch of all events from a position.
func (h *eventHub) everything(from *position) (backlog []placedEvent, w *watcher, err error) {
	backlog, _, w, err = h.watch(interest{most: 1}, &query.Filter{}, from, 0)
	return backlog, w, err
}

func TestASlowWatcherIsEndedAndOthersGoOn(t *testing.T) {
	for name, tc := range map[string]struct {
		atATime   int64 // events
		wantTimes int
	}{
		"handed often":   {1, watcherBuffer},
		"handed a lot":   {mostBehind / 4, 4},
		"handed at once": {ringLimit, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := newEventHub(nil, slog.New(slog.DiscardHandler))
			h.publish(nil, 1)
			_, slow, err := h.everything(nil)
			if err != nil {
				t.Fatal(err)
			}
			_, quick, err := h.everything(nil)
			if err != nil {
				t.Fatal(err)
			}
			revision := int64(1)
			for range tc.wantTimes + 3 {
				h.publish(someEvents(revision+1, revision+tc.atATime), revision+tc.atATime)
				revision += tc.atATime
				d, ok := <-quick.c
				if !ok {
					t.Fatalf("the quick one is ended: %v", quick.err)
				}
				quick.behind.Add(-int64(len(d.events)))
			}
			n := 0
			for range slow.c {
				n++
			}
			if n != tc.wantTimes || apierror.Reason(slow.err) != vmhostv1.ErrorReason_RESUME_TOKEN_EXPIRED {
				t.Errorf("the slow one was handed events %d times, then %v", n, slow.err)
			}
			h.leave(quick)
			h.leave(slow)
			if len(h.audiences) != 0 {
				t.Error("a watcher stayed behind")
			}
		})
	}
}

func TestTheRingKeepsTheLastAndKnowsWhatItHasLost(t *testing.T) {
	h := newEventHub(nil, slog.New(slog.DiscardHandler))
	const lost, last = 9 + ringLimit + 100 - ringSize, 9 + ringLimit + 100
	h.publish(someEvents(10, 9+ringLimit), 9+ringLimit)
	if len(h.ring) != ringLimit || h.floor != 9 {
		t.Fatalf("before anything is lost: ring of %d, floor %d", len(h.ring), h.floor)
	}
	h.publish(someEvents(10+ringLimit, last), last)
	if len(h.ring) != ringSize || h.floor != lost {
		t.Fatalf("ring of %d, floor %d", len(h.ring), h.floor)
	}
	for revision, want := range map[int64]int{lost: ringSize, lost + 1: ringSize - 1, last: 0} {
		backlog, w, err := h.everything(&position{revision: revision})
		if err != nil || len(backlog) != want {
			t.Errorf("from %d: %d events, %v; want %d", revision, len(backlog), err, want)
		}
		h.leave(w)
	}
	if _, _, err := h.everything(&position{revision: lost - 1}); apierror.Reason(err) != vmhostv1.ErrorReason_RESUME_TOKEN_EXPIRED {
		t.Errorf("from what is lost: %v", err)
	}
}

func TestAWatchGoesOnInTheMiddleOfARevision(t *testing.T) {
	h := newEventHub(nil, slog.New(slog.DiscardHandler))
	h.publish([]placedEvent{{revision: 5, event: &vmhostv1.Event{Id: "b"}}, {revision: 5, event: &vmhostv1.Event{Id: "a"}}, {revision: 6, event: &vmhostv1.Event{Id: "0"}}}, 6)
	backlog, _, err := h.everything(&position{revision: 5, id: "a"})
	if err != nil || len(backlog) != 2 || backlog[0].event.GetId() != "b" {
		t.Errorf("got %v, %v", backlog, err)
	}
}
