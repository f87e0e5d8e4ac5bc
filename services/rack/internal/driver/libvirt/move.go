package libvirt

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	lv "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack/internal/driver/undo"
)

const opMove = "move machine"

// move is one call of Move.
type move struct {
	from, to  *Driver
	what      *rackv1.MoveMachine
	operation string
	ref       hypervisor.Ref
	id        lv.UUID
	dom       lv.Domain // on the source
	// stays are the disks that stay where they are, by their index.
	stays map[int]bool
	// autostart: the source's host is to start the domain when it boots, as long as it
	// is there.
	autostart bool
	// stopped: the domain is off and is to run in the end, on either host.
	stopped bool
	// started: the destination may have been told to run it.
	started bool
	moved   hypervisor.Moved
}

// Move brings a machine to another libvirt host: live, by a migration that this
// process drives, or while it is off, by copying its volumes through this process.
// Only a live migration has the two hosts talk to one another.
func (d *Driver) Move(ctx context.Context, to hypervisor.Driver, what *rackv1.MoveMachine, operation string) (*hypervisor.Moved, error) {
	other, ok := to.(*Driver)
	if !ok {
		return nil, &hypervisor.Error{Class: hypervisor.ErrUnsupported, Op: opMove, Err: errors.New("the destination is no libvirt host")}
	}
	ref := hypervisor.RefOf(what.GetMachine())
	id, err := parseUUID(ref.Domain())
	if err != nil {
		return nil, err
	}
	unlock, err := d.changing.Lock(ctx, uuid.UUID(id).String(), opMove)
	if err != nil {
		return nil, err
	}
	defer unlock()
	m := &move{from: d, to: other, what: what, operation: operation, ref: ref, id: id}
	err = m.run(ctx)
	m.forget()
	if err != nil {
		return nil, err
	}
	if m.moved.Machine, err = other.Machine(ctx, ref.Domain()); err != nil {
		return nil, err
	}
	return &m.moved, nil
}

// forget has the domain read anew on both hosts: events say that too, but later.
func (m *move) forget() {
	m.from.library.changed(m.id)
	m.to.library.changed(m.id)
}

func (m *move) run(ctx context.Context) error {
	var err error
	if m.stays, err = staysOf(m.what); err != nil {
		return err
	}
	here, there, err := m.look(ctx)
	if err != nil {
		return err
	}
	state, err := hypervisor.MoveStateOf(half(here), half(there), m.ref.UID)
	if err != nil {
		return err
	}
	if err := m.mayStay(ctx, state, here, there); err != nil {
		return err
	}
	if err := m.apart(ctx, state); err != nil {
		return err
	}
	switch state {
	case hypervisor.MoveToDo:
		m.dom = here.dom
		work, cancel := undo.Reserve(ctx)
		defer cancel()
		if err := m.bring(work, here); err != nil {
			return err
		}
	case hypervisor.MoveToFinish: // whoever began may have ended before the last of it
		if err := m.arrived(ctx, there.dom); err != nil {
			return err
		}
	case hypervisor.MoveDone:
	}
	if state == hypervisor.MoveDone && adopted(m.ref) {
		return nil // its volumes went before it
	}
	return m.vacate(ctx)
}

// look reads both halves anew; nil is what is not there.
func (m *move) look(ctx context.Context) (here, there *seen, err error) {
	m.forget()
	if here, err = m.from.look(ctx, m.id); err != nil {
		return nil, nil, err
	}
	there, err = m.to.look(ctx, m.id)
	return here, there, err
}

// half is what decides how far a move has come.
func half(one *seen) *rackv1.MachineObservation {
	if one == nil {
		return nil
	}
	out := &rackv1.MachineObservation{Name: valid(one.dom.Name), PowerState: powerOf(one.state)}
	if one.record.domain.ours() {
		out.Uid = one.record.domain.uid
	}
	return out
}

