package lxd

import (
	"context"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	lxdapi "github.com/canonical/lxd/shared/api"
	"golang.org/x/sync/errgroup"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// mostNetworks bounds how many networks' states are read; hosts with more are
// shown without what only a state tells.
const mostNetworks = 64

// network is a network or device as LXD describes it, with its state where that
// could be read.
type network struct {
	lxdapi.Network
	state *lxdapi.NetworkState
}

// guestSide are devices that LXD and others make for guests: nothing can be
// attached to them.
func guestSide(name string) bool {
	for _, prefix := range []string{"veth", "tap", "vnet", "mac", "lxcbr-", "vx"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// useful says whether machines can be attached to a network.
func useful(n *lxdapi.Network) bool {
	if n.Managed {
		return true
	}
	switch n.Type {
	case "bridge", "physical", "bond", "vlan":
		return true
	case "unknown":
		return !guestSide(n.Name)
	}
	return false
}

func (d *Driver) readNetworks(ctx context.Context) ([]*network, error) {
	return d.facts.networks.read(ctx, factsFor, func(ctx context.Context) ([]*network, error) {
		list, err := get[[]lxdapi.Network](ctx, d.conn, "list networks", d.onMember(d.in("/1.0/networks", "recursion", "1")))
		if err != nil {
			return nil, err
		}
		slices.SortFunc(list, func(a, b lxdapi.Network) int { return strings.Compare(a.Name, b.Name) })
		var out []*network
		group, gctx := errgroup.WithContext(ctx)
		group.SetLimit(idleConns / 2)
		for _, n := range list {
			if !useful(&n) {
				continue
			}
			one := &network{Network: n}
			if out = append(out, one); len(out) > mostNetworks {
				continue
			}
			group.Go(func() error {
				s, err := get[lxdapi.NetworkState](gctx, d.conn, "read state of network "+n.Name, d.onMember(d.in("/1.0/networks/"+url.PathEscape(n.Name)+"/state")))
				if err == nil {
					one.state = &s
				} else if unknown(err) {
					return err
				}
				return nil
			})
		}
		return out, group.Wait()
	})
}

// hostNetworks are networks in the protocol's form.
func hostNetworks(list []*network) []*vmhostv1.HostNetwork {
	out := make([]*vmhostv1.HostNetwork, 0, len(list))
	for _, n := range list {
		out = append(out, n.observation())
	}
	return out
}

func (n *network) observation() *vmhostv1.HostNetwork {
	o := &vmhostv1.HostNetwork{Name: n.Name, Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_DEVICE, Parent: n.Config["parent"]}
	switch {
	case n.Managed:
		o.Kind, o.Forward = vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK, n.Type
		o.Active = n.Status == "Created"
	case n.Type == "bridge":
		o.Kind, o.Bridge = vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_BRIDGE, n.Name
	}
	if n.Managed && n.Type == "bridge" {
		o.Bridge = n.Name
		for u := range strings.SplitSeq(n.Config["bridge.external_interfaces"], ",") {
			if u = strings.TrimSpace(u); u != "" {
				o.Uplinks = append(o.Uplinks, u)
			}
		}
	}
	o.Vlan = vlanOf(n.Config["vlan"])
	for _, family := range []string{"ipv4", "ipv6"} {
		if p, err := netip.ParsePrefix(n.Config[family+".address"]); err == nil {
			o.Cidrs = append(o.Cidrs, p.Masked().String())
		}
	}
	n.fromState(o)
	// LXD serves DHCP on its bridges and OVN networks unless it is told not to. What
	// a restricted certificate may not see of the configuration shows in the
	// addresses.
	o.Dhcp = n.Managed && (n.Type == "bridge" || n.Type == "ovn") && n.Config["ipv4.dhcp"] != "false" &&
		slices.ContainsFunc(o.GetCidrs(), func(c string) bool { return strings.Contains(c, ".") })
	return o
}

// fromState adds what the device shows.
func (n *network) fromState(o *vmhostv1.HostNetwork) {
	s := n.state
	if s == nil {
		return
	}
	o.Mtu = int32(min(max(s.Mtu, 0), 1<<20))
	if !n.Managed {
		o.Active = s.State == "up"
	}
	for _, a := range s.Addresses {
		ip, err := netip.ParseAddr(a.Address)
		if err != nil || a.Scope != "global" {
			continue
		}
		o.Addresses = append(o.Addresses, ip.String())
		if p, err := netip.ParsePrefix(a.Address + "/" + a.Netmask); err == nil && !slices.Contains(o.GetCidrs(), p.Masked().String()) {
			o.Cidrs = append(o.Cidrs, p.Masked().String())
		}
	}
	if s.VLAN != nil {
		o.Vlan, o.Parent = int32(min(s.VLAN.VID, 4095)), s.VLAN.LowerDevice
	}
	if s.Bridge != nil {
		for _, u := range s.Bridge.UpperDevices {
			if !guestSide(u) && !slices.Contains(o.GetUplinks(), u) {
				o.Uplinks = append(o.Uplinks, u)
			}
		}
	}
	slices.Sort(o.GetUplinks())
}

// vlanOf reads a VLAN tag; 0 for none, and for a list of them.
func vlanOf(s string) int32 {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 32)
	if err != nil || n < 1 || n > 4094 {
		return 0
	}
	return int32(n)
}
