package libvirt

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	lv "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/units"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const (
	// sector is the smallest unit that QEMU gives a disk.
	sector = 512
	// kibibyte is what libvirt rounds the size of a qcow2 file up to.
	kibibyte = 1 << 10
	// extent is how much a pool of devices may round a volume up to.
	extent = 256 << 20
	// qcow2Room is what a new, empty qcow2 file needs at most.
	qcow2Room = 4 << 20
)

// volumeKind is how a pool's volumes are made and attached.
type volumeKind struct {
	format string
	thin   bool
	// byPath: the disk names the volume's path; block: which is a device.
	byPath, block bool
}

func kindOf(poolType string) volumeKind {
	switch poolType {
	case "dir", "fs", "netfs":
		return volumeKind{format: "qcow2", thin: true, byPath: true}
	case "logical", "disk", "zfs":
		return volumeKind{format: "raw", thin: thinPools[poolType], byPath: true, block: true}
	default:
		return volumeKind{format: "raw", thin: thinPools[poolType]}
	}
}

// madeVolume is a volume of a machine that is there.
type madeVolume struct {
	handle  lv.StorageVol
	source  volumeSource
	created bool // by this call
}

// volumePrefix starts the name of every volume of a machine. The uid in it was
// made up by the region for this machine alone, so a volume with it is ours.
func volumePrefix(uid string) string { return "vmhost-" + strings.ToLower(uid) + "-" }

func roundUp(size int64) uint64 { return (uint64(size) + sector - 1) / sector * sector }

// usablePool finds a pool by the list of pools, the only proof that it is not
// there.
func (d *Driver) usablePool(ctx context.Context, name string) (pool, error) {
	op := "find storage pool " + name
	if err := d.readPools(ctx); err != nil {
		return pool{}, err
	}
	for _, p := range d.facts.pools() {
		if p.name != name {
			continue
		}
		if !p.active {
			return p, &hypervisor.Error{
				Class: hypervisor.ErrRefused, Op: op, Err: fmt.Errorf("storage pool %q is not running", name),
				Hint: "start it on the host: virsh pool-start " + name,
			}
		}
		return p, nil
	}
	return pool{}, &hypervisor.Error{
		Class: hypervisor.ErrNotFound, Op: op, Err: fmt.Errorf("the host has no storage pool %q", name),
		Hint: "refresh the host and choose one of its storage pools",
	}
}

// findVolume looks for a volume in the list of its pool's; nil when it is not
// there.
func (d *Driver) findVolume(ctx context.Context, p pool, name string) (*lv.StorageVol, error) {
	list, err := d.volumesOf(ctx, p)
	if err != nil {
		return nil, err
	}
	for _, v := range list {
		if v.Name == name {
			return &v, nil
		}
	}
	return nil, nil //nolint:nilnil // absent is no error
}

// freshVolume is findVolume that has the pool read anew before it says that a
// volume is not there: libvirt does not know what others have made.
func (d *Driver) freshVolume(ctx context.Context, p pool, name string) (*lv.StorageVol, error) {
	v, err := d.findVolume(ctx, p, name)
	if err != nil || v != nil {
		return v, err
	}
	if err := d.refreshPool(ctx, p); err != nil {
		return nil, err
	}
	return d.findVolume(ctx, p, name)
}

const (
	// busyTime is how long a pool may be busy that is to be read anew, and busyAgain
	// how often that is tried.
	busyTime  = 10 * time.Second
	busyAgain = 100 * time.Millisecond
)

// refreshPool has libvirt read a pool anew, which it refuses to do while it makes a
// volume of the pool.
func (d *Driver) refreshPool(ctx context.Context, p pool) error {
	op := "read storage pool " + p.name + " anew"
	waiting, cancel := context.WithTimeout(ctx, busyTime)
	defer cancel()
	again := time.NewTicker(busyAgain)
	defer again.Stop()
	for {
		err := do(ctx, d.conn, op, slow, func(a api) error { return a.StoragePoolRefresh(p.handle, 0) })
		// There is no number for it.
		if number(err) != lv.ErrInternalError || !strings.Contains(err.Error(), "asynchronous jobs") {
			return err
		}
		select {
		case <-again.C:
		case <-waiting.Done():
			return &hypervisor.Error{Class: hypervisor.ErrBusy, Op: op, Err: err, Hint: "libvirt is making a volume of it: try again when that is done"}
		}
	}
}

func (d *Driver) volumesOf(ctx context.Context, p pool) ([]lv.StorageVol, error) {
	return call(ctx, d.conn, "list volumes of storage pool "+p.name, fast, func(a api) ([]lv.StorageVol, error) {
		list, _, err := a.StoragePoolListAllVolumes(p.handle, 1, 0)
		return list, err
	})
}

