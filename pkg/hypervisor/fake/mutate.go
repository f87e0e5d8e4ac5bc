package fake

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/units"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// change is a call that changes a machine: the knobs' waiting first, then the
// effect with the host's state locked, then the answer that the knobs want.
func (d *driver) change(ctx context.Context, m Method, uid string, effect func(h *Host, fault Fault) (*rackv1.MachineObservation, error)) (*rackv1.MachineObservation, error) {
	defer d.host.faults.fly(uid)()
	fault, err := d.begin(ctx, m)
	if err != nil {
		return nil, err
	}
	if fault.Err != nil && !fault.AfterEffect && !fault.HalfMade {
		return nil, fault.Err
	}
	d.host.mu.Lock()
	out, err := effect(d.host, fault)
	out = proto.CloneOf(out)
	d.host.mu.Unlock()
	if fault.Err != nil {
		return nil, fault.Err
	}
	return out, err
}

// ours finds a machine that may be changed: by its uuid, with our uid on it.
func (h *Host) ours(op string, ref hypervisor.Ref) (*rackv1.MachineObservation, error) {
	m := h.machines[ref.Domain()]
	if m == nil {
		return nil, notFound(op, ref.Domain())
	}
	if m.GetUid() != ref.UID {
		return nil, foreign(op, m)
	}
	return m, nil
}

// Create makes a machine.
func (d *driver) Create(ctx context.Context, create *rackv1.CreateMachine) (*rackv1.MachineObservation, error) {
	want := create.GetMachine()
	return d.change(ctx, Create, want.GetUid(), func(h *Host, fault Fault) (*rackv1.MachineObservation, error) {
		have, err := h.ours("create machine", hypervisor.Ref{UID: want.GetUid()})
		if err == nil || !errors.Is(err, hypervisor.ErrNotFound) {
			return have, err
		}
		if m := h.named(want.GetHypervisorName()); m != nil {
			class := hypervisor.ErrExists
			if m.GetUid() == "" {
				class = hypervisor.ErrForeign
			}
			return nil, &hypervisor.Error{Class: class, Op: "create machine", Err: fmt.Errorf("machine %q has that name", m.GetName())}
		}
		var undo []func()
		err = h.checkKind(want)
		if err == nil {
			err = h.makeVolumes(want, &undo)
		}
		if err == nil {
			err = h.checkInterfaces(want)
		}
		if fault.HalfMade {
			return nil, err
		}
		if err != nil {
			for _, u := range undo {
				u()
			}
			return nil, err
		}
		made := &rackv1.MachineObservation{
			Uuid: want.GetUid(), Name: want.GetHypervisorName(), Uid: want.GetUid(), Operation: want.GetOperation(),
			PowerState: vmhostv1.PowerState_POWER_STATE_OFF, Cores: want.GetCores(), MemoryMib: want.GetMemoryMib(),
			Architecture: want.GetArchitecture(), Autostart: create.GetAutostart(),
			ConsoleLogPath: "/fake/console/" + want.GetUid() + ".log",
			Type:           want.GetType(), PinnedCores: want.GetPinnedCores(), Hugepages: want.GetHugepages(),
			Firmware: want.GetFirmware(), SecureBoot: want.GetSecureBoot(),
			Profiles: want.GetProfiles(), Image: want.GetImage(), Project: want.GetProject(),
		}
		if made.GetType() == vmhostv1.MachineType_MACHINE_TYPE_UNSPECIFIED {
			made.Type = vmhostv1.MachineType_MACHINE_TYPE_VIRTUAL_MACHINE
		}
		if made.GetFirmware() == vmhostv1.Firmware_FIRMWARE_UNSPECIFIED {
			made.Firmware = vmhostv1.Firmware_FIRMWARE_BIOS
		}
		h.attach(made, want)
		h.putMachine(made)
		return made, nil
	})
}

// attach gives a machine the disks and interfaces that are wanted.
func (h *Host) attach(made *rackv1.MachineObservation, want *vmhostv1.Machine) {
	for i, disk := range want.GetDisks() {
		disk = proto.CloneOf(disk)
		disk.Device = fmt.Sprintf("vd%c", 'a'+i%26)
		disk.Path = "/fake/" + disk.GetStoragePool() + "/" + disk.GetVolume()
		made.Disks = append(made.Disks, disk)
	}
	for _, nic := range want.GetInterfaces() {
		made.Interfaces = append(made.Interfaces, proto.CloneOf(nic))
	}
}

// checkKind refuses what the host cannot run.
func (h *Host) checkKind(want *vmhostv1.Machine) error {
	can := h.spec.capabilities()
	for _, need := range []struct {
		word string
		need bool
	}{
		{"containers", want.GetType() == vmhostv1.MachineType_MACHINE_TYPE_CONTAINER},
		{"hugepages", want.GetHugepages()},
		{"secure-boot", want.GetSecureBoot()},
	} {
		if need.need && !slices.Contains(can, need.word) {
			return &hypervisor.Error{Class: hypervisor.ErrUnsupported, Op: "create machine", Err: fmt.Errorf("the host has no %s", need.word)}
		}
	}
	return nil
}

// makeVolumes makes those that are missing. One of the machine's own names that
// is there was left by a create that broke, and is made anew.
func (h *Host) makeVolumes(want *vmhostv1.Machine, undo *[]func()) error {
	for _, disk := range want.GetDisks() {
		pool, ok := h.spec.pool(disk.GetStoragePool())
		if !ok {
			return &hypervisor.Error{Class: hypervisor.ErrNotFound, Op: "create volume", Err: fmt.Errorf("no storage pool %q", disk.GetStoragePool())}
		}
		key := volumeKey{disk.GetStoragePool(), disk.GetVolume()}
		h.dropVolume(key)
		v := volume{size: disk.GetSizeBytes()}
		if !pool.Thin {
			v.allocation = v.size
		}
		if v.allocation > pool.CapacityBytes-h.filled(pool.Name) {
			return &hypervisor.Error{Class: hypervisor.ErrCapacity, Op: "create volume", Err: fmt.Errorf("no room for %s in storage pool %q", units.Bytes.Say(units.Need(v.size))[0], pool.Name)}
		}
		h.putVolume(key, v)
		*undo = append(*undo, func() { h.dropVolume(key) })
	}
	return nil
}

func (h *Host) checkInterfaces(want *vmhostv1.Machine) error {
	for _, nic := range want.GetInterfaces() {
		if !h.spec.hasNetwork(nic) {
			return &hypervisor.Error{Class: hypervisor.ErrNotFound, Op: "attach interface", Err: fmt.Errorf("no network or bridge %q", nic.GetSource())}
		}
	}
	return nil
}

// Delete removes a machine with its own volumes.
func (d *driver) Delete(ctx context.Context, machine *vmhostv1.Machine) error {
	ref := hypervisor.RefOf(machine)
	_, err := d.change(ctx, Delete, ref.Domain(), func(h *Host, _ Fault) (*rackv1.MachineObservation, error) {
		if _, err := h.ours("delete machine", ref); err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
			return nil, err
		}
		h.dropMachine(ref.Domain())
		for _, disk := range machine.GetDisks() {
			h.dropVolume(volumeKey{disk.GetStoragePool(), disk.GetVolume()})
		}
		return nil, nil //nolint:nilnil // Delete has no machine to show
	})
	return err
}
