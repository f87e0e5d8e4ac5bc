package hypervisortest

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const (
	on     = vmhostv1.PowerState_POWER_STATE_ON
	off    = vmhostv1.PowerState_POWER_STATE_OFF
	paused = vmhostv1.PowerState_POWER_STATE_PAUSED

	start    = rackv1.PowerAction_POWER_ACTION_START
	stop     = rackv1.PowerAction_POWER_ACTION_STOP
	reset    = rackv1.PowerAction_POWER_ACTION_RESET
	cycle    = rackv1.PowerAction_POWER_ACTION_CYCLE
	pause    = rackv1.PowerAction_POWER_ACTION_PAUSE
	resume   = rackv1.PowerAction_POWER_ACTION_RESUME
	stopSoft = rackv1.PowerAction_POWER_ACTION_STOP_SOFT
)

func (s *suite) power(t *testing.T) {
	s.needs(t, !s.h.NoPower, "power")
	d := s.open(t)
	c := s.machine(t, 1)
	s.mustCreate(t, d, c)
	for i, step := range []struct {
		action rackv1.PowerAction
		want   vmhostv1.PowerState
	}{{stop, off}, {start, on}, {start, on}, {reset, on}, {stop, off}, {stop, off}} {
		got, err := d.SetPower(s.ctx(t), hypervisor.Ref{UID: c.GetMachine().GetUid()}, step.action, time.Second)
		if err != nil {
			t.Fatalf("step %d, %v: %v", i, step.action, err)
		}
		if got.GetPowerState() != step.want || got.GetUid() != c.GetMachine().GetUid() {
			t.Fatalf("step %d, %v: answered %v of %q, want %v", i, step.action, got.GetPowerState(), got.GetUid(), step.want)
		}
		if read, err := d.Machine(s.ctx(t), got.GetUuid()); err != nil || read.GetPowerState() != step.want {
			t.Fatalf("step %d, %v: the machine is %v, error %v", i, step.action, read.GetPowerState(), err)
		}
	}
	if _, err := d.SetPower(s.ctx(t), hypervisor.Ref{UID: c.GetMachine().GetUid()}, rackv1.PowerAction_POWER_ACTION_UNSPECIFIED, 0); err == nil {
		t.Error("an action that was not said is done")
	}
}

func (s *suite) powerForeign(t *testing.T) {
	d := s.open(t)
	f := s.foreignMachine(t)
	s.h.AddForeign(t, f)
	before := s.h.ForeignState(t, f.UUID)
	for _, action := range []rackv1.PowerAction{start, stop, reset, cycle, pause, resume, stopSoft} {
		_, err := d.SetPower(s.ctx(t), hypervisor.Ref{UID: f.UUID}, action, time.Second)
		classed(t, err, hypervisor.ErrForeign)
	}
	if diff := cmp.Diff(before, s.h.ForeignState(t, f.UUID)); diff != "" {
		t.Errorf("the foreign machine changed (-before +after):\n%s", diff)
	}
}

func (s *suite) cycle(t *testing.T) {
	s.needs(t, !s.h.NoPower, "power")
	d := s.open(t)
	c := s.machine(t, 1)
	s.mustCreate(t, d, c)
	for _, from := range []string{"off", "on"} {
		if got := s.mustPower(t, d, c.GetMachine().GetUid(), cycle); got.GetPowerState() != on {
			t.Errorf("cycle of a machine that was %s left it %v", from, got.GetPowerState())
		}
	}
}

func (s *suite) pause(t *testing.T) {
	s.needs(t, !s.h.NoPower, "power")
	d := s.open(t)
	c := s.machine(t, 1)
	s.mustCreate(t, d, c)
	uid := c.GetMachine().GetUid()
	for _, action := range []rackv1.PowerAction{pause, resume} {
		_, err := d.SetPower(s.ctx(t), hypervisor.Ref{UID: uid}, action, 0)
		if errors.Is(err, hypervisor.ErrUnsupported) {
			t.Skip("this driver cannot pause machines")
		}
		classed(t, err, hypervisor.ErrRefused)
	}
	s.mustPower(t, d, uid, start)
	for i, step := range []struct {
		action rackv1.PowerAction
		want   vmhostv1.PowerState
	}{{resume, on}, {pause, paused}, {pause, paused}, {resume, on}, {pause, paused}, {start, on}, {pause, paused}, {stop, off}} {
		if got := s.mustPower(t, d, uid, step.action); got.GetPowerState() != step.want {
			t.Fatalf("step %d, %v: the machine is %v, want %v", i, step.action, got.GetPowerState(), step.want)
		}
	}
}

func (s *suite) softStopDeaf(t *testing.T) {
	s.needs(t, s.h.Deaf != nil && !s.h.NoPower, "guest that does not stop when it is asked")
	d := s.open(t)
	c := s.machine(t, 1)
	s.h.Deaf(t, c)
	s.mustCreate(t, d, c)
	uid := c.GetMachine().GetUid()
	s.mustPower(t, d, uid, start)
	began := time.Now()
	_, err := d.SetPower(s.ctx(t), hypervisor.Ref{UID: uid}, stopSoft, time.Second)
	classed(t, err, hypervisor.ErrTimeout)
	if took := time.Since(began); took < time.Second {
		t.Errorf("the guest was given %v, not a second", took)
	}
	if m, err := d.Machine(s.ctx(t), uid); err != nil || m.GetPowerState() != on {
		t.Errorf("the machine is %v, error %v; want on", m.GetPowerState(), err)
	}
	if got := s.mustPower(t, d, uid, stop); got.GetPowerState() != off {
		t.Errorf("a stop left it %v", got.GetPowerState())
	}
}
