// Package executor drives the hosts that a region assigned to this rack: it
// keeps a connection to each hypervisor, does the steps it is sent and reports
// what it sees.
//
// Invariants:
//
//   - No effect of a step with an epoch older than the newest seen of its host
//     (promise P7), before it begins as well as when it arrives.
//   - Steps on one machine run one after another in the order they came; steps
//     on different machines of a host run together, up to a bound. Moves have a
//     bound of their own.
//   - A step's result is in the journal before it is sent. A step whose end is
//     not known, since the process stops, has no result: it is sent again, and
//     drivers are idempotent (promise P3).
//   - Nothing is changed on a hypervisor but by a step (promise P5).
//   - One host never waits for another.
//   - A machine has one console at a time, which ends with the host's epoch.
//
// Cut off from the region, it finishes what was accepted and starts nothing.
//
// Goroutines: one per assigned host, one per step, another per move, and per console one for each
// direction. Close ends them all.
package executor

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmhost-project/vmhost/pkg/backoff"
	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack/internal/journal"
	"github.com/vmhost-project/vmhost/services/rack/internal/metric"
	"github.com/vmhost-project/vmhost/services/rack/internal/session"
)

const (
	// maxQueued is how many steps a host may have that did not end.
	maxQueued = 256
	// confirm is how long a region has in a new session to assign again what it
	// assigned before. What it does not is another rack's by now.
	confirm = 2 * time.Minute
	// maxChecks is how many addresses are tried at once.
	maxChecks = 8
	// maxConsoles is how many consoles are open at once.
	maxConsoles = 64
)

// errStopping is why steps end when the process does.
var errStopping = errors.New("the rack is stopping")

// Config is what an Executor needs.
type Config struct {
	// Drivers are the openers by the hypervisor they are for.
	Drivers map[vmhostv1.VmHostType]hypervisor.Opener
	// Journal remembers.
	Journal *journal.Journal
	// Unseal opens a credential that was sealed to this rack.
	Unseal func(aad, sealed []byte) ([]byte, error)
	// Rack is the rack's resource name.
	Rack func() string
	// InventoryInterval is how often a host is read whole; 0 means 60 s.
	InventoryInterval time.Duration
	// StepsPerHost is how many steps run at once on a host; 0 means 4.
	StepsPerHost int
	// Console begins the stream of one console, to the region of the session when
	// the endpoint is empty. It ends with ctx, and with end.
	Console func(ctx context.Context, endpoint string) (stream rackv1.RackService_ConsoleClient, end func(), err error)
	// Metrics counts.
	Metrics *metric.Metrics
	// Log gets what happens to hosts and steps.
	Log *slog.Logger
}

// Executor is the session.Handler that does the work.
type Executor struct {
	cfg      Config
	life     context.Context //nolint:containedctx // hosts and steps outlive the calls that begin them
	end      context.CancelCauseFunc
	work     sync.WaitGroup // hosts
	steps    sync.WaitGroup
	checks   chan struct{}
	talking  context.Context //nolint:containedctx // consoles outlive the calls that begin them
	hangUp   context.CancelCauseFunc
	talks    sync.WaitGroup // consoles
	seed     maphash.Seed
	sequence atomic.Int64

	mu      sync.Mutex
	hosts   map[string]*host // by uid
	running map[string]bool  // ids of steps that did not end
	asked   map[string]bool  // ids of consoles that did not end
	up      session.Sender   // nil while no session is up
	session string
	round   int // which session hosts were assigned in; changes between sessions
	closing bool
}

var _ session.Handler = (*Executor)(nil)

// New makes an executor without hosts. Close ends it.
func New(cfg Config) *Executor {
	if cfg.InventoryInterval <= 0 {
		cfg.InventoryInterval = time.Minute
	}
	if cfg.StepsPerHost <= 0 {
		cfg.StepsPerHost = 4
	}
	e := &Executor{
		cfg: cfg, checks: make(chan struct{}, maxChecks), seed: maphash.MakeSeed(),
		hosts: map[string]*host{}, running: map[string]bool{}, asked: map[string]bool{},
	}
	e.life, e.end = context.WithCancelCause(context.Background())
	e.talking, e.hangUp = context.WithCancelCause(context.Background())
	return e
}

