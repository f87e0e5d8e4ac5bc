package inventory

import (
	"strings"

	"google.golang.org/protobuf/proto"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// maxHostBytes bounds what is kept of a host in one record: etcd takes 1.5 MiB in
// a transaction.
const maxHostBytes = 512 << 10

// maxIdentity is how long the word for what is behind a storage pool may be: as
// long as an operator's.
const maxIdentity = 255

// cleanObservation is what a host has with every value in bounds.
func cleanObservation(in *vmhostv1.VmHostObservation) *vmhostv1.VmHostObservation {
	o := &vmhostv1.VmHostObservation{
		HypervisorVersion: cleanText(in.GetHypervisorVersion(), maxName),
		Hostname:          cleanText(in.GetHostname(), maxName),
		Architectures:     cleanTexts(in.GetArchitectures(), maxDevices),
		Cores:             clamp(in.GetCores(), maxCores),
		CpuMhz:            clamp(in.GetCpuMhz(), maxCores),
		CpuModel:          cleanText(in.GetCpuModel(), maxName),
		MemoryMib:         clamp(in.GetMemoryMib(), maxMiB),
		Kvm:               in.GetKvm(),
		Capabilities:      cleanTexts(in.GetCapabilities(), maxDevices),
		HostUuid:          cleanText(in.GetHostUuid(), maxName),
		Project:           cleanText(in.GetProject(), maxName),
		ClusterMember:     cleanText(in.GetClusterMember(), maxName),
		Profiles:          cleanTexts(in.GetProfiles(), maxList),
		StoragePools:      cleanPools(in.GetStoragePools()),
	}
	for _, n := range cut(in.GetNumaNodes(), maxDevices) {
		o.NumaNodes = append(o.NumaNodes, cleanNode(n))
	}
	for _, n := range cut(in.GetNetworks(), maxList) {
		o.Networks = append(o.Networks, cleanNetwork(n))
	}
	for _, d := range cut(in.GetSriovDevices(), maxDevices) {
		o.SriovDevices = append(o.SriovDevices, &vmhostv1.SriovDevice{
			Name: cleanText(d.GetName(), maxName), Functions: clamp(d.GetFunctions(), maxCores), Free: clamp(d.GetFree(), maxCores),
			NumaNode: min(max(d.GetNumaNode(), -1), maxCores),
		})
	}
	for _, m := range cut(in.GetClusterMembers(), maxList) {
		o.ClusterMembers = append(o.ClusterMembers, &vmhostv1.ClusterMember{
			Name: cleanText(m.GetName(), maxName), Address: cleanText(m.GetAddress(), maxName), Online: m.GetOnline(), Status: cleanText(m.GetStatus(), maxName),
		})
	}
	for _, i := range cut(in.GetImages(), maxList) {
		o.Images = append(o.Images, &vmhostv1.HostImage{
			Fingerprint: cleanText(i.GetFingerprint(), maxName), Aliases: cleanTexts(i.GetAliases(), maxDevices), Type: known(i.GetType()),
			Architecture: cleanText(i.GetArchitecture(), maxName), Description: cleanText(i.GetDescription(), maxName), SizeBytes: clamp(i.GetSizeBytes(), maxBytes),
		})
	}
	for _, p := range cut(in.GetProblems(), maxDevices) {
		o.Problems = append(o.Problems, cleanText(p, maxMessage))
	}
	fitHost(o)
	return o
}

// fitHost takes of what is long until the record is in bounds, what is needed
// least first, and says so.
func fitHost(o *vmhostv1.VmHostObservation) {
	if proto.Size(o) <= maxHostBytes {
		return
	}
	o.Problems = append(cut(o.GetProblems(), 1), "the host says more than is kept; parts of its lists are left out")
	for _, shorten := range []func(){
		func() { o.Images = cut(o.GetImages(), len(o.GetImages())/2) },
		func() { o.Profiles = cut(o.GetProfiles(), len(o.GetProfiles())/2) },
		func() { o.ClusterMembers = cut(o.GetClusterMembers(), len(o.GetClusterMembers())/2) },
		func() { o.Networks = cut(o.GetNetworks(), len(o.GetNetworks())/2) },
		func() { o.StoragePools = cut(o.GetStoragePools(), len(o.GetStoragePools())/2) },
		func() { o.NumaNodes = cut(o.GetNumaNodes(), len(o.GetNumaNodes())/2) },
	} {
		for range 11 { // 2^11 is more than the longest list
			if proto.Size(o) <= maxHostBytes {
				return
			}
			shorten()
		}
	}
}

func cleanNode(n *vmhostv1.NumaNode) *vmhostv1.NumaNode {
	node := &vmhostv1.NumaNode{Id: clamp(n.GetId(), maxCores), MemoryMib: clamp(n.GetMemoryMib(), maxMiB), Cores: cleanNumbers(n.GetCores(), 4*maxList)}
	for _, p := range cut(n.GetHugePages(), maxDevices) {
		node.HugePages = append(node.HugePages, &vmhostv1.HugePages{
			SizeKib: clamp(p.GetSizeKib(), maxMiB), Total: clamp(p.GetTotal(), maxMiB), Free: clamp(p.GetFree(), maxMiB),
		})
	}
	return node
}

func cleanPools(in []*vmhostv1.StoragePool) []*vmhostv1.StoragePool {
	var out []*vmhostv1.StoragePool
	names := map[string]bool{}
	for _, p := range cut(in, maxList) {
		name := cleanText(p.GetName(), maxName)
		if name == "" || names[name] {
			continue
		}
		names[name] = true
		out = append(out, &vmhostv1.StoragePool{
			Name: name, Type: cleanText(p.GetType(), maxName), Path: cleanText(p.GetPath(), maxMessage),
			CapacityBytes: clamp(p.GetCapacityBytes(), maxBytes), AllocationBytes: clamp(p.GetAllocationBytes(), maxBytes),
			OursBytes: clamp(p.GetOursBytes(), maxBytes), AvailableBytes: clamp(p.GetAvailableBytes(), maxBytes),
			Active: p.GetActive(), Thin: p.GetThin(), Problem: cleanText(p.GetProblem(), maxMessage), Shared: cleanIdentity(p.GetShared()),
			UnclaimedBytes: cleanUnclaimed(p.GetUnclaimedBytes()),
		})
	}
	return out
}

// cleanIdentity is what is behind a storage pool. A text that had to be changed
// would not be the same on every host; of one that is too long no two are.
func cleanIdentity(text string) string {
	if len(text) > maxIdentity || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return ""
	}
	return text
}

func cleanNetwork(n *vmhostv1.HostNetwork) *vmhostv1.HostNetwork {
	return &vmhostv1.HostNetwork{
		Name: cleanText(n.GetName(), maxName), Kind: known(n.GetKind()), Bridge: cleanText(n.GetBridge(), maxName),
		Cidrs: cleanTexts(n.GetCidrs(), maxDevices), Dhcp: n.GetDhcp(), Active: n.GetActive(), Vlan: clamp(n.GetVlan(), maxVLAN),
		Addresses: cleanTexts(n.GetAddresses(), maxDevices), Uplinks: cleanTexts(n.GetUplinks(), maxDevices), Forward: cleanText(n.GetForward(), maxName),
		Mtu: clamp(n.GetMtu(), maxCores), Parent: cleanText(n.GetParent(), maxName), Vlans: cleanNumbers(n.GetVlans(), 4*maxList),
	}
}
