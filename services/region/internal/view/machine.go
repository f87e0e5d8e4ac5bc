package view

import (
	"iter"
	"slices"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// conditionObserved is the condition of a machine whose present state is not
// known.
const conditionObserved = "Observed"

// Machine is a machine of ours as the API shows it: every decision made,
// merged with what its host shows.
func Machine(v *store.View, r store.Record[*storev1.StoredMachine]) *vmhostv1.Machine {
	m := proto.CloneOf(r.Value.GetResource())
	m.Etag = Etag(r.Revision)
	hostID := id(m.GetVmHost())
	host, ok := store.VmHosts.Get(v, hostID)
	if !ok {
		return m
	}
	spec := host.Value.GetResource()
	m.Zone = spec.GetZone()
	seen, isSeen := store.Seen.Get(v, hostID, m.GetUid())
	if isSeen {
		observe(m, seen.Value.GetObservation())
	}
	judge(m, v, spec, seen.Value)
	return m
}

// Discovered is a machine that vmhost did not make.
func Discovered(v *store.View, host *vmhostv1.VmHost, r store.Record[*storev1.StoredSeenMachine]) *vmhostv1.Machine {
	o := r.Value.GetObservation()
	uid := DiscoveredUID(host.GetUid(), o.GetUuid())
	m := &vmhostv1.Machine{
		Name: "machines/" + uid, Uid: uid, Etag: Etag(r.Revision),
		CreateTime: proto.CloneOf(r.Value.GetFirstSeenTime()), UpdateTime: proto.CloneOf(r.Value.GetChangeTime()),
		Hostname: o.GetName(), Origin: vmhostv1.MachineOrigin_MACHINE_ORIGIN_DISCOVERED,
		VmHost: host.GetName(), Zone: host.GetZone(), ResourcePool: host.GetResourcePool(),
		HypervisorName: o.GetName(), HypervisorUuid: o.GetUuid(), Architecture: o.GetArchitecture(),
		Cores: o.GetCores(), MemoryMib: o.GetMemoryMib(), Phase: vmhostv1.MachinePhase_MACHINE_PHASE_READY,
	}
	for _, d := range o.GetDisks() {
		m.Disks = append(m.Disks, proto.CloneOf(d))
	}
	for _, i := range o.GetInterfaces() {
		m.Interfaces = append(m.Interfaces, proto.CloneOf(i))
	}
	observe(m, o)
	if o.GetProblem() != "" {
		m.Conditions = append(m.Conditions, &vmhostv1.Condition{Type: "Readable", Message: o.GetProblem()})
	}
	judge(m, v, host, r.Value)
	return m
}

// DiscoveredUID is the uid of a domain that was found: it stays the same as long
// as host and domain do.
func DiscoveredUID(hostUID, domain string) string {
	space, err := uuid.Parse(hostUID)
	if err != nil {
		space = uuid.Nil
	}
	return uuid.NewSHA1(space, []byte(domain)).String()
}

// observe takes over what only the host knows.
func observe(m *vmhostv1.Machine, o *rackv1.MachineObservation) {
	m.PowerState = o.GetPowerState()
	m.ConsoleLogPath = o.GetConsoleLogPath()
	for _, seen := range o.GetDisks() {
		for _, d := range m.GetDisks() {
			if d.GetVolume() == seen.GetVolume() && d.GetStoragePool() == seen.GetStoragePool() {
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

// judge says how far what is shown can be believed. What is seen is nil for a
// machine that its host does not show.
func judge(m *vmhostv1.Machine, v *store.View, host *vmhostv1.VmHost, seen *storev1.StoredSeenMachine) {
	isSeen := seen != nil
	if isSeen {
		// The host was read whole, or this machine alone since.
		m.ObserveTime = later(observationOf(v, host).GetObservation().GetObserveTime(), seen.GetChangeTime())
	}
	switch {
	case !hostReady(v, host):
		m.PowerState = vmhostv1.PowerState_POWER_STATE_UNSPECIFIED
		m.Conditions = append(m.Conditions, &vmhostv1.Condition{
			Type: conditionObserved, Reason: vmhostv1.ErrorReason_HOST_UNREACHABLE.String(),
			Message: host.GetName() + " is not reached now; what is shown is how the machine was last seen",
			Hint:    "look at the host with `vmhostctl vm-host get " + id(host.GetName()) + "`",
		})
	case !isSeen && m.GetPhase() == vmhostv1.MachinePhase_MACHINE_PHASE_READY:
		m.Conditions = append(m.Conditions, &vmhostv1.Condition{
			Type: conditionObserved, Reason: vmhostv1.ErrorReason_MACHINE_MISSING.String(),
			Message: "the machine is not on " + host.GetName() + " any more; somebody removed it there",
			Hint:    "delete it to give its capacity and name back",
		})
	}
}

func later(a, b *timestamppb.Timestamp) *timestamppb.Timestamp {
	if b.AsTime().After(a.AsTime()) {
		a = b
	}
	return proto.CloneOf(a)
}

// AllDiscovered are the machines on hosts that have no record.
func AllDiscovered(v *store.View) iter.Seq2[*vmhostv1.VmHost, store.Record[*storev1.StoredSeenMachine]] {
	return func(yield func(*vmhostv1.VmHost, store.Record[*storev1.StoredSeenMachine]) bool) {
		for hostID, host := range store.VmHosts.All(v) {
			for domain, seen := range store.Seen.All(v, hostID) {
				if isOurs(v, host.Value.GetResource().GetName(), domain) {
					continue
				}
				if !yield(host.Value.GetResource(), seen) {
					return
				}
			}
		}
	}
}

// isOurs says whether a domain on a host is a machine with a record there.
func isOurs(v *store.View, host, domain string) bool {
	m, ok := store.Machines.Get(v, domain)
	return ok && m.Value.GetResource().GetVmHost() == host
}

// FindDiscovered is the discovered machine of a uid.
func FindDiscovered(v *store.View, uid string) (*vmhostv1.Machine, bool) {
	for host, seen := range AllDiscovered(v) {
		if DiscoveredUID(host.GetUid(), seen.Value.GetObservation().GetUuid()) == uid {
			return Discovered(v, host, seen), true
		}
	}
	return nil, false
}
