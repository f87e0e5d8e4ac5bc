package inventory

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// The conditions of a host that are kept here.
const (
	conditionReachable = "Reachable"
	conditionReport    = "ReportRefused"
	conditionStale     = "Stale"
)

func reachable() *vmhostv1.Condition {
	return &vmhostv1.Condition{Type: conditionReachable, Status: true}
}

// unreachable is the state and condition of a host that a rack could not reach.
func unreachable(e *rackv1.StepError) (vmhostv1.VmHostState, *vmhostv1.Condition) {
	state, reason, hint := vmhostv1.VmHostState_VM_HOST_STATE_UNREACHABLE, vmhostv1.ErrorReason_HOST_UNREACHABLE,
		"see that the host is up and that its rack can connect to it; it is tried again by itself"
	switch e.GetClass() {
	case rackv1.ErrorClass_ERROR_CLASS_AUTH:
		state, reason = vmhostv1.VmHostState_VM_HOST_STATE_AUTH_FAILED, vmhostv1.ErrorReason_HOST_AUTH_FAILED
		hint = "update the host with a credential that it accepts"
	case rackv1.ErrorClass_ERROR_CLASS_HOST_KEY:
		state, reason = vmhostv1.VmHostState_VM_HOST_STATE_HOST_KEY_CHANGED, vmhostv1.ErrorReason_HOST_KEY_CHANGED
		hint = "find out why the key changed; then update host_key with the new one to confirm it"
	default:
	}
	if e.GetHint() != "" {
		hint = cleanText(e.GetHint(), maxMessage)
	}
	message := cleanText(e.GetMessage(), maxMessage)
	if k := e.GetPresentedHostKey(); k != "" {
		message += "; presented: " + cleanText(k, maxMessage)
	}
	return state, &vmhostv1.Condition{Type: conditionReachable, Reason: reason.String(), Message: message, Hint: hint}
}

func noRack(why string) *vmhostv1.Condition {
	return &vmhostv1.Condition{
		Type: conditionReachable, Reason: vmhostv1.ErrorReason_NO_RACK.String(), Message: why,
		Hint: "start a rack that has the driver for the host and can reach it",
	}
}

// stale is the condition of a host that a connected rack does not report.
func stale(rack string, since time.Time) *vmhostv1.Condition {
	return &vmhostv1.Condition{
		Type: conditionStale, Status: true, Reason: vmhostv1.ErrorReason_HOST_UNREACHABLE.String(),
		Message:        "racks/" + rack + " is connected, and has not reported the host since " + since.UTC().Format(time.RFC3339),
		Hint:           "look at the rack's log, and see that the hypervisor still answers",
		TransitionTime: timestamppb.New(since),
	}
}

func refusedReport(why string) *vmhostv1.Condition {
	return &vmhostv1.Condition{
		Type: conditionReport, Status: true, Message: "the rack's report was refused: " + why,
		Hint: "what is shown of the host is older; look at the rack's log",
	}
}

func partlyRefused(dropped int) *vmhostv1.Condition {
	return &vmhostv1.Condition{
		Type: conditionReport, Status: true, Message: strconv.Itoa(dropped) + " machines of the rack's report make no sense, or are too many, and were left out",
		Hint: "look at the rack's log",
	}
}

// setCondition keeps the time of a condition whose status stays.
func setCondition(o *storev1.StoredVmHostObservation, c *vmhostv1.Condition) {
	if c.GetTransitionTime() == nil {
		c.TransitionTime = timestamppb.Now()
	}
	i := slices.IndexFunc(o.GetConditions(), func(old *vmhostv1.Condition) bool { return old.GetType() == c.GetType() })
	if i < 0 {
		o.Conditions = append(o.Conditions, c)
		return
	}
	if old := o.GetConditions()[i]; old.GetStatus() == c.GetStatus() {
		c.TransitionTime = old.GetTransitionTime()
	}
	o.Conditions[i] = c
}

func dropCondition(o *storev1.StoredVmHostObservation, kind string) {
	o.Conditions = slices.DeleteFunc(o.GetConditions(), func(c *vmhostv1.Condition) bool { return c.GetType() == kind })
}

// putStateEvent tells that a host's state changed.
func putStateEvent(tx *store.Txn, host string, next *storev1.StoredVmHostObservation) {
	word := strings.ToLower(strings.TrimPrefix(next.GetState().String(), "VM_HOST_STATE_"))
	message, why := host+" is "+strings.ReplaceAll(word, "_", " "), ""
	for _, c := range next.GetConditions() {
		if c.GetType() == conditionReachable && c.GetMessage() != "" {
			why = ": " + c.GetMessage()
		}
	}
	store.AddEvent(tx, &vmhostv1.Event{Type: "vm_host." + word, Resource: host, VmHost: host, Message: message + why})
}
