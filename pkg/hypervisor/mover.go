package hypervisor

import (
	"context"
	"errors"
	"fmt"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Mover is a driver that can bring machines of ours to another hypervisor.
type Mover interface {
	// Move brings a machine from this hypervisor to another of its kind, which the
	// caller has opened, and answers how it is there and how it got there. It looks at both, acts, and
	// looks again (see MoveStateOf), so that it goes on where a broken one stopped.
	//
	// The disks' copies are verified, and the source is removed last, when the
	// destination was seen as it should be. After a failure the machine is on the
	// source as it was, running again if it was stopped for the move, and nothing
	// of it is on the destination; or it is complete on the destination and only
	// removing the source has failed; or the error is classed ErrUnreachable or
	// ErrTimeout and it is not known. In every case the same call goes on.
	//
	// A running machine is moved live if the move says so. One that cannot be, or
	// is not to be, is stopped if allow_offline is set, and else ErrRefused.
	//
	// Disks that the move says stay where they are are in storage pools that both
	// hypervisors have. Their volumes are neither made, copied nor removed on either,
	// however the call ends. A driver that cannot do so, or does not see that the pools
	// are the same storage, refuses the move and has done nothing (ErrUnsupported).
	//
	// When ctx ends everything is undone, in at most 30 s more; not when it ends
	// with the cause ErrFenced: then whoever drives the host now goes on.
	//
	// The operation is noted on what is stopped for it, so that a repeated call
	// knows that it ran.
	Move(ctx context.Context, to Driver, move *rackv1.MoveMachine, operation string) (*Moved, error)
}

// Moved is what a move came to.
type Moved struct {
	// Machine is the machine as it is on the destination.
	Machine *rackv1.MachineObservation
	// How it was moved; not known when it was found there already.
	How rackv1.MoveHow
	// NotLive is why it was stopped though it ran and was to be moved live, for
	// people; empty when it was not.
	NotLive string
}

// MoveState is how far a move has come, by what is seen on both hypervisors.
type MoveState int

// The states of a move.
const (
	// MoveToDo: the machine is on the source. What there is of it on the
	// destination, if anything, is the rest of a broken move and is undone first.
	MoveToDo MoveState = iota
	// MoveToFinish: the machine is on the destination. What there is of it on the
	// source is to be removed; it does not run.
	MoveToFinish
	// MoveDone: the machine is on the destination, and gone from the source.
	MoveDone
)

// MoveStateOf decides how far a move has come. The observations are nil for what
// was seen not to be there. What is there and does not carry the machine's uid is
// ErrForeign; on neither is ErrNotFound.
//
// On both, what runs is the machine, and what is paused rather than what is off:
// only that has its memory. If neither is more alive than the other it is the
// source, whose disks are whole. Both running is refused: which one to keep only
// a person can say.
func MoveStateOf(source, destination *rackv1.MachineObservation, uid string) (MoveState, error) {
	const op = "move machine"
	for where, m := range map[string]*rackv1.MachineObservation{"source": source, "destination": destination} {
		if m != nil && m.GetUid() != uid {
			return 0, &Error{
				Class: ErrForeign, Op: op, Err: fmt.Errorf("machine %q on the %s does not carry this machine's uid", m.GetName(), where),
				Hint: "it was made or changed outside of vmhost, which leaves it alone",
			}
		}
	}
	switch {
	case source == nil && destination == nil:
		return 0, &Error{Class: ErrNotFound, Op: op, Err: errors.New("the machine is neither on the source nor on the destination")}
	case source == nil:
		return MoveDone, nil
	case destination == nil:
		return MoveToDo, nil
	}
	here, there := liveness(source), liveness(destination)
	switch {
	case here == running && there == running:
		return 0, &Error{
			Class: ErrRefused, Op: op, Err: errors.New("the machine runs on the source and on the destination"),
			Hint: "find out which of the two is the right one, and turn the other off on its host; the move goes on by itself then",
		}
	case there > here:
		return MoveToFinish, nil
	default:
		return MoveToDo, nil
	}
}

const running = 2

// liveness is how much is lost when a machine is turned off.
func liveness(m *rackv1.MachineObservation) int {
	switch m.GetPowerState() {
	case vmhostv1.PowerState_POWER_STATE_OFF, vmhostv1.PowerState_POWER_STATE_CRASHED:
		return 0
	case vmhostv1.PowerState_POWER_STATE_PAUSED:
		return running - 1
	default:
		return running // not known counts as running, so that it is never removed
	}
}

// StoppedForMove refuses a move that would stop a running machine without leave;
// why says why it is not moved live.
func StoppedForMove(move *rackv1.MoveMachine, why string) error {
	if move.GetAllowOffline() {
		return nil
	}
	return &Error{
		Class: ErrRefused, Op: "move machine", Err: fmt.Errorf("it runs and would have to be stopped: %s", why),
		Hint: "stop it first, or move it with allow_offline, which stops it and starts it again", NeedsOffline: true,
	}
}
