package placement

import (
	"slices"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Filter is the stable word of a reason to refuse a host.
type Filter string

// The filters, in the order in which they are tried: what the operator decided
// first, then how the host stands, then what there is room for. A host that is
// refused late was nearer to fitting.
const (
	FilterVMHost       Filter = "vm_host"
	FilterResourcePool Filter = "resource_pool"
	FilterZone         Filter = "zone"
	FilterTags         Filter = "tags"
	FilterCordon       Filter = "cordon"
	FilterState        Filter = "state"
	FilterArchitecture Filter = "architecture"
	FilterNetwork      Filter = "network"
	FilterHostname     Filter = "hostname"
	FilterCores        Filter = "cores"
	FilterMemory       Filter = "memory"
	FilterStorage      Filter = "storage"
)

func (f Filter) rank() int {
	switch f {
	case FilterVMHost:
		return 0
	case FilterResourcePool:
		return 1
	case FilterZone:
		return 2
	case FilterTags:
		return 3
	case FilterCordon:
		return 4
	case FilterState:
		return 5
	case FilterArchitecture:
		return 6
	case FilterNetwork:
		return 7
	case FilterHostname:
		return 8
	default:
		return 9 // cores, memory and storage: another size or ratio would fit
	}
}

// check tries the filters in order and answers the first that refuses the host.
// When it answers true, fit has what was chosen on the host.
func check(h *Host, req *Request, fit *fitting) (Refusal, bool) {
	no := func(f Filter) (Refusal, bool) { return Refusal{Host: h, Filter: f, req: req}, false }
	switch {
	case req.VMHost != "" && req.VMHost != h.ID:
		return no(FilterVMHost)
	case req.ResourcePool != h.ResourcePool:
		return no(FilterResourcePool)
	case req.Zone != "" && req.Zone != h.Zone:
		return no(FilterZone)
	case !tagsFit(h, req):
		return no(FilterTags)
	case h.Cordoned:
		return no(FilterCordon)
	case h.State != vmhostv1.VmHostState_VM_HOST_STATE_READY:
		return no(FilterState)
	case !fit.chooseArchitecture(h, req):
		return no(FilterArchitecture)
	}
	if i, ok := fit.chooseNetworks(h, req); !ok {
		return Refusal{Host: h, Filter: FilterNetwork, Item: i, req: req}, false
	}
	if req.NameTaken != nil && req.NameTaken(h.ID) {
		return no(FilterHostname)
	}
	if !h.Cores.fits(int64(req.Cores)) {
		return Refusal{Host: h, Filter: FilterCores, Requested: int64(req.Cores), Resource: h.Cores, req: req}, false
	}
	if !h.MemoryMiB.fits(req.MemoryMiB) {
		return Refusal{Host: h, Filter: FilterMemory, Requested: req.MemoryMiB, Resource: h.MemoryMiB, req: req}, false
	}
	return fit.choosePools(h, req)
}

func tagsFit(h *Host, req *Request) bool {
	for _, t := range req.RequiredTags {
		if !slices.Contains(h.Tags, t) {
			return false
		}
	}
	for _, t := range req.ForbiddenTags {
		if slices.Contains(h.Tags, t) {
			return false
		}
	}
	return true
}

func (f *fitting) chooseArchitecture(h *Host, req *Request) bool {
	if req.Architecture != "" {
		f.architecture = req.Architecture
		return slices.Contains(h.Architectures, req.Architecture)
	}
	if len(h.Architectures) == 0 {
		return false
	}
	f.architecture = h.Architectures[0]
	return true
}

// chooseNetworks answers the first interface that nothing on the host serves.
func (f *fitting) chooseNetworks(h *Host, req *Request) (int, bool) {
	f.networks = f.networks[:0]
	for i, want := range req.Interfaces {
		if want.Kind == vmhostv1.InterfaceKind_INTERFACE_KIND_UNSPECIFIED {
			want.Kind = vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK
		}
		source, ok := h.network(want)
		if !ok {
			return i, false
		}
		f.networks = append(f.networks, Interface{Source: source, Kind: want.Kind})
	}
	return 0, true
}

func (h *Host) network(want Interface) (string, bool) {
	if want.Source == "" {
		return h.anyNetwork(want.Kind)
	}
	for _, n := range h.Networks {
		if !n.Active {
			continue
		}
		if n.Kind == want.Kind && n.Name == want.Source {
			return want.Source, true
		}
		// The bridge of a network of the hypervisor is a bridge as well.
		if want.Kind == vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE && n.Bridge == want.Source {
			return want.Source, true
		}
	}
	return "", false
}

// anyNetwork is the network named default, or the first with DHCP; of bridges
// and devices the first.
func (h *Host) anyNetwork(kind vmhostv1.InterfaceKind) (string, bool) {
	first := ""
	for _, n := range h.Networks {
		if !n.Active || n.Kind != kind {
			continue
		}
		if n.Name == "default" {
			return n.Name, true
		}
		if first == "" && (n.DHCP || kind != vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK) {
			first = n.Name
		}
	}
	return first, first != ""
}