// bring makes the machine on the destination. On the source it is off or paused
// then; after a failure it is as it was.
func (m *move) bring(ctx context.Context, here *seen) error {
	// One that broke may have held it back already.
	m.autostart = here.autostart || m.what.GetAutostart()
	if err := m.takeBack(ctx); err != nil {
		return err
	}
	text, err := m.definition(ctx, lv.DomainXMLInactive)
	if err != nil {
		return err
	}
	_, was, err := noted(text, "")
	if err != nil {
		return &hypervisor.Error{Class: hypervisor.ErrUnsupported, Op: opMove, Err: err}
	}
	interrupted := was != "" && was == m.operation
	if interrupted && !off(here.state) {
		if err := m.endOld(ctx); err != nil {
			return err
		}
	}
	if interrupted && here.state == lv.DomainPaused {
		// A live migration of ours broke after the guest was stopped for the last of
		// its memory, and the destination was seen without it.
		if err := m.from.start(ctx, here.dom, here.state); err != nil {
			return err
		}
		here.state = lv.DomainRunning
	}
	m.stopped = interrupted && off(here.state)
	p, err := m.plan(ctx, here, text)
	if err == nil {
		err = m.carry(ctx, here, p)
	}
	if err == nil {
		return nil
	}
	return m.giveUp(ctx, err)
}

// endOld ends the migration that a move of this operation has left: libvirtd
// notices only at its next word to the destination that nobody waits for it.
func (m *move) endOld(ctx context.Context) error {
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	for {
		running, err := call(ctx, m.from.conn, "look for a migration of domain "+m.dom.Name, fast, func(a api) (bool, error) {
			kind, _, _, _, _, _, _, _, _, _, _, _, err := a.DomainGetJobInfo(m.dom) //nolint:dogsled // as libvirt answers
			return kind != int32(lv.DomainJobNone), err
		})
		if err != nil || !running {
			return err
		}
		err = do(ctx, m.from.conn, "abort the migration of domain "+m.dom.Name, fast, func(a api) error { return a.DomainAbortJob(m.dom) })
		if err != nil && number(err) == lv.ErrOk {
			return err
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return &hypervisor.Error{Class: hypervisor.ErrTimeout, Op: "end the migration of domain " + m.dom.Name, Err: ctx.Err()}
		}
	}
}

// carry moves it in the way that is open.
func (m *move) carry(ctx context.Context, here *seen, p *plan) error {
	m.moved.How = rackv1.MoveHow_MOVE_HOW_OFFLINE
	if off(here.state) {
		return m.copyOver(ctx, p)
	}
	why := "it is not to be moved live"
	if m.what.GetLive() {
		err := m.live(ctx, here, p)
		if !errors.Is(err, hypervisor.ErrUnsupported) || m.started {
			m.moved.How = rackv1.MoveHow_MOVE_HOW_LIVE
			return err
		}
		if rest := m.takeBack(ctx); rest != nil {
			return rest
		}
		why = reasonOf(err)
		m.moved.NotLive = why
	}
	if err := hypervisor.StoppedForMove(m.what, why); err != nil {
		return err
	}
	if err := p.offline(); err != nil {
		return err // before anything is stopped
	}
	if err := m.note(ctx, m.operation); err != nil {
		return err
	}
	m.stopped = true
	if err := m.from.shutDown(ctx, here.dom, m.what.GetGracePeriod().AsDuration(), false); err != nil {
		return err
	}
	return m.copyOver(ctx, p)
}

// reasonOf is why something cannot be done, without what was being done.
func reasonOf(err error) string {
	if e, ok := errors.AsType[*hypervisor.Error](err); ok && e.Op == opMove && e.Err != nil {
		return e.Err.Error()
	}
	return err.Error()
}

// giveUp puts everything back as it was, and answers why.
func (m *move) giveUp(ctx context.Context, cause error) error {
	if errors.Is(context.Cause(ctx), hypervisor.ErrFenced) {
		return cause
	}
	ctx, cancel := undo.Limit(ctx)
	defer cancel()
	unknown := func(err error) error {
		class := hypervisor.ErrTimeout
		if errors.Is(err, hypervisor.ErrUnreachable) {
			class = hypervisor.ErrUnreachable
		}
		return &hypervisor.Error{Class: class, Op: opMove, Err: fmt.Errorf("%w; and it could not be undone: %w", undo.Unclassed(cause), undo.Unclassed(err))}
	}
	m.forget()
	there, err := m.to.look(ctx, m.id)
	switch {
	case err == nil && m.started && there != nil && there.record.domain.is(m.ref.UID) && !off(there.state):
		return m.arrived(ctx, there.dom) // it came to run there all the same
	case err == nil && m.started:
		if err = m.notRun(ctx, there); err == nil {
			err = m.takeBack(ctx)
		}
	case err == nil:
		err = m.takeBack(ctx)
	}
	if err != nil && m.started {
		return unknown(err) // it must not run twice
	}
	if back := m.putBack(ctx); back != nil {
		err = errors.Join(err, back)
	}
	if err != nil {
		return unknown(err)
	}
	return cause
}

