package placement

import (
	"slices"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Filter is the stable word of a reason to refuse a host.
type Filter string

// The filters, in the order in which they are tried: what the operator decided
// first, then how the host stands, what it can do, and then what there is room
// for. A host that is refused late was nearer to fitting.
const (
	FilterVMHost        Filter = "vm_host"
	FilterResourcePool  Filter = "resource_pool"
	FilterZone          Filter = "zone"
	FilterTags          Filter = "tags"
	FilterCordon        Filter = "cordon"
	FilterState         Filter = "state"
	FilterOvercommitted Filter = "overcommitted"
	FilterType          Filter = "type"
	FilterArchitecture  Filter = "architecture"
	FilterCPUModel      Filter = "cpu_model"
	FilterCapability    Filter = "capability"
	FilterImage         Filter = "image"
	FilterPolicy        Filter = "policy"
	FilterNetwork       Filter = "network"
	FilterHostname      Filter = "hostname"
	FilterAffinity      Filter = "affinity"
	FilterSpread        Filter = "spread"
	FilterCores         Filter = "cores"
	FilterMemory        Filter = "memory"
	FilterHugepages     Filter = "hugepages"
	FilterPinnedCores   Filter = "pinned_cores"
	FilterNUMA          Filter = "numa"
	FilterStorage       Filter = "storage"
)

// FilterSharedStorage is FilterStorage where what runs out first is a storage pool
// that hosts share. No host is refused by this word.
const FilterSharedStorage Filter = "shared_storage"

// early are the filters before those of room, in order.
var early = [...]Filter{
	FilterVMHost, FilterResourcePool, FilterZone, FilterTags, FilterCordon, FilterState, FilterOvercommitted, FilterType,
	FilterArchitecture, FilterCPUModel, FilterCapability, FilterImage, FilterPolicy, FilterNetwork, FilterHostname,
	FilterAffinity, FilterSpread,
}

// rank says how far a host came. Those of room are alike: another size or ratio
// would fit.
func (f Filter) rank() int {
	if i := slices.Index(early[:], f); i >= 0 {
		return i
	}
	return len(early)
}

// check tries the filters in order and answers the first that refuses the host.
// When it answers true, fit has what was chosen on the host.
func check(h *Host, req *Request, near *nearness, fit *fitting) (Refusal, bool) {
	no := func(f Filter) (Refusal, bool) { return Refusal{Host: h, Filter: f, req: req}, false }
	switch {
	case (req.VMHost != "" && req.VMHost != h.ID) || (req.From != "" && req.From == h.ID):
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
	}
	if o, over := h.over(); over {
		return o.refusal(h, req), false
	}
	switch {
	case !h.typeFits(req):
		return no(FilterType)
	case !fit.chooseArchitecture(h, req):
		return no(FilterArchitecture)
	case req.CPUModel != "" && req.CPUModel != h.CPUModel:
		return no(FilterCPUModel)
	case h.missingCapability(req) != "":
		return no(FilterCapability)
	case !fit.chooseImage(h, req):
		return no(FilterImage)
	}
	if why, ok := req.Policy.admits(h); !ok {
		return Refusal{Host: h, Filter: FilterPolicy, Why: why, req: req}, false
	}
	if i, ok := fit.chooseNetworks(h, req); !ok {
		return Refusal{Host: h, Filter: FilterNetwork, Item: i, req: req}, false
	}
	if req.NameTaken != nil && req.NameTaken(h.ID, req.NameOn(h)) {
		return no(FilterHostname)
	}
	if i := near.broken(h, req); i >= 0 {
		return Refusal{Host: h, Filter: FilterAffinity, Item: i, req: req}, false
	}
	if n, full := near.full(h, req); full {
		return Refusal{Host: h, Filter: FilterSpread, Requested: int64(n), req: req}, false
	}
	return fit.room(h, req)
}

// room tries the filters of what there must be room for.
func (f *fitting) room(h *Host, req *Request) (Refusal, bool) {
	if !h.Cores.fits(int64(req.Cores)) {
		return Refusal{Host: h, Filter: FilterCores, Requested: int64(req.Cores), Resource: h.Cores, req: req}, false
	}
	if !h.MemoryMiB.fits(req.MemoryMiB) {
		return Refusal{Host: h, Filter: FilterMemory, Requested: req.MemoryMiB, Resource: h.MemoryMiB, req: req}, false
	}
	if req.Hugepages && (!h.Hugepages.fits(req.MemoryMiB) || req.MemoryMiB%max(h.PageMiB, 1) != 0) {
		return Refusal{Host: h, Filter: FilterHugepages, Requested: req.MemoryMiB, Resource: h.Hugepages, req: req}, false
	}
	for i, c := range req.PinnedCores {
		if !h.hasCore(c) {
			return Refusal{Host: h, Filter: FilterPinnedCores, Item: i, Missing: true, req: req}, false
		}
		if _, pinned := slices.BinarySearch(h.Pinned, c); pinned {
			return Refusal{Host: h, Filter: FilterPinnedCores, Item: i, req: req}, false
		}
	}
	f.cores = req.PinnedCores
	if req.OneNUMANode && !f.chooseNode(h, req) {
		return Refusal{Host: h, Filter: FilterNUMA, Requested: int64(req.Cores), req: req}, false
	}
	return f.choosePools(h, req)
}

func tagsFit(h *Host, req *Request) bool {
	if !all(req.RequiredTags, h.Tags) {
		return false
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
