package hypervisortest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

// prompt is how long a call may go on after its context has ended.
const prompt = 5 * time.Second

func (s *suite) awaitEvent(t *testing.T, events <-chan hypervisor.Event, uuid, of string) {
	t.Helper()
	timeout := time.After(s.h.Patience)
	for {
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatalf("events ended before one of %s", of)
			}
			if e.UUID == uuid {
				return
			}
		case <-timeout:
			t.Fatalf("no event of %s", of)
		}
	}
}

func (s *suite) events(t *testing.T) {
	d := s.open(t)
	events, err := d.Events(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := s.machine(t, 1)
	uid := c.GetMachine().GetUid()
	s.mustCreate(t, d, c)
	s.awaitEvent(t, events, uid, "a create")
	if !s.h.NoPower {
		if _, err := d.SetPower(s.ctx(t), hypervisor.Ref{UID: uid}, rackv1.PowerAction_POWER_ACTION_START, 0); err != nil {
			t.Fatal(err)
		}
		s.awaitEvent(t, events, uid, "a start")
	}
	if err := d.Delete(s.ctx(t), c.GetMachine()); err != nil {
		t.Fatal(err)
	}
	s.awaitEvent(t, events, uid, "a delete")
	if s.h.ChangeOutside != nil {
		f := s.foreignMachine(t)
		s.h.AddForeign(t, f)
		s.awaitEvent(t, events, f.UUID, "a foreign machine that was added")
		s.h.ChangeOutside(t, f.UUID)
		s.awaitEvent(t, events, f.UUID, "a change from outside")
	}
}

func (s *suite) eventsEnd(t *testing.T) {
	ended := func(events <-chan hypervisor.Event, by string) {
		t.Helper()
		timeout := time.After(s.h.Patience)
		for {
			select {
			case _, ok := <-events:
				if !ok {
					return
				}
			case <-timeout:
				t.Fatalf("events go on after %s", by)
			}
		}
	}
	d := s.open(t)
	ctx, cancel := context.WithCancel(t.Context())
	events, err := d.Events(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	ended(events, "the end of their context")
	if events, err = d.Events(t.Context()); err != nil {
		t.Fatalf("subscribe again: %v", err)
	}
	if s.h.Disconnect != nil {
		s.h.Disconnect(t)
		ended(events, "the loss of the connection")
	} else {
		_ = d.Close()
		ended(events, "close")
	}
}

func (s *suite) reconnect(t *testing.T) {
	s.needs(t, s.h.Disconnect != nil, "way to lose a connection")
	d := s.open(t)
	c := s.machine(t, 1)
	s.mustCreate(t, d, c)
	s.h.Disconnect(t)
	_, err := d.Machines(s.ctx(t))
	classed(t, err, hypervisor.ErrUnreachable)
	if m, err := s.open(t).Machine(s.ctx(t), c.GetMachine().GetUid()); err != nil || m.GetUid() != c.GetMachine().GetUid() {
		t.Errorf("after reconnect: %v, error %v", m, err)
	}
}

func (s *suite) closed(t *testing.T) {
	d := s.open(t)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := d.Machines(s.ctx(t))
	classed(t, err, hypervisor.ErrUnreachable)
	if err := d.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
}

// each calls every method with a context that each makes.
func (s *suite) each(t *testing.T, d hypervisor.Driver, c *rackv1.CreateMachine, call func(name string, f func(ctx context.Context) error)) {
	t.Helper()
	call("open", func(ctx context.Context) error {
		d, err := s.h.Opener.Open(ctx, s.h.Target)
		if err == nil {
			_ = d.Close()
		}
		return err
	})
	call("probe", func(ctx context.Context) error { _, err := d.Probe(ctx); return err })
	call("machines", func(ctx context.Context) error { _, err := d.Machines(ctx); return err })
	call("machine", func(ctx context.Context) error { _, err := d.Machine(ctx, c.GetMachine().GetUid()); return err })
	call("create", func(ctx context.Context) error { _, err := d.Create(ctx, c); return err })
	call("set power", func(ctx context.Context) error {
		_, err := d.SetPower(ctx, hypervisor.Ref{UID: c.GetMachine().GetUid()}, rackv1.PowerAction_POWER_ACTION_STOP, time.Minute)
		return err
	})
	call("delete", func(ctx context.Context) error { return d.Delete(ctx, c.GetMachine()) })
}

func (s *suite) cancelled(t *testing.T) {
	d := s.open(t)
	c := s.machine(t, 1)
	s.each(t, d, c, func(name string, f func(ctx context.Context) error) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		err := f(ctx)
		if err == nil {
			t.Errorf("%s works with a context that has ended", name)
		}
		if took := time.Since(began); took > prompt {
			t.Errorf("%s took %v after its context had ended", name, took)
		}
	})
}

func (s *suite) hangs(t *testing.T) {
	s.needs(t, s.h.Hang != nil, "way to make the hypervisor hang")
	d := s.open(t)
	c := s.machine(t, 1)
	s.mustCreate(t, d, c)
	release := s.h.Hang(t)
	defer release()
	s.each(t, d, c, func(name string, f func(ctx context.Context) error) {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		began := time.Now()
		err := f(ctx)
		classed(t, err, hypervisor.ErrTimeout, hypervisor.ErrUnreachable)
		if took := time.Since(began); took > prompt {
			t.Errorf("%s took %v with a context of 200ms", name, took)
		}
	})
	began := time.Now()
	if _ = d.Close(); time.Since(began) > prompt {
		t.Errorf("close waited %v for a hypervisor that hangs", time.Since(began))
	}
	release()
	if _, err := s.open(t).Machines(s.ctx(t)); err != nil {
		t.Fatalf("the hypervisor does not answer after it hung: %v", err)
	}
}

func (s *suite) hostKey(t *testing.T) {
	key, fingerprint, err := s.h.Opener.HostKey(s.ctx(t), s.h.Target.Address)
	if err != nil {
		t.Fatalf("read host key: %v", err)
	}
	if (key == "") != (fingerprint == "") {
		t.Errorf("key %q and fingerprint %q: want both or neither", key, fingerprint)
	}
	s.needs(t, s.h.WrongHostKey != nil, "host key")
	d, err := s.h.Opener.Open(s.ctx(t), *s.h.WrongHostKey)
	if err == nil {
		_ = d.Close()
	}
	classed(t, err, hypervisor.ErrHostKey)
	if e, ok := errors.AsType[*hypervisor.Error](err); !ok || e.PresentedHostKey == "" || e.PresentedHostKey == s.h.WrongHostKey.HostKey {
		t.Errorf("%v shows no presented key", err)
	}
}

func (s *suite) credential(t *testing.T) {
	s.needs(t, s.h.WrongCredential != nil, "credential")
	d, err := s.h.Opener.Open(s.ctx(t), *s.h.WrongCredential)
	if err == nil {
		_ = d.Close()
	}
	classed(t, err, hypervisor.ErrAuth)
}
