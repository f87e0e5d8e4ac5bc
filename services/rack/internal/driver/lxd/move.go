package lxd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	lxdapi "github.com/canonical/lxd/shared/api"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack/internal/driver/undo"
)

const opMove = "move machine"

var _ hypervisor.Mover = (*Driver)(nil)

// move is one call of Move.
type move struct {
	from, to  *Driver
	what      *rackv1.MoveMachine
	operation string
	ref       hypervisor.Ref
	// here is the instance on the source as it was last read.
	here *instance
	// stopped: the instance is off and is to run in the end, on either host.
	stopped bool
	// started: the destination may have been told to run it.
	started bool
	moved   hypervisor.Moved
}

// notLive is why nothing is moved while it runs.
const notLive = "LXD servers do not move what runs"

// Move brings a machine to another LXD server, or to another member of a cluster,
// while it is off: LXD's own copy of an instance, whose bytes go through this
// process. LXD moves nothing while it runs, so that nothing is tried.
func (d *Driver) Move(ctx context.Context, to hypervisor.Driver, what *rackv1.MoveMachine, operation string) (*hypervisor.Moved, error) {
	other, ok := to.(*Driver)
	if !ok {
		return nil, &hypervisor.Error{Class: hypervisor.ErrUnsupported, Op: opMove, Err: errors.New("the destination is no LXD server")}
	}
	ref := hypervisor.RefOf(what.GetMachine())
	if err := checkUUID(ref.Domain()); err != nil {
		return nil, err
	}
	if d.sameServer(other) && d.member == other.member {
		return nil, &hypervisor.Error{
			Class: hypervisor.ErrUnsupported, Op: opMove, Err: errors.New("the destination is the same LXD server as the source"),
			Hint: "lxc move --project … --target-project … moves an instance within a server",
		}
	}
	unlock, err := d.changing.Lock(ctx, ref.Domain(), opMove)
	if err != nil {
		return nil, err
	}
	defer unlock()
	m := &move{from: d, to: other, what: what, operation: operation, ref: ref}
	if err := m.run(ctx); err != nil {
		return nil, err
	}
	if m.moved.Machine, err = other.Machine(ctx, ref.Domain()); err != nil {
		return nil, err
	}
	return &m.moved, nil
}

// siblings says whether both ends are members of one cluster and have one set of
// names: then the instance is out of the way of its copy while that is made.
func (m *move) siblings() bool {
	return m.from.sameServer(m.to) && m.from.project == m.to.project
}

// sameServer says whether two drivers are of one server, or of one cluster, whose
// members all show one certificate.
func (d *Driver) sameServer(other *Driver) bool {
	return d.certificate != "" && d.certificate == other.certificate
}

func (m *move) run(ctx context.Context) error {
	// What a move that broke has begun goes on there, and how it ends decides.
	if err := m.settle(ctx); err != nil {
		return err
	}
	here, there, err := m.look(ctx)
	if err != nil {
		return err
	}
	state, err := hypervisor.MoveStateOf(m.from.half(here), m.to.half(there), m.ref.UID)
	if err != nil {
		return err
	}
	if state == hypervisor.MoveToDo {
		m.here = here
		work, cancel := undo.Reserve(ctx)
		defer cancel()
		if err := m.bring(work); err != nil {
			return err
		}
	}
	return m.vacate(ctx)
}

// look reads both halves; nil is what is not there.
func (m *move) look(ctx context.Context) (here, there *instance, err error) {
	if here, err = m.from.onHost(ctx, m.ref); err != nil {
		return nil, nil, err
	}
	there, err = m.to.onHost(ctx, m.ref)
	return here, there, err
}

// onHost is the instance of a ref on the driver's host, ours or not: in a cluster
// another member may have it too while it is moved. nil when it is not there.
func (d *Driver) onHost(ctx context.Context, ref hypervisor.Ref) (*instance, error) {
	list, err := d.listOwn(ctx)
	if err != nil {
		return nil, err
	}
	var found *instance
	for _, i := range list {
		if i.uuid == ref.Domain() && d.here(i.Location) && (found == nil || d.is(i, ref.UID)) {
			found = i
		}
	}
	return found, nil
}

// half is what decides how far a move has come.
func (d *Driver) half(i *instance) *rackv1.MachineObservation {
	if i == nil {
		return nil
	}
	out := &rackv1.MachineObservation{Name: i.Name, PowerState: powerOf(i.StatusCode)}
	if d.ours(i) {
		out.Uid = i.Config[labelUID]
	}
	return out
}

// bring makes the machine on the destination. On the source it is off then; after
// a failure it is as it was.
func (m *move) bring(ctx context.Context) error {
	was := m.here.Config[labelMoving]
	m.stopped = was != "" && was == m.operation && !m.here.running()
	err := m.takeBack(ctx)
	if err == nil {
		var p *plan
		if p, err = m.plan(ctx); err == nil {
			err = m.carry(ctx, p)
		}
	}
	if err == nil {
		return nil
	}
	return m.giveUp(ctx, err)
}

// carry stops the machine if it runs, copies it and starts the copy.
func (m *move) carry(ctx context.Context, p *plan) error {
	m.moved.How = rackv1.MoveHow_MOVE_HOW_OFFLINE
	if m.here.running() {
		if err := hypervisor.StoppedForMove(m.what, notLive); err != nil {
			return err
		}
		if m.what.GetLive() {
			m.moved.NotLive = notLive
		}
		if err := m.note(ctx, m.operation); err != nil {
			return err
		}
		m.stopped = true
		if _, err := m.from.bringPower(ctx, hypervisor.Ref{UID: m.ref.UID, UUID: m.ref.UUID, Name: m.here.Name},
			rackv1.PowerAction_POWER_ACTION_STOP, m.what.GetGracePeriod().AsDuration()); err != nil {
			return err
		}
	}
	if err := m.copyOver(ctx, p); err != nil {
		return err
	}
	return m.arrive(ctx, p)
}

