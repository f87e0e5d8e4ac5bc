package ctl

import (
	"strings"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

// The words by which tables name the values of enums.

func phaseWord(o *vmhostv1.Operation) string { return display.Word(o.GetPhase(), "OPERATION_PHASE_") }

func verbWord(o *vmhostv1.Operation) string {
	return strings.ToLower(strings.ReplaceAll(display.Word(o.GetVerb(), "OPERATION_VERB_"), "_", "-"))
}

func powerWord(m *vmhostv1.Machine) string { return display.Word(m.GetPowerState(), "POWER_STATE_") }

func machinePhaseWord(m *vmhostv1.Machine) string {
	return display.Word(m.GetPhase(), "MACHINE_PHASE_")
}

func originWord(m *vmhostv1.Machine) string {
	return strings.ToLower(display.Word(m.GetOrigin(), "MACHINE_ORIGIN_"))
}

// hostState is the state with what an operator decided beside it.
func hostState(h *vmhostv1.VmHost) string {
	s := display.Word(h.GetState(), "VM_HOST_STATE_")
	if h.GetCordoned() {
		s += ",CORDONED"
	}
	return s
}

func hostTypeWord(h *vmhostv1.VmHost) string {
	switch h.GetType() {
	case vmhostv1.VmHostType_VM_HOST_TYPE_UNSPECIFIED:
		return ""
	case vmhostv1.VmHostType_VM_HOST_TYPE_LXD:
		return "LXD"
	case vmhostv1.VmHostType_VM_HOST_TYPE_LIBVIRT, vmhostv1.VmHostType_VM_HOST_TYPE_FAKE:
	}
	return strings.ToLower(display.Word(h.GetType(), "VM_HOST_TYPE_"))
}

func macvlanWord(m vmhostv1.MacvlanMode) string {
	if m == vmhostv1.MacvlanMode_MACVLAN_MODE_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(display.Word(m, "MACVLAN_MODE_"))
}

func machineTypeWord(t vmhostv1.MachineType) string {
	if t == vmhostv1.MachineType_MACHINE_TYPE_UNSPECIFIED {
		return ""
	}
	return strings.ReplaceAll(strings.ToLower(display.Word(t, "MACHINE_TYPE_")), "_", " ")
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// notes are conditions for people.
func notes(conditions []*vmhostv1.Condition, age func(*vmhostv1.Condition) string) []display.Note {
	out := make([]display.Note, len(conditions))
	for i, c := range conditions {
		head := c.GetType() + ": " + yesNo(c.GetStatus())
		if c.GetReason() != "" {
			head += " (" + c.GetReason() + ")"
		}
		if since := age(c); since != "" {
			head += " for " + since
		}
		out[i] = display.Note{Head: head, Message: c.GetMessage(), Hint: c.GetHint()}
	}
	return out
}
