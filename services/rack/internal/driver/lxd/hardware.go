package lxd

import (
	"cmp"
	"slices"
	"strings"

	lxdapi "github.com/canonical/lxd/shared/api"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func (d *Driver) describeHardware(out *vmhostv1.VmHostObservation, r *reading) {
	if r.resources == nil {
		return
	}
	nodes := map[uint64]*vmhostv1.NumaNode{}
	node := func(id uint64) *vmhostv1.NumaNode {
		if nodes[id] == nil {
			nodes[id] = &vmhostv1.NumaNode{Id: int32(min(id, 1<<16))}
		}
		return nodes[id]
	}
	for _, s := range r.resources.CPU.Sockets {
		out.CpuModel = cmp.Or(out.GetCpuModel(), s.Name)
		out.CpuMhz = max(out.GetCpuMhz(), int32(min(cmp.Or(s.FrequencyTurbo, s.Frequency), 1<<20)))
		for _, c := range s.Cores {
			for _, t := range c.Threads {
				if t.Online {
					out.Cores++
					n := node(t.NUMANode)
					n.Cores = append(n.Cores, int32(t.ID))
				}
			}
		}
	}
	m := r.resources.Memory
	out.MemoryMib = int64(m.Total >> 20)
	for _, n := range m.Nodes {
		o := node(n.NUMANode)
		o.MemoryMib = int64(n.Total >> 20)
		o.HugePages = hugePages(m.HugepagesSize, n.HugepagesTotal, n.HugepagesUsed)
	}
	if len(m.Nodes) == 0 && len(nodes) == 1 {
		for _, o := range nodes {
			o.MemoryMib, o.HugePages = out.GetMemoryMib(), hugePages(m.HugepagesSize, m.HugepagesTotal, m.HugepagesUsed)
		}
	}
	for _, n := range nodes {
		slices.Sort(n.GetCores())
		out.NumaNodes = append(out.NumaNodes, n)
	}
	slices.SortFunc(out.GetNumaNodes(), func(a, b *vmhostv1.NumaNode) int { return cmp.Compare(a.GetId(), b.GetId()) })
	out.SriovDevices = sriov(r.resources.Network.Cards, r.listing.instances)
	out.HostUuid = strings.ToLower(r.resources.System.UUID)
}

// hugePages are a node's. LXD tells how many bytes are in them.
func hugePages(size, total, used uint64) []*vmhostv1.HugePages {
	if size == 0 || total == 0 {
		return nil
	}
	return []*vmhostv1.HugePages{{SizeKib: int64(size >> 10), Total: int64(total / size), Free: int64((total - min(used, total)) / size)}}
}

// sriov are the devices with virtual functions. LXD does not say which functions
// are in use by others; those that instances have are not free.
func sriov(cards []lxdapi.ResourcesNetworkCard, list []*instance) []*vmhostv1.SriovDevice {
	used := map[string]int32{}
	for _, i := range list {
		for _, dev := range i.expanded() {
			if dev["type"] == "nic" && dev["nictype"] == "sriov" {
				used[dev["parent"]]++
			}
		}
	}
	var out []*vmhostv1.SriovDevice
	for _, c := range cards {
		if c.SRIOV == nil || c.SRIOV.MaximumVFs == 0 {
			continue
		}
		for _, p := range c.Ports {
			functions := int32(min(c.SRIOV.CurrentVFs, 1<<16))
			out = append(out, &vmhostv1.SriovDevice{
				Name: p.ID, Functions: functions, Free: max(functions-used[p.ID], 0), NumaNode: int32(min(c.NUMANode, 1<<16)),
			})
		}
	}
	return out
}
