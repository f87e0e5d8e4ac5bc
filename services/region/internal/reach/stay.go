package reach

import (
	"slices"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// WhyCopies is why the disks of machines of a host, an id, do not stay in storage
// pools that other hosts have as well when they are moved there; empty: they do. It
// depends on the rack that drives the host.
func WhyCopies(v *store.View, host string) string {
	spec, _ := store.VmHosts.Get(v, host)
	kind := spec.Value.GetResource().GetType()
	if kind == vmhostv1.VmHostType_VM_HOST_TYPE_LXD {
		return "LXD servers move machines by a copy of their own"
	}
	a, _ := store.Assignments.Get(v, host)
	rack := a.Value.GetRack()
	session, connected := store.Sessions.Get(v, rack)
	switch {
	case !connected:
		return "no rack is connected that drives vmHosts/" + host
	case !slices.Contains(session.Value.GetSharedMovers(), driver(kind)):
		return "racks/" + rack + ", which drives vmHosts/" + host + ", leaves no disks where they are: bring it to the region's version"
	default:
		return ""
	}
}
