package executor

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/vmhost-project/vmhost/pkg/backoff"
	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const (
	// openLimit bounds one try to connect.
	openLimit = 30 * time.Second
	// slowRetry is the wait after a failure that only a person can mend.
	slowRetry = 5 * time.Minute
	// settled is how long a connection must have been good for the next one to be
	// made without the waits of those before it.
	settled = time.Minute
	// patience is how long a step waits for a connection.
	patience = 15 * time.Second
)

// host is one assigned host. Its goroutine makes and keeps the connection;
// steps use it from theirs.
type host struct {
	e     *Executor
	uid   string
	log   *slog.Logger
	wake  chan struct{} // something below changed
	slots chan struct{} // steps that run
	moves chan struct{} // moves that run
	read  chan struct{} // held while the host is read and reported

	mu       sync.Mutex
	want     *rackv1.Assignment
	round    int // see Executor.round
	stopping bool
	again    bool // report everything: somebody new listens
	whole    bool // the region could not record a report
	hurry    bool // connect now: a step waits
	insist   bool // connect now, even where that was refused: a person asks for it
	conn     *connection
	fail     error         // why conn is nil; nil before the first try ended
	tried    chan struct{} // closed when the next try to connect ends
	state    string
	tails    map[string]chan struct{} // per machine: closed when its last step ends
	active   int                      // steps that did not end
	fenced   chan struct{}            // closed when the host's epoch is over
	consoles map[string]*talk         // open consoles, by the machine's uuid

	told      *picture            // what the region knows of the host; guarded by read
	mentioned map[string]struct{} // machines that results told of since; guarded by mu
}

// connection is one open driver.
type connection struct {
	driver  hypervisor.Driver
	events  <-chan hypervisor.Event
	version string
	lost    chan struct{} // closed by whoever notices first
	once    sync.Once
	cause   error
}

func (c *connection) lose(err error) {
	c.once.Do(func() {
		c.cause = err
		close(c.lost)
	})
}

func newHost(e *Executor, a *rackv1.Assignment, round int) *host {
	return &host{
		e: e, uid: a.GetUid(), log: e.cfg.Log.With("rack", e.cfg.Rack(), "vm_host", a.GetVmHost()), want: a, round: round,
		wake: make(chan struct{}, 1), slots: make(chan struct{}, e.cfg.StepsPerHost), moves: make(chan struct{}, maxMoves), read: make(chan struct{}, 1),
		tried: make(chan struct{}), tails: map[string]chan struct{}{}, fenced: make(chan struct{}),
		mentioned: map[string]struct{}{}, consoles: map[string]*talk{},
	}
}

func (h *host) nudge(change func()) {
	h.mu.Lock()
	change()
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (h *host) assign(a *rackv1.Assignment, round int) {
	h.nudge(func() {
		if a.GetEpoch() != h.want.GetEpoch() {
			h.fence()
		}
		h.want, h.round, h.stopping, h.again = a, round, false, true
	})
}

// unassignBefore unassigns the host if it was assigned before a round only.
func (h *host) unassignBefore(round int) (old bool) {
	h.nudge(func() {
		if old = h.round < round; old {
			h.stopping = true
			h.fence()
		}
	})
	return old
}

func (h *host) unassign() {
	h.nudge(func() {
		h.stopping = true
		h.fence()
	})
}

// fence ends what is open under the epoch; h.mu is held.
func (h *host) fence() {
	close(h.fenced)
	h.fenced = make(chan struct{})
}

func (h *host) resync() { h.nudge(func() { h.again = true }) }

// idle says whether the host may be let go.
func (h *host) idle() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stopping && h.active == 0
}

func (h *host) assignment() *rackv1.Assignment {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.want
}

// take reads and clears what nudge set.
func (h *host) take() (a *rackv1.Assignment, again, hurry, insist bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a, again, hurry, insist = h.want, h.again, h.hurry, h.insist
	h.again, h.hurry, h.insist = false, false, false
	return a, again, hurry, insist
}

// takeWhole reads and clears whether the region wants the host whole.
func (h *host) takeWhole() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	whole := h.whole
	h.whole = false
	return whole
}

// run is the host's goroutine.
func (h *host) run(ctx context.Context) {
	defer h.setState("")
	var wait backoff.Backoff
	for ctx.Err() == nil && !h.e.retire(h) {
		a := h.assignment()
		h.keepEpoch(ctx)
		conn, err := h.open(ctx, a)
		began := time.Now()
		if err == nil {
			err = h.serve(ctx, conn)
			_ = conn.driver.Close()
		} else {
			h.e.cfg.Metrics.Opened(hypervisor.StepError(err))
		}
		if ctx.Err() != nil || errors.Is(err, errMoved) {
			wait.Reset()
			continue
		}
		if time.Since(began) > settled {
			wait.Reset()
		}
		h.down(ctx, err)
		pause := wait.Next()
		if h.slow(err) {
			wait.Reset()
			pause = slowRetry + rand.N(slowRetry/5) - slowRetry/10 //nolint:gosec // jitter is no secret
		}
		h.log.WarnContext(ctx, "the hypervisor is not reached, will try again", "class", hypervisor.Class(err), "after", pause, "error", err)
		h.pause(ctx, pause, a.GetConnectionVersion(), err)
	}
}

