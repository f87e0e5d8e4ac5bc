package fake

import (
	"slices"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// observe is called with h.mu held.
func (h *Host) observe(project string) *vmhostv1.VmHostObservation {
	o := &vmhostv1.VmHostObservation{
		ObserveTime:       timestamppb.Now(),
		HypervisorVersion: "fake 1",
		Hostname:          h.spec.Name,
		Architectures:     h.spec.Architectures,
		Cores:             h.spec.Cores,
		CpuMhz:            2000,
		CpuModel:          "fake",
		MemoryMib:         h.spec.MemoryMiB,
		Kvm:               !h.spec.Emulation,
		Foreign:           &vmhostv1.ForeignUsage{},
		HostUuid:          uuid.NewSHA1(uuid.NameSpaceURL, []byte("fake://"+h.spec.Name)).String(),
		Project:           project,
	}
	node := &vmhostv1.NumaNode{MemoryMib: h.spec.MemoryMiB}
	for c := range h.spec.Cores {
		node.Cores = append(node.Cores, c)
	}
	if h.spec.HugePages > 0 {
		node.HugePages = []*vmhostv1.HugePages{{SizeKib: 2048, Total: h.spec.HugePages, Free: h.spec.HugePages}}
	}
	o.NumaNodes = []*vmhostv1.NumaNode{node}
	if h.spec.SriovFunctions > 0 {
		o.SriovDevices = []*vmhostv1.SriovDevice{{Name: "fake-sriov0", Functions: h.spec.SriovFunctions, Free: h.spec.SriovFunctions}}
	}
	for _, p := range h.spec.Pools {
		all := h.filled(p.Name)
		ours, unclaimed := h.claims(p.Name)
		o.StoragePools = append(o.StoragePools, &vmhostv1.StoragePool{
			Name: p.Name, Type: "dir", Path: "/fake/" + p.Name, CapacityBytes: p.CapacityBytes,
			AllocationBytes: all, OursBytes: ours, AvailableBytes: max(0, p.CapacityBytes-all), Active: !p.Inactive, Thin: p.Thin, UnclaimedBytes: unclaimed, Shared: p.Shared,
		})
	}
	for _, n := range h.spec.Networks {
		o.Networks = append(o.Networks, n.observe())
	}
	if slices.Contains(h.spec.ClusterMembers, h.spec.Name) {
		o.ClusterMember = h.spec.Name
		for _, name := range h.spec.ClusterMembers {
			o.ClusterMembers = append(o.ClusterMembers, &vmhostv1.ClusterMember{Name: name, Address: "fake://" + name, Online: true, Status: "Online"})
		}
	}
	for _, m := range h.machines {
		if m.GetUid() == "" {
			o.Foreign.Machines++
			o.Foreign.Cores += m.GetCores()
			o.Foreign.MemoryMib += m.GetMemoryMib()
		}
		for _, nic := range m.GetInterfaces() {
			if nic.GetKind() == vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV && len(o.GetSriovDevices()) > 0 {
				o.SriovDevices[0].Free = max(0, o.GetSriovDevices()[0].GetFree()-1)
			}
		}
		if m.GetHugepages() && len(node.GetHugePages()) > 0 && m.GetPowerState() != vmhostv1.PowerState_POWER_STATE_OFF {
			node.HugePages[0].Free = max(0, node.GetHugePages()[0].GetFree()-m.GetMemoryMib()/2)
		}
	}
	o.Capabilities = h.spec.capabilities()
	return o
}

func (n NetworkSpec) observe() *vmhostv1.HostNetwork {
	out := &vmhostv1.HostNetwork{
		Name: n.Name, Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK, Active: !n.Inactive, Dhcp: true,
		Cidrs: []string{"192.0.2.0/24"}, Vlan: n.VLAN, Forward: "nat", Mtu: 1500,
	}
	if n.Bridge {
		out.Kind, out.Bridge, out.Dhcp, out.Cidrs, out.Forward = vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_BRIDGE, n.Name, false, nil, ""
		out.Uplinks = []string{"fake0"}
	}
	if n.CIDR != "" {
		out.Cidrs = []string{n.CIDR}
	}
	return out
}

func (s HostSpec) capabilities() []string {
	out := append([]string{"virtual-machines"}, s.Capabilities...)
	if !s.Emulation {
		out = append(out, "kvm")
	}
	if s.HugePages > 0 {
		out = append(out, "hugepages")
	}
	if s.SriovFunctions > 0 {
		out = append(out, "sr-iov")
	}
	if slices.ContainsFunc(s.Pools, func(p PoolSpec) bool { return p.Thin }) {
		out = append(out, "thin-volumes")
	}
	slices.Sort(out)
	return slices.Compact(out)
}
