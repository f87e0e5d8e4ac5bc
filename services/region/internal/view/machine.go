package view

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// The conditions of machines.
const (
	// conditionObserved: whether the present state is known.
	conditionObserved = "Observed"
	// conditionMissing: the host does not show a machine that should be there.
	conditionMissing = "Missing"
	// conditionChanged: somebody changed the machine outside of vmhost.
	conditionChanged = "Changed"
	// conditionReadable: the hypervisor could not tell all of it.
	conditionReadable = "Readable"
	// conditionMoving: it is being brought to another host.
	conditionMoving = "Moving"
	// conditionMoveOpen: a move of it ended, and it is not known where it is.
	conditionMoveOpen = "MoveOpen"
)

// Machine is a machine of ours as the API shows it: every decision made,
// merged with what its host shows.
func Machine(v *store.View, fresh LastSeen, r store.Record[*storev1.StoredMachine]) *vmhostv1.Machine {
	return shown(v, fresh, r, proto.CloneOf(r.Value.GetResource()))
}

// OwnMachine is Machine of a record that is not read any more after it.
func OwnMachine(v *store.View, fresh LastSeen, r store.Record[*storev1.StoredMachine]) *vmhostv1.Machine {
	return shown(v, fresh, r, r.Own().GetResource())
}

// shown makes of a record's resource, which is changed, what is shown.
func shown(v *store.View, fresh LastSeen, r store.Record[*storev1.StoredMachine], m *vmhostv1.Machine) *vmhostv1.Machine {
	m.Etag = Etag(r.Revision)
	hostID := id(m.GetVmHost())
	host, ok := store.VmHosts.Get(v, hostID)
	if !ok {
		return m
	}
	spec := host.Value.GetResource()
	m.Zone = spec.GetZone()
	seen, isSeen := store.Seen.Get(v, hostID, Domain(m))
	to := r.Value.GetMove()
	if to != nil {
		if !isSeen {
			seen, isSeen = store.Seen.Get(v, to.GetVmHost(), Domain(m)) // it is there by now
		}
		m.Conditions = append(m.Conditions, moving(v, m, to))
	}
	if isSeen {
		o := seen.Value.GetObservation()
		observe(m, o)
		unreadable(m, o)
		if changed := Changed(m, o); len(changed) > 0 && to == nil {
			m.Conditions = append(m.Conditions, &vmhostv1.Condition{
				Type: conditionChanged, Status: true, Message: "changed outside of vmhost: " + strings.Join(changed, "; "),
				Hint: "change it back on the hypervisor; what vmhost decided, and the capacity it holds, stays as it was, and what it takes beyond that counts as foreign use of its host",
			})
		}
	}
	judge(m, v, fresh, spec, seen.Value)
	if to != nil && !isSeen {
		// Between two hosts: neither may show it for a moment.
		m.Conditions = slices.DeleteFunc(m.GetConditions(), func(c *vmhostv1.Condition) bool { return c.GetType() == conditionMissing })
	}
	return m
}

// moving is the condition of a machine that holds room on two hosts.
func moving(v *store.View, m *vmhostv1.Machine, to *storev1.StoredMove) *vmhostv1.Condition {
	name := "vmHosts/" + to.GetVmHost()
	if op, ok := store.Operations.Get(v, id(m.GetOperation())); ok && op.Value.GetResource().GetEndTime() == nil {
		return &vmhostv1.Condition{
			Type: conditionMoving, Status: true, Message: "it is being moved to " + name + ", and holds room on both hosts (" + m.GetOperation() + ")",
		}
	}
	return &vmhostv1.Condition{
		Type: conditionMoveOpen, Status: true, Reason: vmhostv1.ErrorReason_WRONG_STATE.String(),
		Message: "a move to " + name + " ended without it being known whether the machine is there or on " + m.GetVmHost() + "; it holds room on both",
		Hint:    "move it again, which goes on from there: `vmhostctl machine move " + m.GetHostname() + "`; or delete it, which cleans up both",
	}
}

// observe takes over what only the host knows.
func observe(m *vmhostv1.Machine, o *rackv1.MachineObservation) {
	m.PowerState = o.GetPowerState()
	m.ConsoleLogPath = o.GetConsoleLogPath()
	if m.GetType() == vmhostv1.MachineType_MACHINE_TYPE_UNSPECIFIED {
		m.Type = o.GetType()
	}
	if m.GetFirmware() == vmhostv1.Firmware_FIRMWARE_UNSPECIFIED {
		m.Firmware = o.GetFirmware()
	}
	if m.GetProject() == "" {
		m.Project = o.GetProject()
	}
	for _, seen := range o.GetDisks() {
		for _, d := range m.GetDisks() {
			if sameDisk(d, seen) {
				d.Device, d.Path = seen.GetDevice(), seen.GetPath()
			}
		}
	}
	for _, seen := range o.GetInterfaces() {
		for _, i := range m.GetInterfaces() {
			if i.GetMac() == seen.GetMac() {
				i.Addresses = slices.Clone(seen.GetAddresses())
			}
		}
		for _, a := range seen.GetAddresses() {
			if !slices.Contains(m.GetAddresses(), a) {
				m.Addresses = append(m.Addresses, a)
			}
		}
	}
}

// unreadable says what the hypervisor could not tell of a machine.
func unreadable(m *vmhostv1.Machine, o *rackv1.MachineObservation) {
	if o.GetProblem() == "" {
		return
	}
	m.Conditions = append(m.Conditions, &vmhostv1.Condition{
		Type: conditionReadable, Message: o.GetProblem(),
		Hint: "look at " + o.GetName() + " on its hypervisor; all that could be read is shown",
	})
}

// judge says how far what is shown can be believed. What is seen is nil for a
// machine that its host does not show.
func judge(m *vmhostv1.Machine, v *store.View, fresh LastSeen, host *vmhostv1.VmHost, seen *storev1.StoredSeenMachine) {
	observed := observationOf(v, host)
	at := observeTime(observed.GetObservation().GetObserveTime(), fresh, id(host.GetName()))
	if seen != nil {
		// The host was read whole, or this machine alone since.
		m.ObserveTime = proto.CloneOf(later(at, seen.GetChangeTime()))
	}
	switch {
	case !hostReady(v, host, observed):
		m.PowerState = vmhostv1.PowerState_POWER_STATE_UNSPECIFIED
		m.Conditions = append(m.Conditions, notObserved(host.GetName(), m.GetObserveTime()))
	case seen == nil && m.GetPhase() == vmhostv1.MachinePhase_MACHINE_PHASE_READY:
		m.PowerState = vmhostv1.PowerState_POWER_STATE_UNSPECIFIED
		m.Conditions = append(m.Conditions, &vmhostv1.Condition{
			Type: conditionMissing, Status: true, Reason: vmhostv1.ErrorReason_MACHINE_MISSING.String(),
			Message: "the machine is not on " + host.GetName() + " any more, which was looked at last at " + rfc3339(at) + "; somebody removed it there",
			Hint:    "bring it back on the hypervisor, or delete it to give its capacity and name back",
		})
	}
}

// notObserved is the condition of a machine whose host is not reached.
func notObserved(host string, last *timestamppb.Timestamp) *vmhostv1.Condition {
	return &vmhostv1.Condition{
		Type: conditionObserved, Reason: vmhostv1.ErrorReason_HOST_UNREACHABLE.String(),
		Message: host + " is not reached now; what is shown is how the machine was last seen" + lastSeenAt(last),
		Hint:    "look at the host with `vmhostctl vm-host get " + id(host) + "`",
	}
}
