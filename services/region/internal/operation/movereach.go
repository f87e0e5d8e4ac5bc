package operation

import (
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/reach"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// notDestinations are hosts that a machine cannot be brought to for a reason that
// placement does not know, by id: the rack that would do it does not reach them,
// they are the same hypervisor, or they have something with its uuid already.
func notDestinations(v *store.View, m *storev1.StoredMachine) map[string]string {
	source := idOf(m.GetResource().GetVmHost())
	out := notReached(v, source)
	for host := range store.VmHosts.All(v) {
		if _, there := store.Seen.Get(v, host, m.GetResource().GetHypervisorUuid()); there && host != source {
			out[host] = "it has a machine with the uuid " + m.GetResource().GetHypervisorUuid() + " already"
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
		case connected && !reach.Can(v, r.GetAddress(), rack):
			out[host] = "racks/" + rack + ", which drives vmHosts/" + source + " and copies, cannot reach " + r.GetAddress()
		default:
		}
	}
	return out
}

func hostUUID(v *store.View, host string) string {
	o, _ := store.Observed.Get(v, host)
	return o.Value.GetObservation().GetHostUuid()
}
