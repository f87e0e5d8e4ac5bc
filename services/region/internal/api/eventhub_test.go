package api

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func someEvents(from, to int64) []placedEvent {
	var out []placedEvent
	for r := from; r <= to; r++ {
		out = append(out, placedEvent{revision: r, event: &vmhostv1.Event{Id: fmt.Sprintf("%08d", r)}})
	}
	return out
}

func TestASlowWatcherIsEndedAndOthersGoOn(t *testing.T) {
	h := newEventHub(nil, slog.New(slog.DiscardHandler))
	h.publish(nil, 1)
	_, _, slow, err := h.watch(nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	_, _, quick, err := h.watch(nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	for r := int64(2); r < watcherBuffer+10; r++ {
		h.publish(someEvents(r, r), r)
		<-quick.c
	}
	n := 0
	for range slow.c {
		n++
	}
	if n != watcherBuffer || apierror.Reason(slow.err) != vmhostv1.ErrorReason_RESUME_TOKEN_EXPIRED {
		t.Errorf("the slow one got %d, then %v", n, slow.err)
	}
	h.leave(quick)
	h.leave(slow)
	if len(h.watchers) != 0 {
		t.Error("a watcher stayed behind")
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
		backlog, _, w, err := h.watch(&position{revision: revision}, 0)
		if err != nil || len(backlog) != want {
			t.Errorf("from %d: %d events, %v; want %d", revision, len(backlog), err, want)
		}
		h.leave(w)
	}
	if _, _, _, err := h.watch(&position{revision: lost - 1}, 0); apierror.Reason(err) != vmhostv1.ErrorReason_RESUME_TOKEN_EXPIRED {
		t.Errorf("from what is lost: %v", err)
	}
}

func TestAWatchGoesOnInTheMiddleOfARevision(t *testing.T) {
	h := newEventHub(nil, slog.New(slog.DiscardHandler))
	h.publish([]placedEvent{{revision: 5, event: &vmhostv1.Event{Id: "b"}}, {revision: 5, event: &vmhostv1.Event{Id: "a"}}, {revision: 6, event: &vmhostv1.Event{Id: "0"}}}, 6)
	backlog, _, _, err := h.watch(&position{revision: 5, id: "a"}, 0)
	if err != nil || len(backlog) != 2 || backlog[0].event.GetId() != "b" {
		t.Errorf("got %v, %v", backlog, err)
	}
}
