package libvirt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	lv "github.com/digitalocean/go-libvirt"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/units"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// plan is what a move needs to know of both hosts. It is made before anything is
// changed or stopped, and refuses what can be seen to be impossible.
type plan struct {
	text  string // the domain's definition
	disks []movedDisk
	host  hostFacts // of the destination
	// emulation: one of the hosts has KVM for it and the other has not.
	emulation bool
	logs      map[string]string
	// notOffline says why it cannot be copied while it is off; nil when it can.
	notOffline error
	// notLive says why it cannot be moved while it runs; nil when libvirt may try.
	notLive error
}

// offline is why it cannot be copied while it is off.
func (p *plan) offline() error { return p.notOffline }

// movedDisk is one disk of the domain on both hosts.
type movedDisk struct {
	device string
	from   pool
	volume lv.StorageVol // on the source
	format string        // of what is in it
	bytes  uint64        // that its file or device has
	size   uint64        // that the guest sees
	to     pool
	name   string // of the volume on the destination
	cache  string // how the source's host caches it
	// stays: its volume is the destination's too, where it is called there.
	stays bool
	there lv.StorageVol
}

// source is the disk on the destination, where its volume is that of another pool.
func (k movedDisk) source(ctx context.Context, d *Driver) (volumeSource, error) {
	placed, err := d.placed(ctx, k.to, k.there)
	if err != nil {
		return volumeSource{}, err
	}
	out := placed.source
	out.format, out.stays = k.format, true
	return out, nil
}

func cannot(format string, args ...any) error {
	return &hypervisor.Error{Class: hypervisor.ErrUnsupported, Op: opMove, Err: fmt.Errorf(format, args...)}
}

// atDestination marks a failure as one of the destination, so that another one may
// do. What a compose is advised to do is no help then.
func atDestination(err error) error {
	e, ok := err.(*hypervisor.Error) //nolint:errorlint // what wraps it has more to say
	if !ok {
		return err
	}
	out := *e
	out.AtDestination = true
	if errors.Is(err, hypervisor.ErrNotFound) || errors.Is(err, hypervisor.ErrForeign) {
		out.Hint = ""
	}
	return &out
}

// plan looks at the domain and at what it is to have on the destination.
func (m *move) plan(ctx context.Context, here *seen, text string) (*plan, error) {
	p := &plan{text: text}
	x, err := readXMLText(text)
	if err != nil {
		return nil, cannot("%w", err)
	}
	moved := m.what.GetMoved()
	if _, err := m.to.ownOrFree(ctx, m.id, &vmhostv1.Machine{Uid: m.ref.UID, HypervisorName: here.dom.Name}); err != nil {
		return nil, atDestination(err)
	}
	if err := m.planDisks(ctx, here, x, p); err != nil {
		return nil, err
	}
	if err := m.to.attachable(ctx, moved); err != nil {
		return nil, atDestination(err)
	}
	if err := m.planHost(ctx, x, p); err != nil {
		return nil, err
	}
	own := logVolume(m.ref.UID)
	p.logs = map[string]string{}
	for _, log := range x.root.all("devices", "serial", "log") {
		if file := log.attr("file"); strings.HasSuffix(file, "/"+own) || file == logFileOf(moved) {
			p.logs[file] = m.to.consoleLogOf(moved)
		}
	}
	return p, m.judge(ctx, here, x, p)
}

