package operation

import (
	"strings"

	"google.golang.org/grpc/codes"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// whyNotMoved gives the failure of a move's step the reason and the hint that it
// has for a move, where those of other steps do not fit. What the driver itself
// advises is told instead.
func whyNotMoved(op *storev1.StoredOperation, e *rackv1.StepError, out *vmhostv1.OperationError) {
	const asItWas = "the machine is where and as it was; "
	to, there := destination(op), ofDestination(op, e)
	at := op.GetResource().GetVmHost()
	if there {
		at = to
	}
	out.Metadata["vm_host"], out.Metadata["destination"] = at, to
	is := func(code codes.Code, reason vmhostv1.ErrorReason, hint string) {
		out.Code, out.Reason, out.Hint = int32(code), reason.String(), hint
	}
	switch e.GetClass() {
	case rackv1.ErrorClass_ERROR_CLASS_NOT_FOUND:
		if there {
			is(codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND, asItWas+"refresh "+to+" to see what it has now, or move the machine to another host")
		} else {
			is(codes.NotFound, vmhostv1.ErrorReason_MACHINE_MISSING, "look for it on both hosts; if somebody removed it, delete the machine to drop its record")
		}
	case rackv1.ErrorClass_ERROR_CLASS_EXISTS, rackv1.ErrorClass_ERROR_CLASS_FOREIGN:
		out.Hint = "vmhost does not touch it; " + asItWas + "move it to another host, or look at what is in its way on " + to
		if !there {
			out.Hint = "vmhost does not touch it; look at it on " + at + " and " + to
		}
	case rackv1.ErrorClass_ERROR_CLASS_CAPACITY:
		out.Hint = asItWas + "free something on " + to + ", or move it to another host"
	case rackv1.ErrorClass_ERROR_CLASS_UNSUPPORTED:
		out.Hint = asItWas + "change what keeps it there, or move it by the hypervisor's own means"
		if there {
			out.Hint = asItWas + "move it to another host"
		}
	case rackv1.ErrorClass_ERROR_CLASS_REFUSED:
		switch {
		case e.GetNeedsOffline():
			is(codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE, asItWas+"stop it first, or allow it to be stopped (allow_offline)")
		case there:
			out.Hint = asItWas + "see what " + to + " says about it, or move it to another host"
		default:
			out.Hint = "see what the hypervisor says, and what there is of the machine on both hosts; then move it again"
		}
	case rackv1.ErrorClass_ERROR_CLASS_AUTH:
		out.Hint = asItWas + "give " + at + " another credential, and move it again"
	case rackv1.ErrorClass_ERROR_CLASS_HOST_KEY:
		out.Hint = asItWas + "find out why the key of " + at + " changed and confirm the new one, and move it again"
	case rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE, rackv1.ErrorClass_ERROR_CLASS_TIMEOUT:
		out.Hint = "look at the conditions of both hosts; it is tried again by itself"
	default:
		out.Hint = "look at both hosts; it is tried again by itself"
	}
	if there && (e.GetClass() == rackv1.ErrorClass_ERROR_CLASS_AUTH || e.GetClass() == rackv1.ErrorClass_ERROR_CLASS_HOST_KEY) {
		out.Hint += ", or to another host"
	}
}

// How a machine was moved, as results tell it.
func howWord(how *rackv1.MoveOutcome) string {
	switch how.GetHow() {
	case rackv1.MoveHow_MOVE_HOW_LIVE:
		return live
	case rackv1.MoveHow_MOVE_HOW_OFFLINE:
		return offline
	default:
		return ""
	}
}

// movedMessage is what became of a machine that was moved, for people.
func movedMessage(op *storev1.StoredOperation) string {
	var b strings.Builder
	b.WriteString("moved")
	if word := howWord(op.GetMove()); word != "" {
		b.WriteString(" " + word)
	}
	b.WriteString(" from " + op.GetResource().GetVmHost() + " to " + destination(op) + stayedWords(op))
	if why := op.GetMove().GetNotLive(); why != "" {
		b.WriteString("; it was stopped for that, as it could not be moved live: " + shorten(why))
	}
	return b.String()
}
