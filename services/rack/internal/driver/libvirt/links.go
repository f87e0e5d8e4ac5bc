package libvirt

import (
	"context"
	"encoding/xml"
	"errors"
	"slices"
	"strings"
	"time"

	lv "github.com/digitalocean/go-libvirt"
	"google.golang.org/protobuf/proto"
	"libvirt.org/go/libvirtxml"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// readLinks reads the host's bridges and devices. Which of the two sources
// libvirt was built with differs from system to system; what neither shows is
// not listed.
func (d *Driver) readLinks(ctx context.Context) ([]*vmhostv1.HostNetwork, error) {
	d.facts.mu.Lock()
	kept, at := d.facts.links, d.facts.linksAt
	d.facts.mu.Unlock()
	if kept != nil && time.Since(at) < slowFactsFor {
		return kept, nil
	}
	out, err := d.readInterfaces(ctx)
	if err != nil {
		return nil, err
	}
	if out == nil {
		if out, err = d.readNetDevices(ctx); err != nil {
			return nil, err
		}
	}
	d.facts.mu.Lock()
	defer d.facts.mu.Unlock()
	d.facts.links, d.facts.linksAt = out, time.Now()
	return out, nil
}

// readInterfaces reads what libvirt's interface driver shows; nil where there is
// none.
func (d *Driver) readInterfaces(ctx context.Context) ([]*vmhostv1.HostNetwork, error) {
	var out []*vmhostv1.HostNetwork
	ports := map[string]bool{}
	list, err := call(ctx, d.conn, "list the host's interfaces", fast, func(a api) ([]lv.Interface, error) {
		list, _, err := a.ConnectListAllInterfaces(1, lv.ConnectListInterfacesActive)
		return list, err
	})
	if err != nil {
		return nil, onlyLost(err)
	}
	for _, i := range list {
		text, err := call(ctx, d.conn, "read interface "+i.Name, fast, func(a api) (string, error) { return a.InterfaceGetXMLDesc(i, 0) })
		if err != nil {
			if err := onlyLost(err); err != nil {
				return nil, err
			}
			continue
		}
		var x libvirtxml.Interface
		if xml.Unmarshal([]byte(text), &x) != nil || i.Name == "lo" {
			continue
		}
		n := &vmhostv1.HostNetwork{Name: i.Name, Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_DEVICE, Active: true}
		switch {
		case x.Bridge != nil:
			n.Kind, n.Bridge = vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_BRIDGE, i.Name
			for _, p := range x.Bridge.Interfaces {
				ports[p.Name] = true
				if !guestDevice(p.Name) {
					n.Uplinks = append(n.Uplinks, p.Name)
				}
			}
		case guestDevice(i.Name):
			continue
		case x.VLAN != nil:
			if x.VLAN.Tag != nil {
				n.Vlan = int32(*x.VLAN.Tag)
			}
			if x.VLAN.Interface != nil {
				n.Parent = x.VLAN.Interface.Name
				n.Uplinks = []string{n.GetParent()}
			}
		case x.Bond != nil:
			for _, p := range x.Bond.Interfaces {
				ports[p.Name] = true
				n.Uplinks = append(n.Uplinks, p.Name)
			}
		}
		if x.MTU != nil {
			n.Mtu = int32(x.MTU.Size)
		}
		for _, p := range x.Protocol {
			for _, ip := range p.IPs {
				if c, ok := cidrOf(libvirtxml.NetworkIP{Address: ip.Address, Prefix: ip.Prefix}); ok && ip.Prefix > 0 {
					n.Cidrs, n.Addresses = append(n.Cidrs, c), append(n.Addresses, ip.Address)
				}
			}
		}
		out = append(out, n)
	}
	// A port of a bridge or bond cannot carry a macvlan as well.
	return slices.DeleteFunc(out, func(n *vmhostv1.HostNetwork) bool { return ports[n.GetName()] }), nil
}

// guestDevice says whether a device is the host's end of a guest's interface.
func guestDevice(name string) bool {
	return strings.HasPrefix(name, "vnet") || strings.HasPrefix(name, "macvtap") || strings.HasPrefix(name, "tap")
}

// readNetDevices reads what libvirt's node device driver shows: network devices,
// of which it does not say whether they are bridges.
func (d *Driver) readNetDevices(ctx context.Context) ([]*vmhostv1.HostNetwork, error) {
	out := []*vmhostv1.HostNetwork{}
	list, err := call(ctx, d.conn, "list the host's network devices", fast, func(a api) ([]lv.NodeDevice, error) {
		list, _, err := a.ConnectListAllNodeDevices(1, uint32(lv.ConnectListNodeDevicesCapNet))
		return list, err
	})
	if err != nil {
		return out, onlyLost(err)
	}
	for _, i := range list {
		text, err := call(ctx, d.conn, "read device "+i.Name, fast, func(a api) (string, error) { return a.NodeDeviceGetXMLDesc(i.Name, 0) })
		if err != nil {
			if err := onlyLost(err); err != nil {
				return nil, err
			}
			continue
		}
		var x struct {
			Capability struct {
				Interface string `xml:"interface"`
			} `xml:"capability"`
		}
		name := ""
		if xml.Unmarshal([]byte(text), &x) == nil {
			name = x.Capability.Interface
		}
		if name == "" || name == "lo" || strings.HasPrefix(name, "vnet") || strings.HasPrefix(name, "virbr") || strings.HasPrefix(name, "macvtap") {
			continue
		}
		out = append(out, &vmhostv1.HostNetwork{Name: name, Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_DEVICE, Active: true})
	}
	return out, nil
}

// onlyLost drops what libvirt answered and keeps that it did not answer.
func onlyLost(err error) error {
	if number(err) != lv.ErrOk || errors.Is(err, hypervisor.ErrUnsupported) {
		return nil
	}
	return err
}

// hostNetworks puts libvirt's networks before the host's own bridges and
// devices. The bridge of a network that libvirt runs is part of that network.
func hostNetworks(networks []network, links []*vmhostv1.HostNetwork) []*vmhostv1.HostNetwork {
	var out []*vmhostv1.HostNetwork
	hidden := map[string]bool{}
	bridges := map[string]bool{}
	for _, n := range networks {
		out = append(out, &vmhostv1.HostNetwork{
			Name: n.name, Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK, Bridge: n.bridge,
			Cidrs: n.cidrs, Dhcp: n.dhcp, Active: n.active, Vlan: n.vlan,
			Addresses: n.addresses, Uplinks: n.uplinks, Forward: n.forward, Mtu: n.mtu, Vlans: n.vlans,
		})
		if n.bridged {
			behind(out[len(out)-1], links)
		}
		if n.bridge != "" && !n.bridged {
			hidden[n.bridge] = true
		}
	}
	for _, l := range links {
		if !hidden[l.GetName()] {
			bridges[l.GetName()] = true
			out = append(out, proto.CloneOf(l)) // l is kept
		}
	}
	// Where the host's bridges cannot be listed, networks still name some.
	for _, n := range networks {
		if n.bridged && n.active && !bridges[n.bridge] {
			bridges[n.bridge] = true
			out = append(out, &vmhostv1.HostNetwork{
				Name: n.bridge, Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_BRIDGE, Bridge: n.bridge, Active: true,
			})
		}
	}
	return out
}

// behind fills in what a network has by the bridge of the host that it is.
func behind(n *vmhostv1.HostNetwork, links []*vmhostv1.HostNetwork) {
	for _, l := range links {
		if l.GetName() != n.GetBridge() {
			continue
		}
		n.Uplinks, n.Addresses = l.GetUplinks(), l.GetAddresses()
		if n.GetMtu() == 0 {
			n.Mtu = l.GetMtu()
		}
	}
}
