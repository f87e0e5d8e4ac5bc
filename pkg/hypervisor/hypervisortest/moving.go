package hypervisortest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Moving is a driver under test with two hypervisors of its kind.
type Moving struct {
	// From and To are the hypervisors; the openers may be one.
	From, To Harness
	// Live says that running machines can be moved live between them.
	Live bool
	// OneMachine says that both are members of one cluster, which has a machine at
	// most once: what is on both cannot be.
	OneMachine bool
	// Mark writes something to the disks of a machine that is off, and Marked says
	// whether it is there. They are given the machine as it is on From or To.
	Mark   func(t testing.TB, m *vmhostv1.Machine)
	Marked func(t testing.TB, m *vmhostv1.Machine) bool
	// Quick leaves out what needs running machines, for a second way to the same
	// hypervisors.
	Quick bool
}

// RunMoves tests the rules of hypervisor.Mover.
func RunMoves(t *testing.T, m Moving) {
	m.From, m.To = m.From.withDefaults(), m.To.withDefaults()
	s := &moving{Moving: m, from: &suite{h: m.From}, to: &suite{h: m.To}}
	for _, test := range []struct {
		name  string
		run   func(t *testing.T)
		quick bool
	}{
		{"P4 a machine that is off is moved whole, and moved again is done", s.off, true},
		{"a running machine is stopped, moved and started, but only with leave", s.offline, false},
		{"a running machine is moved live and its guest goes on", s.live, false},
		{"a failure leaves the machine as it was and nothing on the destination", s.failed, true},
		{"P5 what is not ours on the destination stops the move", s.foreign, true},
		{"P3 the rest of a broken move is undone first", s.resumed, true},
		{"P3 what runs on the destination is the machine, and the source is removed", s.finished, false},
		{"P3 what runs on both is left alone", s.both, false},
		{"a machine that is on neither is not found", s.missing, true},
		{"a move to a hypervisor that hangs ends with its context and goes on", s.hangs, true},
	} {
		if test.quick || !m.Quick {
			t.Run(test.name, test.run)
		}
	}
}

type moving struct {
	Moving

	from, to *suite
}

// open opens both, and the source as a mover.
func (s *moving) open(t *testing.T) (from hypervisor.Driver, mover hypervisor.Mover, to hypervisor.Driver) {
	t.Helper()
	from, to = s.from.open(t), s.to.open(t)
	mover, ok := from.(hypervisor.Mover)
	if !ok {
		t.Fatal("the driver moves no machines")
	}
	return from, mover, to
}

// machine makes a machine on the source, and what moves it. Wherever it ends up, it
// is removed at the end.
func (s *moving) machine(t *testing.T, from hypervisor.Driver, disks int) *rackv1.MoveMachine {
	t.Helper()
	c := s.from.machine(t, disks)
	c.Autostart = true
	move := s.moveOf(t, c.GetMachine())
	if s.Guest() != nil && s.Guest().Prepare != nil {
		s.Guest().Prepare(t, c)
		move.Moved.Interfaces[0].Source = s.To.Network
		to := &rackv1.CreateMachine{Machine: move.GetMoved()}
		s.Guest().Prepare(t, to)
		move.Moved = to.GetMachine()
		move.Machine = proto.CloneOf(c.GetMachine())
	}
	s.from.mustCreate(t, from, c)
	if s.Mark != nil {
		s.Mark(t, c.GetMachine())
	}
	return move
}

// Guest is that of the source.
func (s *moving) Guest() *Guest { return s.From.Guest }

func (s *moving) moveOf(t *testing.T, m *vmhostv1.Machine) *rackv1.MoveMachine {
	t.Helper()
	moved := proto.CloneOf(m)
	moved.VmHost = s.To.Target.Name
	for _, k := range moved.GetDisks() {
		k.StoragePool = s.To.StoragePool
	}
	for _, i := range moved.GetInterfaces() {
		i.Source = s.To.Network
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), s.To.Patience)
		defer cancel()
		d, err := s.To.Opener.Open(ctx, s.To.Target)
		if err != nil {
			t.Errorf("open the destination to clean up: %v", err)
			return
		}
		defer func() { _ = d.Close() }()
		if err := d.Delete(ctx, moved); err != nil && !errors.Is(err, hypervisor.ErrForeign) {
			t.Errorf("clean up machine %s on the destination: %v", moved.GetUid(), err)
		}
	})
	return &rackv1.MoveMachine{Machine: proto.CloneOf(m), Moved: moved, Autostart: true}
}

