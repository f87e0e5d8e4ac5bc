package lxd

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	lxdapi "github.com/canonical/lxd/shared/api"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Priorities of booting, LXD's highest first: cards that are booted from, then
// the disk.
const (
	bootNICs = 10
	bootDisk = 1
)

// madeBy is the description of instances that are made here.
const madeBy = "Made by vmhost"

// content is the kind of a machine's extra volumes: disks for virtual machines,
// folders for containers.
func content(m *vmhostv1.Machine) string {
	if m.GetType() == vmhostv1.MachineType_MACHINE_TYPE_CONTAINER {
		return contentFilesystem
	}
	return contentBlock
}

// rootAndExtra splits the disks: the root disk is the first that is to be booted
// from, or else the first.
func rootAndExtra(m *vmhostv1.Machine) (*vmhostv1.MachineDisk, []*vmhostv1.MachineDisk) {
	at := max(slices.IndexFunc(m.GetDisks(), (*vmhostv1.MachineDisk).GetBoot), 0)
	return m.GetDisks()[at], slices.Concat(m.GetDisks()[:at], m.GetDisks()[at+1:])
}

// define is the request that makes an instance.
func define(c *rackv1.CreateMachine, source lxdapi.InstanceSource, nics map[string]map[string]string) lxdapi.InstancesPost {
	m := c.GetMachine()
	root, extra := rootAndExtra(m)
	post := lxdapi.InstancesPost{Name: instanceName(m), Source: source, Type: typeVM}
	post.Architecture, post.Description = m.GetArchitecture(), madeBy
	// Not nil, which LXD takes for the profile named default.
	post.Profiles = append([]string{}, m.GetProfiles()...)
	post.Config = map[string]string{
		volatileUUID:     m.GetUid(),
		labelUID:         m.GetUid(),
		labelUUID:        m.GetUid(),
		labelOperation:   m.GetOperation(),
		labelHost:        m.GetVmHost(),
		labelRoot:        root.GetVolume(),
		"limits.cpu":     strconv.Itoa(int(m.GetCores())),
		"limits.memory":  strconv.FormatInt(m.GetMemoryMib(), 10) + "MiB",
		"boot.autostart": strconv.FormatBool(c.GetAutostart()),
	}
	if len(m.GetPinnedCores()) > 0 {
		post.Config["limits.cpu"] = pinList(m.GetPinnedCores())
	}
	if m.GetType() == vmhostv1.MachineType_MACHINE_TYPE_CONTAINER {
		post.Type = typeContainer
	} else {
		post.Config["security.secureboot"] = strconv.FormatBool(m.GetSecureBoot())
		if m.GetHugepages() {
			post.Config["limits.memory.hugepages"] = "true"
		}
		if m.GetFirmware() == vmhostv1.Firmware_FIRMWARE_BIOS {
			post.Config["security.csm"] = "true"
		}
	}
	post.Devices = map[string]map[string]string{
		"root": {"type": "disk", "path": "/", "pool": root.GetStoragePool(), "size": strconv.FormatInt(root.GetSizeBytes(), 10)},
	}
	if post.Type == typeVM {
		post.Devices["root"]["boot.priority"] = strconv.Itoa(bootDisk)
	}
	for n, k := range extra {
		name := "disk" + strconv.Itoa(n+1)
		post.Devices[name] = map[string]string{"type": "disk", "pool": k.GetStoragePool(), "source": k.GetVolume()}
		if post.Type == typeContainer {
			// In a container a volume is a folder.
			post.Devices[name]["path"] = "/mnt/" + name
		}
	}
	for name, dev := range nics {
		post.Devices[name] = dev
	}
	return post
}

// nicDevices are the cards of a machine, each on a network that is there.
func (d *Driver) nicDevices(ctx context.Context, m *vmhostv1.Machine) (map[string]map[string]string, error) {
	if len(m.GetInterfaces()) == 0 {
		return nil, nil
	}
	d.facts.networks.drop()
	list, err := d.readNetworks(ctx)
	if err != nil {
		return nil, err
	}
	known := map[string]*network{}
	for _, n := range list {
		known[n.Name] = n
	}
	out := map[string]map[string]string{}
	boots := slices.ContainsFunc(m.GetInterfaces(), (*vmhostv1.MachineInterface).GetBoot)
	for n, i := range m.GetInterfaces() {
		if known[i.GetSource()] == nil {
			return nil, &hypervisor.Error{
				Class: hypervisor.ErrNotFound, Op: opCreate, Err: fmt.Errorf("the server has no network, bridge or device %q", i.GetSource()),
				Hint: "refresh the host and choose one of its networks",
			}
		}
		name := i.GetName()
		if name == "" {
			name = "eth" + strconv.Itoa(n)
		}
		dev, err := nicDevice(i, known[i.GetSource()], name)
		if err != nil {
			return nil, err
		}
		if m.GetType() != vmhostv1.MachineType_MACHINE_TYPE_CONTAINER && (i.GetBoot() || (!boots && n == 0)) {
			dev["boot.priority"] = strconv.Itoa(bootNICs)
		}
		if out[name] != nil {
			return nil, &hypervisor.Error{Class: hypervisor.ErrRefused, Op: opCreate, Err: fmt.Errorf("two interfaces are named %q", name)}
		}
		out[name] = dev
	}
	return out, nil
}

func nicDevice(i *vmhostv1.MachineInterface, n *network, name string) (map[string]string, error) {
	dev := map[string]string{"type": "nic", "name": name, "hwaddr": i.GetMac()}
	refuse := func(format string, args ...any) error {
		return &hypervisor.Error{Class: hypervisor.ErrRefused, Op: opCreate, Err: fmt.Errorf("interface %q: "+format, append([]any{name}, args...)...)}
	}
	kind := i.GetKind()
	if kind == vmhostv1.InterfaceKind_INTERFACE_KIND_UNSPECIFIED {
		switch {
		case n.Managed:
			kind = vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK
		case n.Type == "bridge":
			kind = vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE
		default:
			kind = vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN
		}
	}
	switch {
	case kind == vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK, kind == vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV && n.Managed:
		if !n.Managed {
			return nil, refuse("%q is no network that LXD manages", n.Name)
		}
		dev["network"] = n.Name
	case kind == vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE:
		dev["nictype"], dev["parent"] = "bridged", n.Name
	case kind == vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN:
		dev["nictype"], dev["parent"] = "macvlan", n.Name
		if mode := macvlanWord(i.GetMacvlanMode()); mode != "" {
			dev["mode"] = mode
		}
	case kind == vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV:
		dev["nictype"], dev["parent"] = "sriov", n.Name
	}
	if i.GetVlan() > 0 {
		dev["vlan"] = strconv.Itoa(int(i.GetVlan()))
	}
	if fixed := i.GetFixedAddress(); fixed != "" {
		ip, err := netip.ParseAddr(fixed)
		if err != nil {
			return nil, refuse("%q is no address", fixed)
		}
		if !n.Managed || dev["network"] == "" {
			return nil, refuse("an address can be fixed on networks only that LXD manages, which %q is not", n.Name)
		}
		key := "ipv4.address"
		if ip.Is6() {
			key = "ipv6.address"
		}
		dev[key] = ip.String()
	}
	return dev, nil
}

// macvlanWord is LXD's word; bridge is its default and not said.
func macvlanWord(mode vmhostv1.MacvlanMode) string {
	for word, m := range macvlanModes {
		if m == mode && word != "" && word != "bridge" {
			return word
		}
	}
	return ""
}
