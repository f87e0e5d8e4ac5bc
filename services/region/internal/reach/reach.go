// Package reach says which racks can reach a hypervisor. It only reads views.
package reach

import (
	"slices"
	"strings"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Racks are the connected racks that can reach an address, best first: those of
// the zone before others, then by id. A pinned rack, an id, is the only one
// considered. An address that does not parse is reached by none.
func Racks(v *store.View, address, zone, pinned string) []string {
	a, err := hypervisor.ParseAddress(address)
	if err != nil {
		return nil
	}
	var near, far []string
	for id, rack := range store.Racks.All(v) {
		if pinned != "" && id != pinned {
			continue
		}
		session, ok := store.Sessions.Get(v, id)
		if !ok || !slices.Contains(session.Value.GetDrivers(), driver(a.Type)) {
			continue
		}
		if a.Transport == hypervisor.TransportUnix && !slices.Contains(session.Value.GetLocalSockets(), a.Host) {
			continue
		}
		if strings.TrimPrefix(rack.Value.GetResource().GetZone(), "zones/") == zone {
			near = append(near, id)
		} else {
			far = append(far, id)
		}
	}
	return append(near, far...)
}

func driver(t vmhostv1.VmHostType) string {
	switch t {
	case vmhostv1.VmHostType_VM_HOST_TYPE_LIBVIRT:
		return "libvirt"
	case vmhostv1.VmHostType_VM_HOST_TYPE_LXD:
		return "lxd"
	case vmhostv1.VmHostType_VM_HOST_TYPE_FAKE:
		return "fake"
	default:
		return ""
	}
}
