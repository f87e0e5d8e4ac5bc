package libvirt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	lv "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// own storage pools of a host; others are, or may be, of several hosts.
func ownKind(kind string) bool { return slices.Contains([]string{"dir", "fs", "logical", "zfs"}, kind) }

// apart makes sure that no disk that is copied is in a storage pool that both hosts
// have: there the volumes of the one are those of the other, and removing the rest
// of a move on one host would remove the machine's disks on the other. Disks that
// stay where they are must be in such a pool: otherwise the machine would come up
// without what is on them.
//
// A folder does not say where it comes from, so it is tried: what is made in the
// pool of the destination shows up in that of the source, or does not.
func (m *move) apart(ctx context.Context, state hypervisor.MoveState) error {
	for _, d := range []*Driver{m.from, m.to} {
		if err := d.readPools(ctx); err != nil {
			return err
		}
	}
	tried := map[[2]string]bool{}
	for i := range m.what.GetMachine().GetDisks() {
		if i >= len(m.what.GetMoved().GetDisks()) {
			break // refused later
		}
		if m.stays[i] && state != hypervisor.MoveToDo {
			continue // the machine is there with it, and nothing is done to it here
		}
		if err := m.tryApart(ctx, i, tried); err != nil {
			return err
		}
	}
	return nil
}

// tryApart tries the pools of one disk. tried are the pairs that were tried before,
// and whether they are the same storage.
func (m *move) tryApart(ctx context.Context, i int, tried map[[2]string]bool) error {
	k, moved, stays := m.what.GetMachine().GetDisks()[i], m.what.GetMoved().GetDisks()[i], m.stays[i]
	from, err := m.from.usablePool(ctx, k.GetStoragePool())
	if err != nil {
		return err
	}
	to, err := m.to.usablePool(ctx, moved.GetStoragePool())
	if err != nil {
		return atDestination(err)
	}
	for _, p := range []pool{from, to} {
		if !stays && !ownKind(p.kind) {
			return cannot("storage pool %q is of type %q, which other hosts may share: disks in such pools are not copied", p.name, p.kind)
		}
	}
	same := false
	if kindOf(from.kind).block == kindOf(to.kind).block { // a device is no file
		pair := [2]string{from.name, to.name}
		if _, known := tried[pair]; !known {
			if tried[pair], err = m.sameStorage(ctx, from, to, stays); err != nil {
				return err
			}
		}
		same = tried[pair]
	}
	switch {
	case !stays && same:
		return cannot("storage pool %q of the source and %q of the destination are the same", from.name, to.name)
	case stays && !same:
		return &hypervisor.Error{
			Class: hypervisor.ErrUnsupported, AtDestination: true, Op: opMove,
			Err:  fmt.Errorf("storage pool %q of the source and %q of the destination are not the same storage: what is made in one does not show up in the other", from.name, to.name),
			Hint: "see that both hosts have mounted the same, and that shared_storage_pools of both VM hosts is right",
		}
	case stays:
		return m.sameVolume(ctx, from, to, k.GetVolume())
	}
	return nil
}

// markPrefix starts the names of what is made to see where it shows up. No disk's
// volume is named so.
func markPrefix(uid string) string { return volumePrefix(uid) + "move" }

// sameStorage says whether what is made in the pool of the destination shows up in
// that of the source. The mark has a new name each time: one that was left by a move
// that broke would show up in any case.
func (m *move) sameStorage(ctx context.Context, from, to pool, stays bool) (bool, error) {
	list, err := m.to.volumesOf(ctx, to)
	if err != nil {
		return false, err
	}
	for _, v := range list {
		if strings.HasPrefix(v.Name, markPrefix(m.ref.UID)) {
			if err := m.to.deleteVolume(ctx, v); err != nil {
				return false, err
			}
		}
	}
	name := markPrefix(m.ref.UID) + "-" + uuid.NewString()[:8]
	mark, err := m.to.makeMark(ctx, to, name)
	if err != nil {
		if stays {
			err = atDestination(definite(err))
		}
		return false, err
	}
	err = m.from.refreshPool(ctx, from)
	var shown *lv.StorageVol
	if err == nil {
		shown, err = m.from.findVolume(ctx, from, name)
	}
	if rerr := m.to.deleteVolume(ctx, mark); rerr != nil && err == nil {
		err = rerr
	}
	return shown != nil, err
}

// makeMark makes the smallest volume that a pool can have.
func (d *Driver) makeMark(ctx context.Context, p pool, name string) (v lv.StorageVol, err error) {
	if kindOf(p.kind).block {
		v, err = d.createVolume(ctx, p, &vmhostv1.MachineDisk{Volume: name, SizeBytes: 1})
	} else {
		v, err = d.makeEmpty(ctx, p, name)
	}
	if e, ok := errors.AsType[*hypervisor.Error](err); ok && number(err) != lv.ErrOk {
		return v, &hypervisor.Error{Class: e.Class, Op: opMove, Err: fmt.Errorf("nothing can be made in storage pool %q of the destination, so that it is not known whether it is one of the source: %w", p.name, err)}
	}
	return v, err
}
