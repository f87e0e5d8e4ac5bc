package placement

import (
	"net/netip"
	"strings"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// MachineOf is a machine of ours as its record says, with what it asks of another
// host: what it has, and what its place was asked for with. A network is looked
// for as it was: by the subnet, VLAN, space and tags that were asked for, else by
// the name of the one it is on. A disk may be in any pool that has its tags, unless
// one was named. The image it was made from is not needed any more.
//
// What the record does not say itself is left to the caller: the policy, where the
// machines of rules are (Rule.Hosts), the kind of host, and which names are taken.
func MachineOf(m *storev1.StoredMachine) Machine {
	r, asked := m.GetResource(), m.GetPlacement()
	host := strings.TrimPrefix(r.GetVmHost(), "vmHosts/")
	req := Request{
		From: host, Type: r.GetType(), Cores: r.GetCores(), PinnedCores: r.GetPinnedCores(), MemoryMiB: r.GetMemoryMib(), Hugepages: r.GetHugepages(),
		SecureBoot: r.GetSecureBoot(), Profiles: r.GetProfiles(), Architecture: r.GetArchitecture(),
		ResourcePool: strings.TrimPrefix(r.GetResourcePool(), "resourcePools/"), Group: r.GetGroup(),
		HypervisorName: r.GetHypervisorName(), InstanceName: r.GetHypervisorName(),
		Zone: strings.TrimPrefix(asked.GetZone(), "zones/"), RequiredTags: asked.GetRequiredTags(), ForbiddenTags: asked.GetForbiddenTags(),
		Capabilities: asked.GetRequiredCapabilities(), CPUModel: asked.GetCpuModel(), OneNUMANode: asked.GetOneNumaNode(),
		MaxPerZone: asked.GetMaxPerZone(),
	}
	if req.OneNUMANode { // those it has were chosen, unless the request has them
		req.PinnedCores = asked.GetPinnedCores()
	}
	for _, a := range asked.GetAffinity() {
		req.Affinity = append(req.Affinity, RuleOf(a))
	}
	for i, d := range r.GetDisks() {
		if d.GetSizeBytes() <= 0 { // of an adopted machine, not known
			continue
		}
		want := Disk{SizeBytes: d.GetSizeBytes(), Tags: d.GetTags()}
		if i < len(asked.GetDisks()) {
			want.Pool = asked.GetDisks()[i].GetStoragePool()
		}
		req.Disks = append(req.Disks, want)
	}
	for i, n := range r.GetInterfaces() {
		var by *vmhostv1.InterfaceRequest
		if i < len(asked.GetInterfaces()) {
			by = asked.GetInterfaces()[i]
		}
		req.Interfaces = append(req.Interfaces, attachedBy(n, by))
	}
	return Machine{Name: r.GetName(), Host: host, Held: m.GetCommitment(), Request: req}
}

// attachedBy is what an interface asks of another host.
func attachedBy(n *vmhostv1.MachineInterface, asked *vmhostv1.InterfaceRequest) Interface {
	want := Interface{Source: asked.GetSource(), Kind: asked.GetKind(), Space: asked.GetSpace(), Tags: asked.GetTags()}
	if asked != nil {
		want.VLAN = asked.Vlan
	}
	if p, err := netip.ParsePrefix(asked.GetSubnetCidr()); err == nil {
		want.Subnet = p.Masked()
	}
	if want.open() {
		want.Source, want.Kind = n.GetSource(), n.GetKind()
		if n.GetVlan() != 0 {
			want.VLAN = proto.Int32(n.GetVlan())
		}
	}
	if a, err := netip.ParseAddr(n.GetFixedAddress()); err == nil {
		want.Address = a
	}
	return want
}

// RuleOf is a rule as it is asked for, but for the hosts of the machines it names.
func RuleOf(r *vmhostv1.AffinityRule) Rule {
	return Rule{
		Near: r.GetKind() == vmhostv1.AffinityKind_AFFINITY_KIND_NEAR, Zone: r.GetScope() == vmhostv1.AffinityScope_AFFINITY_SCOPE_ZONE,
		Group: r.GetGroup(), Soft: r.GetSoft(),
	}
}
