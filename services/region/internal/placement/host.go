package placement

import (
	"maps"
	"math"
	"slices"
	"strings"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Host is everything of a host that a decision needs, made once from its
// records. It is never changed.
type Host struct {
	// ID is the host's id, UID tells it from a host of the same id before it.
	ID, UID string
	// State is where the host stands, Trouble what its condition says.
	State   vmhostv1.VmHostState
	Trouble string
	// Cordoned hosts take nothing new.
	Cordoned bool
	// ResourcePool and Zone are ids.
	ResourcePool, Zone string
	// Tags is what the operator called it.
	Tags []string
	// Architectures it can run, best first.
	Architectures []string
	// Cores and MemoryMiB are the host's.
	Cores, MemoryMiB Resource
	// Pools are its storage pools, sorted by name.
	Pools []Pool
	// DefaultPool takes the disks that name no pool, empty: the pool with the
	// most room.
	DefaultPool string
	// Networks are what machines can be attached to.
	Networks []Network
	// MacvlanMode is for macvlan interfaces that do not say.
	MacvlanMode vmhostv1.MacvlanMode
	// Machines is how many machines hold commitments.
	Machines int32
}

// Pool is one storage pool, in bytes.
type Pool struct {
	// Name on its host.
	Name string
	// Active pools only take volumes.
	Active bool
	Resource
}

// Network is something that a machine can be attached to.
type Network struct {
	// Name on its host.
	Name string
	// Kind is how machines are attached to it.
	Kind vmhostv1.InterfaceKind
	// Bridge is the device behind a network of the hypervisor, if any.
	Bridge string
	// DHCP says whether the hypervisor serves addresses on it.
	DHCP bool
	// Active says whether it is running.
	Active bool
}

// NewHost makes a Host from its records; observed and ledger may be nil.
func NewHost(spec *storev1.StoredVmHost, observed *storev1.StoredVmHostObservation, ledger *storev1.StoredLedger) *Host {
	r, o := spec.GetResource(), observed.GetObservation()
	ratio := ratiosOf(r.GetOvercommit())
	h := &Host{
		ID:            strings.TrimPrefix(r.GetName(), "vmHosts/"),
		UID:           r.GetUid(),
		State:         observed.GetState(),
		Cordoned:      r.GetCordoned(),
		ResourcePool:  strings.TrimPrefix(r.GetResourcePool(), "resourcePools/"),
		Zone:          strings.TrimPrefix(r.GetZone(), "zones/"),
		Tags:          r.GetTags(),
		Architectures: o.GetArchitectures(),
		Cores:         NewResource(int64(o.GetCores()), ratio.cores, int64(ledger.GetTotal().GetCores()), int64(o.GetForeign().GetCores())),
		MemoryMiB:     NewResource(o.GetMemoryMib(), ratio.memory, ledger.GetTotal().GetMemoryMib(), o.GetForeign().GetMemoryMib()),
		Pools:         pools(o.GetStoragePools(), ratio.storage, ledger.GetTotal().GetStorageBytes()),
		DefaultPool:   r.GetDefaultStoragePool(),
		MacvlanMode:   r.GetDefaultMacvlanMode(),
		Machines:      ledger.GetMachines(),
	}
	if observed.GetVmHostUid() != "" && observed.GetVmHostUid() != h.UID {
		h.State = vmhostv1.VmHostState_VM_HOST_STATE_PENDING // a report on the host of this id before it
	}
	for _, n := range o.GetNetworks() {
		h.Networks = append(h.Networks, Network{
			Name: n.GetName(), Kind: interfaceKind(n.GetKind()), Bridge: n.GetBridge(), DHCP: n.GetDhcp(), Active: n.GetActive(),
		})
	}
	for _, c := range observed.GetConditions() {
		if c.GetType() == "Reachable" && !c.GetStatus() {
			h.Trouble = c.GetMessage()
		}
	}
	return h
}

type ratios struct{ cores, memory, storage float64 }

func ratiosOf(o *vmhostv1.OvercommitRatios) ratios {
	r := ratios{1, 1, 1}
	if o != nil && o.Cores != nil {
		r.cores = o.GetCores()
	}
	if o != nil && o.Memory != nil {
		r.memory = o.GetMemory()
	}
	if o != nil && o.Storage != nil {
		r.storage = o.GetStorage()
	}
	return r
}

func pools(observed []*vmhostv1.StoragePool, ratio float64, committed map[string]int64) []Pool {
	out := make([]Pool, 0, len(observed))
	for _, p := range observed {
		// What our volumes have allocated is already committed, in full.
		foreign := max(p.GetAllocationBytes(), 0) - max(p.GetOursBytes(), 0)
		out = append(out, Pool{
			Name: p.GetName(), Active: p.GetActive(),
			Resource: NewResource(p.GetCapacityBytes(), ratio, committed[p.GetName()], foreign),
		})
	}
	// What is committed in a pool that is not seen now stays in the usage.
	for _, name := range slices.Sorted(maps.Keys(committed)) {
		if !slices.ContainsFunc(out, func(p Pool) bool { return p.Name == name }) && committed[name] != 0 {
			out = append(out, Pool{Name: name, Resource: NewResource(0, ratio, committed[name], 0)})
		}
	}
	slices.SortStableFunc(out, func(a, b Pool) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func interfaceKind(k vmhostv1.HostNetworkKind) vmhostv1.InterfaceKind {
	switch k {
	case vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK:
		return vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK
	case vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_BRIDGE:
		return vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE
	case vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_DEVICE:
		return vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN
	default:
		return vmhostv1.InterfaceKind_INTERFACE_KIND_UNSPECIFIED
	}
}

// Take answers the host as it is after a machine of these sizes was committed:
// disk i is in pool pools[i].
func (h *Host) Take(cores int32, memoryMiB int64, disks []Disk, pools []string) *Host {
	out := *h
	out.Cores.Committed += int64(cores)
	out.MemoryMiB.Committed += memoryMiB
	out.Machines++
	out.Pools = slices.Clone(h.Pools)
	for i, d := range disks {
		if j := out.pool(pools[i]); j >= 0 {
			out.Pools[j].Committed += d.SizeBytes
		}
	}
	return &out
}

func (h *Host) pool(name string) int {
	return slices.IndexFunc(h.Pools, func(p Pool) bool { return p.Name == name })
}

// loadWith is the host's load after taking a machine: the larger of cores and
// memory against their limits.
func (h *Host) loadWith(cores int32, memoryMiB int64) float64 {
	return math.Max(h.Cores.loadWith(int64(cores)), h.MemoryMiB.loadWith(memoryMiB))
}

// Usage is the host's use of its resources against their limits, as the API
// shows it.
func Usage(h *Host) *vmhostv1.VmHostUsage {
	u := &vmhostv1.VmHostUsage{
		Cores:        h.Cores.usage(),
		MemoryMib:    h.MemoryMiB.usage(),
		StorageBytes: make(map[string]*vmhostv1.ResourceUsage, len(h.Pools)),
		Machines:     h.Machines,
	}
	for _, p := range h.Pools {
		u.StorageBytes[p.Name] = p.usage()
	}
	return u
}

func (r Resource) usage() *vmhostv1.ResourceUsage {
	return &vmhostv1.ResourceUsage{
		Physical: r.Physical, Ratio: r.Ratio, Limit: r.Limit, Committed: r.Committed, Foreign: r.Foreign, Free: r.Free(),
	}
}
