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
	if pinned != "" {
		if _, enrolled := store.Racks.Get(v, pinned); enrolled && can(v, a, pinned) {
			return []string{pinned}
		}
		return nil
	}
	var near, far []string
	for id, rack := range store.Racks.All(v) {
		if !can(v, a, id) {
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

// Can says whether an enrolled rack is connected and can reach an address.
func Can(v *store.View, address, rack string) bool {
	a, err := hypervisor.ParseAddress(address)
	if err != nil {
		return false
	}
	_, enrolled := store.Racks.Get(v, rack)
	return enrolled && can(v, a, rack)
}

func can(v *store.View, a hypervisor.Address, rack string) bool {
	session, ok := store.Sessions.Get(v, rack)
	if !ok || !slices.Contains(session.Value.GetDrivers(), driver(a.Type)) {
		return false
	}
	if a.Transport != hypervisor.TransportUnix {
		return true
	}
	name := a.Host
	if a.Type == vmhostv1.VmHostType_VM_HOST_TYPE_LXD {
		name = "lxd:" + name
	}
	return slices.Contains(session.Value.GetLocalSockets(), name)
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

// Moves says whether a connected rack moves machines between hosts of a kind.
func Moves(v *store.View, kind vmhostv1.VmHostType, rack string) bool {
	session, ok := store.Sessions.Get(v, rack)
	movers := session.Value.GetMovers()
	if len(movers) == 0 { // older than the question
		movers = []string{"libvirt", "fake"}
	}
	word := driver(kind)
	return ok && (word == "" || slices.Contains(movers, word))
}
