package libvirt

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	lv "github.com/digitalocean/go-libvirt"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// dhcpHost is one entry of a network's DHCP server: which address a MAC gets.
type dhcpHost struct {
	XMLName xml.Name `xml:"host"`
	MAC     string   `xml:"mac,attr,omitempty"`
	Name    string   `xml:"name,attr,omitempty"`
	IP      string   `xml:"ip,attr"`
}

// hostsXML is the part of a network's XML with the entries, by subnet.
type hostsXML struct {
	IPs []struct {
		Address string `xml:"address,attr"`
		Prefix  string `xml:"prefix,attr"`
		Netmask string `xml:"netmask,attr"`
		DHCP    *struct {
			Hosts []dhcpHost `xml:"host"`
		} `xml:"dhcp"`
	} `xml:"ip"`
}

// fixed are a machine's interfaces whose address is fixed on a network.
func fixed(m *vmhostv1.Machine) []*vmhostv1.MachineInterface {
	return slices.DeleteFunc(slices.Clone(m.GetInterfaces()), func(i *vmhostv1.MachineInterface) bool {
		return i.GetFixedAddress() == "" || i.GetKind() != vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK
	})
}

// entries reads the DHCP entries of a network as it is kept or as it runs.
func (d *Driver) entries(ctx context.Context, n network, flags uint32) (*hostsXML, error) {
	text, err := call(ctx, d.conn, "read network "+n.name, fast, func(a api) (string, error) { return a.NetworkGetXMLDesc(n.handle, flags) })
	if err != nil {
		return nil, err
	}
	var x hostsXML
	if err := xml.Unmarshal([]byte(text), &x); err != nil {
		return nil, fmt.Errorf("read the XML of network %s: %w", n.name, err)
	}
	return &x, nil
}

// fixAddress tells a network's DHCP server which address an interface gets. An
// entry of this MAC with this address is done; an address or MAC that another
// entry has is refused, and never changed.
func (d *Driver) fixAddress(ctx context.Context, i *vmhostv1.MachineInterface) (made bool, err error) {
	op := "fix address " + i.GetFixedAddress() + " of interface " + i.GetMac()
	refuse := func(class error, format string, args ...any) (bool, error) {
		return false, &hypervisor.Error{Class: class, Op: op, Err: fmt.Errorf(format, args...)}
	}
	if err := d.readNetworks(ctx); err != nil {
		return false, err
	}
	n, ok := d.facts.network(i.GetSource())
	if !ok {
		return refuse(hypervisor.ErrNotFound, "the host has no network %q", i.GetSource())
	}
	if !n.active {
		return false, &hypervisor.Error{
			Class: hypervisor.ErrRefused, Op: op, Err: fmt.Errorf("network %q is not running", n.name), Hint: "start it on the host: virsh net-start " + n.name,
		}
	}
	address, err := netip.ParseAddr(i.GetFixedAddress())
	if err != nil {
		return refuse(hypervisor.ErrRefused, "%q is no address", i.GetFixedAddress())
	}
	x, err := d.entries(ctx, n, 0)
	if err != nil {
		return false, err
	}
	subnet := -1
	for k, ip := range x.IPs {
		if ip.DHCP == nil {
			continue
		}
		if prefix, ok := subnetOf(ip.Address, ip.Prefix, ip.Netmask); ok && prefix.Contains(address) {
			subnet = k
		}
		for _, h := range ip.DHCP.Hosts {
			same, taken := strings.EqualFold(h.MAC, i.GetMac()), sameAddress(h.IP, address)
			switch {
			case same && taken:
				return false, nil
			case same:
				return refuse(hypervisor.ErrForeign, "network %q gives it the address %s already", n.name, h.IP)
			case taken:
				return refuse(hypervisor.ErrForeign, "network %q gives that address to %s", n.name, firstOf(h.MAC, h.Name))
			}
		}
	}
	if subnet < 0 {
		return refuse(hypervisor.ErrUnsupported, "network %q runs no DHCP for a subnet with that address", n.name)
	}
	if err := d.updateHost(ctx, n, lv.NetworkUpdateCommandAddLast, subnet, dhcpHost{MAC: i.GetMac(), IP: address.String()}); err != nil {
		return false, err
	}
	return true, nil
}

// freeAddress takes the entry of an interface's MAC and address off its network,
// and no other. A network that is gone has none.
func (d *Driver) freeAddress(ctx context.Context, i *vmhostv1.MachineInterface) error {
	if err := d.readNetworks(ctx); err != nil {
		return err
	}
	n, ok := d.facts.network(i.GetSource())
	address, _ := netip.ParseAddr(i.GetFixedAddress()) // what is none was never fixed
	if !ok || !address.IsValid() {
		return nil
	}
	x, err := d.entries(ctx, n, 0)
	if err != nil {
		return err
	}
	for k, ip := range x.IPs {
		if ip.DHCP == nil {
			continue
		}
		for _, h := range ip.DHCP.Hosts {
			if strings.EqualFold(h.MAC, i.GetMac()) && sameAddress(h.IP, address) {
				return d.updateHost(ctx, n, lv.NetworkUpdateCommandDelete, k, dhcpHost{MAC: h.MAC, IP: h.IP, Name: h.Name})
			}
		}
	}
	return nil
}

func (d *Driver) updateHost(ctx context.Context, n network, command lv.NetworkUpdateCommand, subnet int, h dhcpHost) error {
	text, err := xml.Marshal(h)
	if err != nil {
		return fmt.Errorf("write a DHCP entry: %w", err)
	}
	flags := lv.NetworkUpdateAffectConfig
	if n.active {
		flags |= lv.NetworkUpdateAffectLive
	}
	update := func(flags lv.NetworkUpdateFlags) error {
		return do(ctx, d.conn, "change DHCP of network "+n.name, slow, func(a api) error {
			return a.NetworkUpdateCompat(n.handle, command, lv.NetworkSectionIPDhcpHost, int32(subnet), string(text), flags)
		})
	}
	err = update(flags)
	d.facts.mu.Lock()
	delete(d.facts.netXML, n.handle.UUID)
	d.facts.mu.Unlock()
	if err != nil && number(err) != lv.ErrOk && flags != lv.NetworkUpdateAffectConfig {
		// A network that is kept nowhere, or is kept without the entry.
		if lerr := update(lv.NetworkUpdateAffectLive); lerr == nil {
			err = nil
		}
	}
	return err
}

func sameAddress(text string, address netip.Addr) bool {
	got, err := netip.ParseAddr(text)
	return err == nil && got == address
}

// fixAddresses fixes all of a machine's addresses and collects how to undo it.
func (d *Driver) fixAddresses(ctx context.Context, m *vmhostv1.Machine, undo *[]func(context.Context) error) error {
	changed := false
	for _, i := range fixed(m) {
		made, err := d.fixAddress(ctx, i)
		if err != nil {
			return err
		}
		if made {
			changed = true
			*undo = append(*undo, func(ctx context.Context) error { return d.freeAddress(ctx, i) })
		}
	}
	if changed {
		return d.readNetworks(ctx) // the machine is shown with its address
	}
	return nil
}

// freeAddresses gives all of a machine's addresses back.
func (d *Driver) freeAddresses(ctx context.Context, m *vmhostv1.Machine) error {
	var errs []error
	for _, i := range fixed(m) {
		errs = append(errs, d.freeAddress(ctx, i))
	}
	return errors.Join(errs...)
}
