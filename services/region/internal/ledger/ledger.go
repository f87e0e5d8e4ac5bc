// Package ledger takes capacity and gives it back: the only writer of `ledger/`,
// and always in one transaction with the machine it is for.
//
// Invariants:
//
//   - A commitment is made only against the revisions it was decided on: the
//     host's spec and ledger, the name, the request_id. When one of them changed,
//     everything is decided again on the newer state (P1, P2).
//   - Whatever is not deterministic is in the records from the start: uid, MACs,
//     volume names, hostname.
//   - A refusal is decided on a linearizable view, so that capacity somebody gave
//     back before the call is not missed.
//
// Composes that wait at the same time share a transaction: whoever has the turn
// decides for those in the queue, and for those who come while it waits, on what
// this process has seen and on what it is about to commit. One transaction is under
// way at a time, or, when many wait, two on different hosts (lanes.go): of two on the
// same the second could overtake the first. That is for speed and against livelock
// within a process; between processes the compares decide. The package starts no
// goroutine; Run keeps an index of names and MACs that are in use on hypervisors, and
// which hosts refused composes of late, until its context ends.
package ledger

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/policy"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Ledger places machines and commits their capacity.
type Ledger struct {
	store *store.Store
	log   *slog.Logger

	turn    chan struct{} // holds one token while somebody decides
	mu      sync.Mutex
	ahead   map[string]committed // by host id
	queue   []*pending
	usages  usages
	shareds shareds

	lines   lines          // taken after turn
	lane    placement.Lane // that was decided on last
	joint   int            // so many batches are decided over all hosts
	inside  atomic.Int64   // how many callers of Compose there are
	arrived chan struct{}  // holds a token when the queue has grown

	fleets   fleets
	outlook  outlook
	policies *policy.Set
	index    index
	refusing refusing

	conflicts atomic.Int64
}

// New makes a ledger over the store.
func New(s *store.Store, log *slog.Logger) *Ledger {
	return &Ledger{
		store:    s,
		log:      log.With("component", "ledger"),
		turn:     make(chan struct{}, 1),
		lines:    newLines(),
		ahead:    map[string]committed{},
		lane:     placement.OddLane,
		arrived:  make(chan struct{}, 1),
		policies: policy.NewSet(),
	}
}

// Run keeps the index, and in mind which hosts refused composes, until ctx ends.
// Without it composes are as safe, but a name or MAC that a foreign machine has is
// noticed only by the hypervisor.
func (l *Ledger) Run(ctx context.Context) error {
	return l.index.run(ctx, l.store, func(c store.Change) { l.refusing.note(c, time.Now()) })
}

// Conflicts is how many transactions of composes failed because something they
// were decided on had changed. Nobody is told: they are decided on again.
func (l *Ledger) Conflicts() int64 { return l.conflicts.Load() }

// WithTurn runs fn while no compose of this process commits, so that a change of
// a ledger does not lose its race again and again on a busy host.
func (l *Ledger) WithTurn(ctx context.Context, fn func() error) error {
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-l.turn }()
	defer l.getInLine(placement.AllLanes, nil)()
	return fn()
}
