package libvirt

import (
	"cmp"
	"context"
	"encoding/xml"
	"fmt"
	"slices"
	"strconv"
	"time"

	lv "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func decimal(n int32) string { return strconv.FormatInt(int64(n), 10) }

// pciAddress is where a device is on its host.
type pciAddress struct{ domain, bus, slot, function uint }

// sriovDevice is a network device with virtual functions.
type sriovDevice struct {
	name      string
	node      int32
	functions []pciAddress
}

// nodeDeviceXML is the few parts of a device's XML that are read.
type nodeDeviceXML struct {
	Name       string `xml:"name"`
	Parent     string `xml:"parent"`
	Capability struct {
		Interface string `xml:"interface"`
		Domain    uint   `xml:"domain"`
		Bus       uint   `xml:"bus"`
		Slot      uint   `xml:"slot"`
		Function  uint   `xml:"function"`
		NUMA      *struct {
			Node int32 `xml:"node,attr"`
		} `xml:"numa"`
		Capabilities []struct {
			Type      string          `xml:"type,attr"`
			Addresses []pciAddressXML `xml:"address"`
		} `xml:"capability"`
	} `xml:"capability"`
}

type pciAddressXML struct {
	Domain   string `xml:"domain,attr"`
	Bus      string `xml:"bus,attr"`
	Slot     string `xml:"slot,attr"`
	Function string `xml:"function,attr"`
}

func (a pciAddressXML) read() (pciAddress, bool) {
	var out [4]uint
	for i, s := range []string{a.Domain, a.Bus, a.Slot, a.Function} {
		n, err := strconv.ParseUint(s, 0, 32)
		if err != nil {
			return pciAddress{}, false
		}
		out[i] = uint(n)
	}
	return pciAddress{out[0], out[1], out[2], out[3]}, true
}

// sriovDevices puts together the network devices and the PCI devices that have
// virtual functions.
func sriovDevices(devices []nodeDeviceXML) []sriovDevice {
	names := map[string]string{} // of the network device, by its parent
	for _, x := range devices {
		if x.Capability.Interface != "" {
			names[x.Parent] = x.Capability.Interface
		}
	}
	var out []sriovDevice
	for _, x := range devices {
		name := names[x.Name]
		if name == "" {
			continue
		}
		for _, c := range x.Capability.Capabilities {
			if c.Type != "virt_functions" || len(c.Addresses) == 0 {
				continue
			}
			one := sriovDevice{name: name, node: -1}
			if x.Capability.NUMA != nil {
				one.node = x.Capability.NUMA.Node
			}
			for _, a := range c.Addresses {
				if at, ok := a.read(); ok {
					one.functions = append(one.functions, at)
				}
			}
			out = append(out, one)
		}
	}
	slices.SortFunc(out, func(a, b sriovDevice) int { return cmp.Compare(a.name, b.name) })
	return out
}

// readSriov reads the host's devices with virtual functions: one list, and the
// XML of network devices and of what they are on. Kept like the host's links.
func (d *Driver) readSriov(ctx context.Context) ([]sriovDevice, error) {
	d.facts.mu.Lock()
	kept, at := d.facts.sriov, d.facts.sriovAt
	d.facts.mu.Unlock()
	if !at.IsZero() && time.Since(at) < slowFactsFor {
		return kept, nil
	}
	list, err := call(ctx, d.conn, "list the host's network devices", fast, func(a api) ([]lv.NodeDevice, error) {
		list, _, err := a.ConnectListAllNodeDevices(1, uint32(lv.ConnectListNodeDevicesCapNet))
		return list, err
	})
	if err != nil {
		return nil, onlyLost(err)
	}
	var devices []nodeDeviceXML
	read := func(name string) error {
		text, err := call(ctx, d.conn, "read device "+name, fast, func(a api) (string, error) { return a.NodeDeviceGetXMLDesc(name, 0) })
		if err != nil {
			return onlyLost(err)
		}
		var x nodeDeviceXML
		if xml.Unmarshal([]byte(text), &x) == nil {
			devices = append(devices, x)
		}
		return nil
	}
	for _, one := range list {
		if err := read(one.Name); err != nil {
			return nil, err
		}
	}
	for _, x := range slices.Clone(devices) {
		// A device that is not on a bus is the computer's own: a bridge, a veth.
		if x.Parent == "" || x.Parent == "computer" {
			continue
		}
		if err := read(x.Parent); err != nil {
			return nil, err
		}
	}
	out := sriovDevices(devices)
	d.facts.mu.Lock()
	defer d.facts.mu.Unlock()
	d.facts.sriov, d.facts.sriovAt = out, time.Now()
	return out, nil
}

// usedFunctions are the virtual functions that domains have, and how many
// interfaces hand one out by a network's name.
func usedFunctions(domains []*seen) (taken map[pciAddress]bool, byNetwork map[string]int32) {
	taken, byNetwork = map[pciAddress]bool{}, map[string]int32{}
	for _, one := range domains {
		if one.record.domain == nil {
			continue
		}
		for _, a := range one.record.domain.functions {
			taken[a] = true
		}
		for _, i := range one.record.domain.interfaces {
			if i.GetKind() == vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK {
				byNetwork[i.GetSource()]++
			}
		}
	}
	return taken, byNetwork
}

// observedSriov is what the host has left of its virtual functions.
func observedSriov(devices []sriovDevice, networks []network, domains []*seen) []*vmhostv1.SriovDevice {
	if len(devices) == 0 {
		return nil
	}
	taken, byNetwork := usedFunctions(domains)
	out := make([]*vmhostv1.SriovDevice, 0, len(devices))
	for _, v := range devices {
		one := &vmhostv1.SriovDevice{Name: v.name, Functions: int32(len(v.functions)), NumaNode: v.node}
		for _, f := range v.functions {
			if !taken[f] {
				one.Free++
			}
		}
		for _, n := range networks {
			if n.functionsOf == v.name {
				one.Free = max(0, one.GetFree()-byNetwork[n.name])
			}
		}
		out = append(out, one)
	}
	return out
}

// freeFunctions answers where a machine's SR-IOV interfaces can get functions
// from: networks of libvirt that manage a device, and functions nobody has.
func (d *Driver) freeFunctions(ctx context.Context, m *vmhostv1.Machine) (networks map[string]string, free map[string][]pciAddress, err error) {
	if !slices.ContainsFunc(m.GetInterfaces(), func(i *vmhostv1.MachineInterface) bool {
		return i.GetKind() == vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV
	}) {
		return nil, nil, nil
	}
	if err := d.readNetworks(ctx); err != nil {
		return nil, nil, err
	}
	devices, err := d.readSriov(ctx)
	if err != nil {
		return nil, nil, err
	}
	s, err := d.snapshot(ctx, listing)
	if err != nil {
		return nil, nil, err
	}
	taken, _ := usedFunctions(s.domains)
	networks, free = map[string]string{}, map[string][]pciAddress{}
	for _, n := range d.facts.networks() {
		if n.functionsOf != "" && n.active {
			networks[n.functionsOf] = n.name
		}
	}
	for _, v := range devices {
		for _, f := range v.functions {
			if !taken[f] {
				free[v.name] = append(free[v.name], f)
			}
		}
	}
	return networks, free, nil
}

// functionOf is an interface that is a virtual function. Where a network of
// libvirt manages the device it chooses one at every start; else the function is
// fixed.
func functionOf(i *vmhostv1.MachineInterface, host hostFacts) (libvirtxml.DomainInterface, error) {
	out := libvirtxml.DomainInterface{MAC: &libvirtxml.DomainInterfaceMAC{Address: i.GetMac()}, VLan: vlanOf(i, host)}
	if name := host.hostdevNetworks[i.GetSource()]; name != "" {
		out.Source = &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: name}}
		return out, nil
	}
	free := host.functions[i.GetSource()]
	if len(free) == 0 {
		return out, &hypervisor.Error{
			Class: hypervisor.ErrCapacity, Op: "attach interface " + i.GetMac(), Err: fmt.Errorf("device %q has no free virtual function", i.GetSource()),
		}
	}
	f := free[0]
	host.functions[i.GetSource()] = free[1:]
	out.Managed = "yes"
	out.Source = &libvirtxml.DomainInterfaceSource{Hostdev: &libvirtxml.DomainInterfaceSourceHostdev{
		PCI: &libvirtxml.DomainHostdevSubsysPCISource{Address: &libvirtxml.DomainAddressPCI{Domain: &f.domain, Bus: &f.bus, Slot: &f.slot, Function: &f.function}},
	}}
	return out, nil
}

// deviceOf is the device that a virtual function is of, as it was last read.
func (f *facts) deviceOf(at pciAddress) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, v := range f.sriov {
		if slices.Contains(v.functions, at) {
			return v.name
		}
	}
	return ""
}
