package placement

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// kindWord is how a kind of interface is called in reasons.
func kindWord(k vmhostv1.InterfaceKind) string {
	switch k {
	case vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE:
		return "bridge"
	case vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN:
		return "device"
	case vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV:
		return "device with virtual functions"
	default:
		return "network"
	}
}

// why says by what the network was chosen.
func (p pick) why(h *Host, want *Interface) string {
	n := &h.Networks[p.index]
	var by, text []string
	if want.Source != "" {
		text = append(text, "asked for by name")
	}
	if want.Address.IsValid() {
		i := slices.IndexFunc(n.Subnets, func(s netip.Prefix) bool { return s.Contains(want.Address) })
		by = append(by, fmt.Sprintf("address %s in subnet %s", want.Address, n.Subnets[i]))
	}
	if want.Subnet.IsValid() && !want.Address.IsValid() {
		by = append(by, "subnet "+want.Subnet.String())
	}
	if want.VLAN != nil {
		by = append(by, vlanWords(*want.VLAN, p.tag))
	}
	if want.Space != "" {
		by = append(by, "space "+want.Space)
	}
	if len(want.Tags) > 0 {
		by = append(by, "tags "+strings.Join(want.Tags, ", "))
	}
	if len(by) > 0 {
		text = append(text, strings.Join(by, ", ")+" of "+p.source)
	}
	if want.open() || (p.fit > 1 && want.Source == "") {
		text = append(text, p.preference(n, want))
	}
	return strings.Join(text, "; ")
}

func vlanWords(vlan, tag int32) string {
	switch {
	case vlan == 0:
		return "no VLAN"
	case tag != 0:
		return fmt.Sprintf("VLAN %d (tagged)", vlan)
	default:
		return fmt.Sprintf("VLAN %d", vlan)
	}
}

// preference says why this one of those that fit.
func (p pick) preference(n *Network, want *Interface) string {
	among := ""
	if p.fit > 1 {
		among = " of the " + strconv.Itoa(p.fit) + " that fit"
	}
	switch {
	case n.Name == "default":
		return "named default" + among
	case n.DHCP && p.fit > 1:
		return "the first with DHCP" + among
	case n.DHCP:
		return "the only one with DHCP"
	case p.fit > 1:
		return "the first " + kindWord(n.Kind) + among
	default:
		return "the only " + kindWord(want.Kind)
	}
}

// network says why nothing on the host serves an interface.
func (r Refusal) network() string {
	want := &r.req.Interfaces[r.Item]
	kind := kindWord(want.Kind)
	if want.Kind == vmhostv1.InterfaceKind_INTERFACE_KIND_UNSPECIFIED && want.Source == "" && !want.open() {
		kind = "network, bridge or device"
	}
	near, m := r.Host.nearest(want)
	switch m {
	case missDHCP:
		return fmt.Sprintf("runs no DHCP of its own on %s, which could give address %s", near, want.Address)
	case missOwn:
		return fmt.Sprintf("cannot give address %s on %s: it is the host's own, or that of the subnet itself", want.Address, near)
	case missTaken:
		return fmt.Sprintf("has given address %s on %s to another machine", want.Address, near)
	case missFunctions:
		return "has no free virtual function on " + near
	case missNothing: // one by one they fit, but not all together
		return fmt.Sprintf("has too few free virtual functions for %d interfaces", r.functions())
	default:
	}
	if want.open() {
		if kind == "network" {
			return "has neither a running network named default nor one with DHCP"
		}
		return "has no running " + kind
	}
	text := "has no running " + kind + wanted(want)
	if m >= missActive && (want.Source == "" || m > missActive) {
		text += "; nearest is " + near + ", which " + r.Host.lacks(want, m, near)
	} else if other := r.Host.otherKind(want); m <= missName && other != "" {
		text += "; " + want.Source + " is a " + other
	}
	return text
}

// wanted is what was asked for, as the end of a sentence.
func wanted(want *Interface) string {
	text := ""
	if want.Source != "" {
		text += " named " + want.Source
	}
	var with []string
	if want.Address.IsValid() {
		with = append(with, "address "+want.Address.String())
	}
	if want.Subnet.IsValid() {
		with = append(with, "subnet "+want.Subnet.String())
	}
	if want.VLAN != nil {
		with = append(with, vlanWords(*want.VLAN, 0))
	}
	if want.Space != "" {
		with = append(with, "space "+want.Space)
	}
	if len(want.Tags) > 0 {
		with = append(with, "tags "+strings.Join(want.Tags, ", "))
	}
	if len(with) > 0 {
		text += " with " + strings.Join(with, ", ")
	}
	return text
}

// nearest is the network that misses the least, and what it misses.
func (h *Host) nearest(want *Interface) (name string, m miss) {
	m = missName
	for i := range h.Networks {
		n := &h.Networks[i]
		got, _ := h.look(want, n)
		if got == missNothing {
			return n.Name, missNothing
		}
		if got > m {
			name, m = n.Name, got
		}
	}
	return name, m
}

func (h *Host) lacks(want *Interface, m miss, name string) string {
	i := slices.IndexFunc(h.Networks, func(n Network) bool { return n.Name == name })
	n := &h.Networks[i]
	switch m {
	case missActive:
		return "is not running"
	case missAddress, missSubnet:
		if len(n.Subnets) == 0 {
			return "serves no known subnet"
		}
		var list []string
		for _, s := range n.Subnets {
			list = append(list, s.String())
		}
		return "serves " + strings.Join(list, ", ")
	case missVLAN:
		if n.VLAN == 0 {
			return "is in no VLAN"
		}
		return fmt.Sprintf("is in VLAN %d", n.VLAN)
	case missSpace:
		if n.Space == "" {
			return "is in no space"
		}
		return "is in space " + n.Space
	default:
		for _, t := range want.Tags {
			if !slices.Contains(n.Tags, t) {
				return "has no tag " + t
			}
		}
		return "does not fit"
	}
}

// otherKind is what a source is that was asked for as something else; empty when
// there is no such source.
func (h *Host) otherKind(want *Interface) string {
	for i := range h.Networks {
		if n := &h.Networks[i]; want.Source != "" && n.Name == want.Source && n.Active {
			return kindWord(n.Kind)
		}
	}
	return ""
}

// functions is how many virtual functions the request wants.
func (r Refusal) functions() int {
	count := 0
	for i := range r.req.Interfaces {
		if r.req.Interfaces[i].Kind == vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV {
			count++
		}
	}
	return count
}

// TakenAddress says whether an interface was refused because another machine has
// the address that was asked for.
func (r Refusal) TakenAddress() bool {
	if r.Filter != FilterNetwork {
		return false
	}
	_, m := r.Host.nearest(&r.req.Interfaces[r.Item])
	return m == missTaken
}

// choiceWord is the stable word for a kind in NetworkChoice.
func choiceWord(k vmhostv1.InterfaceKind) string {
	switch k {
	case vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE:
		return "bridge"
	case vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN:
		return "macvlan"
	case vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV:
		return "sr-iov"
	default:
		return "network"
	}
}
