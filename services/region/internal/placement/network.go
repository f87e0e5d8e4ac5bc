package placement

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Network is something that a machine can be attached to.
type Network struct {
	// Name on its host.
	Name string
	// Kind is how machines are attached to it.
	Kind vmhostv1.InterfaceKind
	// Bridge is the device behind a network of the hypervisor, if any.
	Bridge string
	// DHCP says whether the hypervisor serves addresses on it.
	DHCP bool
	// Active says whether it is running.
	Active bool
	// VLAN it is in, 0: none. VLANs are others whose frames it carries, where
	// known.
	VLAN  int32
	VLANs []int32
	// Subnets it serves, Own are addresses of the host itself on it.
	Subnets []netip.Prefix
	Own     []netip.Addr
	// Space and Tags are what the operator calls it.
	Space string
	Tags  []string
	// Functions are a device's virtual functions.
	Functions Resource
}

// networks are those of an observation, and the devices that have virtual
// functions.
func networks(spec *vmhostv1.VmHost, o *vmhostv1.VmHostObservation, committed map[string]int32) []Network {
	var out []Network
	for _, n := range o.GetNetworks() {
		out = append(out, newNetwork(n))
	}
	for _, d := range o.GetSriovDevices() {
		n := Network{Name: d.GetName()}
		for i := range out {
			if out[i].Name == d.GetName() {
				n = out[i]
			}
		}
		used, ours, told := int64(d.GetFunctions()-d.GetFree()), int64(committed[d.GetName()]), int64(-1)
		if n, ok := o.GetForeign().GetSriovFunctions()[d.GetName()]; ok {
			told = int64(n)
		}
		n.Kind, n.Active, n.Bridge = vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV, true, ""
		n.Functions = NewResource(int64(d.GetFunctions()), 0, 1, ours, ofOthers(used, ours, told))
		out = append(out, n)
	}
	for _, l := range spec.GetNetworkLabels() {
		for i := range out {
			if out[i].Name == l.GetNetwork() {
				out[i].Space, out[i].Tags = l.GetSpace(), l.GetTags()
			}
		}
	}
	return out
}

func newNetwork(n *vmhostv1.HostNetwork) Network {
	out := Network{
		Name: n.GetName(), Kind: interfaceKind(n.GetKind()), Bridge: n.GetBridge(), DHCP: n.GetDhcp(), Active: n.GetActive(),
		VLAN: n.GetVlan(), VLANs: n.GetVlans(),
	}
	for _, c := range n.GetCidrs() {
		if p, err := netip.ParsePrefix(c); err == nil {
			out.Subnets = append(out.Subnets, p.Masked())
		}
	}
	for _, a := range n.GetAddresses() {
		if ip, err := netip.ParseAddr(a); err == nil {
			out.Own = append(out.Own, ip)
		}
	}
	return out
}

func interfaceKind(k vmhostv1.HostNetworkKind) vmhostv1.InterfaceKind {
	switch k {
	case vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK:
		return vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK
	case vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_BRIDGE:
		return vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE
	case vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_DEVICE:
		return vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN
	default:
		return vmhostv1.InterfaceKind_INTERFACE_KIND_UNSPECIFIED
	}
}

// miss is what an interface misses in a network, in the order in which it is
// looked for: the later, the nearer it was to fitting.
type miss int

const (
	missNothing miss = iota
	missName         // not that network, or not of that kind
	missActive
	missDefault // no network named default and none with DHCP
	missAddress // no subnet of it has the address
	missSubnet
	missVLAN
	missSpace
	missTags
	missDHCP      // an address is asked for where the hypervisor gives none
	missOwn       // the address is the host's, or none of a machine
	missTaken     // the address is another machine's
	missFunctions // no virtual function is free
)

// look says what the interface misses in the network, and the tag that its
// frames would get.
func (h *Host) look(want *Interface, n *Network) (m miss, tag int32) {
	kind, named := want.Kind, true
	switch {
	case kind == vmhostv1.InterfaceKind_INTERFACE_KIND_UNSPECIFIED && want.Source == "" && !want.open():
		if n.Kind == vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV || n.Kind == vmhostv1.InterfaceKind_INTERFACE_KIND_UNSPECIFIED {
			return missName, 0
		}
		kind = n.Kind
	case kind == vmhostv1.InterfaceKind_INTERFACE_KIND_UNSPECIFIED:
		kind = vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK
	default:
	}
	// The bridge of a network of the hypervisor is a bridge as well.
	behind := kind == vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE && n.Bridge != "" && n.Bridge == want.Source
	if want.Source != "" {
		named = n.Name == want.Source || behind
	}
	if !named || (n.Kind != kind && !behind) {
		return missName, 0
	}
	if !n.Active {
		return missActive, 0
	}
	if want.open() && kind == vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK && n.Name != "default" && !n.DHCP {
		return missDefault, 0
	}
	if want.Address.IsValid() && !slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool { return p.Contains(want.Address) }) {
		return missAddress, 0
	}
	if want.Subnet.IsValid() && !slices.Contains(n.Subnets, want.Subnet) {
		return missSubnet, 0
	}
	tag, ok := n.tagFor(want)
	switch {
	case !ok:
		return missVLAN, 0
	case want.Space != "" && want.Space != n.Space:
		return missSpace, 0
	case !all(want.Tags, n.Tags):
		return missTags, 0
	}
	if want.Address.IsValid() {
		if m := h.lookAddress(want, n); m != missNothing {
			return m, 0
		}
	}
	if kind == vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV && n.Functions.Free() < 1 {
		return missFunctions, 0
	}
	return missNothing, tag
}