// makeVolume makes the volume of a disk, or takes the one that a broken create
// of the same machine left behind.
func (d *Driver) makeVolume(ctx context.Context, uid string, k *vmhostv1.MachineDisk) (*madeVolume, error) {
	p, err := d.usablePool(ctx, k.GetStoragePool())
	if err != nil {
		return nil, err
	}
	v, err := d.findVolume(ctx, p, k.GetVolume())
	if err != nil {
		return nil, err
	}
	if v != nil {
		return d.takeVolume(ctx, p, *v, uid, k)
	}
	handle, err := d.createVolume(ctx, p, k)
	if err == nil {
		out, perr := d.placed(ctx, p, handle)
		if perr != nil {
			return &madeVolume{handle: handle, created: true}, perr
		}
		out.created = true
		return out, nil
	}
	if number(err) == lv.ErrOk || classed(err) {
		return nil, err
	}
	// A libvirtd that was killed while it made the volume has left a file that it
	// does not know of. Reading the pool anew shows it; nothing on disk changes.
	if rerr := d.refreshPool(ctx, p); rerr != nil {
		return nil, err
	}
	if v, ferr := d.findVolume(ctx, p, k.GetVolume()); ferr == nil && v != nil {
		return d.takeVolume(ctx, p, *v, uid, k)
	}
	return nil, d.outOfSpace(ctx, p, k, err)
}

func classed(err error) bool {
	e, ok := errors.AsType[*hypervisor.Error](err)
	return ok && e.Class != nil && !errors.Is(err, hypervisor.ErrExists)
}

func (d *Driver) createVolume(ctx context.Context, p pool, k *vmhostv1.MachineDisk) (lv.StorageVol, error) {
	kind, size := kindOf(p.kind), roundUp(k.GetSizeBytes())
	if !kind.thin && p.available < size {
		said := units.Bytes.Say(units.Room(int64(p.available)), units.Need(int64(size)))
		return lv.StorageVol{}, &hypervisor.Error{
			Class: hypervisor.ErrCapacity, Op: "create volume " + k.GetVolume(),
			Err: fmt.Errorf("storage pool %q has %s free, the disk needs %s", p.name, said[0], said[1]),
		}
	}
	x := &libvirtxml.StorageVolume{
		Name:       k.GetVolume(),
		Capacity:   &libvirtxml.StorageVolumeSize{Unit: "bytes", Value: size},
		Allocation: &libvirtxml.StorageVolumeSize{Unit: "bytes"},
		Target:     &libvirtxml.StorageVolumeTarget{Format: &libvirtxml.StorageVolumeTargetFormat{Type: kind.format}},
	}
	if !kind.thin {
		x.Allocation.Value = size
	}
	text, err := x.Marshal()
	if err != nil {
		return lv.StorageVol{}, classify("write the XML of volume "+k.GetVolume(), err)
	}
	return call(ctx, d.conn, "create volume "+k.GetVolume(), slow, func(a api) (lv.StorageVol, error) {
		return a.StorageVolCreateXML(p.handle, text, 0)
	})
}

// outOfSpace classes a failed creation by what is left in the pool: libvirt has
// no number for it.
func (d *Driver) outOfSpace(ctx context.Context, p pool, k *vmhostv1.MachineDisk, cause error) error {
	need := roundUp(k.GetSizeBytes())
	if kindOf(p.kind).thin {
		need = qcow2Room
	}
	free, err := call(ctx, d.conn, "read storage pool "+p.name, fast, func(a api) (uint64, error) {
		_, _, _, free, err := a.StoragePoolGetInfo(p.handle)
		return free, err
	})
	if err == nil && free < need {
		return &hypervisor.Error{Class: hypervisor.ErrCapacity, Op: "create volume " + k.GetVolume(), Err: cause}
	}
	return cause
}

// takeVolume uses a volume that is there, if it is ours and as large as asked.
func (d *Driver) takeVolume(ctx context.Context, p pool, v lv.StorageVol, uid string, k *vmhostv1.MachineDisk) (*madeVolume, error) {
	op := "create volume " + v.Name
	foreign := func(why string) error {
		return &hypervisor.Error{Class: hypervisor.ErrForeign, Op: op, Err: fmt.Errorf("storage pool %q has a volume %q %s", p.name, v.Name, why)}
	}
	if !strings.HasPrefix(v.Name, volumePrefix(uid)) {
		return nil, foreign("that vmhost did not make for this machine")
	}
	capacity, err := call(ctx, d.conn, "read volume "+v.Name, fast, func(a api) (uint64, error) {
		_, capacity, _, err := a.StorageVolGetInfo(v)
		return capacity, err
	})
	if err != nil {
		return nil, err
	}
	if why := otherSize(kindOf(p.kind).block, capacity, k); why != "" {
		return nil, foreign(why)
	}
	return d.placed(ctx, p, v)
}

