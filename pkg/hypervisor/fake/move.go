package fake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const opMove = "move machine"

// move is one call of Move.
type move struct {
	from, to  *driver
	what      *rackv1.MoveMachine
	operation string
	ref       hypervisor.Ref
	moved     hypervisor.Moved
}

// Move brings a machine to another fake host. Its parts can go wrong one by one:
// Move on the source before anything is done, Receive on the destination while it
// is copied there, Vacate on the source when it is removed. HalfMade is the death
// of the process in the middle: nothing is undone.
func (d *driver) Move(ctx context.Context, to hypervisor.Driver, what *rackv1.MoveMachine, operation string) (*hypervisor.Moved, error) {
	other, ok := to.(*driver)
	if !ok {
		return nil, &hypervisor.Error{Class: hypervisor.ErrUnsupported, Op: opMove, Err: errors.New("the destination is no fake host")}
	}
	if other.host == d.host {
		return nil, &hypervisor.Error{Class: hypervisor.ErrRefused, Op: opMove, Err: errors.New("the destination is the source")}
	}
	m := &move{from: d, to: other, what: what, operation: operation, ref: hypervisor.RefOf(what.GetMachine())}
	defer d.host.faults.fly(m.ref.Domain())()
	fault, err := d.begin(ctx, Move)
	if err != nil {
		return nil, err
	}
	if fault.Err != nil && !fault.AfterEffect && !fault.HalfMade {
		return nil, fault.Err
	}
	out, err := m.run(ctx, fault.HalfMade)
	if fault.Err != nil {
		return nil, fault.Err
	}
	return out, err
}

func (m *move) run(ctx context.Context, dies bool) (*hypervisor.Moved, error) {
	here, there, err := m.look(ctx)
	if err != nil {
		return nil, err
	}
	state, err := hypervisor.MoveStateOf(here, there, m.ref.UID)
	if err == nil {
		err = m.checkPools()
	}
	if err != nil {
		return nil, err
	}
	if state == hypervisor.MoveToDo {
		m.takeBack()
		if err := m.bring(ctx, here, dies); err != nil || dies {
			return nil, err
		}
	}
	if err := m.vacate(ctx); err != nil {
		return nil, err
	}
	m.moved.Machine, err = m.to.Machine(ctx, m.ref.Domain())
	if err != nil {
		return nil, err
	}
	return &m.moved, nil
}

// look reads both halves; nil is what is not there.
func (m *move) look(ctx context.Context) (here, there *rackv1.MachineObservation, err error) {
	here, err = m.from.Machine(ctx, m.ref.Domain())
	if err == nil || errors.Is(err, hypervisor.ErrNotFound) {
		there, err = m.to.Machine(ctx, m.ref.Domain())
	}
	if errors.Is(err, hypervisor.ErrNotFound) {
		err = nil
	}
	return here, there, err
}

// bring makes the machine on the destination, running if it is to run there. On
// the source it is off or paused then.
func (m *move) bring(ctx context.Context, was *rackv1.MachineObservation, dies bool) error {
	uuid, power := m.ref.Domain(), was.GetPowerState()
	starts := power == off && m.operation != "" && m.from.host.noted(uuid) == m.operation
	before := power // that a failure brings back
	if starts {
		before = on
	}
	m.moved.How = rackv1.MoveHow_MOVE_HOW_LIVE
	if power == off {
		m.moved.How = rackv1.MoveHow_MOVE_HOW_OFFLINE
	}
	switch why := m.notLive(was); {
	case power != off && why != "":
		m.moved.How = rackv1.MoveHow_MOVE_HOW_OFFLINE
		if m.what.GetLive() {
			m.moved.NotLive = why
		}
		if err := hypervisor.StoppedForMove(m.what, why); err != nil {
			return err
		}
		if err := m.from.askGuest(ctx, m.ref, m.what.GetGracePeriod().AsDuration()); err != nil {
			return err
		}
		m.from.host.note(uuid, m.operation)
		m.from.host.setPower(uuid, off)
		starts, power = true, off
	case power == on: // its memory is taken along while it does not run
		m.from.host.setPower(uuid, paused)
	}
	err := m.receive(ctx, was, power)
	if err == nil && starts && !dies {
		_, err = m.to.SetPower(ctx, m.ref, rackv1.PowerAction_POWER_ACTION_START, 0)
	}
	if err == nil {
		return nil
	}
	if errors.Is(context.Cause(ctx), hypervisor.ErrFenced) {
		return err
	}
	// Whether it arrived all the same is seen, not concluded.
	seen, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	there, lookErr := m.to.Machine(seen, uuid)
	switch {
	case lookErr != nil && !errors.Is(lookErr, hypervisor.ErrNotFound):
		// Nobody knows: it must not run twice.
		return &hypervisor.Error{Class: hypervisor.ErrUnreachable, Op: opMove, Err: fmt.Errorf("%w; and the destination does not answer: %w", errors.New(err.Error()), lookErr)}
	case there.GetPowerState() == on:
		return nil
	}
	m.takeBack()
	m.from.host.setPower(uuid, before)
	m.from.host.note(uuid, "")
	return err
}

