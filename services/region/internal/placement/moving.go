package placement

import (
	"net/netip"
	"strings"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// MachineOf is a machine of ours as its record says. Of another host it asks what
// it has: cores, memory, the cores it is pinned to, disks of the same size in
// pools of the same tags, the same networks by name. Where it was asked for by
// something else, as by a zone, the record does not say so, and it may go
// anywhere.
func MachineOf(m *storev1.StoredMachine) Machine {
	r := m.GetResource()
	out := Machine{
		Name: r.GetName(), Host: strings.TrimPrefix(r.GetVmHost(), "vmHosts/"), Held: m.GetCommitment(),
		Request: Request{
			Type: r.GetType(), Cores: r.GetCores(), PinnedCores: r.GetPinnedCores(), MemoryMiB: r.GetMemoryMib(), Hugepages: r.GetHugepages(),
			SecureBoot: r.GetSecureBoot(), Profiles: r.GetProfiles(), Architecture: r.GetArchitecture(),
			ResourcePool: strings.TrimPrefix(r.GetResourcePool(), "resourcePools/"), Group: r.GetGroup(),
		},
	}
	for _, d := range r.GetDisks() {
		out.Request.Disks = append(out.Request.Disks, Disk{SizeBytes: d.GetSizeBytes(), Tags: d.GetTags()})
	}
	for _, n := range r.GetInterfaces() {
		want := Interface{Source: n.GetSource(), Kind: n.GetKind()}
		if n.GetVlan() != 0 || n.GetKind() == vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV {
			want.VLAN = proto.Int32(n.GetVlan())
		}
		if a, err := netip.ParseAddr(n.GetFixedAddress()); err == nil {
			want.Address = a
		}
		out.Request.Interfaces = append(out.Request.Interfaces, want)
	}
	return out
}
