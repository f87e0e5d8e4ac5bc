package api

import (
	"context"
	"time"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

const (
	// restPerWatcher is how long the hub gathers events for each watcher that it has
	// just woken. To send something to one takes some 50 µs of processor on both
	// sides together, whatever it is: this keeps the sending at a tenth of a core.
	restPerWatcher = 500 * time.Microsecond
	// shortestRest is not worth gathering for, and longestRest what watchers wait at
	// most under load.
	shortestRest, longestRest = 2 * time.Millisecond, 500 * time.Millisecond
	// mostGathered is how many events are enough: they are handed out at once.
	mostGathered = 1000
)

// run feeds the hub until ctx ends.
func (h *eventHub) run(ctx context.Context) error {
	defer h.drain()
	for ctx.Err() == nil {
		sub := h.store.Subscribe(ctx)
		h.catchUp(sub.View)
		h.follow(sub.C)
		if ctx.Err() == nil {
			h.log.WarnContext(ctx, "events were missed, reading them again", "error", sub.Err())
		}
	}
	return nil
}

// follow hands out what happens until the store says no more. The first event
// after a silence goes out at once; then the hub rests, longer the more watchers it
// has woken, and what happens meanwhile goes out together.
func (h *eventHub) follow(batches <-chan store.Batch) {
	var (
		gathered []placedEvent
		revision int64
		resting  bool
	)
	rest := time.NewTimer(longestRest)
	rest.Stop()
	defer rest.Stop()
	for {
		select {
		case batch, ok := <-batches:
			if !ok {
				if revision > 0 {
					h.publish(gathered, revision)
				}
				return
			}
			gathered, revision = append(gathered, eventsOf(batch)...), batch.Revision
			// What has come meanwhile is no reason to look up again for each.
			if len(batches) > 0 || resting && len(gathered) < mostGathered {
				continue
			}
		case <-rest.C:
			resting = false
			if revision == 0 {
				continue
			}
		}
		pause := min(time.Duration(h.publish(gathered, revision))*restPerWatcher, longestRest)
		gathered, revision = nil, 0
		if pause >= shortestRest {
			rest.Reset(pause)
			resting = true
		}
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
