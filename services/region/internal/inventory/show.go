package inventory

import (
	"strings"

	"google.golang.org/protobuf/proto"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Machine is a machine as it is now: its record with what its hypervisor shows.
// host is where to look for a discovered machine, one without a record. Nil when
// there is no such machine.
func Machine(v *store.View, uid, host string) *vmhostv1.Machine {
	rec, ours := store.Machines.Get(v, uid)
	if !ours {
		return discovered(v, uid, host)
	}
	m := proto.CloneOf(rec.Value.GetResource())
	host = strings.TrimPrefix(m.GetVmHost(), "vmHosts/")
	show(v, m, host, m.GetHypervisorUuid())
	return m
}

func discovered(v *store.View, uid, host string) *vmhostv1.Machine {
	h, ok := store.VmHosts.Get(v, host)
	if !ok {
		return nil
	}
	for uuid, seen := range store.Seen.All(v, host) {
		if DiscoveredUID(h.Value.GetResource().GetUid(), uuid) != uid {
			continue
		}
		o := seen.Value.GetObservation()
		m := &vmhostv1.Machine{
			Name: "machines/" + uid, Uid: uid, CreateTime: seen.Value.GetFirstSeenTime(), UpdateTime: seen.Value.GetChangeTime(),
			Hostname: o.GetName(), Origin: vmhostv1.MachineOrigin_MACHINE_ORIGIN_DISCOVERED,
			VmHost: "vmHosts/" + host, Zone: h.Value.GetResource().GetZone(), ResourcePool: h.Value.GetResource().GetResourcePool(),
			HypervisorName: o.GetName(), HypervisorUuid: uuid, Architecture: o.GetArchitecture(), Cores: o.GetCores(), MemoryMib: o.GetMemoryMib(),
			Disks: o.GetDisks(), Interfaces: o.GetInterfaces(), Phase: vmhostv1.MachinePhase_MACHINE_PHASE_READY,
		}
		m = proto.CloneOf(m)
		show(v, m, host, uuid)
		return m
	}
	return nil
}

// show adds what is observed: whether the machine runs, while its host is
// reached, its addresses, and what only the hypervisor knows of its disks.
func show(v *store.View, m *vmhostv1.Machine, host, uuid string) {
	observed, _ := store.Observed.Get(v, host)
	m.ObserveTime = observed.Value.GetObservation().GetObserveTime()
	rec, ok := store.Seen.Get(v, host, uuid)
	if !ok {
		return
	}
	o := rec.Value.GetObservation()
	if observed.Value.GetState() == vmhostv1.VmHostState_VM_HOST_STATE_READY {
		m.PowerState = o.GetPowerState()
	}
	m.ConsoleLogPath = o.GetConsoleLogPath()
	for _, d := range m.GetDisks() {
		for _, seen := range o.GetDisks() {
			if seen.GetVolume() == d.GetVolume() && seen.GetStoragePool() == d.GetStoragePool() {
				d.Device, d.Path = seen.GetDevice(), seen.GetPath()
			}
		}
	}
	for _, n := range o.GetInterfaces() {
		m.Addresses = append(m.Addresses, n.GetAddresses()...)
		for _, mine := range m.GetInterfaces() {
			if mine.GetMac() == n.GetMac() {
				mine.Addresses = n.GetAddresses()
			}
		}
	}
}

// VMHost is a host as it is now: what the operator asked for, what was observed,
// and what is used. Nil when there is no such host.
func VMHost(v *store.View, id string) *vmhostv1.VmHost {
	rec, ok := store.VmHosts.Get(v, id)
	if !ok {
		return nil
	}
	observed, _ := store.Observed.Get(v, id)
	ledger, _ := store.Ledgers.Get(v, id)
	h := proto.CloneOf(rec.Value.GetResource())
	h.Credential = nil
	h.State, h.Conditions, h.Observation = observed.Value.GetState(), observed.Value.GetConditions(), observed.Value.GetObservation()
	if h.GetState() == vmhostv1.VmHostState_VM_HOST_STATE_UNSPECIFIED {
		h.State = vmhostv1.VmHostState_VM_HOST_STATE_PENDING
	}
	if a, ok := store.Assignments.Get(v, id); ok && a.Value.GetVmHostUid() == h.GetUid() {
		h.AssignedRack = "racks/" + a.Value.GetRack()
	}
	h.Usage = placement.Usage(placement.NewHost(rec.Value, observed.Value, ledger.Value))
	return proto.CloneOf(h)
}
