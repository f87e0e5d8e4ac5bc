package executor

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

const (
	// readLimit bounds one reading of a host.
	readLimit = 60 * time.Second
	// gather is how long events are gathered before machines are read.
	gather = 25 * time.Millisecond
	// few machines are read one by one, more by one call for all.
	few = 8
	// partSize is how many machines travel in one message.
	partSize = 500
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
	var gathered <-chan time.Time
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
				gathered = time.After(gather)
			}
		case <-gathered:
			err = h.changes(ctx, conn, pending)
			gathered = nil
			clear(pending)
		case <-timer.C:
			err = h.inventory(ctx, conn)
			timer.Reset(jitter(interval))
		case <-h.wake:
			a, again, _ := h.take()
			if a.GetConnectionVersion() != conn.version || h.idle() {
				return errMoved
			}
			if again {
				h.keepEpoch(ctx)
				h.sendStatus(ctx, nil)
				err = h.inventory(ctx, conn)
			}
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

// inventory reads the host whole and sends it; errUnheard when nobody listens.
func (h *host) inventory(ctx context.Context, conn *connection) error {
	if !h.e.online() {
		return errUnheard
	}
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	unlock, err := h.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	observation, machines, err := conn.driver.Inventory(ctx)
	h.e.cfg.Metrics.Inventory(hypervisor.StepError(err))
	if err != nil {
		return fmt.Errorf("read host: %w", err)
	}
	h.known = make(map[string]uint64, len(machines))
	for _, m := range machines {
		h.known[m.GetUuid()] = h.fingerprint(m)
	}
	a, sequence := h.assignment(), h.e.sequence.Add(1)
	for first := true; first || len(machines) > 0; first = false {
		part := machines[:min(partSize, len(machines))]
		machines = machines[len(part):]
		out := &rackv1.HostInventory{
			VmHost: a.GetVmHost(), Epoch: a.GetEpoch(), Sequence: sequence, Machines: part, Last: len(machines) == 0,
		}
		if first {
			out.Observation = observation
		}
		if h.e.send(ctx, &rackv1.ConnectRequest{Message: &rackv1.ConnectRequest_HostInventory{HostInventory: out}}) != nil {
			return errUnheard
		}
	}
	return nil
}

// changes reads the machines that events named and sends what is new.
func (h *host) changes(ctx context.Context, conn *connection, uuids map[string]struct{}) error {
	if !h.e.online() {
		return errUnheard
	}
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	unlock, err := h.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	present, err := look(ctx, conn.driver, uuids)
	if err != nil {
		return fmt.Errorf("read changed machines: %w", err)
	}
	a, now, sent := h.assignment(), timestamppb.Now(), 0
	for uuid := range uuids {
		change := &rackv1.MachineChange{VmHost: a.GetVmHost(), Epoch: a.GetEpoch(), Time: now}
		if m := present[uuid]; m != nil {
			hash := h.fingerprint(m)
			if old, ok := h.known[uuid]; ok && old == hash {
				continue
			}
			h.known[uuid] = hash
			change.Change = &rackv1.MachineChange_Present{Present: m}
		} else {
			delete(h.known, uuid)
			change.Change = &rackv1.MachineChange_GoneUuid{GoneUuid: uuid}
		}
		if h.e.send(ctx, &rackv1.ConnectRequest{Message: &rackv1.ConnectRequest_MachineChange{MachineChange: change}}) != nil {
			return errUnheard
		}
		sent++
	}
	h.e.cfg.Metrics.Changed(sent)
	return nil
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

// fingerprint tells two observations apart; should it once not, the next
// inventory does.
func (h *host) fingerprint(m *rackv1.MachineObservation) uint64 {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil { // text that is not UTF-8; never equal, so always sent
		return rand.Uint64() //nolint:gosec // any other number will do
	}
	return maphash.Bytes(h.e.seed, raw)
}

// sendStatus tells how the connection stands; nil is good.
func (h *host) sendStatus(ctx context.Context, failure error) {
	a := h.assignment()
	_ = h.e.send(ctx, &rackv1.ConnectRequest{Message: &rackv1.ConnectRequest_HostStatus{HostStatus: &rackv1.HostStatus{
		VmHost: a.GetVmHost(), Epoch: a.GetEpoch(), Reachable: failure == nil, Error: hypervisor.StepError(failure),
	}}}) // who connects next is told again
}
