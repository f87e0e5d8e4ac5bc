package operation

import (
	"strings"

	"google.golang.org/grpc/codes"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// left is how many machines of ours are on the host, and the names of those that
// may be there because a move to it ended before it was known.
func (c *change) left() (on int, coming []string) {
	for _, m := range store.Machines.All(c.view) {
		if m.Value.GetResource().GetVmHost() == c.op.GetResource().GetVmHost() {
			on++
		} else if m.Value.GetMove().GetVmHost() == hostOf(c.op) {
			coming = append(coming, m.Value.GetResource().GetName())
		}
	}
	return on, coming
}

// endOfClearing is how a removal or drain ends: done says that the host has nothing
// left, stop why no more machines were begun with, and notDone what is wrong when all
// were tried and some are left. Out of time with nothing left is no failure.
func endOfClearing(done bool, stop, notDone *vmhostv1.OperationError) (vmhostv1.OperationPhase, *vmhostv1.OperationError) {
	switch {
	case done && (stop == nil || stop.GetReason() == vmhostv1.ErrorReason_DEADLINE.String()):
		return succeeded, nil
	case stop == nil:
		return failed, notDone
	case stop.GetReason() == vmhostv1.ErrorReason_CANCELLED.String():
		return cancelled, stop
	default:
		return failed, stop
	}
}

// failedOf are the names of the machines in a result that failed, as many as an
// error names, and what the first of them failed with, to be added to a message.
func failedOf[R interface {
	GetError() *vmhostv1.OperationError
}](results []R, name func(R) string) (names []string, first string) {
	for _, r := range results {
		if r.GetError() != nil && len(names) < maxNamed {
			names = append(names, name(r))
			if len(names) == 1 {
				first = "; the first: " + r.GetError().GetMessage()
			}
		}
	}
	return names, first
}

// stillInUse is the error of a host that machines are left on.
func stillInUse(host, message, hint string, machines []string) *vmhostv1.OperationError {
	return &vmhostv1.OperationError{
		Code: int32(codes.FailedPrecondition), Reason: vmhostv1.ErrorReason_IN_USE.String(), Message: message, Hint: hint,
		Metadata: map[string]string{"resource": host, "users": strings.Join(machines[:min(len(machines), maxNamed)], ",")},
	}
}