// planDisks finds the volume of each disk, on the source and on the destination.
func (m *move) planDisks(ctx context.Context, here *seen, x *xmlText, p *plan) error {
	if err := m.from.readPools(ctx); err != nil {
		return err
	}
	for _, k := range x.root.all("devices", "disk") {
		if device := k.attr("device"); (device == "cdrom" || device == "floppy") && k.first("source") != nil {
			return &hypervisor.Error{
				Class: hypervisor.ErrUnsupported, Op: opMove, Err: fmt.Errorf("there is something in drive %s, which the destination has not", k.first("target").attr("dev")),
				Hint: "eject it: virsh change-media " + here.dom.Name + " " + k.first("target").attr("dev") + " --eject",
			}
		}
	}
	nodes, want := diskNodes(x), m.what.GetMoved().GetDisks()
	if len(nodes) != len(want) || len(nodes) != len(here.record.domain.disks) {
		return &hypervisor.Error{
			Class: hypervisor.ErrRefused, Op: opMove, Err: fmt.Errorf("the domain has %d disks and its record %d", len(nodes), len(want)),
			Hint: "detach what was attached outside of vmhost, or release the machine and adopt it again",
		}
	}
	was := m.what.GetMachine().GetDisks()
	taken := map[int]bool{}
	for i, node := range nodes {
		k := here.record.domain.disks[i]
		poolName, name := volumeOf(k, m.from.facts.pools())
		at := slices.IndexFunc(was, func(d *vmhostv1.MachineDisk) bool { return d.GetStoragePool() == poolName && d.GetVolume() == name })
		if at < 0 || at >= len(want) || taken[at] {
			return &hypervisor.Error{
				Class: hypervisor.ErrUnsupported, Op: opMove, Err: fmt.Errorf("disk %s is %q, no volume that the machine's record lists", k.device, firstOf(k.path, poolName+"/"+name)),
				Hint: "put it into a storage pool, and release the machine and adopt it again",
			}
		}
		taken[at] = true
		one, err := m.planDisk(ctx, k, node, poolName, name, want[at], m.stays[at])
		if err != nil {
			return err
		}
		if virtual := here.block(k.device).capacity; virtual > 0 {
			one.size = virtual
		}
		p.disks = append(p.disks, one)
	}
	return nil
}

func (m *move) planDisk(ctx context.Context, k disk, node *xmlNode, poolName, name string, want *vmhostv1.MachineDisk, stays bool) (movedDisk, error) {
	driver := node.first("driver")
	out := movedDisk{device: k.device, format: driver.attr("type"), cache: driver.attr("cache"), name: want.GetVolume(), stays: stays}
	var err error
	if out.from, err = m.from.usablePool(ctx, poolName); err != nil {
		return out, err
	}
	if out.to, err = m.to.usablePool(ctx, want.GetStoragePool()); err != nil {
		return out, atDestination(err)
	}
	v, err := m.from.freshVolume(ctx, out.from, name)
	if err != nil {
		return out, err
	}
	if v == nil {
		return out, cannot("storage pool %q has no volume %q", poolName, name)
	}
	out.volume = *v
	if stays {
		return out, m.planStaying(ctx, k, &out)
	}
	for _, flags := range []lv.StorageVolInfoFlags{lv.StorageVolUseAllocation, lv.StorageVolGetPhysical} {
		sizes, err := call(ctx, m.from.conn, "read volume "+name, fast, func(a api) ([2]uint64, error) {
			_, capacity, bytes, err := a.StorageVolGetInfoFlags(*v, uint32(flags))
			return [2]uint64{capacity, bytes}, err
		})
		if err != nil {
			return out, err
		}
		out.size, out.bytes = sizes[0], sizes[1]
	}
	need := out.size
	if kindOf(out.to.kind).thin {
		need = qcow2Room
	}
	if out.to.available < need {
		said := units.Bytes.Say(units.Room(int64(out.to.available)), units.Need(int64(need)))
		return out, &hypervisor.Error{
			Class: hypervisor.ErrCapacity, AtDestination: true, Op: opMove, Err: fmt.Errorf("storage pool %q of the destination has %s free, disk %s needs %s", out.to.name, said[0], out.device, said[1]),
		}
	}
	return out, nil
}

// attachable refuses what a machine's interfaces cannot be attached to: libvirt
// itself says so only when the machine is started.
func (d *Driver) attachable(ctx context.Context, m *vmhostv1.Machine) error {
	if err := d.readNetworks(ctx); err != nil {
		return err
	}
	links, err := d.readLinks(ctx)
	if err != nil {
		return err
	}
	for _, i := range m.GetInterfaces() {
		n, known := d.facts.network(i.GetSource())
		there := slices.ContainsFunc(links, func(l *vmhostv1.HostNetwork) bool { return l.GetName() == i.GetSource() })
		missing := false
		switch i.GetKind() {
		case vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK:
			missing = !known || !n.active
		case vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE, vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN:
			missing = !there
		default: // functionOf looks
		}
		if missing {
			return &hypervisor.Error{
				Class: hypervisor.ErrNotFound, Op: "attach interface " + i.GetMac(), Err: fmt.Errorf("the destination has no running %q to attach it to", i.GetSource()),
				Hint: "refresh the host and choose one of its networks",
			}
		}
	}
	return nil
}

