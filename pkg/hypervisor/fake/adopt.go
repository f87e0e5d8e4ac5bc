package fake

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

// Adopt puts our metadata on a machine.
func (d *driver) Adopt(ctx context.Context, ref hypervisor.Ref, operation string) (*rackv1.MachineObservation, error) {
	const op = "adopt machine"
	return d.change(ctx, Adopt, ref.Domain(), func(h *Host, _ Fault) (*rackv1.MachineObservation, error) {
		m := h.machines[ref.Domain()]
		switch {
		case m == nil:
			return nil, notFound(op, ref.Domain())
		case m.GetUid() == ref.UID:
			return m, nil
		case m.GetUid() != "":
			return nil, foreign(op, m)
		}
		m = proto.CloneOf(m)
		m.Uid, m.Operation = ref.UID, operation
		h.putMachine(m)
		return m, nil
	})
}

// Release takes our metadata off a machine. One that is gone has no observation.
func (d *driver) Release(ctx context.Context, ref hypervisor.Ref) (*rackv1.MachineObservation, error) {
	return d.change(ctx, Release, ref.Domain(), func(h *Host, _ Fault) (*rackv1.MachineObservation, error) {
		m := h.machines[ref.Domain()]
		switch {
		case m == nil, m.GetUid() == "":
			return m, nil
		case m.GetUid() != ref.UID:
			return nil, foreign("release machine", m)
		}
		m = proto.CloneOf(m)
		m.Uid, m.Operation = "", ""
		h.putMachine(m)
		return m, nil
	})
}

func foreign(op string, m *rackv1.MachineObservation) error {
	return &hypervisor.Error{Class: hypervisor.ErrForeign, Op: op, Err: fmt.Errorf("machine %q does not carry this uid", m.GetName())}
}

// Fix starts what does not run, and makes a pool where there is none.
func (d *driver) Fix(ctx context.Context) (map[string]string, error) {
	return read(ctx, d, Fix, func(h *Host) (map[string]string, error) {
		out := map[string]string{}
		for i, p := range h.spec.Pools {
			if p.Inactive {
				h.spec.Pools[i].Inactive = false
				out["storage-pool"] = "started storage pool " + p.Name
			}
		}
		for i, n := range h.spec.Networks {
			if n.Inactive {
				h.spec.Networks[i].Inactive = false
				out["network"] = "started network " + n.Name
			}
		}
		return out, nil
	})
}
