package lxd

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	lxdapi "github.com/canonical/lxd/shared/api"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// plan is what a move needs to know of both servers. It is made before anything is
// changed or stopped, and refuses what can be seen to be impossible.
type plan struct {
	name  string // of the instance on the destination
	disks []movedDisk
	// devices are those that the machine has in the end, profiles' or its own.
	devices map[string]map[string]string
	// own is the definition as it is written on the destination, which its profiles
	// complete.
	own lxdapi.InstancePut
	// snapshots are how many the instance has, which come along.
	snapshots int
}

// movedDisk is one disk of the instance on both servers.
type movedDisk struct {
	device   string
	root     bool
	was, to  *vmhostv1.MachineDisk
	from, in *pool
	volume   *lxdapi.StorageVolume // of what is not the root disk
}

func cannot(hint, format string, args ...any) error {
	return &hypervisor.Error{Class: hypervisor.ErrUnsupported, Op: opMove, Err: fmt.Errorf(format, args...), Hint: hint}
}

func refuses(hint, format string, args ...any) error {
	return &hypervisor.Error{Class: hypervisor.ErrRefused, Op: opMove, Err: fmt.Errorf(format, args...), Hint: hint}
}

// plan looks at the instance and at what it is to have on the destination.
func (m *move) plan(ctx context.Context) (*plan, error) {
	p := &plan{name: m.name(), devices: map[string]map[string]string{}}
	for _, step := range []func(context.Context, *plan) error{m.judge, m.free, m.planDisks, m.planCards, m.planDefinition} {
		if err := step(ctx, p); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// judge says what keeps the instance from being moved at all.
func (m *move) judge(ctx context.Context, p *plan) error {
	i := m.here
	switch {
	case i.StatusCode == lxdapi.Frozen:
		return refuses("resume it, or stop it", "instance %q is paused, and its memory would be lost", i.Name)
	case i.StatusCode != lxdapi.Stopped && !i.running():
		return refuses("stop it first, and look at `lxc info "+i.Name+"` on the server", "LXD says that instance %q is %q", i.Name, i.Status)
	case i.Ephemeral:
		return cannot("lxc config edit "+i.Name+" on the server makes it one that stays", "instance %q is ephemeral: LXD removes it when it stops", i.Name)
	case i.Stateful:
		return cannot("start it, and stop it without keeping its memory", "instance %q was stopped with its memory kept, which does not run elsewhere", i.Name)
	case truth(i.option("security.protection.delete")):
		return refuses("on the server: lxc config set "+i.Name+" security.protection.delete=false",
			"instance %q is protected from being deleted, and so cannot leave its server", i.Name)
	}
	for name, dev := range i.expanded() {
		switch dev["type"] {
		case "nic", "none", "proxy", "tpm":
		case "disk":
			if dev["pool"] == "" && !strings.HasPrefix(dev["source"], "cloud-init:") {
				return cannot("lxc config device remove "+i.Name+" "+name+" on the server", "device %q is %q of its host, which the destination has not", name, dev["source"])
			}
		default:
			return cannot("lxc config device remove "+i.Name+" "+name+" on the server", "device %q is a device of its host (%s)", name, dev["type"])
		}
	}
	for part, count := range map[string]*int{"backups": nil, "snapshots": &p.snapshots} {
		list, err := get[[]string](ctx, m.from.conn, "list "+part+" of instance "+i.Name, m.from.instancePath(i.Name, "/"+part))
		switch {
		case err != nil:
			return err
		case count != nil:
			*count = len(list)
		case len(list) > 0:
			return cannot("export and delete them first, on the server", "instance %q has %d backups on its server, which would be lost", i.Name, len(list))
		}
	}
	kind := vmhostv1.MachineType_MACHINE_TYPE_VIRTUAL_MACHINE
	if i.Type == typeContainer {
		kind = vmhostv1.MachineType_MACHINE_TYPE_CONTAINER
	}
	return atDestination(m.to.canRun(ctx, &vmhostv1.Machine{Type: kind, Architecture: i.Architecture}))
}

// free makes sure that nothing is in the way on the destination, which what was
// left of a broken move has left by now.
func (m *move) free(ctx context.Context, p *plan) error {
	list, err := m.to.listOwn(ctx)
	if err != nil {
		return err
	}
	for _, i := range list {
		if m.siblings() && i.uuid == m.ref.Domain() && i.Name == m.here.Name {
			continue // itself, seen from another member
		}
		if i.uuid == m.ref.Domain() || i.Name == p.name {
			return &hypervisor.Error{
				Class: hypervisor.ErrForeign, AtDestination: true, Op: opMove,
				Err:  fmt.Errorf("project %q of the destination has another instance %q, with the uuid %s", m.to.project, i.Name, i.uuid),
				Hint: "rename it on the destination, or move to another host",
			}
		}
	}
	return nil
}

// planDisks finds the volume of each disk, on the source and on the destination.
func (m *move) planDisks(ctx context.Context, p *plan) error {
	if len(m.what.GetStayingDisks()) > 0 {
		return cannot("within a cluster `lxc move NAME --target MEMBER` moves it, and its record follows", "disks in storage pools that both hosts have are not handed over between LXD servers")
	}
	was, want := m.what.GetMachine().GetDisks(), m.what.GetMoved().GetDisks()
	i := m.here
	taken := map[int]bool{}
	for _, name := range devicesOf(i, "disk") {
		dev := i.expanded()[name]
		if dev["pool"] == "" {
			p.devices[name] = dev
			continue
		}
		k := movedDisk{device: name, root: dev["path"] == "/" && dev["source"] == ""}
		volume := dev["source"]
		if k.root {
			volume = firstOf(i.Config[labelRoot], m.name())
		}
		at := slices.IndexFunc(was, func(d *vmhostv1.MachineDisk) bool {
			return d.GetStoragePool() == dev["pool"] && d.GetVolume() == volume
		})
		if at < 0 || at >= len(want) || taken[at] {
			return refuses("detach what was attached outside of vmhost, or release the machine and adopt it again",
				"disk %q is volume %q of storage pool %q, which the machine's record does not list", name, volume, dev["pool"])
		}
		taken[at] = true
		k.was, k.to = was[at], want[at]
		moved, err := m.planDisk(ctx, &k, dev)
		if err != nil {
			return err
		}
		p.devices[name] = moved
		p.disks = append(p.disks, k)
	}
	if len(taken) != len(want) {
		return refuses("release the machine and adopt it again", "the instance has %d disks and its record %d", len(taken), len(want))
	}
	return nil
}

// planDisk answers the device of a disk on the destination.
func (m *move) planDisk(ctx context.Context, k *movedDisk, dev map[string]string) (map[string]string, error) {
	var err error
	if k.from, err = m.from.usablePool(ctx, dev["pool"]); err != nil {
		return nil, err
	}
	if k.in, err = m.to.usablePool(ctx, k.to.GetStoragePool()); err != nil {
		return nil, atDestination(err)
	}
	for _, p := range []*pool{k.from, k.in} {
		if !slices.Contains([]string{"dir", "btrfs", "lvm", "zfs"}, p.Driver) {
			return nil, cannot("within a cluster `lxc move NAME --target MEMBER` moves it, and its record follows",
				"storage pool %q is of type %q, which other servers may share: disks in such pools are not moved", p.Name, p.Driver)
		}
	}
	out := maps.Clone(dev)
	out["pool"] = k.in.Name
	size := k.was.GetSizeBytes()
	if k.root {
		if size, err = rootSize(m.here, dev, k.from); err != nil {
			return nil, refuses("", "the root disk has %w", err)
		}
		// Where its size is that of its pool, it keeps it.
		if there, err := rootSize(m.here, out, k.in); err == nil && size > 0 && there != size {
			out["size"] = strconv.FormatInt(size, 10)
		}
	} else {
		out["source"] = k.to.GetVolume()
		if k.volume, err = m.from.findVolume(ctx, k.from.Name, dev["source"]); err != nil {
			return nil, err
		}
		if k.volume == nil {
			return nil, refuses("release the machine and adopt it again", "storage pool %q has no volume %q", k.from.Name, dev["source"])
		}
		for _, user := range k.volume.UsedBy {
			if strings.Contains(user, "/instances/") && lastOf(user) != m.here.Name {
				return nil, cannot("detach it from one of them", "instance %q uses volume %q as well", lastOf(user), k.volume.Name)
			}
		}
		if !ownVolume(m.ref.UID, k.to.GetVolume()) {
			return nil, refuses("", "volume %q on the destination is not named after the machine", k.to.GetVolume())
		}
		there, err := m.to.findVolume(ctx, k.in.Name, k.to.GetVolume())
		if err != nil {
			return nil, err
		}
		if there != nil {
			return nil, fmt.Errorf("volume %q is on the destination still", k.to.GetVolume())
		}
	}
	return out, atDestination(m.to.roomFor(ctx, k.in, size, "disk "+k.device))
}

// planCards finds the network of each card on the destination.
func (m *move) planCards(ctx context.Context, p *plan) error {
	m.to.facts.networks.drop()
	list, err := m.to.readNetworks(ctx)
	if err != nil {
		return err
	}
	was, want := m.what.GetMachine().GetInterfaces(), m.what.GetMoved().GetInterfaces()
	names := devicesOf(m.here, "nic")
	if len(names) != len(was) || len(was) != len(want) {
		return refuses("detach what was attached outside of vmhost, or release the machine and adopt it again",
			"the instance has %d network cards and its record %d", len(names), len(was))
	}
	for _, name := range names {
		dev := m.here.expanded()[name]
		mac := macOf(m.here, name, dev)
		at := slices.IndexFunc(was, func(n *vmhostv1.MachineInterface) bool { return strings.EqualFold(n.GetMac(), mac) })
		if at < 0 {
			return refuses("release the machine and adopt it again", "network card %q has the MAC address %s, which the machine's record does not list", name, mac)
		}
		source := want[at].GetSource()
		known := slices.IndexFunc(list, func(n *network) bool { return n.Name == source })
		if known < 0 {
			return &hypervisor.Error{
				Class: hypervisor.ErrNotFound, AtDestination: true, Op: opMove, Err: fmt.Errorf("the destination has no network, bridge or device %q to attach network card %q to", source, name),
				Hint: "refresh the host and choose one of its networks",
			}
		}
		if p.devices[name], err = movedCard(dev, was[at], want[at], list[known], nicName(name, dev)); err != nil {
			return err
		}
	}
	return nil
}

// attachment is what says where a card is attached to, and how.
func attachment() []string {
	return []string{"network", "nictype", "parent", "mode", "vlan", "ipv4.address", "ipv6.address"}
}

// movedCard is a card on another network. What it has besides stays.
func movedCard(dev map[string]string, was, to *vmhostv1.MachineInterface, n *network, name string) (map[string]string, error) {
	out := maps.Clone(dev)
	if was.GetSource() == to.GetSource() && was.GetKind() == to.GetKind() && was.GetVlan() == to.GetVlan() &&
		was.GetMacvlanMode() == to.GetMacvlanMode() && was.GetFixedAddress() == to.GetFixedAddress() {
		return out, nil
	}
	for _, key := range attachment() {
		delete(out, key)
	}
	made, err := nicDevice(to, n, name)
	maps.Copy(out, made)
	return out, err
}

// planDefinition is what of the machine is written on the destination, where
// profiles of the same names may say something else.
func (m *move) planDefinition(ctx context.Context, p *plan) error {
	i := m.here
	config, devices, err := m.to.profilesOf(ctx, i.Profiles)
	if err != nil {
		return atDestination(err)
	}
	for name, dev := range i.expanded() {
		if p.devices[name] == nil {
			p.devices[name] = dev
		}
	}
	p.own = i.Writable()
	p.own.Config, p.own.Devices = maps.Clone(i.Config), map[string]map[string]string{}
	for _, key := range []string{labelMoving, labelAside} {
		delete(p.own.Config, key)
	}
	if i.Config[labelHost] != "" {
		p.own.Config[labelHost] = m.what.GetMoved().GetVmHost()
	}
	for _, k := range p.disks {
		if k.root && (i.Config[labelRoot] != "" || k.to.GetVolume() != p.name) {
			p.own.Config[labelRoot] = k.to.GetVolume()
		}
	}
	for key, value := range i.ExpandedConfig {
		if _, own := i.Config[key]; !own && config[key] != value {
			p.own.Config[key] = value
		}
	}
	for key, value := range config {
		if _, has := i.ExpandedConfig[key]; !has && value != "" {
			return atDestination(refuses("give the profiles of both servers the same configuration, or take them off the machine",
				"the profiles %s of the destination set %s, which the machine has not", strings.Join(i.Profiles, ", "), key))
		}
	}
	for name, dev := range p.devices {
		if _, own := i.Devices[name]; own || !maps.Equal(dev, devices[name]) {
			p.own.Devices[name] = dev
		}
	}
	for name := range devices {
		if _, has := p.devices[name]; !has {
			p.own.Devices[name] = map[string]string{"type": "none"}
		}
	}
	return nil
}

// profilesOf is what profiles say together: of several the last.
func (d *Driver) profilesOf(ctx context.Context, names []string) (config map[string]string, devices map[string]map[string]string, err error) {
	config, devices = map[string]string{}, map[string]map[string]string{}
	if err := d.checkProfiles(ctx, names); err != nil || len(names) == 0 {
		return config, devices, err
	}
	for _, name := range names {
		p, err := get[lxdapi.Profile](ctx, d.conn, "read profile "+name, d.in("/1.0/profiles/"+url.PathEscape(name)))
		if err != nil {
			return nil, nil, err
		}
		maps.Copy(config, p.Config)
		maps.Copy(devices, p.Devices)
	}
	return config, devices, nil
}
