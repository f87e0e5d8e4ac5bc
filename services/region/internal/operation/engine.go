// Package operation makes, drives and ends operations: the durable, resumable
// work that needs a rack.
//
// An operation's record holds all its steps with every parameter from the start.
// Driving it is level-triggered: what is to be done next follows from the record
// alone, so that a restart, or another region, goes on where it was. A lost
// signal is healed by a full pass.
//
// Invariants:
//
//   - A step is recorded before it is sent, and its result before it is
//     acknowledged.
//   - Every change compares the operation's revision, so two regions cannot both
//     advance it, and it ends exactly once.
//   - Steps are sent only by the process that holds the session of the rack that
//     is assigned to the host, with the assignment's epoch (P7).
//   - Capacity is given back in the transaction that ends the operation, after a
//     delete succeeded, which means that the hypervisor was seen without the
//     machine (P4). The one exception: what was cancelled before its first step was
//     recorded cannot have left anything anywhere.
//   - A machine that is being moved holds capacity on both hosts until it is known
//     where it is. A move that ends before that leaves it so (move.go).
//
// Run owns one goroutine that follows the store and a fixed number of workers,
// and ends them with its context.
package operation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// Sender is the way to the racks whose sessions this process holds.
type Sender interface {
	// Session is the id of the session that this process holds of the rack; empty
	// when it holds none.
	Session(rack string) string
	// Send queues a step for the rack without waiting; false when it could not.
	// Whatever happens to it then, a new session has it sent again.
	Send(rack string, step *rackv1.Step) bool
}

// Turn runs a function while no compose of this process commits, see
// ledger.Ledger.
type Turn interface {
	WithTurn(ctx context.Context, fn func() error) error
}

// Places chooses destinations of machines that are moved, see ledger.Ledger.
type Places interface {
	view.Fleets
	ChooseMove(v *store.View, m *storev1.StoredMachine, q ledger.MoveQuery) ledger.MoveChoice
	TakeMove(tx *store.Txn, v *store.View, m *storev1.StoredMachine, c ledger.MoveChoice) error
	DrainPlan(v *store.View, host string, machines []*storev1.StoredMachine, not map[string]string) ([]placement.Move, []placement.Stranded)
}

// Secrets encrypts and decrypts what is kept in the store under a key.
type Secrets interface {
	Encrypt(key string, plaintext []byte) ([]byte, error)
	Decrypt(key string, ciphertext []byte) ([]byte, error)
}

// Config is what an engine is made of.
type Config struct {
	// Store is the state.
	Store *store.Store
	// Seen knows when hosts were last reported here; nil: nobody does.
	Seen view.LastSeen
	// Sender reaches racks.
	Sender Sender
	// Turn keeps composes from starving what gives capacity back.
	Turn Turn
	// Places chooses where machines are moved to.
	Places Places
	// Secrets is for the credentials of checks, and of hosts that machines are moved
	// to.
	Secrets Secrets
	// Log gets what no caller is told.
	Log *slog.Logger
	// FullPass is how often all operations are looked at; 0 means 30 s. A step
	// without a result is sent again after as long.
	FullPass time.Duration
	// Workers is how many operations are looked at side by side; 0 means 8.
	Workers int
	// RetryMin and RetryMax bound the pause before a failed step is tried again;
	// 0 means 500 ms and 30 s.
	RetryMin, RetryMax time.Duration
	// Ended is told of every operation that this process ends; nil: nobody is. It
	// must not wait.
	Ended func(op *vmhostv1.Operation)
	// TakeOut adds to a transaction that a host without machines of ours goes, with
	// all that is known of it.
	TakeOut func(v *store.View, tx *store.Txn, host string) error
	// Deadlines of new operations; 0 means the defaults.
	Deadlines Deadlines
}

// Deadlines is after how long operations are given up.
type Deadlines struct {
	// Delete of a machine; 0 means 30 min.
	Delete time.Duration
	// Power is for start, stop (in addition to the grace period) and reset; 0
	// means 10 min.
	Power time.Duration
	// Look is for query, refresh and check; 0 means 2 min.
	Look time.Duration
	// Move of a machine, in addition to the time its disks take; 0 means 2 h.
	Move time.Duration
	// Remove and Drain are for a host with all its machines; 0 means 24 h. Machines
	// that were begun with have their own deadlines.
	Remove, Drain time.Duration
}

// Engine makes and drives operations.
type Engine struct {
	cfg    Config
	store  *store.Store
	log    *slog.Logger
	queue  *queue
	commit func(context.Context, *store.Txn) (int64, error)

	mu        sync.Mutex
	active    map[string]subject       // operations that have not ended, by uid
	drives    map[string]*drive        // what this process remembers of them
	clearings map[string]*clearing     // the same, of removals and drains of hosts
	waiters   map[string]chan struct{} // closed when the operation has ended
}

// subject is what an operation depends on.
type subject struct{ host, rack string }

