package placement

import (
	"cmp"
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
	// Type is which hypervisor it runs, Project the LXD project.
	Type    vmhostv1.VmHostType
	Project string
	// State is where the host stands, Trouble what its condition says.
	State   vmhostv1.VmHostState
	Trouble string
	// Barred is why the host, which may be well, is no place for the machine that is
	// asked about; its State is not ready then. Empty: it is none of that.
	Barred string
	// Cordoned hosts take nothing new.
	Cordoned bool
	// ResourcePool and Zone are ids.
	ResourcePool, Zone string
	// Tags is what the operator called it.
	Tags []string
	// Architectures it can run, best first.
	Architectures []string
	// Capabilities, Profiles and Images are what the hypervisor says it has.
	Capabilities []string
	Profiles     []string
	Images       []*vmhostv1.HostImage
	// Cores and MemoryMiB are the host's.
	Cores, MemoryMiB Resource
	// CoreNumbers are the numbers of its cores, sorted; none: they are counted from
	// 0. Pinned are those that some machine is pinned to.
	CoreNumbers, Pinned []int32
	// Nodes are its NUMA nodes, by id; a host that tells of none has one.
	Nodes []Node
	// CPUModel is what it reports, KVM whether guests run by it.
	CPUModel string
	KVM      bool
	// Hugepages is the memory in huge pages, MiB, of PageMiB each.
	Hugepages Resource
	PageMiB   int64
	// Pools are its storage pools, sorted by name.
	Pools []Pool
	// DefaultPool takes the disks that name no pool, empty: the pool with the
	// most room.
	DefaultPool string
	// Networks are what machines can be attached to.
	Networks []Network
	// FixedAddresses are those that machines of ours have, see FixedAddress;
	// sorted.
	FixedAddresses []string
	// MacvlanMode is for macvlan interfaces that do not say.
	MacvlanMode vmhostv1.MacvlanMode
	// Machines is how many machines hold commitments.
	Machines int32
	// Groups are those that have machines on it, see GroupKey; sorted by key.
	Groups []GroupCount
}

