package libvirt

import (
	"context"
	"errors"
	"fmt"
	"time"

	lv "github.com/digitalocean/go-libvirt"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

const (
	opPower = "change power"
	// askAgain is how often a guest is asked to stop: one that is still in its
	// firmware does not hear the first time.
	askAgain = 5 * time.Second
	// lookAgain is how often a stopping guest is looked at where no event comes.
	lookAgain = time.Second
)

// off says that a domain has no process.
func off(state lv.DomainState) bool { return state == lv.DomainShutoff || state == lv.DomainNostate }

// SetPower changes whether a machine of ours runs.
func (d *Driver) SetPower(ctx context.Context, ref hypervisor.Ref, action rackv1.PowerAction, grace time.Duration) (*rackv1.MachineObservation, error) {
	id, err := parseUUID(ref.Domain())
	if err != nil {
		return nil, err
	}
	one, err := d.own(ctx, id, ref.UID, opPower)
	if err != nil {
		return nil, err
	}
	if one == nil {
		return nil, &hypervisor.Error{Class: hypervisor.ErrNotFound, Op: opPower, Err: fmt.Errorf("the host has no domain %s", ref.Domain())}
	}
	switch action {
	case rackv1.PowerAction_POWER_ACTION_START:
		err = d.start(ctx, one.dom, one.state)
	case rackv1.PowerAction_POWER_ACTION_STOP:
		err = d.shutDown(ctx, one.dom, grace, false)
	case rackv1.PowerAction_POWER_ACTION_STOP_SOFT:
		err = d.shutDown(ctx, one.dom, grace, true)
	case rackv1.PowerAction_POWER_ACTION_CYCLE:
		if err = d.shutDown(ctx, one.dom, grace, false); err == nil {
			err = d.start(ctx, one.dom, lv.DomainShutoff)
		}
	case rackv1.PowerAction_POWER_ACTION_PAUSE:
		err = d.pause(ctx, one.dom, one.state)
	case rackv1.PowerAction_POWER_ACTION_RESUME:
		err = d.resume(ctx, one.dom, one.state)
	case rackv1.PowerAction_POWER_ACTION_RESET:
		err = d.reset(ctx, one.dom, one.state)
	default:
		err = &hypervisor.Error{Class: hypervisor.ErrRefused, Op: opPower, Err: errors.New("no action is said")}
	}
	// What was read before is not good any more; an event says so too, but later.
	d.library.changed(id)
	if err != nil {
		return nil, err
	}
	return d.Machine(ctx, ref.Domain())
}

func (d *Driver) state(ctx context.Context, dom lv.Domain) (lv.DomainState, error) {
	state, err := call(ctx, d.conn, "read state of domain "+dom.Name, fast, func(a api) (int32, error) {
		state, _, err := a.DomainGetState(dom, 0)
		return state, err
	})
	if err != nil && number(err) != lv.ErrOk {
		// A transient domain goes with its process.
		if there, ferr := d.find(ctx, dom.UUID); ferr == nil && there == nil {
			return lv.DomainShutoff, nil
		}
	}
	return lv.DomainState(state), err
}

func (d *Driver) start(ctx context.Context, dom lv.Domain, state lv.DomainState) error {
	var err error
	switch state {
	case lv.DomainRunning, lv.DomainBlocked:
		return nil
	case lv.DomainPaused:
		err = do(ctx, d.conn, "resume domain "+dom.Name, slow, func(a api) error { return a.DomainResume(dom) })
	case lv.DomainPmsuspended:
		err = do(ctx, d.conn, "wake domain "+dom.Name, slow, func(a api) error { return a.DomainPmWakeup(dom, 0) })
	case lv.DomainCrashed:
		// Its process is kept for whoever wants to look; starting it ends that.
		if err = d.destroy(ctx, dom); err != nil {
			return err
		}
		fallthrough
	default:
		err = do(ctx, d.conn, "start domain "+dom.Name, slow, func(a api) error {
			_, err := a.DomainCreateWithFlags(dom, 0)
			return err
		})
	}
	if err == nil || number(err) == lv.ErrOk {
		return err
	}
	// Somebody else may have been first.
	if now, serr := d.state(ctx, dom); serr == nil && (now == lv.DomainRunning || now == lv.DomainBlocked) {
		return nil
	}
	return err
}

func (d *Driver) reset(ctx context.Context, dom lv.Domain, state lv.DomainState) error {
	if off(state) {
		return &hypervisor.Error{Class: hypervisor.ErrRefused, Op: "reset domain " + dom.Name, Err: errors.New("the machine is off"), Hint: "start it"}
	}
	return do(ctx, d.conn, "reset domain "+dom.Name, slow, func(a api) error { return a.DomainReset(dom, 0) })
}

// pause keeps a domain in memory without running it.
func (d *Driver) pause(ctx context.Context, dom lv.Domain, state lv.DomainState) error {
	op := "pause domain " + dom.Name
	switch state {
	case lv.DomainPaused:
		return nil
	case lv.DomainRunning, lv.DomainBlocked:
		return do(ctx, d.conn, op, slow, func(a api) error { return a.DomainSuspend(dom) })
	default:
		return &hypervisor.Error{Class: hypervisor.ErrRefused, Op: op, Err: errors.New("the machine is not running"), Hint: "start it"}
	}
}

// resume lets a domain in memory run again. It never starts one.
func (d *Driver) resume(ctx context.Context, dom lv.Domain, state lv.DomainState) error {
	switch state {
	case lv.DomainRunning, lv.DomainBlocked, lv.DomainPaused, lv.DomainPmsuspended:
		return d.start(ctx, dom, state)
	default:
		return &hypervisor.Error{Class: hypervisor.ErrRefused, Op: "resume domain " + dom.Name, Err: errors.New("the machine is not in memory"), Hint: "start it"}
	}
}

// shutDown asks the guest to stop. When it has not by the end of grace it is
// turned off; a soft one is left as it is.
func (d *Driver) shutDown(ctx context.Context, dom lv.Domain, grace time.Duration, soft bool) error {
	deaf := func(why string) error {
		return &hypervisor.Error{
			Class: hypervisor.ErrTimeout, Op: "ask domain " + dom.Name + " to stop", Err: errors.New(why), Hint: "a stop that is not soft turns it off",
		}
	}
	changes := d.listeners.Add()
	defer d.listeners.Remove(changes)
	end := time.NewTimer(grace)
	defer end.Stop()
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	var asked time.Time
	for {
		state, err := d.state(ctx, dom)
		if err != nil {
			return err
		}
		switch state {
		case lv.DomainShutoff, lv.DomainNostate:
			return nil
		case lv.DomainRunning, lv.DomainBlocked:
			if grace <= 0 && !soft {
				return d.destroy(ctx, dom)
			}
			if time.Since(asked) >= askAgain {
				asked = time.Now()
				if err := d.ask(ctx, dom); err != nil {
					return err
				}
			}
		case lv.DomainShutdown:
		default:
			// Paused, asleep or crashed: nobody is there to be asked.
			if soft {
				return deaf("the guest does not run, so it cannot be asked")
			}
			return d.destroy(ctx, dom)
		}
		select {
		case <-ctx.Done():
			return &hypervisor.Error{Class: hypervisor.ErrTimeout, Op: "wait for domain " + dom.Name + " to stop", Err: ctx.Err()}
		case <-d.conn.dead:
			return d.conn.gone("wait for domain " + dom.Name + " to stop")
		case <-end.C:
			if soft {
				return deaf(fmt.Sprintf("the guest has not stopped in %v", grace))
			}
			return d.destroy(ctx, dom)
		case <-changes.Wake():
			changes.Take()
		case <-look.C:
		}
	}
}

// ask presses the power button. That a guest cannot be asked is no failure: it is
// turned off in the end.
func (d *Driver) ask(ctx context.Context, dom lv.Domain) error {
	err := do(ctx, d.conn, "ask domain "+dom.Name+" to stop", slow, func(a api) error {
		return a.DomainShutdownFlags(dom, lv.DomainShutdownAcpiPowerBtn)
	})
	if err != nil && number(err) == lv.ErrOk {
		return err
	}
	if err != nil {
		d.log.DebugContext(ctx, "guest cannot be asked to stop", "domain", dom.Name, "error", err)
	}
	return nil
}
