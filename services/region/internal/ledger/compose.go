package ledger

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

const (
	// maxBatch is how many composes are decided together: about as many as fit a
	// transaction.
	maxBatch = 32
	// comparesPerCompose is what one compose, the first on its host, adds to a
	// transaction: name, request; spec and ledger of the host; pool and its count;
	// policy.
	comparesPerCompose = 7
	// writesPerCompose is how many keys a compose writes: machine, name, operation,
	// and the ledger of its host.
	writesPerCompose = 4
	// maxConflicts is how often a compose is decided again before its caller is
	// told to come back. Every conflict means that somebody else got something
	// done, so that many in a row need a fleet of regions on one host.
	maxConflicts = 64
	// batchTimeout bounds the work for one batch: it does not end with the call
	// of whoever has the turn, since others wait for it as well.
	batchTimeout = 20 * time.Second
)

// pending is a compose that waits for its commit.
type pending struct {
	*want
	conflicts int
	done      chan struct{}
	op        *vmhostv1.Operation
	err       error
	revision  int64          // of the commit; 0 when nothing was committed for it
	refused   bool           // by what this process had seen
	lanes     placement.Lane // that may have a host for it; none: to be decided on over all hosts

	queued bool          // under the ledger's lock: in the queue, in no batch
	again  chan struct{} // holds a token when it was put back into the queue
}

func newPending(w *want) *pending {
	return &pending{want: w, lanes: placement.EvenLane | placement.OddLane, done: make(chan struct{}), again: make(chan struct{}, 1)}
}

func (p *pending) finish(op *vmhostv1.Operation, err error) {
	p.op, p.err = op, err
	close(p.done)
}

// answer is for the caller: he may look for what was made at once.
func (l *Ledger) answer(ctx context.Context, p *pending) (*vmhostv1.Operation, error) {
	if p.err != nil || p.revision == 0 {
		return p.op, p.err
	}
	if err := l.store.Wait(ctx, p.revision); err != nil {
		return nil, unavailable(err)
	}
	return p.op, nil
}

// Compose places a machine and commits it: capacity, machine, name, operation and
// request_id in one transaction. The answer is the operation that makes
// it. Errors: NO_CAPACITY, ALREADY_EXISTS, NOT_FOUND, INVALID_FIELD,
// REQUEST_ID_REUSED, CONFLICT, STORE_UNAVAILABLE.
func (l *Ledger) Compose(ctx context.Context, principal string, req *vmhostv1.ComposeMachineRequest) (*vmhostv1.Operation, error) {
	if req.GetReservation() != "" {
		return l.composeReserved(ctx, principal, req)
	}
	w, err := newWant(principal, req)
	if err != nil {
		return nil, err
	}
	if w.byOtherZones() {
		return l.composeAlone(ctx, w)
	}
	p := newPending(w)
	l.inside.Add(1)
	defer l.inside.Add(-1)
	if !l.enqueue(p) {
		return nil, apierror.New(codes.Aborted, vmhostv1.ErrorReason_CONFLICT, "%d composes are waiting already", maxQueue).
			WithHint("try again in a second")
	}
	cancelled := ctx.Done()
	for {
		select {
		case <-p.done:
			return l.answer(ctx, p)
		default:
		}
		// Only who is in the queue has a reason to lead: the others would take turns
		// at an empty queue for as long as their batch is under way.
		turn := l.turn
		if !l.waits(p) {
			turn = nil
		}
		select {
		case <-p.done:
			return l.answer(ctx, p)
		case turn <- struct{}{}:
			l.lead(ctx)
		case <-p.again:
		case <-cancelled:
			cancelled = nil // once is enough: somebody may be deciding on it right now
		}
		if ctx.Err() != nil && l.withdraw(p) {
			return nil, context.Cause(ctx)
		}
	}
}