// notLive says why a machine is not moved live; empty when it is.
func (m *move) notLive(was *rackv1.MachineObservation) string {
	switch {
	case !m.what.GetLive():
		return "it is not to be moved live"
	case was.GetType() == vmhostv1.MachineType_MACHINE_TYPE_CONTAINER:
		return "containers are not moved live"
	case m.from.host.spec.Emulation != m.to.host.spec.Emulation:
		return "one of the hosts has KVM and the other has not"
	case slices.ContainsFunc(was.GetInterfaces(), func(i *vmhostv1.MachineInterface) bool {
		return i.GetKind() == vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV
	}):
		return "it has a device of its host"
	}
	return ""
}

// receive makes volumes and machine on the destination.
func (m *move) receive(ctx context.Context, was *rackv1.MachineObservation, power vmhostv1.PowerState) error {
	want := m.what.GetMoved()
	_, err := m.to.change(ctx, Receive, m.ref.Domain(), func(h *Host, fault Fault) (*rackv1.MachineObservation, error) {
		if h.named(was.GetName()) != nil {
			return nil, &hypervisor.Error{Class: hypervisor.ErrForeign, Op: opMove, Err: fmt.Errorf("the destination has another machine named %q", was.GetName())}
		}
		var undo []func()
		err := h.checkKind(want)
		if err == nil {
			err = h.makeVolumes(&vmhostv1.Machine{Disks: m.copied(want)}, &undo)
		}
		if err == nil {
			err = h.checkInterfaces(want)
		}
		if fault.HalfMade {
			return nil, err
		}
		if err != nil {
			for _, u := range undo {
				u()
			}
			return nil, err
		}
		arrived := proto.CloneOf(was)
		arrived.PowerState, arrived.Autostart, arrived.PinnedCores = power, m.what.GetAutostart(), want.GetPinnedCores()
		arrived.Disks, arrived.Interfaces = nil, nil
		h.attach(arrived, want)
		h.putMachine(arrived)
		h.consolePower(arrived, off)
		return arrived, nil
	})
	if e, ok := err.(*hypervisor.Error); ok { //nolint:errorlint // what wraps it has more to say
		there := *e
		there.AtDestination = true
		return &there
	}
	return err
}

// takeBack removes what there is of the machine on the destination, which does not
// run there and was brought by a move.
func (m *move) takeBack() {
	h := m.to.host
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down {
		return
	}
	if there := h.machines[m.ref.Domain()]; there != nil && there.GetUid() == m.ref.UID {
		h.dropMachine(m.ref.Domain())
	}
	for _, k := range m.copied(m.what.GetMoved()) {
		h.dropVolume(volumeKey{k.GetStoragePool(), k.GetVolume()})
	}
}

// vacate removes the machine from the source.
func (m *move) vacate(ctx context.Context) error {
	_, err := m.from.change(ctx, Vacate, "", func(h *Host, _ Fault) (*rackv1.MachineObservation, error) {
		h.dropMachine(m.ref.Domain())
		h.setNote(m.ref.Domain(), "")
		for _, k := range m.copied(m.what.GetMachine()) {
			h.dropVolume(volumeKey{k.GetStoragePool(), k.GetVolume()})
		}
		return nil, nil //nolint:nilnil // nothing is left to show
	})
	return err
}

// setPower is Power of a machine that may be gone.
func (h *Host) setPower(uuid string, state vmhostv1.PowerState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.machines[uuid]; m != nil && m.GetPowerState() != state {
		h.replacePower(m, state)
	}
}

// noted is the operation that stopped a machine to move it.
func (h *Host) noted(uuid string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stopped[uuid]
}

func (h *Host) note(uuid, operation string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.setNote(uuid, operation)
}

// setNote is called with h.mu held.
func (h *Host) setNote(uuid, operation string) {
	if h.stopped[uuid] == operation {
		return
	}
	if h.stopped == nil {
		h.stopped = map[string]string{}
	}
	h.stopped[uuid] = operation
	if operation == "" {
		delete(h.stopped, uuid)
	}
	h.journal.putNote(h.spec.Name, uuid, operation)
}