// arrive starts the copy, if it is to run, and looks whether it does.
func (m *move) arrive(ctx context.Context, p *plan) error {
	// What was copied is good only if nobody has used it meanwhile.
	now, err := m.from.onHost(ctx, m.ref)
	if err != nil {
		return err
	}
	if now == nil || now.StatusCode != lxdapi.Stopped || !now.LastUsedAt.Equal(m.here.LastUsedAt) {
		return &hypervisor.Error{Class: hypervisor.ErrBusy, Op: opMove, Err: fmt.Errorf("instance %q was started while it was copied", m.here.Name)}
	}
	if !m.stopped {
		return nil
	}
	m.started = true
	if _, err := m.to.bringPower(ctx, hypervisor.Ref{UID: m.ref.UID, UUID: m.ref.UUID, Name: p.name}, rackv1.PowerAction_POWER_ACTION_START, 0); err != nil {
		return atDestination(definite(err))
	}
	there, err := m.to.onHost(ctx, m.ref)
	if err != nil {
		return err
	}
	if there == nil || !there.running() {
		return &hypervisor.Error{Class: hypervisor.ErrRefused, AtDestination: true, Op: opMove, Err: errors.New("the machine does not stay on the destination: it has stopped there")}
	}
	return nil
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
	there, err := m.to.onHost(ctx, m.ref)
	switch {
	case err == nil && m.started && there != nil && m.to.is(there, m.ref.UID) && there.running():
		return nil // it came to run there all the same
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
	here, err := m.from.onHost(ctx, m.ref)
	if err != nil {
		return err
	}
	if here == nil {
		return errors.New("the instance is not on the source any more")
	}
	m.here = here
	if err := m.backFromAside(ctx); err != nil {
		return err
	}
	if m.stopped {
		ref := hypervisor.Ref{UID: m.ref.UID, UUID: m.ref.UUID, Name: m.here.Name}
		if _, err := m.from.bringPower(ctx, ref, rackv1.PowerAction_POWER_ACTION_START, 0); err != nil {
			return err
		}
	}
	return m.note(ctx, "")
}

// vacate removes the machine from the source, which was seen not to run there,
// while the destination has it. Volumes that are not named after it stay, as they
// do when it is deleted.
func (m *move) vacate(ctx context.Context) error {
	here, there, err := m.look(ctx)
	if err != nil {
		return err
	}
	if there == nil || !m.to.is(there, m.ref.UID) {
		return &hypervisor.Error{Class: hypervisor.ErrBusy, Op: opMove, Err: errors.New("the machine is not on the destination any more")}
	}
	if here != nil && here.running() {
		return &hypervisor.Error{
			Class: hypervisor.ErrBusy, Op: opMove, Err: fmt.Errorf("instance %q was started on the source meanwhile", here.Name),
			Hint: "turn it off there if the one on the destination is the right one",
		}
	}
	return m.from.removeHalf(ctx, m.ref, m.what.GetMachine())
}

// takeBack removes what there is of the machine on the destination, where it does
// not run: first LXD ends what it was told to do there.
func (m *move) takeBack(ctx context.Context) error {
	if err := m.settle(ctx); err != nil {
		return err
	}
	there, err := m.to.onHost(ctx, m.ref)
	if err != nil {
		return err
	}
	switch {
	case there == nil:
	case !m.to.is(there, m.ref.UID):
		return notOurs(opMove, there)
	case there.running():
		return &hypervisor.Error{Class: hypervisor.ErrBusy, Op: opMove, Err: errors.New("the machine runs on the destination")}
	}
	return m.to.removeHalf(ctx, m.ref, m.what.GetMoved())
}

// removeHalf removes a machine from this host alone, with the volumes in its disks
// that are named after it.
func (d *Driver) removeHalf(ctx context.Context, ref hypervisor.Ref, machine *vmhostv1.Machine) error {
	err := d.removeFound(ctx, func(ctx context.Context) (*instance, error) {
		i, err := d.onHost(ctx, ref)
		if err == nil && i != nil && !d.is(i, ref.UID) {
			return nil, notOurs(opMove, i)
		}
		return i, err
	})
	if err != nil {
		return err
	}
	return d.removeVolumes(ctx, machine)
}

// definite classes what LXD refused in words that we do not know: trying again
// would stop the machine and copy its disks in vain.
func definite(err error) error {
	if e, ok := errors.AsType[*hypervisor.Error](err); ok && e.Class == nil {
		return &hypervisor.Error{Class: hypervisor.ErrRefused, Op: e.Op, Err: e.Err, Hint: e.Hint, AtDestination: e.AtDestination}
	}
	return err
}

// atDestination says of a failure that another destination may do.
func atDestination(err error) error {
	e, ok := errors.AsType[*hypervisor.Error](err)
	if !ok || unknown(err) {
		return err
	}
	out := *e
	out.AtDestination = true
	return &out
}

func notOurs(op string, i *instance) error {
	return &hypervisor.Error{
		Class: hypervisor.ErrForeign, Op: op, Err: fmt.Errorf("instance %q does not carry this machine's uid", i.Name),
		Hint: "it was made or changed outside of vmhost, which leaves it alone",
	}
}

// ownVolume says whether a volume can only be this machine's.
func ownVolume(uid, name string) bool { return strings.HasPrefix(name, volumePrefix(uid)) }