// lead decides on and commits one batch of the queue. It has the turn, and gives
// it up when it submits: the next batch is decided on while this one is under
// way, on what will be if it succeeds.
func (l *Ledger) lead(ctx context.Context) {
	endTurn := sync.OnceFunc(func() { <-l.turn })
	defer endTurn()
	first := l.first()
	if first == nil {
		return
	}
	v := l.store.Cached()
	lane := l.laneOf(v, first, l.outlookAt(v).Len())
	batch := l.take(lane, maxBatch)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), batchTimeout)
	defer cancel()
	// The first look is at what this process has seen and is about to do. Whoever
	// would be refused by that is decided on again on a linearizable view.
	final := slices.ContainsFunc(batch, func(p *pending) bool { return p.refused })
	if final {
		endLine := l.getInLine(lane, nil)
		defer endLine()
		var err error
		if v, err = l.store.View(ctx); err != nil {
			for _, p := range batch {
				p.finish(nil, unavailable(err))
			}
			return
		}
	}
	d := l.newShared(v, lane)
	l.decide(d, batch)
	if !final && len(d.placed) > 0 {
		// Whoever comes while the one before is under way is in time for this one.
		more := func() { l.decide(d, l.take(lane, maxBatch-len(d.placed))) }
		endLine := l.getInLine(lane, more)
		defer endLine()
		l.fill(d, more)
	}
	l.back(d.refuse(final))
	if len(d.placed) == 0 {
		return
	}
	if !l.bind(d) { // what it was decided on has failed
		l.mu.Lock()
		l.giveUp(d)
		l.mu.Unlock()
		l.back(d.pending())
		return
	}
	endTurn()
	l.back(l.commit(ctx, d))
}

