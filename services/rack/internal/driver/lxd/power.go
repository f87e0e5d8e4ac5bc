package lxd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	lxdapi "github.com/canonical/lxd/shared/api"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	"github.com/vmhost-project/vmhost/services/rack/internal/driver/undo"
)

const (
	opPower = "change power"
	// softGrace is how long a guest may take that is only asked, where the caller
	// does not say.
	softGrace = 30 * time.Second
	// hardTimeout is what LXD is given to end what is turned off.
	hardTimeout = 30 * time.Second
	// busyTries is how often a change is tried that LXD is busy for.
	busyTries = 5
)

// SetPower changes whether a machine of ours runs.
func (d *Driver) SetPower(ctx context.Context, ref hypervisor.Ref, action rackv1.PowerAction, grace time.Duration) (*rackv1.MachineObservation, error) {
	if err := checkUUID(ref.Domain()); err != nil {
		return nil, err
	}
	i, err := d.bringPower(ctx, ref, action, grace)
	if err != nil {
		return nil, err
	}
	d.index.put(i)
	d.addresses.changed(i.uuid)
	return d.Machine(ctx, ref.Domain())
}

// bringPower does it, and answers the instance that it was done to.
func (d *Driver) bringPower(ctx context.Context, ref hypervisor.Ref, action rackv1.PowerAction, grace time.Duration) (*instance, error) {
	i, err := d.mine(ctx, ref, opPower)
	if err != nil {
		return nil, err
	}
	// What LXD was last told to do comes first.
	for try := 0; ; try++ {
		err = d.power(ctx, i, action, grace)
		if !errors.Is(err, hypervisor.ErrBusy) || try == busyTries {
			break
		}
		if err := d.settle(ctx, opPower, i.Name); err != nil {
			return nil, err
		}
		if !pause(ctx, d.conn.dead, 200*time.Millisecond) {
			break
		}
		if i, err = d.mine(ctx, ref, opPower); err != nil {
			return nil, err
		}
	}
	return i, err
}

func (d *Driver) power(ctx context.Context, i *instance, action rackv1.PowerAction, grace time.Duration) error {
	switch action {
	case rackv1.PowerAction_POWER_ACTION_START:
		return d.startInstance(ctx, i)
	case rackv1.PowerAction_POWER_ACTION_STOP:
		return d.shutDown(ctx, i, grace)
	case rackv1.PowerAction_POWER_ACTION_STOP_SOFT:
		return d.ask(ctx, i, grace)
	case rackv1.PowerAction_POWER_ACTION_RESET:
		if err := refuseOff(i, "reset", "start it"); err != nil {
			return err
		}
		return d.put(ctx, i, "restart", hardTimeout, true)
	case rackv1.PowerAction_POWER_ACTION_CYCLE:
		if err := d.shutDown(ctx, i, grace); err != nil {
			return err
		}
		return d.put(ctx, i, "start", hardTimeout, false)
	case rackv1.PowerAction_POWER_ACTION_PAUSE:
		if i.StatusCode == lxdapi.Frozen {
			return nil
		}
		if err := refuseOff(i, "pause", "only a machine that runs can be paused"); err != nil {
			return err
		}
		return d.put(ctx, i, "freeze", hardTimeout, false)
	case rackv1.PowerAction_POWER_ACTION_RESUME:
		if i.StatusCode == lxdapi.Running {
			return nil
		}
		if err := refuseOff(i, "resume", "start it"); err != nil {
			return err
		}
		return d.put(ctx, i, "unfreeze", hardTimeout, false)
	default:
		return &hypervisor.Error{Class: hypervisor.ErrRefused, Op: opPower, Err: errors.New("no action is said")}
	}
}

func refuseOff(i *instance, verb, hint string) error {
	if i.StatusCode != lxdapi.Stopped {
		return nil
	}
	return &hypervisor.Error{Class: hypervisor.ErrRefused, Op: verb + " instance " + i.Name, Err: errors.New("the machine is off"), Hint: hint}
}

// put changes the state of an instance and waits for it. That it already is so is
// seen by looking, since LXD calls it a failure.
func (d *Driver) put(ctx context.Context, i *instance, action string, timeout time.Duration, force bool) error {
	op := action + " instance " + i.Name
	if action == "stop" || action == "restart" {
		d.endConsole(ctx, i.uuid)
	}
	err := d.change(ctx, op, http.MethodPut, d.instancePath(i.Name, "/state"), lxdapi.InstanceStatePut{
		Action: action, Timeout: int(math.Ceil(timeout.Seconds())), Force: force,
	}, "")
	if err == nil || unknown(err) || errors.Is(err, hypervisor.ErrBusy) || action == "restart" {
		return err
	}
	now, nerr := d.byName(ctx, i.place())
	if nerr != nil || now == nil || now.uuid != i.uuid {
		return err
	}
	if now.StatusCode == map[string]lxdapi.StatusCode{
		"start": lxdapi.Running, "stop": lxdapi.Stopped, "freeze": lxdapi.Frozen, "unfreeze": lxdapi.Running,
	}[action] {
		return nil
	}
	return err
}

func (d *Driver) startInstance(ctx context.Context, i *instance) error {
	if i.StatusCode == lxdapi.Running {
		return nil
	}
	if i.StatusCode == lxdapi.Frozen {
		return d.put(ctx, i, "unfreeze", hardTimeout, false)
	}
	if i.StatusCode == lxdapi.Error {
		if err := d.turnOff(ctx, i); err != nil {
			return err
		}
	}
	return d.put(ctx, i, "start", hardTimeout, false)
}

// turnOff turns an instance off hard.
func (d *Driver) turnOff(ctx context.Context, i *instance) error {
	return d.put(ctx, i, "stop", hardTimeout, true)
}

// shutDown asks the guest to stop and turns it off when it has not by the end of
// grace.
func (d *Driver) shutDown(ctx context.Context, i *instance, grace time.Duration) error {
	switch {
	case i.StatusCode == lxdapi.Stopped:
		return nil
	case grace <= 0, i.StatusCode == lxdapi.Frozen, i.StatusCode == lxdapi.Error:
		// Nobody is there to be asked.
		return d.turnOff(ctx, i)
	}
	err := d.ask(ctx, i, grace)
	if err == nil || errors.Is(err, hypervisor.ErrUnreachable) || ctx.Err() != nil {
		return err
	}
	d.log.DebugContext(ctx, "the guest did not stop when it was asked", "instance", i.Name, "error", err)
	return d.turnOff(ctx, i)
}

// ask asks the guest to stop and waits no longer than grace.
func (d *Driver) ask(ctx context.Context, i *instance, grace time.Duration) error {
	op := "ask instance " + i.Name + " to stop"
	if i.StatusCode == lxdapi.Stopped {
		return nil
	}
	if i.StatusCode == lxdapi.Frozen {
		return &hypervisor.Error{Class: hypervisor.ErrRefused, Op: op, Err: errors.New("the machine is paused and hears nothing"), Hint: "resume it first"}
	}
	if grace <= 0 {
		grace = softGrace
	}
	err := d.put(ctx, i, "stop", grace, false)
	if err == nil || unknown(err) || errors.Is(err, hypervisor.ErrBusy) {
		return err
	}
	return &hypervisor.Error{Class: hypervisor.ErrTimeout, Op: op, Err: fmt.Errorf("the guest did not stop in %v: %w", grace, undo.Unclassed(err))}
}
