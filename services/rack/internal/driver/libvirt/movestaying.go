package libvirt

import (
	"context"
	"errors"
	"fmt"
	"strings"

	lv "github.com/digitalocean/go-libvirt"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/units"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Of a disk that stays where it is both hosts show the one volume. So whatever a
// move removes, on either host and after whatever end, is removed from a list of
// the machine's disks that those are not in (leaving, ours). What else of a machine
// can be in the same pool, and would go with its definition, forbids the move.
//
// See docs/adr/0026-disks-in-shared-pools-stay.md.

// staysOf are the disks that stay, by their index. A step that contradicts itself
// is refused before anything is looked at. Copies must not be named like what
// stays: the rest of a broken move is removed by name, from pools that may be the
// same storage under another name.
func staysOf(what *rackv1.MoveMachine) (map[int]bool, error) {
	if len(what.GetStayingDisks()) == 0 {
		return nil, nil //nolint:nilnil // none is no error
	}
	refuse := func(format string, args ...any) (map[int]bool, error) {
		return nil, &hypervisor.Error{Class: hypervisor.ErrRefused, Op: opMove, Err: fmt.Errorf(format, args...)}
	}
	from, to := what.GetMachine().GetDisks(), what.GetMoved().GetDisks()
	if len(from) != len(to) {
		return refuse("the machine has %d disks and is to have %d, so that it is not known which of them stay", len(from), len(to))
	}
	out, names := map[int]bool{}, map[string]bool{}
	for _, at := range what.GetStayingDisks() {
		i := int(at)
		switch {
		case i < 0 || i >= len(from):
			return refuse("disk %d is to stay where it is, and the machine has %d", i, len(from))
		case from[i].GetVolume() == "" || from[i].GetVolume() != to[i].GetVolume():
			return refuse("disk %d is to stay where it is as %q, and is %q", i, to[i].GetVolume(), from[i].GetVolume())
		}
		out[i], names[from[i].GetVolume()] = true, true
	}
	for i := range from {
		if !out[i] && (names[from[i].GetVolume()] || names[to[i].GetVolume()]) {
			return refuse("disk %d is copied and named like one that stays where it is, %q or %q", i, from[i].GetVolume(), to[i].GetVolume())
		}
	}
	return out, nil
}

// leaving is the machine on the source with what is to be removed there, once it is
// on the destination.
func (m *move) leaving() *vmhostv1.Machine {
	out := proto.CloneOf(m.what.GetMachine())
	out.Disks = nil
	for i, k := range m.what.GetMachine().GetDisks() {
		if !m.stays[i] {
			out.Disks = append(out.Disks, k)
		}
	}
	return out
}

// mayStay refuses, before anything is changed, what could not be undone while both
// hosts have a disk in common.
func (m *move) mayStay(ctx context.Context, state hypervisor.MoveState, here, there *seen) error {
	if len(m.stays) == 0 {
		return nil
	}
	if err := m.twoHosts(ctx); err != nil {
		return err
	}
	if here == nil {
		return nil
	}
	m.dom = here.dom
	if err := m.besides(ctx); err != nil || state != hypervisor.MoveToDo {
		return err
	}
	return m.hasNotRun(ctx, here, there)
}

// twoHosts makes sure that the destination is not the source under another address:
// where disks are copied their pools show that, and here they are the same.
func (m *move) twoHosts(ctx context.Context) error {
	var names, ids [2]string
	for i, d := range []*Driver{m.from, m.to} {
		static, err := d.readStatic(ctx)
		if err != nil {
			return err
		}
		caps, err := d.capabilities(ctx)
		if err != nil {
			return err
		}
		names[i], ids[i] = static.hostname, caps.Host.UUID
	}
	if names[0] == names[1] && ids[0] == ids[1] {
		return &hypervisor.Error{
			Class: hypervisor.ErrRefused, Op: opMove, Err: fmt.Errorf("the destination is the source: both are host %q with UUID %s", names[0], ids[0]),
			Hint: "delete one of the two VM hosts; if they are two hosts, give them names and UUIDs of their own (host_uuid in libvirtd.conf)",
		}
	}
	return nil
}

// besides refuses a domain that has more than disks in a pool whose disks stay:
// libvirt removes the variables of its firmware and the state of its TPM with its
// definition, on whichever host.
func (m *move) besides(ctx context.Context) error {
	text, err := m.definition(ctx, lv.DomainXMLInactive)
	if err != nil {
		return err
	}
	x, err := readXMLText(text)
	if err != nil {
		return cannot("%w", err)
	}
	if err := m.from.readPools(ctx); err != nil {
		return err
	}
	for _, file := range besideDisks(x) {
		for _, p := range m.from.facts.pools() {
			if p.path != "" && strings.HasPrefix(file, p.path+"/") && m.staysIn(m.what.GetMachine(), p.name) {
				return &hypervisor.Error{
					Class: hypervisor.ErrUnsupported, Op: opMove, Err: fmt.Errorf("%s is in storage pool %q, which both hosts have, and would be removed with what is left of the machine on one of them", file, p.name),
					Hint: "move it by the hypervisor's own means (virsh migrate, virsh undefine --keep-nvram --keep-tpm), and adopt it where it is then",
				}
			}
		}
	}
	return nil
}

// besideDisks are the files that libvirt removes with a domain's definition.
func besideDisks(x *xmlText) []string {
	var out []string
	for _, n := range x.root.all("os", "nvram") {
		out = append(out, strings.TrimSpace(x.inner(n)), n.first("source").attr("file"))
	}
	for _, n := range x.root.all("devices", "tpm", "backend", "source") {
		out = append(out, n.attr("path"))
	}
	return out
}

// staysIn says whether a disk that stays is in a pool of the host that the machine
// is on in that form.
func (m *move) staysIn(machine *vmhostv1.Machine, pool string) bool {
	for i, k := range machine.GetDisks() {
		if m.stays[i] && k.GetStoragePool() == pool {
			return true
		}
	}
	return false
}

// hasNotRun refuses to let the source go on that was paused for the last of its
// memory, once the destination may have run: what it has in memory is then older
// than what is on the disks that both have.
func (m *move) hasNotRun(ctx context.Context, here, there *seen) error {
	if len(m.stays) == 0 || here == nil || here.state != lv.DomainPaused || there == nil {
		return nil
	}
	if there.state == lv.DomainPaused {
		reason, err := call(ctx, m.to.conn, "read state of domain "+there.dom.Name, fast, func(a api) (lv.DomainPausedReason, error) {
			_, reason, err := a.DomainGetState(there.dom, 0)
			return lv.DomainPausedReason(reason), err
		})
		if err != nil || reason == lv.DomainPausedMigration || reason == lv.DomainPausedStartingUp {
			return err // what arrives has not run yet
		}
	}
	return &hypervisor.Error{
		Class: hypervisor.ErrRefused, Op: opMove, Err: errors.New("the machine is paused on the source and may have run on the destination, and its disks in shared storage pools go with the memory of one of them only"),
		Hint: "find out which of the two is the right one, and turn the other off on its host; turn off the source as well if the destination has ended",
	}
}

// notRun is hasNotRun after the destination may have been told to run.
func (m *move) notRun(ctx context.Context, there *seen) error {
	if len(m.stays) == 0 || there == nil {
		return nil
	}
	here, err := m.from.look(ctx, m.id)
	if err != nil {
		return err
	}
	return m.hasNotRun(ctx, here, there)
}

// logStays says whether the machine's console log is one that stays: there is none of
// its own to make or remove on the destination.
func (m *move) logStays() bool {
	p, ok := m.to.logPool(m.what.GetMoved())
	return ok && m.staysIn(m.what.GetMoved(), p.name)
}

// holdBack keeps the source's host from starting the machine when it boots, from
// before the destination may run it until it is gone from the source: the two would
// write to one disk. What fails puts it back.
func (m *move) holdBack(ctx context.Context) error {
	if len(m.stays) == 0 || !m.autostart {
		return nil
	}
	return m.setAutostart(ctx, 0)
}

func (m *move) setAutostart(ctx context.Context, on int32) error {
	return do(ctx, m.from.conn, "set autostart of domain "+m.dom.Name, fast, func(a api) error { return a.DomainSetAutostart(m.dom, on) })
}

// sameVolume finds the volume of a disk that stays in the pool of the destination, which
// was seen to be the source's: it is the same one if it looks the same.
func (m *move) sameVolume(ctx context.Context, from, to pool, name string) error {
	var capacities [2]uint64
	for i, at := range []struct {
		d *Driver
		p pool
	}{{m.from, from}, {m.to, to}} {
		v, err := at.d.freshVolume(ctx, at.p, name)
		if err == nil && v == nil {
			err = cannot("storage pool %q has no volume %q", at.p.name, name)
		}
		if err == nil {
			capacities[i], err = call(ctx, at.d.conn, "read volume "+name, fast, func(a api) (uint64, error) {
				_, capacity, _, err := a.StorageVolGetInfo(*v)
				return capacity, err
			})
		}
		if err != nil && i == 1 {
			err = atDestination(err)
		}
		if err != nil {
			return err
		}
	}
	if capacities[0] != capacities[1] {
		said := units.Bytes.Say(units.Room(int64(capacities[0])), units.Room(int64(capacities[1])))
		return atDestination(cannot("volume %q has %s in storage pool %q of the source and %s in %q of the destination: they are not the same storage", name, said[0], from.name, said[1], to.name))
	}
	return nil
}

// planStaying is planDisk of a disk that stays.
func (m *move) planStaying(ctx context.Context, k disk, out *movedDisk) error {
	there, err := m.to.freshVolume(ctx, out.to, out.name)
	if err == nil && there == nil {
		err = cannot("storage pool %q of the destination has no volume %q", out.to.name, out.name)
	}
	if err != nil {
		return atDestination(err)
	}
	out.there = *there
	below, err := m.from.backingOf(ctx, out.from, out.volume)
	if err != nil {
		return err
	}
	if len(k.backing) > 0 {
		below = firstOf(below, k.backing[0])
	}
	if below != "" {
		return &hypervisor.Error{
			Class: hypervisor.ErrUnsupported, Op: opMove, Err: fmt.Errorf("disk %s is laid over %s, which the destination may not have or have another of", out.device, below),
			Hint: "let it stand alone first: virsh blockpull, or qemu-img rebase while it is off",
		}
	}
	return nil
}

// dropsCache is the first QEMU that drops what its host has cached of a disk before
// a guest goes on that has arrived, and so reads what the source has written, in
// every cache mode that writes at all: https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html
// (BlockdevOptionsFile, drop-cache, on by default since 4.0). libvirt asks for the
// same (qemuMigrationSrcIsSafe), where we have it not ask: it knows a few file
// systems that hosts share, and we have seen that they share this one.
const dropsCache = 4_000_000

// liveInPlace is why a disk that stays cannot be handed over while it is in use.
func liveInPlace(k movedDisk, qemu uint64) error {
	switch {
	case k.cache == "none" || k.cache == "directsync":
		return nil
	case k.cache == "unsafe":
		return cannot("disk %s stays where it is, and in cache mode %q its host need not have written what the guest has", k.device, k.cache)
	case qemu < dropsCache:
		return cannot("disk %s stays where it is, and QEMU %s may read old data of it from its host's cache: it needs 4.0, or cache mode none", k.device, versionOf(qemu))
	}
	return nil
}

// judgeStaying says what keeps the disks that stay from being handed over live.
func (m *move) judgeStaying(ctx context.Context, p *plan) error {
	for _, k := range p.disks {
		if !k.stays || p.notLive != nil {
			continue
		}
		mine, err := m.from.readStatic(ctx)
		if err != nil {
			return err
		}
		theirs, err := m.to.readStatic(ctx)
		if err != nil {
			return err
		}
		p.notLive = liveInPlace(k, min(mine.driver, theirs.driver))
	}
	return nil
}
