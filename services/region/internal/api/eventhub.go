package api

import (
	"cmp"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/api/query"
	"github.com/vmhost-project/vmhost/services/region/internal/encoded"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

const (
	// ringSize is how many events a watch can be behind and still go on.
	ringSize = 8192
	// ringLimit is how many are kept before the oldest go: cutting a full ring for
	// every batch would move all of it every time.
	ringLimit = 2 * ringSize
	// watcherBuffer is how many times one watcher can be handed events before it
	// takes any, and mostBehind how many events that may be together.
	watcherBuffer = 512
	mostBehind    = ringSize
)

// position is a place in the history: behind the event of that id, or with no id
// behind all of the revision. Every region has the same history.
type position struct {
	revision int64
	id       string
}

// before says whether the event comes after the position.
func (p position) before(e placedEvent) bool {
	if e.revision != p.revision {
		return e.revision > p.revision
	}
	return p.id != "" && strings.Compare(e.event.GetId(), p.id) > 0
}

// placedEvent is an event with the revision that recorded it.
type placedEvent struct {
	revision int64
	event    *vmhostv1.Event // never modified

	// The rest is set when it is handed out.
	last   bool             // of its revision
	size   int              // encoded
	answer *encoded.Message // the event with its place, as every watcher is sent it
}

// place is the position behind the event: behind all of its revision when it is
// the last of it.
func (e placedEvent) place() position {
	if e.last {
		return position{revision: e.revision}
	}
	return position{revision: e.revision, id: e.event.GetId()}
}

// number gives every event its answer. found is in order, and has whole
// revisions.
func number(found []placedEvent) {
	for i := range found {
		e := &found[i]
		e.last = i == len(found)-1 || found[i+1].revision != e.revision
		answer := &vmhostv1.WatchEventsResponse{Event: e.event, ResumeToken: e.place().token()}
		e.size, e.answer = proto.Size(answer), encoded.New(answer)
	}
}

// eventHub hands every event to every watcher: one subscription to the store, a
// ring of the last events, and a bounded queue for each watcher. Watchers who ask
// for the same are an audience, for which events are looked through and encoded
// once.
type eventHub struct {
	store *store.Store
	log   *slog.Logger

	mu        sync.Mutex
	ring      []placedEvent // in order, the last ringSize or more, at most ringLimit
	floor     int64         // the ring has all events of later revisions
	head      int64         // the revision up to which the ring is whole
	handed    int64         // the revision up to which watchers were handed everything
	started   bool
	draining  bool
	audiences map[interest]*audience
}

// watcher is one stream that waits for events.
type watcher struct {
	audience *audience
	// since is the head of the hub when the watch began: later publications are
	// handed out to it.
	since int64
	// c is closed when err says why.
	c   chan *delivery
	err error
	// behind is how many events are in c.
	behind atomic.Int64
}

func newEventHub(s *store.Store, log *slog.Logger) *eventHub {
	return &eventHub{store: s, log: log, audiences: map[interest]*audience{}}
}

// publish appends events and hands them out. It says how many watchers were handed
// any. Only one goroutine publishes.
func (h *eventHub) publish(found []placedEvent, revision int64) (woken int) {
	slices.SortFunc(found, func(a, b placedEvent) int {
		if c := cmp.Compare(a.revision, b.revision); c != 0 {
			return c
		}
		return strings.Compare(a.event.GetId(), b.event.GetId())
	})
	number(found)
	audiences := h.record(found, revision)
	// Looking through the events for everybody who asked for something else takes
	// its time, and nobody has to wait for that to begin a watch.
	deliveries := make([]*delivery, len(audiences))
	for i, a := range audiences {
		deliveries[i] = a.pick(found)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handed = max(h.handed, revision)
	for i, a := range audiences {
		if deliveries[i] == nil {
			continue
		}
		for w := range a.watchers {
			if w.since < revision {
				h.hand(w, deliveries[i])
				woken++
			}
		}
	}
	return woken
}

// record appends events, and answers with who is to be handed them.
func (h *eventHub) record(found []placedEvent, revision int64) []*audience {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.started {
		h.started = true
		// Of what was before the first event that is kept, nothing is known.
		h.floor = revision
		if len(found) > 0 {
			h.floor = found[0].revision - 1
		}
	}
	h.ring = append(h.ring, found...)
	if len(h.ring) > ringLimit {
		over := len(h.ring) - ringSize
		h.floor = h.ring[over-1].revision
		h.ring = slices.Delete(h.ring, 0, over)
	}
	h.head = max(h.head, revision)
	if len(found) == 0 {
		return nil
	}
	return slices.Collect(maps.Values(h.audiences))
}

// hand puts a delivery into a watcher's queue, or ends it when it does not keep
// up. Called with the lock held.
func (h *eventHub) hand(w *watcher, d *delivery) {
	if w.behind.Load() >= mostBehind {
		h.end(w, tooSlow())
		return
	}
	select {
	case w.c <- d:
		w.behind.Add(int64(len(d.events)))
	default:
		h.end(w, tooSlow())
	}
}

// end ends a watcher. Called with the lock held.
func (h *eventHub) end(w *watcher, err error) {
	a := w.audience
	if _, ok := a.watchers[w]; !ok {
		return
	}
	delete(a.watchers, w)
	if len(a.watchers) == 0 {
		delete(h.audiences, a.interest)
	}
	w.err = err
	close(w.c)
}

// watch begins a watch at a position; nil means now. It answers with the events
// since, where the watch begins, and the watcher for those to come. latest is
// the newest revision that a token can be of, and what now is.
func (h *eventHub) watch(what interest, filter *query.Filter, from *position, latest int64) (backlog []placedEvent, at position, w *watcher, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		return nil, at, nil, draining()
	}
	// What happened before and has not been handed out yet is none of a new watch.
	at = position{revision: max(h.head, latest)}
	if from != nil {
		at = *from
		if !h.started || at.revision < h.floor || at.revision > max(h.head, latest) {
			return nil, at, nil, resumeTokenExpired()
		}
		for _, e := range h.ring {
			if at.before(e) {
				backlog = append(backlog, e)
			}
		}
	}
	a := h.audiences[what]
	if a == nil {
		a = &audience{interest: what, filter: filter, watchers: map[*watcher]struct{}{}}
		h.audiences[what] = a
	}
	w = &watcher{audience: a, since: h.head, c: make(chan *delivery, watcherBuffer)}
	a.watchers[w] = struct{}{}
	return backlog, at, w, nil
}

// reached is how far a watcher is that has sent what it took from its queue: with
// an empty queue, what it was not handed is nothing that it asked for.
func (h *eventHub) reached(w *watcher, at position) position {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(w.c) == 0 && h.handed > at.revision {
		return position{revision: h.handed}
	}
	return at
}

// leave ends a watch whose caller has gone.
func (h *eventHub) leave(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.end(w, nil)
}

// drain ends all watches and takes no new ones.
func (h *eventHub) drain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.draining = true
	for _, a := range h.audiences {
		for w := range a.watchers {
			h.end(w, draining())
		}
	}
}

func resumeTokenExpired() error {
	return apierror.New(codes.OutOfRange, vmhostv1.ErrorReason_RESUME_TOKEN_EXPIRED, "the watch cannot go on from that token").
		WithHint("list again, and watch without a token")
}

func tooSlow() error {
	return apierror.New(codes.OutOfRange, vmhostv1.ErrorReason_RESUME_TOKEN_EXPIRED, "the watch was too slow and has missed events").
		WithHint("list again, and watch with the token of the last answer or without one")
}

func draining() error {
	return apierror.New(codes.Unavailable, vmhostv1.ErrorReason_REGION_DRAINING, "this region is stopping").
		WithHint("connect to another region, or again in a moment")
}