// planHost reads what the definition depends on.
func (m *move) planHost(ctx context.Context, x *xmlText, p *plan) error {
	caps, err := m.to.capabilities(ctx)
	if err != nil {
		return err
	}
	static, err := m.to.readStatic(ctx)
	if err != nil {
		return err
	}
	architecture := x.root.first("os", "type").attr("arch")
	if !slices.Contains(architectures(caps), architecture) {
		return atDestination(cannot("the destination cannot run machines of architecture %q", architecture))
	}
	p.host = hostFacts{kvm: hasKVM(caps, architecture), libVersion: static.libvirt}
	p.emulation = p.host.kvm != (x.root.attr("type") == "kvm")
	if p.host.hostdevNetworks, p.host.functions, err = m.to.freeFunctions(ctx, m.what.GetMoved()); err != nil {
		return atDestination(err)
	}
	p.host.tagged, err = m.to.tagsOf(ctx, m.what.GetMoved(), static.libvirt)
	if err != nil || p.emulation || x.root.first("cpu").attr("mode") != "host-passthrough" {
		return err
	}
	mine, err := m.from.capabilities(ctx)
	if err != nil {
		return err
	}
	if from, to := cpuModel(mine), cpuModel(caps); from != to {
		p.notLive = cannot("its processor is that of its host, %q, and the destination's is %q", from, to)
	}
	return nil
}

// judge says what keeps the domain from being moved in one way or the other.
func (m *move) judge(ctx context.Context, here *seen, x *xmlText, p *plan) error {
	snapshots, err := call(ctx, m.from.conn, "count snapshots of domain "+here.dom.Name, fast, func(a api) (int32, error) { return a.DomainSnapshotNum(here.dom, 0) })
	if err == nil && snapshots > 0 {
		return &hypervisor.Error{
			Class: hypervisor.ErrUnsupported, Op: opMove, Err: fmt.Errorf("the domain has %d snapshots, which would be lost", snapshots),
			Hint: "remove them first: virsh snapshot-list " + here.dom.Name,
		}
	}
	if err != nil && !errors.Is(err, hypervisor.ErrUnsupported) {
		return err
	}
	saved, err := call(ctx, m.from.conn, "look for a saved state of domain "+here.dom.Name, fast, func(a api) (int32, error) { return a.DomainHasManagedSaveImage(here.dom, 0) })
	if err != nil {
		return err
	}
	if p.emulation {
		p.notLive = cannot("one of the hosts has KVM for it and the other has not")
	}
	for _, i := range here.record.domain.interfaces {
		if i.GetKind() == vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV {
			p.notLive = cannot("interface %s is a device of its host", i.GetMac())
		}
	}
	if len(x.root.all("devices", "hostdev")) > 0 {
		return cannot("the domain has devices of its host")
	}
	switch {
	case saved != 0:
		p.notOffline = &hypervisor.Error{
			Class: hypervisor.ErrUnsupported, Op: opMove, Err: errors.New("the domain has a saved state, which would be lost"),
			Hint: "start the machine, and move it live",
		}
	case x.root.first("os", "nvram") != nil:
		p.notOffline = &hypervisor.Error{
			Class: hypervisor.ErrUnsupported, Op: opMove, Err: errors.New("libvirt does not let anybody read the variables of its firmware while it is off, and they would be lost"),
			Hint: "move it live, while it runs",
		}
	case len(x.root.all("devices", "tpm")) > 0:
		p.notOffline = &hypervisor.Error{
			Class: hypervisor.ErrUnsupported, Op: opMove, Err: errors.New("the state of its TPM cannot be read while it is off, and would be lost"),
			Hint: "move it live, while it runs",
		}
	}
	if err := m.judgeStaying(ctx, p); err != nil {
		return err
	}
	for i, k := range p.disks {
		if p.notOffline == nil && !k.stays {
			p.notOffline = copyable(k, here.record.domain.disks[i].backing)
		}
	}
	return nil
}

// copyable says why a disk cannot be copied as it is.
func copyable(k movedDisk, backing []string) error {
	to := kindOf(k.to.kind)
	switch {
	case len(backing) > 0:
		return cannot("disk %s is laid over %s, which the destination has not", k.device, backing[0])
	case to.block && k.format != "raw":
		return atDestination(cannot("disk %s is a %s file, and storage pool %q of the destination has devices", k.device, k.format, k.to.name))
	case !to.byPath:
		return atDestination(cannot("storage pool %q of the destination is of type %q, which disks are not copied to", k.to.name, k.to.kind))
	}
	return nil
}
