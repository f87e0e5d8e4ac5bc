package executor

import (
	"context"
	"errors"
	"fmt"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

// maxMoves is how many moves run at once from a host. They have a lane of their
// own: copying disks takes minutes, and must not hold up the power of others.
const maxMoves = 4

// move brings a machine to another hypervisor, with a connection to it that lasts
// as long as the step. When the epoch of the source is over the move is left where
// it is, and whoever has the host then goes on.
func (h *host) move(ctx context.Context, from hypervisor.Driver, move *rackv1.MoveMachine, operation string) (*rackv1.MachineObservation, error) {
	to := move.GetDestination()
	kind := h.assignment().GetType()
	mover, ok := from.(hypervisor.Mover)
	if !ok {
		return nil, &hypervisor.Error{
			Class: hypervisor.ErrUnsupported, Op: "move machine", Err: fmt.Errorf("this rack moves no machines from hosts of type %s", kind),
			Hint: "move it by the hypervisor's own means, and adopt it where it is then",
		}
	}
	if to.GetType() != kind {
		return nil, &hypervisor.Error{
			Class: hypervisor.ErrRefused, Op: "move machine", Err: fmt.Errorf("the destination is %s and the source is %s", to.GetType(), kind),
			Hint: "choose a destination of the source's kind",
		}
	}
	ctx, cancel := h.underEpoch(ctx)
	defer cancel()
	driver, err := h.e.openDestination(ctx, to, operation)
	if err != nil {
		return nil, err
	}
	defer func() { _ = driver.Close() }()
	machine, err := mover.Move(ctx, driver, move, operation)
	if err != nil && errors.Is(context.Cause(ctx), hypervisor.ErrFenced) {
		return nil, errors.Join(errLeave, err)
	}
	return machine, err
}

// underEpoch is a context that ends with the host's epoch as well.
func (h *host) underEpoch(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, end := context.WithCancelCause(ctx)
	h.mu.Lock()
	fenced := h.fenced
	h.mu.Unlock()
	h.e.steps.Go(func() { // ends with the move
		select {
		case <-fenced:
			end(hypervisor.ErrFenced)
		case <-ctx.Done():
		}
	})
	return ctx, func() { end(nil) }
}

// openDestination connects to the hypervisor that a machine is brought to.
func (e *Executor) openDestination(ctx context.Context, to *rackv1.MoveDestination, operation string) (hypervisor.Driver, error) {
	opener, target, err := e.target(to, "move/"+operation)
	if err == nil {
		target.Name, target.ClusterMember = to.GetVmHost(), to.GetClusterMember()
		open, cancel := context.WithTimeout(ctx, openLimit)
		defer cancel()
		var driver hypervisor.Driver
		if driver, err = opener.Open(open, target); err == nil {
			return driver, nil
		}
	}
	out := &hypervisor.Error{Op: "connect to the destination " + to.GetVmHost(), Err: err}
	if e, ok := errors.AsType[*hypervisor.Error](err); ok {
		out.Hint, out.PresentedHostKey = e.Hint, e.PresentedHostKey
	}
	return nil, out
}
