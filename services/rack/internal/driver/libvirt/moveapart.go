package libvirt

import (
	"context"
	"fmt"
	"slices"

	lv "github.com/digitalocean/go-libvirt"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// own storage pools of a host; others are, or may be, of several hosts.
func ownKind(kind string) bool { return slices.Contains([]string{"dir", "fs", "logical", "zfs"}, kind) }

// apart makes sure that no disk is in a storage pool that both hosts have: there
// the volumes of the one are those of the other, and removing the rest of a move
// on one host would remove the machine's disks on the other.
//
// A folder does not say where it comes from, so it is tried: what is made in the
// pool of the destination must not show up in that of the source.
func (m *move) apart(ctx context.Context) error {
	for _, d := range []*Driver{m.from, m.to} {
		if err := d.readPools(ctx); err != nil {
			return err
		}
	}
	tried := map[[2]string]bool{}
	for i, k := range m.what.GetMachine().GetDisks() {
		if i >= len(m.what.GetMoved().GetDisks()) {
			break // refused later
		}
		to := m.what.GetMoved().GetDisks()[i]
		pair := [2]string{k.GetStoragePool(), to.GetStoragePool()}
		if tried[pair] {
			continue
		}
		tried[pair] = true
		if err := m.tryApart(ctx, k, to); err != nil {
			return err
		}
	}
	return nil
}

func (m *move) tryApart(ctx context.Context, k, moved *vmhostv1.MachineDisk) error {
	from, err := m.from.usablePool(ctx, k.GetStoragePool())
	if err != nil {
		return err
	}
	to, err := m.to.usablePool(ctx, moved.GetStoragePool())
	if err != nil {
		return atDestination(err)
	}
	for _, p := range []pool{from, to} {
		if !ownKind(p.kind) {
			return cannot("storage pool %q is of type %q, which other hosts may share: disks in such pools are not moved", p.name, p.kind)
		}
	}
	if kindOf(from.kind).block != kindOf(to.kind).block {
		return nil // a device is no file
	}
	name := volumePrefix(m.ref.UID) + "move"
	mark, err := m.to.findVolume(ctx, to, name)
	if err != nil {
		return err
	}
	if mark == nil {
		made, err := m.to.makeMark(ctx, to, name)
		if err != nil {
			return err
		}
		mark = &made
	}
	err = m.from.refreshPool(ctx, from)
	var shown *lv.StorageVol
	if err == nil {
		shown, err = m.from.findVolume(ctx, from, name)
	}
	if rerr := m.to.deleteVolume(ctx, *mark); rerr != nil && err == nil {
		err = rerr
	}
	if err == nil && shown != nil {
		err = cannot("storage pool %q of the source and %q of the destination are the same", from.name, to.name)
	}
	return err
}

// makeMark makes the smallest volume that a pool can have.
func (d *Driver) makeMark(ctx context.Context, p pool, name string) (lv.StorageVol, error) {
	if kindOf(p.kind).block {
		return d.createVolume(ctx, p, &vmhostv1.MachineDisk{Volume: name, SizeBytes: 1})
	}
	v, err := d.makeEmpty(ctx, p, name)
	if err != nil && number(err) != lv.ErrOk {
		// Left by a move that broke, and not known to libvirt; or the pool is not
		// writable.
		if rerr := d.refreshPool(ctx, p); rerr != nil {
			return v, rerr
		}
		if old, ferr := d.findVolume(ctx, p, name); ferr == nil && old != nil {
			return *old, nil
		}
		return v, &hypervisor.Error{Op: opMove, Err: fmt.Errorf("nothing can be made in storage pool %q of the destination: %w", p.name, err)}
	}
	return v, err
}