func (s *moving) move(t *testing.T, mover hypervisor.Mover, to hypervisor.Driver, move *rackv1.MoveMachine) (*rackv1.MachineObservation, error) {
	t.Helper()
	done, err := s.how(t, mover, to, move)
	return done.Machine, err
}

// how is move with how it was done.
func (s *moving) how(t *testing.T, mover hypervisor.Mover, to hypervisor.Driver, move *rackv1.MoveMachine) (hypervisor.Moved, error) {
	t.Helper()
	done, err := mover.Move(s.from.ctx(t), to, move, "operations/move")
	if err != nil {
		return hypervisor.Moved{}, err
	}
	return *done, nil
}

// moved fails the test unless the machine is on the destination as it was on the
// source, and nothing of it on the source.
func (s *moving) moved(t *testing.T, from, to hypervisor.Driver, was *rackv1.MachineObservation, move *rackv1.MoveMachine, got *rackv1.MachineObservation, state vmhostv1.PowerState) {
	t.Helper()
	want := proto.CloneOf(was)
	want.PowerState = state
	for i, k := range want.GetDisks() {
		k.StoragePool, k.Volume = move.GetMoved().GetDisks()[i].GetStoragePool(), move.GetMoved().GetDisks()[i].GetVolume()
	}
	for i, n := range want.GetInterfaces() {
		n.Source = move.GetMoved().GetInterfaces()[i].GetSource()
	}
	theirs := []cmp.Option{
		protocmp.Transform(),
		// Where it is on its host, and what it got there.
		protocmp.IgnoreFields(&vmhostv1.MachineDisk{}, "path"),
		protocmp.IgnoreFields(&vmhostv1.MachineInterface{}, "addresses", "fixed_address"),
		protocmp.IgnoreFields(&rackv1.MachineObservation{}, "console_log_path"),
	}
	if diff := cmp.Diff(want, got, theirs...); diff != "" {
		t.Errorf("the machine arrived as another (-source +destination):\n%s", diff)
	}
	read, err := to.Machine(s.to.ctx(t), was.GetUuid())
	if err != nil {
		t.Fatalf("read the machine on the destination: %v", err)
	}
	if diff := cmp.Diff(want, read, theirs...); diff != "" {
		t.Errorf("the machine is there as another (-source +destination):\n%s", diff)
	}
	if s.Marked != nil && !s.Marked(t, move.GetMoved()) {
		t.Error("what was on its disks is not there")
	}
	s.from.gone(t, from, move.GetMachine())
}

// unchanged fails the test unless the machine is on the source as it was, and
// nothing of it on the destination.
func (s *moving) unchanged(t *testing.T, from, to hypervisor.Driver, was *rackv1.MachineObservation, move *rackv1.MoveMachine) {
	t.Helper()
	got, err := from.Machine(s.from.ctx(t), was.GetUuid())
	if err != nil {
		t.Fatalf("read the machine on the source: %v", err)
	}
	addresses := protocmp.IgnoreFields(&vmhostv1.MachineInterface{}, "addresses")
	if diff := cmp.Diff(was, got, protocmp.Transform(), addresses); diff != "" {
		t.Errorf("the machine is not as it was (-before +after):\n%s", diff)
	}
	if !s.OneMachine {
		s.to.gone(t, to, move.GetMoved())
	}
}