// lookAddress says why the hypervisor could not give the address on the network.
func (h *Host) lookAddress(want *Interface, n *Network) miss {
	if n.Kind != vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK || want.Kind == vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE || !n.DHCP {
		return missDHCP
	}
	if slices.Contains(n.Own, want.Address) {
		return missOwn
	}
	for _, p := range n.Subnets {
		if p.Contains(want.Address) && !usable(p, want.Address) {
			return missOwn
		}
	}
	if _, taken := slices.BinarySearch(h.FixedAddresses, FixedAddress(n.Name, want.Address.String())); taken {
		return missTaken
	}
	return missNothing
}

// usable says whether an address of a subnet can be a machine's: the first and,
// for IPv4, the last mean the subnet itself and everybody in it.
func usable(p netip.Prefix, a netip.Addr) bool {
	hostBits := a.BitLen() - p.Bits()
	if hostBits < 2 {
		return true
	}
	if a == p.Masked().Addr() {
		return false
	}
	next := a.Next()
	return !a.Is4() || (next.IsValid() && p.Contains(next))
}

// tagFor is the tag that the interface's frames get on the network; false when
// they cannot be in the VLAN that is wanted.
func (n *Network) tagFor(want *Interface) (int32, bool) {
	switch {
	case want.VLAN == nil:
		return 0, true
	case n.Kind == vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV:
		return *want.VLAN, true // the function tags
	case *want.VLAN == n.VLAN:
		return 0, true // they are in it without a tag of ours
	case *want.VLAN == 0 || n.VLAN != 0 || n.Kind == vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN:
		return 0, false
	case slices.Contains(n.VLANs, *want.VLAN):
		return *want.VLAN, true
	}
	// A bridge that was asked for by its name, and does not tell what it carries.
	return *want.VLAN, n.Kind == vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE && want.Source != "" && len(n.VLANs) == 0
}

func all(want, have []string) bool {
	for _, t := range want {
		if !slices.Contains(have, t) {
			return false
		}
	}
	return true
}

// pick is what was chosen for an interface.
type pick struct {
	source string
	kind   vmhostv1.InterfaceKind
	tag    int32
	index  int // of the network
	fit    int // how many networks fitted
}

// chooseNetworks answers the first interface that nothing on the host serves.
func (f *fitting) chooseNetworks(h *Host, req *Request) (int, bool) {
	f.networks = f.networks[:0]
	functions := 0
	for i := range req.Interfaces {
		want, best := &req.Interfaces[i], pick{index: -1}
		for j := range h.Networks {
			m, tag := h.look(want, &h.Networks[j])
			if m != missNothing {
				continue
			}
			best.fit++
			if best.index < 0 || before(&h.Networks[j], &h.Networks[best.index]) {
				best.index, best.tag = j, tag
			}
		}
		if best.index < 0 {
			return i, false
		}
		best.of(h, want)
		f.networks = append(f.networks, best)
		if best.kind == vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV {
			functions++
		}
	}
	if functions > 1 {
		return f.chooseFunctions(h, req)
	}
	return 0, true
}

func (p *pick) of(h *Host, want *Interface) {
	n := &h.Networks[p.index]
	p.source, p.kind = n.Name, n.Kind
	if want.Kind == vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE {
		p.kind = want.Kind
		if want.Source != "" {
			p.source = want.Source
		}
	}
}

// chooseFunctions gives several interfaces virtual functions together: each the
// best device that leaves the others theirs. It answers the first interface that
// gets none.
func (f *fitting) chooseFunctions(h *Host, req *Request) (int, bool) {
	holders := map[int][]int{} // interfaces, by device
	var give func(i int, seen map[int]bool) bool
	give = func(i int, seen map[int]bool) bool {
		want := &req.Interfaces[i]
		var fit []int
		for j := range h.Networks {
			if m, _ := h.look(want, &h.Networks[j]); m == missNothing && !seen[j] {
				fit = append(fit, j)
			}
		}
		slices.SortFunc(fit, func(a, b int) int {
			if before(&h.Networks[a], &h.Networks[b]) {
				return -1
			}
			return 1
		})
		for _, j := range fit {
			if seen[j] {
				continue
			}
			seen[j] = true
			if int64(len(holders[j])) < h.Networks[j].Functions.Free() {
				holders[j] = append(holders[j], i)
				return true
			}
			for k, other := range holders[j] {
				if give(other, seen) {
					holders[j][k] = i
					return true
				}
			}
		}
		return false
	}
	for i := range f.networks {
		if f.networks[i].kind == vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV && !give(i, map[int]bool{}) {
			return i, false
		}
	}
	for j, list := range holders {
		for _, i := range list {
			f.networks[i].index = j
			_, f.networks[i].tag = h.look(&req.Interfaces[i], &h.Networks[j])
			f.networks[i].of(h, &req.Interfaces[i])
		}
	}
	return 0, true
}

// before says whether of two networks that fit the first is chosen: the one named
// default, then with DHCP, then a bridge before a network before a device, then
// by name.
func before(a, b *Network) bool {
	if x, y := a.Name == "default", b.Name == "default"; x != y {
		return x
	}
	if a.DHCP != b.DHCP {
		return a.DHCP
	}
	return cmp.Or(cmp.Compare(order(a.Kind), order(b.Kind)), strings.Compare(a.Name, b.Name)) < 0
}

func order(k vmhostv1.InterfaceKind) int {
	switch k {
	case vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE:
		return 0
	case vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK:
		return 1
	default:
		return 2
	}
}
