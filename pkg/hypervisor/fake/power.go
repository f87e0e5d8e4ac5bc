package fake

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const (
	on     = vmhostv1.PowerState_POWER_STATE_ON
	off    = vmhostv1.PowerState_POWER_STATE_OFF
	paused = vmhostv1.PowerState_POWER_STATE_PAUSED
)

// SetPower changes whether a machine runs.
func (d *driver) SetPower(ctx context.Context, ref hypervisor.Ref, action rackv1.PowerAction, grace time.Duration) (*rackv1.MachineObservation, error) {
	switch action {
	case rackv1.PowerAction_POWER_ACTION_STOP, rackv1.PowerAction_POWER_ACTION_CYCLE, rackv1.PowerAction_POWER_ACTION_STOP_SOFT:
		if err := d.askGuest(ctx, ref, grace); err != nil {
			return nil, err
		}
	default:
	}
	return d.change(ctx, SetPower, ref.Domain(), func(h *Host, _ Fault) (*rackv1.MachineObservation, error) {
		m, err := h.ours("change power", ref)
		if err != nil {
			return nil, err
		}
		return h.power(m, action)
	})
}

// power is called with h.mu held.
func (h *Host) power(m *rackv1.MachineObservation, action rackv1.PowerAction) (*rackv1.MachineObservation, error) {
	refused := func(why string) error {
		return &hypervisor.Error{Class: hypervisor.ErrRefused, Op: "change power", Err: errors.New(why)}
	}
	to := func(want vmhostv1.PowerState) *rackv1.MachineObservation {
		if m.GetPowerState() == want {
			return m
		}
		return h.replacePower(m, want)
	}
	now := m.GetPowerState()
	switch action {
	case rackv1.PowerAction_POWER_ACTION_START:
		return to(on), nil
	case rackv1.PowerAction_POWER_ACTION_STOP:
		return to(off), nil
	case rackv1.PowerAction_POWER_ACTION_STOP_SOFT:
		if now == paused || now == on && h.stubborn {
			return nil, &hypervisor.Error{Class: hypervisor.ErrTimeout, Op: "ask machine to stop", Err: errors.New("the guest did not stop")}
		}
		return to(off), nil
	case rackv1.PowerAction_POWER_ACTION_CYCLE:
		m = to(off)
		return to(on), nil
	case rackv1.PowerAction_POWER_ACTION_RESET:
		if now != on {
			return nil, refused("machine is not running")
		}
		h.notify(m.GetUuid())
		return m, nil
	case rackv1.PowerAction_POWER_ACTION_PAUSE:
		if now != on && now != paused {
			return nil, refused("machine is not running")
		}
		return to(paused), nil
	case rackv1.PowerAction_POWER_ACTION_RESUME:
		if now != on && now != paused {
			return nil, refused("machine is not in memory")
		}
		return to(on), nil
	default:
		return nil, refused(fmt.Sprintf("unknown action %v", action))
	}
}

// askGuest waits for a guest that is deaf to being asked.
func (d *driver) askGuest(ctx context.Context, ref hypervisor.Ref, grace time.Duration) error {
	d.host.mu.Lock()
	m := d.host.machines[ref.Domain()]
	deaf := d.host.stubborn && m.GetUid() == ref.UID && m.GetPowerState() == on
	d.host.mu.Unlock()
	if !deaf || grace <= 0 {
		return nil
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	return d.wait(ctx, SetPower, timer.C, nil)
}
