package libvirt

import (
	"context"
	"errors"
	"fmt"

	lv "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// copyOver makes a machine that is off on the destination, from copies of its
// volumes, and starts it there if it is to run. What it made is taken back by
// whoever gives up.
func (m *move) copyOver(ctx context.Context, p *plan) error {
	if p.notOffline != nil {
		return p.notOffline
	}
	moved := m.what.GetMoved()
	sources := make([]volumeSource, 0, len(p.disks))
	for _, k := range p.disks {
		if k.stays {
			source, err := k.source(ctx, m.to)
			if err != nil {
				return atDestination(err)
			}
			sources = append(sources, source)
			continue
		}
		target, err := m.to.makeTarget(ctx, k)
		if err != nil {
			return atDestination(err)
		}
		if err := copyVolume(ctx, m.from, k.volume, m.to, target, !kindOf(k.to.kind).block); err != nil {
			return err
		}
		placed, err := m.to.placed(ctx, k.to, target)
		if err != nil {
			return err
		}
		placed.source.format = k.format
		sources = append(sources, placed.source)
	}
	if err := m.makeLog(ctx, p); err != nil {
		return err
	}
	var addresses []func(context.Context) error // takeBack frees them
	if err := m.to.fixAddresses(ctx, moved, &addresses); err != nil {
		return err
	}
	text, err := arrive(p.text, arrival{moved: moved, disks: sources, host: p.host, emulation: p.emulation, logs: p.logs, made: !adopted(m.ref)})
	if err != nil {
		return refusedXML(err)
	}
	if err := m.holdBack(ctx); err != nil {
		return err
	}
	dom, err := call(ctx, m.to.conn, "define domain "+m.dom.Name, slow, func(a api) (lv.Domain, error) { return a.DomainDefineXMLFlags(text, 0) })
	if err != nil {
		return atDestination(definite(err))
	}
	// What was copied is good only if nobody has used it meanwhile.
	if state, err := m.from.state(ctx, m.dom); err != nil || !off(state) {
		return errors.Join(err, &hypervisor.Error{Class: hypervisor.ErrBusy, Op: opMove, Err: fmt.Errorf("domain %q was started while it was copied", m.dom.Name)})
	}
	if m.stopped {
		m.started = true
		if err := m.to.start(ctx, dom, lv.DomainShutoff); err != nil {
			return atDestination(definite(err))
		}
	}
	return m.arrived(ctx, dom)
}

// makeLog makes the volume of a console log that is ours: an adopted machine has
// another or none, and nobody would remove it.
func (m *move) makeLog(ctx context.Context, p *plan) error {
	if len(p.logs) == 0 {
		return nil
	}
	if p, ok := m.to.logPool(m.what.GetMoved()); ok && m.staysIn(m.what.GetMoved(), p.name) {
		// The source's own, which libvirt is to know here too: so it is removed with
		// the machine one day.
		if _, err := m.to.freshVolume(ctx, p, logVolume(m.ref.UID)); err != nil {
			return err
		}
	}
	_, err := m.to.makeLog(ctx, m.what.GetMoved())
	return err
}

// arrived makes the last of it true and looks whether all of it is.
func (m *move) arrived(ctx context.Context, dom lv.Domain) error {
	autostart := int32(0)
	if m.what.GetAutostart() {
		autostart = 1
	}
	err := do(ctx, m.to.conn, "set autostart of domain "+dom.Name, fast, func(a api) error { return a.DomainSetAutostart(dom, autostart) })
	if err != nil {
		return err
	}
	m.to.library.changed(m.id)
	there, err := m.to.own(ctx, m.id, m.ref.UID, opMove)
	if err != nil {
		return err
	}
	if there == nil || m.started && off(there.state) {
		return &hypervisor.Error{Class: hypervisor.ErrRefused, AtDestination: true, Op: opMove, Err: errors.New("the machine does not stay on the destination: it has stopped there")}
	}
	return nil
}

// makeTarget makes the volume that a disk is copied to.
func (d *Driver) makeTarget(ctx context.Context, k movedDisk) (lv.StorageVol, error) {
	size := k.bytes
	if kindOf(k.to.kind).block {
		size = k.size
	}
	x := &libvirtxml.StorageVolume{
		Name:       k.name,
		Capacity:   &libvirtxml.StorageVolumeSize{Unit: "bytes", Value: size},
		Allocation: &libvirtxml.StorageVolumeSize{Unit: "bytes"},
		// Its bytes are copied, whatever they mean.
		Target: &libvirtxml.StorageVolumeTarget{Format: &libvirtxml.StorageVolumeTargetFormat{Type: "raw"}},
	}
	if kindOf(k.to.kind).block {
		x.Allocation.Value = size
	}
	return d.makeNew(ctx, k.to, x)
}

// makeNew makes a volume, and never takes one that is there.
func (d *Driver) makeNew(ctx context.Context, p pool, x *libvirtxml.StorageVolume) (lv.StorageVol, error) {
	text, err := x.Marshal()
	if err != nil {
		return lv.StorageVol{}, classify("write the XML of volume "+x.Name, err)
	}
	v, err := call(ctx, d.conn, "create volume "+x.Name, slow, func(a api) (lv.StorageVol, error) { return a.StorageVolCreateXML(p.handle, text, 0) })
	if err == nil || number(err) == lv.ErrOk {
		return v, err
	}
	if there, ferr := d.findVolume(ctx, p, x.Name); ferr == nil && there != nil {
		return v, &hypervisor.Error{Class: hypervisor.ErrForeign, Op: "create volume " + x.Name, Err: fmt.Errorf("storage pool %q of the destination has a volume of that name: %w", p.name, err)}
	}
	return v, definite(err)
}

// definite classes what libvirt refused and has no better number for: trying again
// would stop the machine and copy its disks in vain.
func definite(err error) error {
	if e, ok := errors.AsType[*hypervisor.Error](err); ok && e.Class == nil && number(err) != lv.ErrOk {
		return &hypervisor.Error{Class: hypervisor.ErrRefused, Op: e.Op, Err: e.Err, Hint: e.Hint, AtDestination: e.AtDestination}
	}
	return err
}

func refusedXML(err error) error {
	if _, ok := errors.AsType[*hypervisor.Error](err); ok {
		return err
	}
	return &hypervisor.Error{Class: hypervisor.ErrRefused, Op: "write the domain's XML", Err: err}
}