// otherSize says of a volume that is there that it is not as large as a disk; empty:
// it is, but for what such a pool rounds up.
func otherSize(block bool, capacity uint64, k *vmhostv1.MachineDisk) string {
	want, slack := roundUp(k.GetSizeBytes()), uint64(kibibyte)
	if block {
		slack = extent
	}
	if want <= capacity && capacity <= want+slack {
		return ""
	}
	said := units.Bytes.Say(units.Room(int64(capacity)), units.Need(int64(want)))
	return fmt.Sprintf("of %s, where this machine's has %s", said[0], said[1])
}

// placed says where a volume that is there can be attached from.
func (d *Driver) placed(ctx context.Context, p pool, v lv.StorageVol) (*madeVolume, error) {
	kind := kindOf(p.kind)
	out := &madeVolume{handle: v, source: volumeSource{pool: p.name, volume: v.Name, block: kind.block, format: kind.format}}
	if !kind.byPath {
		return out, nil
	}
	where, err := call(ctx, d.conn, "find volume "+v.Name, fast, func(a api) (string, error) { return a.StorageVolGetPath(v) })
	if err != nil {
		return nil, err
	}
	out.source.path = where
	return out, nil
}

func (d *Driver) deleteVolume(ctx context.Context, v lv.StorageVol) error {
	return do(ctx, d.conn, "delete volume "+v.Name, slow, func(a api) error { return a.StorageVolDelete(v, 0) })
}

// others are what may need a volume that is to be removed.
type others struct {
	domains []*seen // of the host, without the machine's own
	// overlays: volumes that are laid over it are looked for. What vmhost made for
	// one machine nobody is to build on; what it found may be a template.
	overlays bool
	own      map[[2]string]bool // volumes of the machine, by pool and name
}

// removeVolume removes the volume of a disk and answers when the pool was seen
// without it. mine: it can only be the machine's. A volume that others need stays.
func (d *Driver) removeVolume(ctx context.Context, mine bool, k *vmhostv1.MachineDisk, o others) error {
	op := "delete volume " + k.GetVolume()
	p, err := d.usablePool(ctx, k.GetStoragePool())
	switch {
	case errors.Is(err, hypervisor.ErrNotFound):
		return nil // the list of pools is without it, and so without its volumes
	case errors.Is(err, hypervisor.ErrRefused):
		// What is in a stopped pool cannot be seen, so it is not known to be gone.
		return &hypervisor.Error{
			Class: hypervisor.ErrBusy, Op: op, Err: fmt.Errorf("storage pool %q is not running", k.GetStoragePool()),
			Hint: "start it on the host: virsh pool-start " + k.GetStoragePool(),
		}
	case err != nil:
		return err
	}
	v, err := d.findVolume(ctx, p, k.GetVolume())
	if err != nil || v == nil {
		return err
	}
	if !mine {
		return &hypervisor.Error{
			Class: hypervisor.ErrForeign, Op: op, Err: fmt.Errorf("storage pool %q has a volume %q that is not known to be this machine's", p.name, v.Name),
			Hint: "if nothing needs it, remove it on the host: virsh vol-delete " + v.Name + " " + p.name,
		}
	}
	if user := userOf(p, v.Name, o.domains); user != "" {
		return &hypervisor.Error{
			Class: hypervisor.ErrBusy, Op: op, Err: fmt.Errorf("domain %q uses the volume", user),
			Hint: "detach the volume from that domain, which vmhost did not make",
		}
	}
	if o.overlays {
		overlay, err := d.overlayOf(ctx, p, *v, o.own)
		if err != nil {
			return err
		}
		if overlay != "" {
			return &hypervisor.Error{
				Class: hypervisor.ErrBusy, Op: op, Err: fmt.Errorf("the volume %q is laid over it and would be lost", overlay),
				Hint: "remove that volume or make it stand alone (qemu-img rebase), or release the machine instead of deleting it",
			}
		}
	}
	err = d.deleteVolume(ctx, *v)
	if err != nil && number(err) == lv.ErrOk {
		return err
	}
	still, ferr := d.findVolume(ctx, p, k.GetVolume())
	switch {
	case ferr != nil:
		return ferr
	case still == nil:
		return nil
	case err != nil:
		return err
	}
	return &hypervisor.Error{Class: hypervisor.ErrBusy, Op: op, Err: errors.New("the volume is still there")}
}

// userOf is the domain that uses a volume, or a disk laid over it; empty when none
// does.
func userOf(p pool, name string, domains []*seen) string {
	file := ""
	if p.path != "" {
		file = path.Join(p.path, name)
	}
	for _, one := range domains {
		if one.record.domain == nil {
			continue
		}
		for _, k := range one.record.domain.disks {
			if (k.pool == p.name && k.volume == name) || (file != "" && (k.path == file || slices.Contains(k.backing, file))) {
				return one.dom.Name
			}
		}
	}
	return ""
}
