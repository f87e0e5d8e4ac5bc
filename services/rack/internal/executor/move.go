package executor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

// maxMoves is how many moves run at once from a host. They have a lane of their
// own: copying disks takes minutes, and must not hold up the power of others.
const maxMoves = 4

// lookLimit bounds the look at the destination after a move has failed.
const lookLimit = 10 * time.Second

// moveError is why a move failed, with what the region needs to know of the
// destination to tell where the machine is.
type moveError struct {
	error

	destination rackv1.MoveDestinationState
	host        string // whose failure it is, if not the source's
}

// Unwrap is why.
func (f *moveError) Unwrap() error { return f.error }

// wire is the failure as the region is told.
func (f *moveError) wire() *rackv1.StepError {
	out := hypervisor.StepError(f.error)
	out.Destination, out.VmHost = f.destination, f.host
	return out
}

// untouched is the failure of a move of which this rack has done nothing. One that
// it had begun with before may have left anything.
func untouched(err error, begunBefore bool) *moveError {
	f := &moveError{error: err}
	if !begunBefore {
		f.destination = rackv1.MoveDestinationState_MOVE_DESTINATION_STATE_UNTOUCHED
	}
	return f
}

// move brings a machine to another hypervisor, with a connection to it that lasts
// as long as the step. When the epoch of the source is over the move is left where
// it is, and whoever has the host then goes on.
func (h *host) move(ctx context.Context, from hypervisor.Driver, move *rackv1.MoveMachine, operation string, begunBefore bool) (*hypervisor.Moved, error) {
	to := move.GetDestination()
	kind := h.assignment().GetType()
	mover, ok := from.(hypervisor.Mover)
	if !ok {
		return nil, untouched(&hypervisor.Error{
			Class: hypervisor.ErrUnsupported, Op: "move machine", Err: fmt.Errorf("this rack moves no machines from hosts of type %s", kind),
			Hint: "move it by the hypervisor's own means, and adopt it where it is then",
		}, begunBefore)
	}
	if to.GetType() != kind {
		return nil, untouched(&hypervisor.Error{
			Class: hypervisor.ErrRefused, Op: "move machine", Err: fmt.Errorf("the destination is %s and the source is %s", to.GetType(), kind),
			Hint: "choose a destination of the source's kind",
		}, begunBefore)
	}
	ctx, cancel := h.underEpoch(ctx)
	defer cancel()
	driver, err := h.e.openDestination(ctx, to, operation)
	if err != nil {
		f := untouched(err, begunBefore)
		f.host = to.GetVmHost()
		return nil, f
	}
	defer func() { _ = driver.Close() }()
	moved, err := mover.Move(ctx, driver, move, operation)
	switch {
	case err == nil:
		return moved, nil
	case errors.Is(context.Cause(ctx), hypervisor.ErrFenced):
		return nil, errors.Join(errLeave, err)
	}
	failed := &moveError{error: err, destination: lookAt(ctx, driver, hypervisor.RefOf(move.GetMachine()))}
	if e, ok := errors.AsType[*hypervisor.Error](err); ok && e.AtDestination {
		failed.host = to.GetVmHost()
	}
	return nil, failed
}

// lookAt is whether the destination has the machine after its move has failed.
func lookAt(ctx context.Context, to hypervisor.Driver, ref hypervisor.Ref) rackv1.MoveDestinationState {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookLimit)
	defer cancel()
	there, err := to.Machine(ctx, ref.Domain())
	switch {
	case errors.Is(err, hypervisor.ErrNotFound), err == nil && there.GetUid() != ref.UID:
		return rackv1.MoveDestinationState_MOVE_DESTINATION_STATE_WITHOUT
	case err == nil:
		return rackv1.MoveDestinationState_MOVE_DESTINATION_STATE_HAS
	default:
		return rackv1.MoveDestinationState_MOVE_DESTINATION_STATE_UNSPECIFIED
	}
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
