package fake

import (
	"slices"
	"strconv"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// HostSpec is what a fake host has. What is left out has a sensible value.
type HostSpec struct {
	// Name is the NAME of `fake://NAME`.
	Name string `yaml:"name" json:"name" usage:"the NAME of the address fake://NAME"`
	// Count makes that many equal hosts, NAME-1 to NAME-COUNT. 0 makes one, NAME.
	Count int `yaml:"count" json:"count" usage:"make this many hosts, NAME-1 to NAME-COUNT; 0 makes one, NAME"`
	// Cores are physical; 0 means 8.
	Cores int32 `yaml:"cores" json:"cores" usage:"physical cores; 0 means 8"`
	// MemoryMiB is physical; 0 means 16384.
	MemoryMiB int64 `yaml:"memory_mib" json:"memory_mib" usage:"physical memory, MiB; 0 means 16384"`
	// Architectures, best first; none means x86_64.
	Architectures []string `yaml:"architectures" json:"architectures" usage:"architectures of guests, best first; none means x86_64"`
	// Pools are its storage pools; none means one of 1 TB, `default`, that is thin.
	Pools []PoolSpec `yaml:"pools" json:"pools" usage:"storage pools; none means default, thin, of 1 TB"`
	// Networks; none means one, `default`, with DHCP.
	Networks []NetworkSpec `yaml:"networks" json:"networks" usage:"networks; none means default, with DHCP"`
	// Emulation says that guests run without KVM.
	Emulation bool `yaml:"emulation" json:"emulation" usage:"guests run without KVM"`
	// HostKey is the key the host presents; empty for none.
	HostKey string `yaml:"host_key" json:"host_key" usage:"the key the host presents; empty for none"`
	// HugePages are those of 2 MiB that it has.
	HugePages int64 `yaml:"huge_pages" json:"huge_pages" usage:"huge pages of 2 MiB"`
	// Capabilities are those that do not follow from the rest: containers,
	// secure-boot.
	Capabilities []string `yaml:"capabilities" json:"capabilities" usage:"capabilities that do not follow from the rest, such as containers"`
	// SriovFunctions are the virtual functions of its device `fake-sriov0`.
	SriovFunctions int32 `yaml:"sriov_functions" json:"sriov_functions" usage:"virtual functions of its device fake-sriov0"`
	// ClusterMembers are the names of the hosts of its cluster, itself among them.
	ClusterMembers []string `yaml:"cluster_members" json:"cluster_members" usage:"names of the hosts of its cluster, itself among them"`
	// Password is what the host wants; empty for nothing.
	Password string `yaml:"password" json:"password" usage:"the password the host wants; empty for nothing" secret:"true"`
}

// PoolSpec is a storage pool of a fake host.
type PoolSpec struct {
	// Name is the pool's name.
	Name string `yaml:"name" json:"name" usage:"the pool's name"`
	// CapacityBytes is its size.
	CapacityBytes int64 `yaml:"capacity_bytes" json:"capacity_bytes" usage:"size, bytes"`
	// Thin says that a new volume takes no room until it is filled, which a fake
	// guest never does.
	Thin bool `yaml:"thin" json:"thin" usage:"new volumes take no room until they are filled"`
	// Inactive says that the pool is not running until it is fixed.
	Inactive bool `yaml:"inactive" json:"inactive" usage:"the pool is not running"`
	// Shared is what is behind the pool, such as `nfs://nas/vm`: pools of hosts with the
	// same are one, and show the same volumes. Empty for a pool of its host alone.
	Shared string `yaml:"shared" json:"shared" usage:"what is behind a pool that several hosts have; the same for all of them"`
}

// NetworkSpec is a network of a fake host.
type NetworkSpec struct {
	// Name is the network's name.
	Name string `yaml:"name" json:"name" usage:"the network's name"`
	// Bridge says that it is a bridge device of the host rather than a network of
	// the hypervisor.
	Bridge bool `yaml:"bridge" json:"bridge" usage:"a bridge device of the host, not a network of the hypervisor"`
	// CIDR is its subnet; empty means 192.0.2.0/24, and none for a bridge.
	CIDR string `yaml:"cidr" json:"cidr" usage:"its subnet; empty means 192.0.2.0/24, and none for a bridge"`
	// VLAN is its VLAN tag, 0 for none.
	VLAN int32 `yaml:"vlan" json:"vlan" usage:"its VLAN tag, 0 for none"`
	// Inactive says that the network is not running until it is fixed.
	Inactive bool `yaml:"inactive" json:"inactive" usage:"the network is not running"`
}

func (s HostSpec) withDefaults() HostSpec {
	if s.Cores == 0 {
		s.Cores = 8
	}
	if s.MemoryMiB == 0 {
		s.MemoryMiB = 16384
	}
	if len(s.Architectures) == 0 {
		s.Architectures = []string{"x86_64"}
	}
	if len(s.Pools) == 0 {
		s.Pools = []PoolSpec{{Name: "default", CapacityBytes: 1_000_000_000_000, Thin: true}}
	}
	if len(s.Networks) == 0 {
		s.Networks = []NetworkSpec{{Name: "default"}}
	}
	return s
}

// expand makes one spec per host out of Count.
func (s HostSpec) expand() []HostSpec {
	s = s.withDefaults()
	if s.Count <= 0 {
		s.Pools, s.Networks = slices.Clone(s.Pools), slices.Clone(s.Networks)
		return []HostSpec{s}
	}
	out := make([]HostSpec, s.Count)
	for i := range out {
		out[i] = s
		out[i].Pools, out[i].Networks = slices.Clone(s.Pools), slices.Clone(s.Networks)
		out[i].Count = 0
		out[i].Name = s.Name + "-" + strconv.Itoa(i+1)
	}
	return out
}

func (s HostSpec) pool(name string) (PoolSpec, bool) {
	for _, p := range s.Pools {
		if p.Name == name {
			return p, true
		}
	}
	return PoolSpec{}, false
}

// hasNetwork says whether an interface can be attached.
func (s HostSpec) hasNetwork(nic *vmhostv1.MachineInterface) bool {
	switch nic.GetKind() {
	case vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN:
		return true // a fake host has every device
	case vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV:
		return s.SriovFunctions > 0
	default:
	}
	bridge := nic.GetKind() == vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE
	for _, n := range s.Networks {
		if n.Name == nic.GetSource() && n.Bridge == bridge {
			return !n.Inactive
		}
	}
	return false
}
