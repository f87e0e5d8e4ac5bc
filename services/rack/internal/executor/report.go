package executor

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/vmhost-project/vmhost/pkg/backoff"
	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

const (
	// readLimit bounds one reading of a host.
	readLimit = 60 * time.Second
	// gather is how long events are gathered before machines are read. The first
	// after a silence waits for those that come with it only.
	gather, together = 25 * time.Millisecond, time.Millisecond
	// few machines are read one by one, more by one call for all.
	few = 8
	// A region that could not record a report is sent a whole one, soon at first
	// and then ever later, until it has asked for none for calm.
	againMin, againMax, calm = 200 * time.Millisecond, time.Minute, 5 * time.Minute
)

// errMoved ends serve when the assignment names another connection, or nobody
// wants the host any more.
var errMoved = errors.New("the assignment changed")

// serve reports the host until its connection is lost, which is its error.
func (h *host) serve(ctx context.Context, conn *connection) error {
	h.connected(conn)
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.conn = nil
	}()
	h.take()
	if h.takeWhole() {
		h.forgetTold(ctx)
	}
	if err := h.inventory(ctx, conn); err != nil && !errors.Is(err, errUnheard) {
		return err
	}
	h.setState("reachable")
	h.sendStatus(ctx, nil)
	h.log.InfoContext(ctx, "the hypervisor is reached")
	interval := h.e.cfg.InventoryInterval
	timer := time.NewTimer(jitter(interval))
	defer timer.Stop()
	pending := map[string]struct{}{}
	var news time.Time // when machines were read last because of events
	var gathered, whole <-chan time.Time
	wait, asked := backoff.Backoff{Min: againMin, Max: againMax}, time.Time{}
	for {
		var err error
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-conn.lost:
			return conn.cause
		case event, ok := <-conn.events:
			if !ok {
				return &hypervisor.Error{Class: hypervisor.ErrUnreachable, Op: "watch hypervisor", Err: errors.New("the connection was lost")}
			}
			if pending[event.UUID] = struct{}{}; gathered == nil {
				gathered = time.After(max(gather-time.Since(news), together))
			}
		case <-gathered:
			err = h.changes(ctx, conn, pending)
			gathered, news = nil, time.Now()
			clear(pending)
		case <-timer.C:
			err = h.inventory(ctx, conn)
			timer.Reset(jitter(interval))
		case <-h.wake:
			a, again, _, _ := h.take()
			if a.GetConnectionVersion() != conn.version || h.idle() {
				return errMoved
			}
			if again {
				h.keepEpoch(ctx)
				h.sendStatus(ctx, nil)
				err = h.inventory(ctx, conn)
			}
			if h.takeWhole() && whole == nil {
				if time.Since(asked) > calm {
					wait.Reset()
				}
				asked = time.Now()
				whole = time.After(wait.Next())
			}
		case <-whole:
			whole = nil
			h.forgetTold(ctx)
			h.sendStatus(ctx, nil)
			err = h.inventory(ctx, conn)
		}
		if err != nil && !errors.Is(err, errUnheard) {
			return err
		}
	}
}

// jitter is d, a tenth more or less, so that hosts are not all read at once.
func jitter(d time.Duration) time.Duration {
	return d + rand.N(d/5+1) - d/10 //nolint:gosec // jitter is no secret
}

// errUnheard says that no region listens, which is no failure of the host.
var errUnheard = errors.New("no region listens")

// lock holds the reading of the host.
func (h *host) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case h.read <- struct{}{}:
		return func() { <-h.read }, nil
	case <-ctx.Done():
		return nil, &hypervisor.Error{Class: hypervisor.ErrTimeout, Op: "wait for another reading of the host", Err: context.Cause(ctx)}
	}
}

// settleLimit is how long a result waits for a reading that is under way.
const settleLimit = 2 * time.Second

// settle waits until a reading that is under way was sent: it may be older than
// what a step has just done, and must not be taken for newer. A hypervisor that
// hangs does not hold results up for long; then the next reading mends it.
func (h *host) settle(ctx context.Context) (settled func()) {
	if h == nil {
		return func() {}
	}
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	unlock, err := h.lock(ctx)
	if err != nil {
		return func() {}
	}
	return unlock
}

// look reads machines; those that are not there are not in the answer.
func look(ctx context.Context, driver hypervisor.Driver, uuids map[string]struct{}) (map[string]*rackv1.MachineObservation, error) {
	present := make(map[string]*rackv1.MachineObservation, len(uuids))
	if len(uuids) > few {
		machines, err := driver.Machines(ctx)
		for _, m := range machines {
			present[m.GetUuid()] = m
		}
		return present, err
	}
	for uuid := range uuids {
		m, err := driver.Machine(ctx, uuid)
		if err == nil {
			present[uuid] = m
		} else if !errors.Is(err, hypervisor.ErrNotFound) {
			return nil, err
		}
	}
	return present, nil
}

// sendStatus tells how the connection stands; nil is good.
func (h *host) sendStatus(ctx context.Context, failure error) {
	a := h.assignment()
	status := &rackv1.HostStatus{VmHost: a.GetVmHost(), Epoch: a.GetEpoch(), Reachable: failure == nil, Error: hypervisor.StepError(failure)}
	h.mu.Lock()
	if h.conn != nil {
		status.ConnectionVersion = h.conn.version
	}
	h.mu.Unlock()
	_ = h.e.send(ctx, &rackv1.ConnectRequest{Message: &rackv1.ConnectRequest_HostStatus{HostStatus: status}}) // who connects next is told again
}
