package ledger

import (
	"slices"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/policy"
)

// asked is what of the request says where the machine may be and its resource does
// not: what it is moved by later. Nil when there is nothing such, so that the
// record of an ordinary machine is no larger for it.
//
// The host that was named is left out: it says where the machine was to be made,
// and a move is somebody's wish that it be elsewhere.
func (w *want) asked() *vmhostv1.ComposeMachineRequest {
	r := w.req
	out := &vmhostv1.ComposeMachineRequest{
		Zone: r.GetZone(), RequiredTags: r.GetRequiredTags(), ForbiddenTags: r.GetForbiddenTags(),
		Affinity: r.GetAffinity(), MaxPerZone: r.GetMaxPerZone(), OneNumaNode: r.GetOneNumaNode(),
		RequiredCapabilities: r.GetRequiredCapabilities(), CpuModel: r.GetCpuModel(),
	}
	kept := out.GetZone() != "" || len(out.GetRequiredTags())+len(out.GetForbiddenTags())+len(out.GetAffinity())+len(out.GetRequiredCapabilities()) > 0 ||
		out.GetMaxPerZone() > 0 || out.GetOneNumaNode() || out.GetCpuModel() != ""
	if w.policy.ID != policy.Default {
		out.PlacementPolicy, kept = policy.Collection+w.policy.ID, true
	}
	if r.GetOneNumaNode() {
		out.PinnedCores = r.GetPinnedCores() // the resource has those that were chosen as well
	}
	if slices.ContainsFunc(r.GetDisks(), func(d *vmhostv1.DiskRequest) bool { return d.GetStoragePool() != "" }) {
		kept = true
		for _, d := range r.GetDisks() {
			out.Disks = append(out.Disks, &vmhostv1.DiskRequest{StoragePool: d.GetStoragePool()})
		}
	}
	if slices.ContainsFunc(r.GetInterfaces(), bySomething) {
		kept = true
		for _, n := range r.GetInterfaces() {
			keep := &vmhostv1.InterfaceRequest{}
			if bySomething(n) {
				keep = &vmhostv1.InterfaceRequest{
					Source: n.GetSource(), Kind: n.GetKind(), SubnetCidr: n.GetSubnetCidr(), Vlan: n.Vlan, Space: n.GetSpace(), Tags: n.GetTags(),
				}
			}
			out.Interfaces = append(out.Interfaces, keep)
		}
	}
	if !kept {
		return nil
	}
	return out
}

// bySomething says whether the network is looked for by more than its name and an
// address, which the resource has.
func bySomething(n *vmhostv1.InterfaceRequest) bool {
	return n.GetSubnetCidr() != "" || n.Vlan != nil || n.GetSpace() != "" || len(n.GetTags()) > 0
}