// Close takes no more steps, lets those under way end until ctx does, and then
// ends everything.
func (e *Executor) Close(ctx context.Context) error {
	e.mu.Lock()
	e.closing = true
	e.mu.Unlock()
	e.hangUp(errStopping)
	e.talks.Wait()
	ended := make(chan struct{})
	go func() {
		e.steps.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	e.end(errStopping)
	<-ended
	e.work.Wait()
	return nil
}

// Connected begins a session: from now on there is somebody to tell.
func (e *Executor) Connected(to session.Sender, region *rackv1.RegionHello) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.up, e.session = to, region.GetSession()
}

// Resume tells the region everything it may not know: results, and how hosts
// stand.
func (e *Executor) Resume(ctx context.Context) {
	results, err := e.cfg.Journal.Results()
	if err != nil {
		e.cfg.Log.ErrorContext(ctx, "could not read results from the journal", "error", err)
	}
	for _, r := range results {
		if e.send(ctx, resultMessage(r)) != nil {
			return
		}
	}
	e.mu.Lock()
	for _, h := range e.hosts {
		for _, r := range results { // they may tell of older times than reports
			if uuid := r.GetMachine().GetUuid(); uuid != "" {
				h.mention(uuid)
			}
		}
		h.resync()
	}
	e.mu.Unlock()
	if backoff.Wait(ctx, confirm) == nil {
		e.dropUnconfirmed(ctx)
	}
}

// dropUnconfirmed stops driving hosts that were taken away while no session was
// up to say so.
func (e *Executor) dropUnconfirmed(ctx context.Context) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, h := range e.hosts {
		if h.unassignBefore(e.round) {
			h.log.InfoContext(ctx, "the host was not assigned again, leaving it")
		}
	}
}

// Disconnected stops reporting; steps go on.
func (e *Executor) Disconnected() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.up, e.session = nil, ""
	e.round++
}

// Assign drives a host from now on.
func (e *Executor) Assign(ctx context.Context, a *rackv1.Assignment) {
	if !e.cfg.Journal.Raise(a.GetUid(), a.GetEpoch()) {
		e.cfg.Log.WarnContext(ctx, "ignored an assignment with an old epoch", "vm_host", a.GetVmHost(), "epoch", a.GetEpoch())
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return
	}
	if h := e.hosts[a.GetUid()]; h != nil {
		h.assign(a, e.round)
		return
	}
	h := newHost(e, a, e.round)
	e.hosts[a.GetUid()] = h
	e.work.Go(func() { h.run(e.life) })
}

// Unassign stops driving a host when its accepted steps have ended.
func (e *Executor) Unassign(_ context.Context, uid string) {
	e.mu.Lock()
	h := e.hosts[uid]
	e.mu.Unlock()
	if h != nil {
		h.unassign()
	}
}

// Acknowledged forgets a result.
func (e *Executor) Acknowledged(id string) { e.cfg.Journal.Ack(id) }

// ReportAgain has a host reported whole: the region could not record something.
func (e *Executor) ReportAgain(ctx context.Context, uid string, epoch int64) {
	e.mu.Lock()
	h := e.hosts[uid]
	e.mu.Unlock()
	if h != nil && h.assignment().GetEpoch() == epoch {
		h.log.InfoContext(ctx, "the region wants the host reported whole", "epoch", epoch)
		h.nudge(func() { h.whole = true })
	}
}

// send sends to the region of the present session.
func (e *Executor) send(ctx context.Context, message *rackv1.ConnectRequest) error {
	up, _ := e.listener()
	if up == nil {
		return session.ErrNoSession
	}
	return up.Send(ctx, message)
}

// listener is the region of the present session, nil when none is up, and which
// session that is.
func (e *Executor) listener() (to session.Sender, round int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.up, e.round
}

// retire takes a host out when nothing of it is left to do; false when it was
// assigned again meanwhile.
func (e *Executor) retire(h *host) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !h.idle() {
		return false
	}
	if e.hosts[h.uid] == h {
		delete(e.hosts, h.uid)
	}
	return true
}

func resultMessage(r *rackv1.StepResult) *rackv1.ConnectRequest {
	return &rackv1.ConnectRequest{Message: &rackv1.ConnectRequest_StepResult{StepResult: r}}
}
