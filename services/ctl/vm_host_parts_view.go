package ctl

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

func storageColumns(h *vmhostv1.VmHost) []display.Column[*vmhostv1.StoragePool] {
	type pool = *vmhostv1.StoragePool
	tags := map[string][]string{}
	for _, l := range h.GetStoragePoolLabels() {
		tags[l.GetStoragePool()] = l.GetTags()
	}
	return []display.Column[pool]{
		{Head: "NAME", Cell: pool.GetName},
		{Head: "TYPE", Cell: pool.GetType},
		{Head: "ACTIVE", State: true, Cell: func(p pool) string { return yesNo(p.GetActive()) }},
		{Head: "AVAILABLE", Right: true, Cell: func(p pool) string { return display.Bytes(p.GetAvailableBytes()) }},
		{Head: "OURS", Right: true, Cell: func(p pool) string { return display.Bytes(p.GetOursBytes()) }},
		{Head: "OTHERS", Right: true, Cell: func(p pool) string { return display.Bytes(max(p.GetAllocationBytes()-p.GetOursBytes(), 0)) }},
		{Head: "CAPACITY", Right: true, Cell: func(p pool) string { return display.Bytes(p.GetCapacityBytes()) }},
		{Head: "THIN", Cell: func(p pool) string { return yesNo(p.GetThin()) }},
		{Head: "PATH", Cell: pool.GetPath},
		{Head: "SHARED", Cell: func(p pool) string { return sharedText(h, p) }},
		{Head: "TAGS", Cell: func(p pool) string { return strings.Join(tags[p.GetName()], ",") }},
		{Head: "PROBLEM", Cell: pool.GetProblem},
	}
}

// sharedText is what is behind a pool that is counted once for several hosts, and
// how many these are.
func sharedText(h *vmhostv1.VmHost, p *vmhostv1.StoragePool) string {
	s := h.GetUsage().GetSharedStorage()[p.GetName()]
	if s == nil {
		return ""
	}
	return s.GetIdentity() + " (" + strconv.Itoa(int(s.GetVmHosts())) + ")"
}

func networkColumns(h *vmhostv1.VmHost) []display.Column[*vmhostv1.HostNetwork] {
	type network = *vmhostv1.HostNetwork
	labels := map[string]*vmhostv1.NetworkLabels{}
	for _, l := range h.GetNetworkLabels() {
		labels[l.GetNetwork()] = l
	}
	return []display.Column[network]{
		{Head: "NAME", Cell: network.GetName},
		{Head: "KIND", Cell: func(n network) string { return strings.ToLower(display.Word(n.GetKind(), "HOST_NETWORK_KIND_")) }},
		{Head: "ACTIVE", State: true, Cell: func(n network) string { return yesNo(n.GetActive()) }},
		{Head: "BRIDGE", Cell: network.GetBridge},
		{Head: "DHCP", Cell: func(n network) string { return yesNo(n.GetDhcp()) }},
		{Head: "SUBNETS", Cell: func(n network) string { return strings.Join(n.GetCidrs(), ",") }},
		{Head: "ADDRESSES", Cell: func(n network) string { return strings.Join(n.GetAddresses(), ",") }},
		{Head: "VLAN", Cell: vlanText},
		{Head: "OUTSIDE", Cell: outside},
		{Head: "SPACE", Cell: func(n network) string { return labels[n.GetName()].GetSpace() }},
		{Head: "TAGS", Cell: func(n network) string { return strings.Join(labels[n.GetName()].GetTags(), ",") }},
	}
}

// vlanText is a network's own VLAN, and after a plus those it carries besides.
func vlanText(n *vmhostv1.HostNetwork) string {
	var s string
	if n.GetVlan() != 0 {
		s = strconv.Itoa(int(n.GetVlan()))
	}
	if len(n.GetVlans()) > 0 {
		s += "+" + ranges(n.GetVlans())
	}
	return s
}

// outside is how a network reaches what is not on its host.
func outside(n *vmhostv1.HostNetwork) string {
	parts := make([]string, 0, 2+len(n.GetUplinks()))
	if n.GetForward() != "" {
		parts = append(parts, n.GetForward())
	}
	if n.GetParent() != "" {
		parts = append(parts, "on "+n.GetParent())
	}
	return strings.Join(append(parts, n.GetUplinks()...), " ")
}

