// Package sweep removes what is kept for a time only: ended operations, used
// request ids and events. Every region does it; what another has removed already
// is no fault. It also has expired reservations given back, which the ledger does.
// It owns two goroutines, each a Run, and decides nothing else.
package sweep

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/vmhost-project/vmhost/pkg/backoff"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// How long what is kept.
const (
	KeepOperations = 7 * 24 * time.Hour
	KeepRequests   = 24 * time.Hour
	KeepEvents     = 24 * time.Hour
	// MaxEvents bounds events whatever their age.
	MaxEvents = 100_000
)

// interval is how often to sweep; batch is how much one transaction removes.
const (
	interval = 10 * time.Minute
	batch    = 100
)

// Sweeper removes what is past its time.
type Sweeper struct {
	store     *store.Store
	log       *slog.Logger
	maxEvents int
}

// New makes a sweeper.
func New(s *store.Store, log *slog.Logger) *Sweeper {
	return &Sweeper{store: s, log: log.With("component", "sweep"), maxEvents: MaxEvents}
}

// Run sweeps until ctx ends. Regions do not sweep at the same moment.
func (s *Sweeper) Run(ctx context.Context) error {
	for {
		if err := backoff.Wait(ctx, interval/2+rand.N(interval)); err != nil { //nolint:gosec // spreads load, hides nothing
			return nil //nolint:nilerr // ended because it was told to
		}
		removed, err := s.Sweep(ctx, time.Now())
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // ended because it was told to
		case err != nil:
			s.log.WarnContext(ctx, "sweep failed, it goes on later", "error", err)
		case removed > 0:
			s.log.InfoContext(ctx, "swept", "removed", removed)
		}
	}
}

// Sweep removes what is past its time now and says how much that was.
func (s *Sweeper) Sweep(ctx context.Context, now time.Time) (removed int, err error) {
	keys := s.expired(s.store.Cached(), now)
	for len(keys) > 0 {
		n := min(len(keys), batch)
		tx := store.NewTxn()
		for _, key := range keys[:n] {
			tx.Delete(key)
		}
		if _, err := s.store.Commit(ctx, tx); err != nil {
			return removed, fmt.Errorf("remove what is past its time: %w", err)
		}
		removed += n
		keys = keys[n:]
	}
	return removed, nil
}

// expired are the keys of what may be removed. None of it changes any more.
func (s *Sweeper) expired(v *store.View, now time.Time) []string {
	var keys []string
	for id, r := range store.Operations.All(v) {
		if end := r.Value.GetResource().GetEndTime(); end != nil && now.Sub(end.AsTime()) > KeepOperations {
			keys = append(keys, store.Operations.Key(id))
		}
	}
	for id, r := range store.Requests.All(v) {
		if now.Sub(r.Value.GetCreateTime().AsTime()) > KeepRequests {
			keys = append(keys, store.Requests.Key(id))
		}
	}
	count := 0
	for range store.Events.All(v) {
		count++
	}
	for id, r := range store.Events.All(v) { // oldest first: ids sort by time
		if count <= s.maxEvents && now.Sub(r.Value.GetResource().GetTime().AsTime()) <= KeepEvents {
			break
		}
		keys = append(keys, store.Events.Key(id))
		count--
	}
	return keys
}