func (s *moving) read(t *testing.T, d hypervisor.Driver, m *rackv1.MoveMachine) *rackv1.MachineObservation {
	t.Helper()
	out, err := d.Machine(s.from.ctx(t), hypervisor.RefOf(m.GetMachine()).Domain())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (s *moving) off(t *testing.T) {
	from, mover, to := s.open(t)
	move := s.machine(t, from, 2)
	was := s.read(t, from, move)
	if !was.GetAutostart() {
		t.Error("the machine does not start with its host, so that this proves less")
	}
	for i := range 2 { // moved already is done
		got, err := s.how(t, mover, to, move)
		if err != nil {
			t.Fatalf("move: %v", err)
		}
		want := [...]rackv1.MoveHow{rackv1.MoveHow_MOVE_HOW_OFFLINE, rackv1.MoveHow_MOVE_HOW_UNSPECIFIED}[i]
		if got.How != want || got.NotLive != "" {
			t.Errorf("it was moved %v (%q), want %v", got.How, got.NotLive, want)
		}
		s.moved(t, from, to, was, move, got.Machine, off)
	}
}

func (s *moving) offline(t *testing.T) {
	s.from.needs(t, !s.From.NoPower, "power")
	from, mover, to := s.open(t)
	move := s.machine(t, from, 1)
	s.from.mustPower(t, from, move.GetMachine().GetUid(), start)
	was := s.read(t, from, move)
	_, err := s.move(t, mover, to, move)
	classed(t, err, hypervisor.ErrRefused)
	s.unchanged(t, from, to, was, move)
	move.AllowOffline = true
	got, err := s.how(t, mover, to, move)
	if err != nil {
		t.Fatalf("move: %v", err)
	}
	if got.How != rackv1.MoveHow_MOVE_HOW_OFFLINE || got.NotLive != "" { // live was not asked for
		t.Errorf("it was moved %v (%q)", got.How, got.NotLive)
	}
	s.moved(t, from, to, was, move, got.Machine, on)
}

func (s *moving) live(t *testing.T) {
	s.from.needs(t, s.Live && s.Guest() != nil, "way to move a running machine")
	from, mover, to := s.open(t)
	move := s.machine(t, from, 1)
	move.Live = true
	uid := move.GetMachine().GetUid()
	s.from.mustPower(t, from, uid, start)
	con, ok := from.(hypervisor.Consoler)
	s.from.needs(t, ok, "driver with consoles")
	w := s.from.watch(t, con, uid, false)
	w.await(t, s.Guest().Answer, s.Guest().Type)
	w.close()
	was := s.read(t, from, move)
	got, err := s.how(t, mover, to, move)
	if err != nil {
		t.Fatalf("move: %v", err)
	}
	if got.How != rackv1.MoveHow_MOVE_HOW_LIVE || got.NotLive != "" {
		t.Errorf("it was moved %v (%q)", got.How, got.NotLive)
	}
	s.moved(t, from, to, was, move, got.Machine, on)
	w = s.to.watch(t, to.(hypervisor.Consoler), uid, false)
	w.await(t, s.Guest().Answer, s.Guest().Type)
	w.close()
}

func (s *moving) failed(t *testing.T) {
	from, mover, to := s.open(t)
	move := s.machine(t, from, 2)
	move.AllowOffline, move.Live = true, s.Live
	if !s.From.NoPower && !s.Quick {
		s.from.mustPower(t, from, move.GetMachine().GetUid(), start)
	}
	was := s.read(t, from, move)
	for name, spoil := range map[string]func(*vmhostv1.Machine){
		"a storage pool": func(m *vmhostv1.Machine) { m.Disks[1].StoragePool = "not-there" },
		"a network":      func(m *vmhostv1.Machine) { m.Interfaces[0].Source = "not-there" },
	} {
		bad := proto.CloneOf(move)
		spoil(bad.GetMoved())
		_, err := s.move(t, mover, to, bad)
		if err == nil {
			t.Fatalf("moved to where there is not %s that it needs", name)
		}
		s.unchanged(t, from, to, was, move)
	}
}

func (s *moving) foreign(t *testing.T) {
	s.from.needs(t, !s.OneMachine && s.To.AddForeign != nil, "way to have another machine there")
	from, mover, to := s.open(t)
	move := s.machine(t, from, 1)
	was := s.read(t, from, move)
	for what, f := range map[string]Foreign{
		"uuid": {UUID: was.GetUuid(), Name: "foreign-" + was.GetUuid()[:8]},
		"name": {UUID: uuid.NewString(), Name: was.GetName()},
	} {
		t.Run(what, func(t *testing.T) {
			f.Cores, f.MemoryMiB = 1, s.To.MemoryMiB
			s.To.AddForeign(t, f)
			before := s.To.ForeignState(t, f.UUID)
			_, err := s.move(t, mover, to, move)
			classed(t, err, hypervisor.ErrForeign)
			if diff := cmp.Diff(before, s.To.ForeignState(t, f.UUID)); diff != "" {
				t.Errorf("the foreign machine changed (-before +after):\n%s", diff)
			}
			if got := s.read(t, from, move); !proto.Equal(was, got) {
				t.Errorf("the machine is not as it was: %v", got)
			}
			if left := s.To.Volumes(t, s.To.StoragePool); slices.Contains(left, move.GetMoved().GetDisks()[0].GetVolume()) {
				t.Error("a volume was left on the destination")
			}
		})
	}
}

// half is what a broken move may have left on the destination.
func (s *moving) half(t *testing.T, to hypervisor.Driver, move *rackv1.MoveMachine) {
	t.Helper()
	s.to.mustCreate(t, to, &rackv1.CreateMachine{Machine: move.GetMoved()})
}

func (s *moving) resumed(t *testing.T) {
	s.from.needs(t, !s.OneMachine, "way to have the machine twice")
	from, mover, to := s.open(t)
	move := s.machine(t, from, 1)
	was := s.read(t, from, move)
	s.half(t, to, move)
	got, err := s.move(t, mover, to, move)
	if err != nil {
		t.Fatalf("move: %v", err)
	}
	s.moved(t, from, to, was, move, got, off)
}

func (s *moving) finished(t *testing.T) {
	s.from.needs(t, !s.OneMachine && !s.To.NoPower, "way to have the machine twice, and power")
	from, mover, to := s.open(t)
	move := s.machine(t, from, 1)
	s.half(t, to, move)
	s.to.mustPower(t, to, move.GetMachine().GetUid(), start)
	got, err := s.move(t, mover, to, move)
	if err != nil || got.GetPowerState() != on || got.GetUid() != move.GetMachine().GetUid() {
		t.Fatalf("move: %v, error %v", got, err)
	}
	s.from.gone(t, from, move.GetMachine())
}

func (s *moving) both(t *testing.T) {
	s.from.needs(t, !s.OneMachine && !s.To.NoPower, "way to have the machine twice, and power")
	from, mover, to := s.open(t)
	move := s.machine(t, from, 1)
	move.Live, move.AllowOffline = true, true
	s.half(t, to, move)
	s.to.mustPower(t, to, move.GetMachine().GetUid(), start)
	s.from.mustPower(t, from, move.GetMachine().GetUid(), start)
	_, err := s.move(t, mover, to, move)
	classed(t, err, hypervisor.ErrRefused)
	for where, d := range map[string]hypervisor.Driver{"source": from, "destination": to} {
		if got := s.read(t, d, move); got.GetPowerState() != on {
			t.Errorf("on the %s it is %v", where, got.GetPowerState())
		}
	}
}

func (s *moving) missing(t *testing.T) {
	_, mover, to := s.open(t)
	c := s.from.machine(t, 1)
	_, err := s.move(t, mover, to, s.moveOf(t, c.GetMachine()))
	classed(t, err, hypervisor.ErrNotFound)
}

func (s *moving) hangs(t *testing.T) {
	s.from.needs(t, s.To.Hang != nil && !s.OneMachine, "way to make the destination hang")
	from, mover, to := s.open(t)
	move := s.machine(t, from, 1)
	was := s.read(t, from, move)
	release := s.To.Hang(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	_, err := mover.Move(ctx, to, move, "operations/move")
	release()
	classed(t, err, hypervisor.ErrTimeout, hypervisor.ErrUnreachable)
	if took := time.Since(began); took > s.To.Patience/2 {
		t.Errorf("the move took %v with a context of a second", took)
	}
	if got := s.read(t, from, move); !proto.Equal(was, got) {
		t.Errorf("the machine is not as it was: %v", got)
	}
	got, err := s.move(t, mover, s.to.open(t), move)
	if err != nil {
		t.Fatalf("move again: %v", err)
	}
	s.moved(t, from, s.to.open(t), was, move, got, off)
}