func numaColumns() []display.Column[*vmhostv1.NumaNode] {
	type node = *vmhostv1.NumaNode
	return []display.Column[node]{
		{Head: "NODE", Right: true, Cell: func(n node) string { return plainNumber(int64(n.GetId())) }},
		{Head: "CORES", Cell: func(n node) string { return ranges(n.GetCores()) }},
		{Head: "MEMORY", Right: true, Cell: func(n node) string { return memory(n.GetMemoryMib()) }},
		{Head: "HUGE PAGES", Cell: func(n node) string {
			var parts []string
			for _, p := range n.GetHugePages() {
				if p.GetTotal() > 0 {
					parts = append(parts, fmt.Sprintf("%d of %d free (%s)", p.GetFree(), p.GetTotal(), display.Bytes(p.GetSizeKib()*1024)))
				}
			}
			return strings.Join(parts, ", ")
		}},
	}
}

// ranges writes 0,1,2,3,8 as 0-3,8.
func ranges(numbers []int32) string {
	var parts []string
	for i := 0; i < len(numbers); {
		j := i
		for j+1 < len(numbers) && numbers[j+1] == numbers[j]+1 {
			j++
		}
		part := strconv.Itoa(int(numbers[i]))
		if j > i {
			part += "-" + strconv.Itoa(int(numbers[j]))
		}
		parts = append(parts, part)
		i = j + 1
	}
	return strings.Join(parts, ",")
}

func sriovColumns() []display.Column[*vmhostv1.SriovDevice] {
	type device = *vmhostv1.SriovDevice
	return []display.Column[device]{
		{Head: "NAME", Cell: device.GetName},
		{Head: "FREE", Right: true, Cell: func(d device) string { return plainNumber(int64(d.GetFree())) }},
		{Head: "FUNCTIONS", Right: true, Cell: func(d device) string { return plainNumber(int64(d.GetFunctions())) }},
		{Head: "NODE", Right: true, Cell: func(d device) string {
			if d.GetNumaNode() < 0 {
				return ""
			}
			return plainNumber(int64(d.GetNumaNode()))
		}},
	}
}

// addImages shows as many images as a person looks through.
func addImages(b *display.Block, images []*vmhostv1.HostImage) {
	const most = 20
	title := "Images"
	if len(images) > most {
		title = fmt.Sprintf("Images (%d of %d; -o json has all)", most, len(images))
	}
	display.AddTable(b, title, images[:min(len(images), most)], imageColumns())
}

func memberColumns() []display.Column[*vmhostv1.ClusterMember] {
	type member = *vmhostv1.ClusterMember
	return []display.Column[member]{
		{Head: "NAME", Cell: member.GetName},
		{Head: "ONLINE", State: true, Cell: func(m member) string { return yesNo(m.GetOnline()) }},
		{Head: "ADDRESS", Cell: member.GetAddress},
		{Head: "STATUS", Cell: member.GetStatus},
	}
}

func imageColumns() []display.Column[*vmhostv1.HostImage] {
	type image = *vmhostv1.HostImage
	const short = 12 // as lxc shows them
	return []display.Column[image]{
		{Head: "ALIASES", Cell: func(i image) string { return strings.Join(i.GetAliases(), ",") }},
		{Head: "FINGERPRINT", Cell: func(i image) string { return i.GetFingerprint()[:min(len(i.GetFingerprint()), short)] }},
		{Head: "TYPE", Cell: func(i image) string { return machineTypeWord(i.GetType()) }},
		{Head: "ARCHITECTURE", Cell: image.GetArchitecture},
		{Head: "SIZE", Right: true, Cell: func(i image) string { return display.Bytes(i.GetSizeBytes()) }},
		{Head: "DESCRIPTION", Cell: image.GetDescription},
	}
}

// lostLabels are labels of what the host does not have, or not any more. Of a
// host that nobody has seen nothing is known.
func lostLabels(h *vmhostv1.VmHost) []display.Note {
	o := h.GetObservation()
	if o == nil {
		return nil
	}
	var out []display.Note
	for _, l := range h.GetNetworkLabels() {
		if !slices.ContainsFunc(o.GetNetworks(), func(n *vmhostv1.HostNetwork) bool { return n.GetName() == l.GetNetwork() }) {
			out = append(out, display.Note{Head: "network " + l.GetNetwork()})
		}
	}
	for _, l := range h.GetStoragePoolLabels() {
		if !slices.ContainsFunc(o.GetStoragePools(), func(p *vmhostv1.StoragePool) bool { return p.GetName() == l.GetStoragePool() }) {
			out = append(out, display.Note{Head: "storage pool " + l.GetStoragePool()})
		}
	}
	return out
}

func problemNotes(problems []string) []display.Note {
	out := make([]display.Note, 0, len(problems))
	for _, p := range problems {
		out = append(out, display.Note{Head: p})
	}
	return out
}