// keepEpoch puts the epoch on disk; steps do so as well, before they begin.
func (h *host) keepEpoch(ctx context.Context) {
	if err := h.e.cfg.Journal.Persist(h.uid); err != nil {
		h.log.ErrorContext(ctx, "could not record the epoch", "error", err)
	}
}

// slow says whether trying again soon is of no use, or does harm: accounts are
// locked by repeated logins. Certificates lock none: an operator who has just
// made an LXD server trust one need not wait.
func (h *host) slow(err error) bool {
	if errors.Is(err, hypervisor.ErrAuth) {
		return h.assignment().GetType() != vmhostv1.VmHostType_VM_HOST_TYPE_LXD
	}
	return errors.Is(err, hypervisor.ErrHostKey) ||
		errors.Is(err, hypervisor.ErrRefused) || errors.Is(err, hypervisor.ErrUnsupported)
}

// pause waits before the next try, and meanwhile tells who newly listens why
// the host is not reached.
func (h *host) pause(ctx context.Context, d time.Duration, version string, failure error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	var retell <-chan time.Time // the region could not record what it was told
	wait := backoff.Backoff{Min: againMin, Max: againMax}
	for {
		select {
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		case <-retell:
			retell = nil
			h.sendStatus(ctx, failure)
		case <-h.wake:
		}
		if retell == nil && h.takeWhole() {
			h.forgetTold(ctx)
			retell = time.After(wait.Next())
		}
		a, again, hurry, insist := h.take()
		if a.GetConnectionVersion() != version || hurry && !h.slow(failure) || insist || h.idle() {
			return
		}
		if again {
			h.sendStatus(ctx, failure)
		}
	}
}

// open connects as the assignment says.
func (h *host) open(ctx context.Context, a *rackv1.Assignment) (*connection, error) {
	opener, target, err := h.e.target(a, a.GetUid()+"/"+strconv.FormatInt(a.GetEpoch(), 10))
	if err != nil {
		return nil, err
	}
	target.Name, target.ClusterMember = a.GetVmHost(), a.GetClusterMember()
	open, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	driver, err := opener.Open(open, target)
	if err != nil {
		return nil, err
	}
	conn := &connection{driver: driver, version: a.GetConnectionVersion(), lost: make(chan struct{})}
	conn.events, err = driver.Events(ctx) // before the first reading, so that no change is missed
	if err != nil && !errors.Is(err, hypervisor.ErrUnsupported) {
		_ = driver.Close()
		return nil, err
	}
	h.e.cfg.Metrics.Opened(nil)
	return conn, nil
}

// connected gives the connection to steps.
func (h *host) connected(conn *connection) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conn, h.fail = conn, nil
	close(h.tried)
	h.tried = make(chan struct{})
}

// down takes the connection from steps and tells the region why.
func (h *host) down(ctx context.Context, err error) {
	h.mu.Lock()
	if h.conn == nil {
		close(h.tried)
		h.tried = make(chan struct{})
	}
	h.conn, h.fail = nil, err
	h.mu.Unlock()
	h.setState("unreachable")
	h.sendStatus(ctx, err)
}

func (h *host) setState(state string) {
	h.mu.Lock()
	was := h.state
	h.state = state
	h.mu.Unlock()
	h.e.cfg.Metrics.HostState(was, state)
}

// driver is the connection for a step. Without one it has a try made, unless
// that could do harm and nobody insists, and waits for how it ends.
func (h *host) driver(ctx context.Context, insist bool) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for waited := false; ; waited = true {
		h.mu.Lock()
		conn, fail, tried := h.conn, h.fail, h.tried
		h.mu.Unlock()
		if conn != nil {
			return conn, nil
		}
		if fail != nil && (waited || h.slow(fail) && !insist) {
			return nil, fail
		}
		h.nudge(func() { h.hurry, h.insist = true, h.insist || insist })
		select {
		case <-tried:
		case <-ctx.Done():
			if fail == nil {
				fail = &hypervisor.Error{Class: hypervisor.ErrUnreachable, Op: "connect to hypervisor", Err: errors.New("not connected yet")}
			}
			return nil, fail
		}
	}
}