// commit does what was decided and answers those who must be decided on again.
func (l *Ledger) commit(ctx context.Context, d *decision) (again []*pending) {
	for host, led := range d.ledgers {
		store.Give(d.tx, store.Ledgers, led, host)
	}
	d.putUsage()
	revision, err := l.store.Submit(ctx, d.tx)
	l.settle(d, revision, err)
	if err == nil {
		for _, p := range d.placed {
			p.revision = revision
			p.finish(p.operation, nil)
		}
		for _, r := range d.refused {
			r.finish(nil, r.err)
		}
		return nil
	}
	for _, r := range d.refused { // they may have been refused for what is not
		again = append(again, r.pending)
	}
	if !errors.Is(err, store.ErrConflict) {
		for _, p := range d.placed {
			p.finish(nil, unavailable(err))
		}
		return again
	}
	l.conflicts.Add(1)
	worst := 0
	for _, p := range d.placed {
		p.conflicts++
		worst = max(worst, p.conflicts)
		if p.conflicts <= maxConflicts {
			again = append(again, p.pending)
			continue
		}
		p.finish(nil, apierror.New(codes.Aborted, vmhostv1.ErrorReason_CONFLICT,
			"lost the race for host %s %d times", p.machine.GetResource().GetVmHost(), p.conflicts).WithHint("try again"))
	}
	// The first retries are immediate: mostly the winner is another batch. Then
	// two that keep colliding are pulled apart.
	if worst > 2 {
		pause := time.NewTimer(time.Duration(rand.Int64N(int64(min(worst, 20)) * int64(time.Millisecond)))) //nolint:gosec // jitter
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
	return again
}

// decide adds composes to a decision.
func (l *Ledger) decide(d *decision, batch []*pending) {
	v, taken := d.view, &d.taken
	for _, p := range batch {
		if d.tx.Compares()+len(d.ledgers)+len(d.taking)+len(d.sharing)+len(p.place.Disks)+comparesPerCompose > store.MaxCompares {
			d.postponed = append(d.postponed, p)
			continue
		}
		if d.lane != placement.AllLanes && indivisible(v, p.want) {
			p.lanes = 0
			d.postponed = append(d.postponed, p)
			continue
		}
		before, err := p.id.Operation(v)
		if err != nil || before != nil {
			p.finish(before, err)
			continue
		}
		if err := p.chooseMACs(v, &l.index, taken.macs); err != nil {
			d.refused = append(d.refused, refusal{p, err, len(d.placed)})
			continue
		}
		if !p.id.IsZero() && taken.requests[p.id.Key()] || slices.ContainsFunc(p.macs, func(m string) bool { return taken.macs[m] }) {
			// The other one of this batch first; what it came to decides.
			d.postponed = append(d.postponed, p)
			continue
		}
		var plan *placement.Plan
		var hostname string
		err = l.within(v, d, p.want)
		if err == nil {
			plan, hostname, err = l.place(v, d.fleet, p.want, d.lane, taken.names)
		}
		if err == nil && plan.Host == nil && d.lane != placement.AllLanes {
			p.passOn(d.lane)
			d.postponed = append(d.postponed, p)
			continue
		}
		if err == nil && plan.UsesShared() && d.lane != placement.AllLanes {
			// The other lane may take of that pool as well.
			p.lanes, l.joint = 0, jointBatches
			d.postponed = append(d.postponed, p)
			continue
		}
		if err == nil && plan.Host == nil {
			err = noCapacity(plan)
		}
		if err != nil {
			d.refused = append(d.refused, refusal{p, err, len(d.placed)})
			continue
		}
		l.claim(v, d, p, plan, hostname, taken)
		d.fleet.Take(plan.Host.ID, d.placed[len(d.placed)-1].machine.GetCommitment(), "")
	}
}

// chooser is a fleet, or a draft of one.
type chooser interface {
	Choose(req *placement.Request) placement.Plan
}

// place checks what the request names and chooses a host and, if none was asked
// for, a hostname.
func (l *Ledger) place(v *store.View, fleet chooser, w *want, lane placement.Lane, names map[string]bool) (*placement.Plan, string, error) {
	pool := w.place.ResourcePool
	if err := named(v, w); err != nil {
		return nil, "", err
	}
	if err := l.resolve(v, w); err != nil {
		return nil, "", err
	}
	nameTaken := func(name string) bool {
		return store.Names.Has(v, pool, name) || len(names) > 0 && names[store.Names.Key(pool, name)]
	}
	hostname := w.hostname
	if hostname == "" {
		hostname = madeUp(nameTaken)
	} else if nameTaken(hostname) {
		return nil, "", hostnameTaken(pool, hostname)
	}
	req := w.requestAs(hostname)
	req.Lane = lane
	req.NameTaken = func(host, name string) bool { return l.index.nameTaken(v, host, name) }
	plan := fleet.Choose(&req)
	if err := addressTaken(&plan, &req); err != nil {
		return nil, "", err
	}
	return &plan, hostname, nil
}

// claim adds a placed compose to the transaction.
func (l *Ledger) claim(v *store.View, d *decision, p *pending, plan *placement.Plan, hostname string, taken *claims) {
	pool, host := p.place.ResourcePool, plan.Host.ID
	machine := p.newMachine(plan, hostname)
	op := p.record(machine, plan.Host.UID)
	if _, ok := d.ledgers[host]; !ok {
		d.tx.IfRevision(store.VmHosts.Key(host), store.VmHosts.RevisionOf(v, host))
	}
	c := machine.GetCommitment()
	add(l.of(d, host), c)
	l.share(d, host, c)
	// What others have of these depends on what ours have: see placement.NewHost.
	d.inexact = d.inexact || c.GetHugepagesMib() > 0 || len(c.GetSriovFunctions()) > 0
	if !taken.pools[pool] {
		taken.pools[pool] = true
		d.tx.IfRevision(store.ResourcePools.Key(pool), store.ResourcePools.RevisionOf(v, pool))
	}
	p.bindPolicy(d.tx)
	d.charge(pool, c)
	name := store.Names.Key(pool, hostname)
	d.tx.IfAbsent(name)
	d.putMachine(p.want, machine, op, hostname)
	p.id.RecordOperation(d.tx, "operations/"+p.operationUID)

	taken.names[name] = true
	if !p.id.IsZero() {
		taken.requests[p.id.Key()] = true
	}
	for _, m := range p.macs {
		taken.macs[m] = true
	}
	d.placed = append(d.placed, placed{pending: p, machine: machine, operation: op.GetResource()})
}