// New makes an engine. Run must be going for operations to advance.
func New(cfg Config) *Engine {
	setDefault(&cfg.FullPass, 30*time.Second)
	setDefault(&cfg.RetryMin, 500*time.Millisecond)
	setDefault(&cfg.RetryMax, 30*time.Second)
	setDefault(&cfg.Deadlines.Delete, 30*time.Minute)
	setDefault(&cfg.Deadlines.Power, 10*time.Minute)
	setDefault(&cfg.Deadlines.Look, 2*time.Minute)
	setDefault(&cfg.Deadlines.Move, 2*time.Hour)
	setDefault(&cfg.Deadlines.Remove, 24*time.Hour)
	setDefault(&cfg.Deadlines.Drain, 24*time.Hour)
	if cfg.Workers == 0 {
		cfg.Workers = 8
	}
	if cfg.Ended == nil {
		cfg.Ended = func(*vmhostv1.Operation) {}
	}
	return &Engine{
		cfg:       cfg,
		store:     cfg.Store,
		log:       cfg.Log.With("component", "operation"),
		queue:     newQueue(),
		commit:    cfg.Store.Commit,
		active:    map[string]subject{},
		drives:    map[string]*drive{},
		clearings: map[string]*clearing{},
		waiters:   map[string]chan struct{}{},
	}
}

func setDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// Run drives operations until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var workers sync.WaitGroup
	for range e.cfg.Workers {
		workers.Go(func() { e.work(ctx) })
	}
	err := e.follow(ctx)
	cancel()
	e.queue.close()
	workers.Wait()
	return err
}

// follow looks at everything, then at what changes, and at everything again from
// time to time.
func (e *Engine) follow(ctx context.Context) error {
	pass := time.NewTicker(e.cfg.FullPass)
	defer pass.Stop()
	for {
		sub := e.store.Subscribe(ctx)
		e.reload(sub.View)
		if err := e.consume(ctx, sub, pass.C); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

func (e *Engine) consume(ctx context.Context, sub *store.Subscription, pass <-chan time.Time) error {
	for {
		select {
		case batch, ok := <-sub.C:
			if ok {
				for _, c := range batch.Changes {
					e.note(c)
				}
				continue
			}
			if err := sub.Err(); ctx.Err() == nil && !errors.Is(err, store.ErrLagged) {
				return fmt.Errorf("follow the store: %w", err)
			}
			return nil
		case <-pass:
			e.reload(e.store.Cached())
		}
	}
}

// reload looks at every operation that has not ended.
func (e *Engine) reload(v *store.View) {
	seen := map[string]bool{}
	for uid, op := range store.Operations.All(v) {
		if !ended(op.Value) {
			seen[uid] = true
			e.track(uid, op.Value)
		}
	}
	e.mu.Lock()
	var gone []string
	for uid := range e.active {
		if !seen[uid] {
			gone = append(gone, uid)
		}
	}
	for uid := range e.waiters {
		if !seen[uid] {
			gone = append(gone, uid)
		}
	}
	e.mu.Unlock()
	for _, uid := range gone {
		if op, ok := store.Operations.Get(v, uid); !ok || ended(op.Value) {
			e.forget(uid)
		}
	}
}

// note turns a change of the state into operations to look at.
func (e *Engine) note(c store.Change) {
	switch c.Family {
	case store.Operations.Name():
		uid := store.Operations.ID(c.Key)
		if op, ok := c.New.(*storev1.StoredOperation); ok && !ended(op) {
			e.track(uid, op)
			if op.GetParent() != "" && op.GetStepId() == "" {
				e.wakeClearing(hostOf(op)) // a try of it has ended
			}
			return
		}
		e.forget(uid)
		if op, ok := c.New.(*storev1.StoredOperation); ok {
			e.wakeClearing(hostOf(op))
		}
	case store.Sessions.Name():
		rack := store.Sessions.ID(c.Key)
		v := e.store.Cached()
		e.requeue(func(s subject) bool {
			if s.rack != "" {
				return s.rack == rack
			}
			a, _ := store.Assignments.Get(v, s.host)
			return a.Value.GetRack() == rack
		})
	case store.Assignments.Name():
		host := store.Assignments.ID(c.Key)
		e.requeue(func(s subject) bool { return s.host == host })
	case store.VmHosts.Name():
		if c.New == nil {
			host := store.VmHosts.ID(c.Key)
			e.requeue(func(s subject) bool { return s.host == host })
		}
	default:
	}
}

func (e *Engine) track(uid string, op *storev1.StoredOperation) {
	e.mu.Lock()
	e.active[uid] = subject{host: hostOf(op), rack: op.GetRack()}
	if clears(op) && e.clearings[uid] == nil {
		e.clearings[uid] = &clearing{host: hostOf(op)}
	}
	e.mu.Unlock()
	e.queue.add(uid)
}

func (e *Engine) forget(uid string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.active, uid)
	delete(e.drives, uid)
	delete(e.clearings, uid)
	e.queue.cancel(uid)
	if c, ok := e.waiters[uid]; ok {
		delete(e.waiters, uid)
		close(c)
	}
}

func (e *Engine) requeue(which func(subject) bool) {
	e.mu.Lock()
	var uids []string
	for uid, s := range e.active {
		if which(s) {
			uids = append(uids, uid)
		}
	}
	e.mu.Unlock()
	for _, uid := range uids {
		e.queue.add(uid)
	}
}

// work looks at operations until the queue is closed.
func (e *Engine) work(ctx context.Context) {
	for {
		uid, ok := e.queue.next()
		if !ok {
			return
		}
		again, err := e.look(ctx, uid)
		if err != nil && ctx.Err() == nil {
			if !errors.Is(err, store.ErrConflict) { // somebody else advanced it
				e.log.WarnContext(ctx, "operation could not be advanced", "operation", uid, "error", err)
			}
			again = e.cfg.RetryMin
		}
		e.queue.done(uid, again)
	}
}
