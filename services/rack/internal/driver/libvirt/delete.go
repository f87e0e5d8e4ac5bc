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

const opDelete = "delete machine"

// Delete turns a machine off hard and removes it with the volumes listed in its
// disks, and no other.
func (d *Driver) Delete(ctx context.Context, machine *vmhostv1.Machine) error {
	ref := hypervisor.RefOf(machine)
	id, err := parseUUID(ref.Domain())
	if err != nil {
		return err
	}
	unlock, err := d.changing.Lock(ctx, uuid.UUID(id).String(), opDelete)
	if err != nil {
		return err
	}
	defer unlock()
	return d.remove(ctx, machine, id)
}

// remove is Delete for whoever has the machine to itself.
func (d *Driver) remove(ctx context.Context, machine *vmhostv1.Machine, id lv.UUID) error {
	ref := hypervisor.RefOf(machine)
	one, err := d.own(ctx, id, ref.UID, opDelete)
	if err != nil {
		return err
	}
	if adopted(ref) {
		// Whose its volumes are is known only while the domain is there.
		return d.deleteAdopted(ctx, machine, one)
	}
	if one != nil {
		err := d.removeDomain(ctx, one.dom)
		// What was read before is not good any more; an event says so too, but later.
		d.library.changed(id)
		if err != nil {
			return err
		}
	}
	return d.sweep(ctx, machine)
}

// sweep removes what there is of a machine that vmhost made, and that is no domain
// any more: its volumes, its log, its addresses.
func (d *Driver) sweep(ctx context.Context, machine *vmhostv1.Machine) error {
	err := d.freeAddresses(ctx, machine)
	if len(machine.GetDisks()) == 0 {
		return err
	}
	// Read after the domain is gone, so that it is not among the users.
	s, serr := d.snapshot(ctx, listing)
	if serr != nil {
		return errors.Join(err, serr)
	}
	verr := d.removeVolumes(ctx, machine, others{domains: s.domains}, func(k *vmhostv1.MachineDisk) bool {
		return strings.HasPrefix(k.GetVolume(), volumePrefix(machine.GetUid()))
	})
	return errors.Join(err, verr, d.removeLog(ctx, machine))
}

// removeVolumes removes the volumes of a machine's disks. mine says which of them
// can only be this machine's.
func (d *Driver) removeVolumes(ctx context.Context, machine *vmhostv1.Machine, o others, mine func(*vmhostv1.MachineDisk) bool) error {
	var errs []error
	for _, k := range machine.GetDisks() {
		if k.GetStoragePool() == "" || k.GetVolume() == "" {
			continue
		}
		// One volume that cannot go does not keep the others.
		if err := d.removeVolume(ctx, mine(k), k, o); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// deleteAdopted removes a machine that vmhost did not make. Its volumes have any
// names, so they go first, while the domain shows that they are its own: one
// that the record lists and no disk of the domain has is never removed, nor is
// one that another volume is laid over.
func (d *Driver) deleteAdopted(ctx context.Context, machine *vmhostv1.Machine, one *seen) error {
	o := others{overlays: true, own: map[[2]string]bool{}}
	if one != nil {
		if err := d.destroy(ctx, one.dom); err != nil {
			return err
		}
	}
	if len(machine.GetDisks()) > 0 {
		if err := d.readPools(ctx); err != nil {
			return err
		}
		s, err := d.snapshot(ctx, listing)
		if err != nil {
			return err
		}
		o.domains = slices.DeleteFunc(slices.Clone(s.domains), func(other *seen) bool { return one != nil && other.dom.UUID == one.dom.UUID })
		if one != nil {
			for _, k := range one.record.domain.disks {
				poolName, volume := volumeOf(k, d.facts.pools())
				o.own[[2]string{poolName, volume}] = true
			}
		}
	}
	err := d.removeVolumes(ctx, machine, o, func(k *vmhostv1.MachineDisk) bool { return o.own[[2]string{k.GetStoragePool(), k.GetVolume()}] })
	if err != nil || one == nil {
		return err
	}
	err = d.removeDomain(ctx, one.dom)
	d.library.changed(one.dom.UUID)
	return err
}

// removeDomain turns a domain of ours off and removes it, and answers when the
// host was seen without it.
func (d *Driver) removeDomain(ctx context.Context, dom lv.Domain) error {
	for range 3 {
		if err := d.destroy(ctx, dom); err != nil {
			return err
		}
		// A transient domain is gone with its process.
		err := d.undefine(ctx, dom)
		if err != nil && number(err) == lv.ErrOk {
			return err
		}
		there, ferr := d.find(ctx, dom.UUID)
		if ferr != nil {
			return ferr
		}
		if there == nil {
			return nil
		}
		if err != nil {
			return err
		}
		dom = *there // undefined while it ran: started by somebody in between
	}
	return &hypervisor.Error{Class: hypervisor.ErrBusy, Op: opDelete, Err: fmt.Errorf("domain %q is started again each time it is turned off", dom.Name)}
}

// destroy turns a domain off hard. QEMU may take seconds to end, and libvirt
// waits for it.
func (d *Driver) destroy(ctx context.Context, dom lv.Domain) error {
	state, err := d.state(ctx, dom)
	if err != nil || off(state) {
		return err
	}
	err = do(ctx, d.conn, "turn off domain "+dom.Name, slow, func(a api) error { return a.DomainDestroyFlags(dom, 0) })
	if err == nil || number(err) == lv.ErrOk {
		return err
	}
	// It may have ended by itself; the number for that is also that of others.
	if state, serr := d.state(ctx, dom); serr == nil && off(state) {
		return nil
	}
	return err
}

// undefine removes a domain's definition and what libvirt keeps with it. Old
// libvirtds do not know all the flags.
func (d *Driver) undefine(ctx context.Context, dom lv.Domain) error {
	var err error
	for _, flags := range []lv.DomainUndefineFlagsValues{
		lv.DomainUndefineManagedSave | lv.DomainUndefineSnapshotsMetadata | lv.DomainUndefineNvram | lv.DomainUndefineCheckpointsMetadata,
		lv.DomainUndefineManagedSave | lv.DomainUndefineSnapshotsMetadata | lv.DomainUndefineNvram,
		lv.DomainUndefineManagedSave | lv.DomainUndefineSnapshotsMetadata,
	} {
		err = do(ctx, d.conn, "undefine domain "+dom.Name, slow, func(a api) error { return a.DomainUndefineFlags(dom, flags) })
		if n := number(err); n != lv.ErrInvalidArg && !errors.Is(err, hypervisor.ErrUnsupported) {
			return err
		}
	}
	return err
}
