package operation

import (
	"slices"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/reach"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// notDestinations are hosts that a machine cannot be brought to for a reason that
// placement does not know, by id: the rack that would do it does not reach them,
// they are the same hypervisor, or they have something with its uuid already.
func notDestinations(v *store.View, m *storev1.StoredMachine) map[string]string {
	source := idOf(m.GetResource().GetVmHost())
	out := notReached(v, source)
	disks := sharedDisks(v, source, m.GetResource())
	for host := range store.VmHosts.All(v) {
		if pool := hiddenShare(v, source, host, disks); pool != "" && host != source {
			out[host] = "it has storage pool " + pool + " as well, in which the machine has disks, and one of the hosts does not show it now: they would be copied onto themselves"
		}
		if _, there := store.Seen.Get(v, host, m.GetResource().GetHypervisorUuid()); there && host != source {
			out[host] = "it has a machine with the uuid " + m.GetResource().GetHypervisorUuid() + " already"
		}
	}
	return out
}

// sharedDisks are the storage pools with disks of a machine that other hosts may
// have as well: what is behind each, and its name on the machine's host.
func sharedDisks(v *store.View, host string, r *vmhostv1.Machine) map[string]string {
	out := map[string]string{}
	for name, identity := range sharedPools(v, host) {
		if slices.ContainsFunc(r.GetDisks(), func(d *vmhostv1.MachineDisk) bool { return d.GetStoragePool() == name }) {
			out[identity] = name
		}
	}
	return out
}

// hiddenShare is a storage pool of a host, by its name there, which another has as
// well by what is recorded of both, and of which placement does not know: that goes by
// their ledgers, in which a pool that is not read now and holds nothing is left out. It
// would have disks copied that are there already. Empty when there is none.
func hiddenShare(v *store.View, source, host string, disks map[string]string) string {
	if len(disks) == 0 {
		return ""
	}
	here, _ := store.Ledgers.Get(v, source)
	there, _ := store.Ledgers.Get(v, host)
	for name, identity := range sharedPools(v, host) {
		pool := disks[identity]
		if pool != "" && (here.Value.GetSharedPools()[pool] != identity || there.Value.GetSharedPools()[name] != identity) {
			return pool
		}
	}
	return ""
}

// sharedPools is what is behind the storage pools of a host that others may have.
func sharedPools(v *store.View, host string) map[string]string {
	spec, _ := store.VmHosts.Get(v, host)
	observed, _ := store.Observed.Get(v, host)
	out := map[string]string{}
	for _, p := range observed.Value.GetObservation().GetStoragePools() {
		if identity := placement.Identity(spec.Value.GetResource(), p.GetName(), p.GetShared()); identity != "" {
			out[p.GetName()] = identity
		}
	}
	return out
}

// notReached are hosts that nothing on a host can be brought to.
func notReached(v *store.View, source string) map[string]string {
	out := map[string]string{}
	a, _ := store.Assignments.Get(v, source)
	rack := a.Value.GetRack()
	_, connected := store.Sessions.Get(v, rack) // which one will do it is not known otherwise
	here, _ := store.VmHosts.Get(v, source)
	kind, uuid := here.Value.GetResource().GetType(), hostUUID(v, source)
	for host, spec := range store.VmHosts.All(v) {
		r := spec.Value.GetResource()
		switch {
		case host == source || r.GetType() != kind:
		case kind == vmhostv1.VmHostType_VM_HOST_TYPE_LIBVIRT && uuid != "" && hostUUID(v, host) == uuid:
			out[host] = "it is the same hypervisor as vmHosts/" + source
		case kind == vmhostv1.VmHostType_VM_HOST_TYPE_LXD && sameServer(v, here.Value.GetResource(), r):
			out[host] = "it is the same LXD server as vmHosts/" + source
		case connected && !reach.Moves(v, kind, rack):
			out[host] = "racks/" + rack + ", which drives vmHosts/" + source + ", moves no machines between hosts of this kind: bring it to the region's version"
		case connected && !reach.Can(v, r.GetAddress(), rack):
			out[host] = "racks/" + rack + ", which drives vmHosts/" + source + " and copies, cannot reach " + r.GetAddress()
		default:
		}
	}
	return out
}

// sameServer says whether two hosts are projects of one LXD server, or of one
// member of a cluster. All members of a cluster show one certificate.
func sameServer(v *store.View, a, b *vmhostv1.VmHost) bool {
	member := func(h *vmhostv1.VmHost) string {
		o, _ := store.Observed.Get(v, idOf(h.GetName()))
		return o.Value.GetObservation().GetClusterMember()
	}
	one := a.GetAddress() == b.GetAddress() || a.GetHostKey() != "" && a.GetHostKey() == b.GetHostKey()
	return one && member(a) == member(b)
}

func hostUUID(v *store.View, host string) string {
	o, _ := store.Observed.Get(v, host)
	return o.Value.GetObservation().GetHostUuid()
}