// putBack makes the source what it was before.
func (m *move) putBack(ctx context.Context) error {
	if len(m.stays) > 0 && m.autostart {
		if err := m.setAutostart(ctx, 1); err != nil {
			return err
		}
	}
	if m.stopped {
		state, err := m.from.state(ctx, m.dom)
		if err != nil {
			return err
		}
		if err := m.from.start(ctx, m.dom, state); err != nil {
			return err
		}
	}
	return m.note(ctx, "")
}

// note writes down on the source that an operation has stopped the domain, or that
// none has.
func (m *move) note(ctx context.Context, operation string) error {
	text, err := m.definition(ctx, lv.DomainXMLInactive)
	if err != nil {
		return err
	}
	element, was, err := noted(text, operation)
	if err != nil || was == operation {
		return err
	}
	one, err := m.from.lookForMetadata(ctx, m.id, opMove)
	if err != nil || one == nil {
		return err
	}
	_, err = m.from.changeMetadata(ctx, one, lv.OptString{element}, opMove)
	return err
}

func (m *move) definition(ctx context.Context, flags lv.DomainXMLFlags) (string, error) {
	return call(ctx, m.from.conn, "read domain "+m.dom.Name, fast, func(a api) (string, error) {
		return a.DomainGetXMLDesc(m.dom, flags|lv.DomainXMLSecure)
	})
}

// vacate removes the machine from the source, which was seen not to run there,
// while the destination has it.
func (m *move) vacate(ctx context.Context) error {
	here, there, err := m.look(ctx)
	if err != nil {
		return err
	}
	if there == nil || !there.record.domain.is(m.ref.UID) {
		return &hypervisor.Error{Class: hypervisor.ErrBusy, Op: opMove, Err: errors.New("the machine is not on the destination any more")}
	}
	if here != nil && here.running() {
		return &hypervisor.Error{
			Class: hypervisor.ErrBusy, Op: opMove, Err: fmt.Errorf("domain %q was started on the source meanwhile", here.dom.Name),
			Hint: "turn it off there if the one on the destination is the right one",
		}
	}
	return m.from.remove(ctx, m.leaving(), m.id)
}

// takeBack removes what there is of the machine on the destination, where it does
// not run. Volumes that are not named after it stay, and those that are the
// source's.
func (m *move) takeBack(ctx context.Context) error {
	m.to.library.changed(m.id)
	one, err := m.to.own(ctx, m.id, m.ref.UID, opMove)
	if err != nil {
		return err
	}
	if one != nil {
		if one.running() {
			return &hypervisor.Error{Class: hypervisor.ErrBusy, Op: opMove, Err: errors.New("the machine runs on the destination")}
		}
		err := m.to.removeDomain(ctx, one.dom)
		m.to.library.changed(m.id)
		if err != nil {
			return err
		}
	}
	return m.to.sweep(ctx, m.ours())
}

// ours is the machine on the destination with those disks that can only be its own.
func (m *move) ours() *vmhostv1.Machine {
	moved := m.what.GetMoved()
	out := &vmhostv1.Machine{Uid: moved.GetUid(), HypervisorName: moved.GetHypervisorName(), Hostname: moved.GetHostname(), Interfaces: moved.GetInterfaces()}
	for i, k := range moved.GetDisks() {
		if !m.stays[i] && strings.HasPrefix(k.GetVolume(), volumePrefix(m.ref.UID)) {
			out.Disks = append(out.Disks, k)
		}
	}
	return out
}
