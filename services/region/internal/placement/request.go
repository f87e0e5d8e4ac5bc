package placement

import (
	"net/netip"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Request is a machine that is wanted. Zone, ResourcePool and VMHost are ids,
// not resource names.
type Request struct {
	// Type is virtual machine or container; unspecified: virtual machine.
	Type vmhostv1.MachineType
	// Cores are virtual cores, at least 1.
	Cores int32
	// PinnedCores are the host's cores to pin to, empty: none. As many as Cores.
	PinnedCores []int32
	// MemoryMiB is at least 1.
	MemoryMiB int64
	// Hugepages asks for memory in huge pages.
	Hugepages bool
	// SecureBoot asks for a firmware that only starts signed boot loaders.
	SecureBoot bool
	// Profiles and Image are names of the host, empty: none.
	Profiles []string
	Image    string
	// Disks in the order they are attached.
	Disks []Disk
	// Interfaces in the order they are attached.
	Interfaces []Interface
	// Architecture, empty: any.
	Architecture string
	// ResourcePool the host must belong to.
	ResourcePool string
	// Zone the host must be in, empty: any.
	Zone string
	// VMHost is the only host considered, empty: any.
	VMHost string
	// From is the host that the machine is on and is to leave, empty: it is nowhere
	// yet. It is not considered, and the machine itself does not count in its group.
	From string
	// Copies is why disks do not stay in pools that other hosts have as well, empty:
	// they do. Hosts with such a pool are no place then: a disk would be copied onto
	// itself.
	Copies string
	// HostType is the type of host it must be on, unspecified: any.
	HostType vmhostv1.VmHostType
	// RequiredTags the host must have, ForbiddenTags it must not have.
	RequiredTags, ForbiddenTags []string
	// HypervisorName is the name the machine will have on the hypervisor,
	// InstanceName the one on LXD.
	HypervisorName, InstanceName string
	// NameTaken says whether something on the host has the name already; nil:
	// nothing has.
	NameTaken func(host, name string) bool
	// CPUModel the host must report, empty: any.
	CPUModel string
	// Capabilities the host must have, beside those that the machine needs anyway.
	Capabilities []string
	// OneNUMANode asks for cores and memory on one NUMA node of the host. Without
	// PinnedCores the engine chooses the cores that the machine is pinned to.
	OneNUMANode bool
	// Group of the resource pool that the machine will belong to, empty: none.
	Group string
	// Affinity says which machines it must or should be near to or away from.
	Affinity []Rule
	// MaxPerZone is how many machines of the group one zone may have, 0: any
	// number.
	MaxPerZone int32
	// Policy is how hosts that fit are preferred.
	Policy Policy
	// Refusing is how often each host's hypervisor refused a compose of late, by
	// host id; hosts that refused nothing are not in it.
	Refusing map[string]int
	// Seed breaks ties between hosts of the same score; 0: the first id wins.
	Seed uint64
	// Lane is the part of the hosts to choose from. Unless it is AllLanes nobody is
	// told why no host was found: it says nothing of the other hosts.
	Lane Lane
	// Explain asks for the refusals also when a host was found.
	Explain bool
}

// Disk is one disk that is wanted.
type Disk struct {
	// SizeBytes is more than 0.
	SizeBytes int64
	// Pool is the storage pool, empty: the host's choice.
	Pool string
	// Tags the pool must have.
	Tags []string
	// Held is what is behind the pool that the disk is in, where other hosts can have
	// that as well: see Identity. On those the disk stays where it is, takes no room and
	// goes into no other pool. Empty: it is nowhere yet, or in a pool of one host alone.
	Held string
	// In is the name of the pool that it is in, on the host that the machine is on.
	In string
	// Bound says of a disk that is held that it cannot be copied: a host on which it
	// would not stay is no place.
	Bound bool
}

// Interface is one interface that is wanted. All that is set must hold.
type Interface struct {
	// Source is the network, bridge or device, empty: the host's choice.
	Source string
	// Kind is what Source names. Unspecified: a network, or, without a source and
	// with something else to choose by, a network, bridge or device.
	Kind vmhostv1.InterfaceKind
	// Address is what the hypervisor's DHCP is to give; not valid: anything.
	Address netip.Addr
	// Subnet the network serves; not valid: any.
	Subnet netip.Prefix
	// VLAN of the network or, where it is a trunk or a virtual function, of the
	// frames; nil: any. 0 is none.
	VLAN *int32
	// Space the network belongs to, empty: any.
	Space string
	// Tags the network must have.
	Tags []string
}

// open says whether nothing is said that a network could be chosen by.
func (i *Interface) open() bool {
	return i.Source == "" && !i.Address.IsValid() && !i.Subnet.IsValid() && i.VLAN == nil && i.Space == "" && len(i.Tags) == 0
}

// NameOn is the name that the machine will have on a host.
func (r *Request) NameOn(h *Host) string {
	if h.Type == vmhostv1.VmHostType_VM_HOST_TYPE_LXD {
		return r.InstanceName
	}
	return r.HypervisorName
}

// container says whether a container is wanted.
func (r *Request) container() bool {
	return r.Type == vmhostv1.MachineType_MACHINE_TYPE_CONTAINER
}

// functions says whether a virtual function is wanted.
func (r *Request) functions() bool {
	for i := range r.Interfaces {
		if r.Interfaces[i].Kind == vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV {
			return true
		}
	}
	return false
}
