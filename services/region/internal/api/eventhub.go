package api

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/encoded"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

const (
	// ringSize is how many events a watch can be behind and still go on.
	ringSize = 8192
	// ringLimit is how many are kept before the oldest go: cutting a full ring for
	// every batch would move all of it every time.
	ringLimit = 2 * ringSize
	// watcherBuffer is how many events one watcher can be behind those sent.
	watcherBuffer = 512
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
	// answer is the event with its place, as every watcher is sent it; set when it
	// is handed out.
	answer *encoded.Message
}

// number gives every event its answer: its place is behind all of its revision
// when it is the last of it. found is in order, and has whole revisions.
func number(found []placedEvent) {
	for i := range found {
		at := position{revision: found[i].revision, id: found[i].event.GetId()}
		if i == len(found)-1 || found[i+1].revision != at.revision {
			at.id = ""
		}
		found[i].answer = encoded.New(&vmhostv1.WatchEventsResponse{Event: found[i].event, ResumeToken: at.token()})
	}
}

// eventHub hands every event to every watcher: one subscription to the store, a
// ring of the last events, and a bounded queue for each watcher.
type eventHub struct {
	store *store.Store
	log   *slog.Logger

	mu       sync.Mutex
	ring     []placedEvent // in order, the last ringSize or more, at most ringLimit
	floor    int64         // the ring has all events of later revisions
	head     int64         // the revision up to which the ring is whole
	started  bool
	draining bool
	watchers map[*watcher]struct{}
}

// watcher is one stream that waits for events.
type watcher struct {
	// c is closed when err says why.
	c   chan []placedEvent
	err error
}

func newEventHub(s *store.Store, log *slog.Logger) *eventHub {
	return &eventHub{store: s, log: log, watchers: map[*watcher]struct{}{}}
}

// run feeds the hub until ctx ends.
func (h *eventHub) run(ctx context.Context) error {
	defer h.drain()
	for ctx.Err() == nil {
		sub := h.store.Subscribe(ctx)
		h.catchUp(sub.View)
		for batch := range sub.C {
			found, revision := eventsOf(batch), batch.Revision
			// What has come meanwhile goes out together: each time, every watcher has to
			// be woken.
			for range len(sub.C) {
				batch, ok := <-sub.C
				if !ok {
					break
				}
				found, revision = append(found, eventsOf(batch)...), batch.Revision
			}
			h.publish(found, revision)
			h.rest(ctx, len(found))
		}
		if ctx.Err() == nil {
			h.log.WarnContext(ctx, "events were missed, reading them again", "error", sub.Err())
		}
	}
	return nil
}

const (
	// crowd is how many watchers are too many to be woken for every event, and
	// restFor how long they are left alone then. The first event after a silence is
	// handed out at once.
	crowd   = 32
	restFor = 10 * time.Millisecond
)

// rest waits a moment when many watchers were just woken.
func (h *eventHub) rest(ctx context.Context, events int) {
	h.mu.Lock()
	watchers := len(h.watchers)
	h.mu.Unlock()
	if events == 0 || watchers < crowd {
		return
	}
	timer := time.NewTimer(restFor)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func eventsOf(batch store.Batch) []placedEvent {
	var found []placedEvent
	for _, c := range batch.Changes {
		if c.Family != store.Events.Name() || c.Old() != nil {
			continue
		}
		if e, ok := c.New.(*storev1.StoredEvent); ok {
			found = append(found, placedEvent{revision: c.ModRevision, event: e.GetResource()})
		}
	}
	return found
}

// catchUp brings the hub to a snapshot. What it has not seen is still there:
// events are kept much longer than a hub is behind.
func (h *eventHub) catchUp(v *store.View) {
	var found []placedEvent
	h.mu.Lock()
	after := h.head
	h.mu.Unlock()
	for _, r := range store.Events.All(v) {
		if r.Revision > after {
			found = append(found, placedEvent{revision: r.Revision, event: r.Value.GetResource()})
		}
	}
	h.publish(found, v.Revision)
}

// publish appends events and hands them out.
func (h *eventHub) publish(found []placedEvent, revision int64) {
	slices.SortFunc(found, func(a, b placedEvent) int {
		if a.revision != b.revision {
			return int(min(max(a.revision-b.revision, -1), 1))
		}
		return strings.Compare(a.event.GetId(), b.event.GetId())
	})
	number(found)
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
		return
	}
	for w := range h.watchers {
		select {
		case w.c <- found:
		default:
			h.end(w, tooSlow())
		}
	}
}

// end ends a watcher. Called with the lock held.
func (h *eventHub) end(w *watcher, err error) {
	if _, ok := h.watchers[w]; ok {
		delete(h.watchers, w)
		w.err = err
		close(w.c)
	}
}

// watch begins a watch at a position; nil means now. It answers with the events
// since, where the watch begins, and the watcher for those to come. latest is
// the newest revision that a token can be of.
func (h *eventHub) watch(from *position, latest int64) (backlog []placedEvent, at position, w *watcher, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		return nil, at, nil, draining()
	}
	at = position{revision: h.head}
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
	w = &watcher{c: make(chan []placedEvent, watcherBuffer)}
	h.watchers[w] = struct{}{}
	return backlog, at, w, nil
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
	for w := range h.watchers {
		h.end(w, draining())
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