// NewHost makes a Host from its records; observed and ledger may be nil.
func NewHost(spec *storev1.StoredVmHost, observed *storev1.StoredVmHostObservation, ledger *storev1.StoredLedger) *Host {
	r, o, total := spec.GetResource(), observed.GetObservation(), ledger.GetTotal()
	ratio := ratiosOf(r.GetOvercommit())
	h := &Host{
		ID:            strings.TrimPrefix(r.GetName(), "vmHosts/"),
		UID:           r.GetUid(),
		Type:          r.GetType(),
		State:         observed.GetState(),
		Cordoned:      r.GetCordoned(),
		ResourcePool:  strings.TrimPrefix(r.GetResourcePool(), "resourcePools/"),
		Zone:          strings.TrimPrefix(r.GetZone(), "zones/"),
		Tags:          r.GetTags(),
		Architectures: o.GetArchitectures(),
		Capabilities:  o.GetCapabilities(),
		Profiles:      o.GetProfiles(),
		Images:        o.GetImages(),
		Cores: newCores(int64(o.GetCores()), int64(r.GetReservedCores()), ratio.cores,
			int64(total.GetCores()), int64(o.GetForeign().GetCores())),
		MemoryMiB: NewResource(o.GetMemoryMib(), r.GetReservedMemoryMib(), ratio.memory,
			total.GetMemoryMib(), o.GetForeign().GetMemoryMib()),
		CoreNumbers:    coreNumbers(o),
		Nodes:          nodes(o),
		CPUModel:       o.GetCpuModel(),
		KVM:            o.GetKvm(),
		Pinned:         sorted(total.GetPinnedCores(), o.GetForeign().GetPinnedCores()),
		Pools:          pools(o.GetStoragePools(), r.GetStoragePoolLabels(), ratio.storage, ledger),
		DefaultPool:    r.GetDefaultStoragePool(),
		Networks:       networks(r, o, total.GetSriovFunctions()),
		FixedAddresses: total.GetFixedAddresses(),
		MacvlanMode:    r.GetDefaultMacvlanMode(),
		Machines:       ledger.GetMachines(),
	}
	if groups := total.GetGroups(); len(groups) > 0 {
		h = h.WithGroups(groups)
	}
	if h.Type == vmhostv1.VmHostType_VM_HOST_TYPE_LXD {
		h.Project = cmp.Or(r.GetProject(), "default")
	}
	h.Hugepages, h.PageMiB = hugepages(o, total.GetHugepagesMib())
	if observed.GetVmHostUid() != "" && observed.GetVmHostUid() != h.UID {
		h.State = vmhostv1.VmHostState_VM_HOST_STATE_PENDING // a report on the host of this id before it
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

func sorted(a, b []int32) []int32 {
	if len(a)+len(b) == 0 {
		return nil
	}
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}

// coreNumbers are those of the NUMA nodes.
func coreNumbers(o *vmhostv1.VmHostObservation) []int32 {
	var out []int32
	for _, n := range o.GetNumaNodes() {
		out = append(out, n.GetCores()...)
	}
	return sorted(out, nil)
}

// hasCore says whether there is a core of the number.
func (h *Host) hasCore(number int32) bool {
	if len(h.CoreNumbers) == 0 {
		return number >= 0 && int64(number) < h.Cores.Physical
	}
	_, there := slices.BinarySearch(h.CoreNumbers, number)
	return there
}

// hugepages is the memory in huge pages of the smallest size there is, which is
// what hypervisors use when they are told no size.
func hugepages(o *vmhostv1.VmHostObservation, committed int64) (Resource, int64) {
	size := pageKiB(o)
	total, used := int64(0), int64(0)
	for _, n := range o.GetNumaNodes() {
		for _, p := range n.GetHugePages() {
			if p.GetSizeKib() == size {
				total += p.GetTotal() * size / 1024
				used += (p.GetTotal() - p.GetFree()) * size / 1024
			}
		}
	}
	told := int64(-1)
	if f := o.GetForeign(); f != nil && f.HugepagesMib != nil {
		told = f.GetHugepagesMib()
	}
	return NewResource(total, 0, 1, committed, ofOthers(used, committed, told)), size / 1024
}

// pageKiB is the smallest size that huge pages are there of; 0: none are.
func pageKiB(o *vmhostv1.VmHostObservation) int64 {
	size := int64(0)
	for _, n := range o.GetNumaNodes() {
		for _, p := range n.GetHugePages() {
			if p.GetTotal() > 0 && p.GetSizeKib() >= 1024 && (size == 0 || p.GetSizeKib() < size) {
				size = p.GetSizeKib()
			}
		}
	}
	return size
}

// ofOthers is what others use of something of which it is seen how much is in
// use. Not told how much their machines have (-1), all of it is taken for theirs.
// Told, it is at least what ours cannot have: not only machines use such things.
func ofOthers(used, committed, told int64) int64 {
	if told < 0 {
		return used
	}
	return max(told, used-committed)
}

// Take answers the host as it is after a machine took so much of it.
func (h *Host) Take(c *storev1.Commitment) *Host {
	out := *h
	out.Cores.Committed += int64(c.GetCores())
	out.MemoryMiB.Committed += c.GetMemoryMib()
	out.Hugepages.Committed += c.GetHugepagesMib()
	out.Machines++
	if len(c.GetPinnedCores()) > 0 {
		out.Pinned = sorted(h.Pinned, c.GetPinnedCores())
	}
	if len(c.GetFixedAddresses()) > 0 {
		out.FixedAddresses = slices.Concat(h.FixedAddresses, c.GetFixedAddresses())
		slices.Sort(out.FixedAddresses)
	}
	for key, n := range c.GetGroups() {
		out.Groups = out.Join(key, n).Groups
	}
	if len(c.GetStorageBytes()) > 0 {
		out.Pools = slices.Clone(h.Pools)
		for i := range out.Pools {
			out.Pools[i].take(c.GetStorageBytes()[out.Pools[i].Name])
		}
		out.takeTwins(c, 1)
	}
	if len(c.GetSriovFunctions()) > 0 {
		out.Networks = slices.Clone(h.Networks)
		for i := range out.Networks {
			if n := &out.Networks[i]; n.Kind == vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV {
				n.Functions.Committed += int64(c.GetSriovFunctions()[n.Name])
			}
		}
	}
	return &out
}

// Give answers the host as it is without a machine that took so much of it.
func (h *Host) Give(c *storev1.Commitment) *Host {
	out := *h
	out.Cores.Committed = max(h.Cores.Committed-int64(c.GetCores()), 0)
	out.MemoryMiB.Committed = max(h.MemoryMiB.Committed-c.GetMemoryMib(), 0)
	out.Hugepages.Committed = max(h.Hugepages.Committed-c.GetHugepagesMib(), 0)
	out.Machines = max(h.Machines-1, 0)
	out.Pinned = without(h.Pinned, c.GetPinnedCores())
	out.FixedAddresses = without(h.FixedAddresses, c.GetFixedAddresses())
	for key, n := range c.GetGroups() {
		if out.In(key) > 0 {
			out.Groups = out.Join(key, -n).Groups
		}
	}
	if len(c.GetStorageBytes()) > 0 {
		out.Pools = slices.Clone(h.Pools)
		for i := range out.Pools {
			out.Pools[i].take(-c.GetStorageBytes()[out.Pools[i].Name])
		}
		out.takeTwins(c, -1)
	}
	if len(c.GetSriovFunctions()) > 0 {
		out.Networks = slices.Clone(h.Networks)
		for i := range out.Networks {
			if n := &out.Networks[i]; n.Kind == vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV {
				n.Functions.Committed = max(n.Functions.Committed-int64(c.GetSriovFunctions()[n.Name]), 0)
			}
		}
	}
	return &out
}

// without is a list with each of less taken out once.
func without[T comparable](list, less []T) []T {
	if len(less) == 0 {
		return list
	}
	out := slices.Clone(list)
	for _, x := range less {
		if i := slices.Index(out, x); i >= 0 {
			out = slices.Delete(out, i, i+1)
		}
	}
	return out
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
		if p.Identity != "" {
			if u.SharedStorage == nil {
				u.SharedStorage = map[string]*vmhostv1.SharedStorage{}
			}
			u.SharedStorage[p.Name] = &vmhostv1.SharedStorage{Identity: p.Identity, VmHosts: p.Hosts}
		}
	}
	return u
}

func (r Resource) usage() *vmhostv1.ResourceUsage {
	return &vmhostv1.ResourceUsage{
		Physical: r.Physical, Reserved: r.Reserved, Ratio: r.Ratio, Limit: r.Limit, Committed: r.Committed, Foreign: r.Foreign, Free: r.Free(),
	}
}
