package lxd

import (
	"slices"
	"strings"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

var macvlanModes = map[string]vmhostv1.MacvlanMode{
	"": vmhostv1.MacvlanMode_MACVLAN_MODE_BRIDGE, "bridge": vmhostv1.MacvlanMode_MACVLAN_MODE_BRIDGE,
	"private": vmhostv1.MacvlanMode_MACVLAN_MODE_PRIVATE, "vepa": vmhostv1.MacvlanMode_MACVLAN_MODE_VEPA,
	"passthru": vmhostv1.MacvlanMode_MACVLAN_MODE_PASSTHRU,
}

// interfacesOf are the network cards of an instance, without the addresses of a
// machine that does not run.
func (d *Driver) interfacesOf(i *instance, v *view) []*vmhostv1.MachineInterface {
	var out []*vmhostv1.MachineInterface
	names := devicesOf(i, "nic")
	boots := bootNIC(i, names)
	for _, name := range names {
		dev := i.expanded()[name]
		n := &vmhostv1.MachineInterface{Mac: macOf(i, name, dev), Source: dev["parent"], Name: nicName(name, dev), Boot: name == boots}
		switch kind := dev["nictype"]; {
		case dev["network"] != "":
			n.Kind, n.Source = vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK, dev["network"]
			if net := v.networks[n.GetSource()]; net != nil && net.Type == "sriov" {
				n.Kind = vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV
			}
		case kind == "bridged":
			n.Kind = vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE
			if net := v.networks[n.GetSource()]; net != nil && net.Managed {
				n.Kind = vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK
			}
		case kind == "macvlan":
			n.Kind, n.MacvlanMode = vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN, macvlanModes[dev["mode"]]
		case kind == "sriov":
			n.Kind = vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV
		}
		n.Vlan = vlanOf(dev["vlan"])
		for _, key := range []string{"ipv4.address", "ipv6.address"} {
			if a := dev[key]; a != "" && a != "none" && n.GetFixedAddress() == "" {
				n.FixedAddress = a
			}
		}
		if i.running() {
			n.Addresses = slices.Clone(d.addresses.of(i.uuid, n.GetMac()))
		}
		out = append(out, n)
	}
	return out
}

// macOf is a card's MAC: given, or made up by LXD at the first start.
func macOf(i *instance, name string, dev map[string]string) string {
	if mac := dev["hwaddr"]; mac != "" {
		return strings.ToLower(mac)
	}
	return strings.ToLower(i.option("volatile." + name + ".hwaddr"))
}

func nicName(device string, dev map[string]string) string {
	if dev["name"] != "" {
		return dev["name"]
	}
	return device
}

// bootNIC is the card that is booted from first; empty when none is.
func bootNIC(i *instance, names []string) string {
	best, out := int64(0), ""
	for _, name := range names {
		if p := priority(i.expanded()[name]["boot.priority"], false); p > best {
			best, out = p, name
		}
	}
	return out
}
