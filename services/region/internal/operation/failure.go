package operation

import (
	"cmp"
	"fmt"
	"maps"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// maxText bounds a hypervisor's words in a record.
const maxText = 16 << 10

// passing says whether a failure may pass by itself: then the same step is tried
// again until the deadline.
func passing(op *storev1.StoredOperation, class rackv1.ErrorClass) bool {
	switch class {
	case rackv1.ErrorClass_ERROR_CLASS_BUSY, rackv1.ErrorClass_ERROR_CLASS_STALE_EPOCH:
		return true
	case rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE, rackv1.ErrorClass_ERROR_CLASS_TIMEOUT, rackv1.ErrorClass_ERROR_CLASS_UNSPECIFIED:
		// Who only wants to look is told what is the case now.
		return !looks(op.GetResource().GetVerb()) && (class != rackv1.ErrorClass_ERROR_CLASS_TIMEOUT || !isSoftStop(op))
	case rackv1.ErrorClass_ERROR_CLASS_AUTH, rackv1.ErrorClass_ERROR_CLASS_HOST_KEY:
		// What was begun must be undone: the operator may repair the login before
		// the deadline.
		return op.GetResource().GetPhase() == compensating
	default:
		return false
	}
}

func looks(verb vmhostv1.OperationVerb) bool {
	return verb == vmhostv1.OperationVerb_OPERATION_VERB_QUERY_POWER ||
		verb == vmhostv1.OperationVerb_OPERATION_VERB_REFRESH ||
		verb == vmhostv1.OperationVerb_OPERATION_VERB_CHECK
}

// why is a step's failure as the API tells it.
func why(op *storev1.StoredOperation, e *rackv1.StepError) *vmhostv1.OperationError {
	code, reason, hint := codes.Unknown, vmhostv1.ErrorReason_HYPERVISOR_ERROR, ""
	switch e.GetClass() {
	case rackv1.ErrorClass_ERROR_CLASS_NOT_FOUND:
		code, reason = codes.NotFound, vmhostv1.ErrorReason_MACHINE_MISSING
		hint = "somebody removed it on the hypervisor; delete the machine to drop its record"
		if op.GetMachineUid() == "" || op.GetResource().GetVerb() == vmhostv1.OperationVerb_OPERATION_VERB_COMPOSE {
			reason, hint = vmhostv1.ErrorReason_NOT_FOUND, "refresh the host to see what it has now"
		}
		if op.GetResource().GetVerb() == vmhostv1.OperationVerb_OPERATION_VERB_ADOPT {
			hint = "somebody removed it on the hypervisor; refresh the host"
		}
	case rackv1.ErrorClass_ERROR_CLASS_EXISTS:
		code, reason, hint = codes.AlreadyExists, vmhostv1.ErrorReason_ALREADY_EXISTS, "choose another hostname, or remove what is on the hypervisor by hand"
	case rackv1.ErrorClass_ERROR_CLASS_FOREIGN:
		code, reason, hint = codes.FailedPrecondition, vmhostv1.ErrorReason_FOREIGN_OBJECT, "vmhost does not touch it; choose another hostname, or remove it on the hypervisor by hand"
		if op.GetResource().GetVerb() != vmhostv1.OperationVerb_OPERATION_VERB_COMPOSE {
			hint = "vmhost does not touch it; look at it on the hypervisor"
		}
	case rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE:
		code, reason, hint = codes.Unavailable, vmhostv1.ErrorReason_HOST_UNREACHABLE, "look at the host's conditions; it is tried again by itself"
	case rackv1.ErrorClass_ERROR_CLASS_AUTH:
		code, reason, hint = codes.FailedPrecondition, vmhostv1.ErrorReason_HOST_AUTH_FAILED, "give the host another credential"
	case rackv1.ErrorClass_ERROR_CLASS_HOST_KEY:
		code, reason, hint = codes.FailedPrecondition, vmhostv1.ErrorReason_HOST_KEY_CHANGED, "find out why the key changed, then confirm the new one"
	case rackv1.ErrorClass_ERROR_CLASS_CAPACITY:
		code, reason, hint = codes.ResourceExhausted, vmhostv1.ErrorReason_HYPERVISOR_CAPACITY, "free something on the hypervisor, or ask for less"
	case rackv1.ErrorClass_ERROR_CLASS_UNSUPPORTED:
		code, reason = codes.Unimplemented, vmhostv1.ErrorReason_UNSUPPORTED
	case rackv1.ErrorClass_ERROR_CLASS_TIMEOUT:
		code, reason, hint = codes.DeadlineExceeded, vmhostv1.ErrorReason_DEADLINE, "look at the host; its hypervisor may hang"
		if isSoftStop(op) {
			hint = "the guest did not stop when it was asked to; give it longer, or stop the machine hard"
		}
	case rackv1.ErrorClass_ERROR_CLASS_STALE_EPOCH:
		code, reason = codes.Aborted, vmhostv1.ErrorReason_STALE_EPOCH
	case rackv1.ErrorClass_ERROR_CLASS_BUSY:
		code = codes.Unavailable
	case rackv1.ErrorClass_ERROR_CLASS_REFUSED:
		code = codes.FailedPrecondition
	default:
	}
	out := &vmhostv1.OperationError{
		Code: int32(code), Reason: reason.String(), Message: clip(e.GetMessage()), Hint: hint, Metadata: map[string]string{},
	}
	if h := op.GetResource().GetVmHost(); h != "" {
		out.Metadata["vm_host"] = h
	}
	if destination(op) != "" {
		whyNotMoved(op, e, out)
	}
	if e.GetHint() != "" {
		out.Hint = e.GetHint()
	}
	if k := e.GetPresentedHostKey(); k != "" {
		out.Metadata["presented_host_key"] = clip(k)
	}
	return out
}

// late is why an operation is given up at its deadline.
func late(op *storev1.StoredOperation) *vmhostv1.OperationError {
	r := op.GetResource()
	out := &vmhostv1.OperationError{
		Code: int32(codes.DeadlineExceeded), Reason: vmhostv1.ErrorReason_DEADLINE.String(), Metadata: map[string]string{},
	}
	verb := "its first step"
	last := ""
	if i := int(op.GetStep()); i < len(r.GetSteps()) {
		verb, last = r.GetSteps()[i].GetVerb(), r.GetSteps()[i].GetError()
	}
	switch {
	case last != "":
		out.Message = fmt.Sprintf("%s did not succeed in time, the last of %d attempts: %s", verb, r.GetAttempt(), last)
	case op.GetStepId() != "":
		out.Message = verb + " was sent to a rack, and no result came in time"
	default:
		out.Message = "no connected rack did it on " + cmp.Or(r.GetVmHost(), "rack "+op.GetRack()) + " in time"
		out.Metadata["cause"] = vmhostv1.ErrorReason_NO_RACK.String()
		out.Hint = "look at the racks; a rack that can reach the host must be connected"
	}
	if c := op.GetCause(); c != nil && op.GetResource().GetVerb() != vmhostv1.OperationVerb_OPERATION_VERB_MOVE {
		out.Message += "; it was being undone because of: " + c.GetMessage()
		maps.Copy(out.GetMetadata(), c.GetMetadata())
	}
	if out.GetHint() == "" {
		out.Hint = afterDeadline(op)
	}
	return out
}

// afterDeadline is what to do about what a rack may have done.
func afterDeadline(op *storev1.StoredOperation) string {
	switch op.GetResource().GetVerb() {
	case vmhostv1.OperationVerb_OPERATION_VERB_COMPOSE, vmhostv1.OperationVerb_OPERATION_VERB_DELETE:
		return "delete the machine to have it cleaned up; until then its capacity is kept"
	case vmhostv1.OperationVerb_OPERATION_VERB_ADOPT:
		return "it is counted as a discovered machine again; if vmhost's metadata is on it by now, adopting it once more goes on from there"
	case vmhostv1.OperationVerb_OPERATION_VERB_RELEASE:
		return "the machine keeps its record; release it again"
	default:
		return "look at the host, then try again"
	}
}

func cancelledByUser() *vmhostv1.OperationError {
	return &vmhostv1.OperationError{Code: int32(codes.Canceled), Reason: vmhostv1.ErrorReason_CANCELLED.String(), Message: "cancelled by a user"}
}

func hostRemoved(op *storev1.StoredOperation) *vmhostv1.OperationError {
	e := apierror.NotFound(op.GetResource().GetVmHost())
	return &vmhostv1.OperationError{
		Code: int32(e.Code), Reason: e.Reason.String(), Message: op.GetResource().GetVmHost() + " was removed",
		Metadata: e.Metadata,
	}
}

func clip(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + " … (cut)"
}

// foundForeign says whether what a failed create found in its way is why a delete
// finds it again: then nothing of ours is there.
func foundForeign(cause *vmhostv1.OperationError) bool {
	return cause.GetReason() == vmhostv1.ErrorReason_FOREIGN_OBJECT.String() ||
		cause.GetReason() == vmhostv1.ErrorReason_ALREADY_EXISTS.String()
}

func cloneError(e *vmhostv1.OperationError) *vmhostv1.OperationError {
	if e == nil {
		return nil
	}
	return proto.CloneOf(e)
}
