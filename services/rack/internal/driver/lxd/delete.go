package lxd

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	lxdapi "github.com/canonical/lxd/shared/api"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const opDelete = "delete machine"

// Delete turns a machine off hard and removes it, with the volumes listed in its
// disks that were made for it, and no other. Its snapshots and backups are part
// of it and go with it.
func (d *Driver) Delete(ctx context.Context, machine *vmhostv1.Machine) error {
	if err := checkUUID(machine.GetUid()); err != nil {
		return err
	}
	ref := hypervisor.RefOf(machine)
	unlock, err := d.changing.Lock(ctx, ref.Domain(), opDelete)
	if err != nil {
		return err
	}
	defer unlock()
	if name := instanceName(machine); name != "" {
		// A create that was left alone may be at work still.
		if err := d.settle(ctx, opDelete, name); err != nil {
			return err
		}
	}
	if err := d.removeInstance(ctx, ref); err != nil {
		return err
	}
	return d.removeVolumes(ctx, machine)
}

// removeVolumes removes the volumes in a machine's disks that were made for it.
func (d *Driver) removeVolumes(ctx context.Context, machine *vmhostv1.Machine) error {
	var errs []error
	for _, k := range machine.GetDisks() {
		if k.GetStoragePool() == "" || k.GetVolume() == "" {
			continue
		}
		// One volume that cannot go does not keep the others.
		if err := d.removeVolume(ctx, machine.GetUid(), k); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// removeInstance turns an instance of ours off and removes it, wherever it is, and
// answers when the server was seen without it.
func (d *Driver) removeInstance(ctx context.Context, ref hypervisor.Ref) error {
	return d.removeFound(ctx, func(ctx context.Context) (*instance, error) { return d.own(ctx, ref, opDelete) })
}

// removeFound is removeInstance for what find finds.
func (d *Driver) removeFound(ctx context.Context, find func(context.Context) (*instance, error)) error {
	var last error
	for range 3 {
		i, err := find(ctx)
		if err != nil || i == nil {
			return err
		}
		if truth(i.option("security.protection.delete")) {
			return &hypervisor.Error{
				Class: hypervisor.ErrRefused, Op: opDelete, Err: fmt.Errorf("instance %q is protected from being deleted", i.Name),
				Hint: "on the server: lxc config set " + i.Name + " security.protection.delete=false",
			}
		}
		if i.StatusCode != lxdapi.Stopped {
			if err := d.turnOff(ctx, i); err != nil && !errors.Is(err, hypervisor.ErrBusy) {
				return err
			}
		}
		err = d.change(ctx, "delete instance "+i.Name, http.MethodDelete, d.instancePath(i.Name), nil, "")
		if unknown(err) {
			return err
		}
		last = err
		if serr := d.settle(ctx, opDelete, i.Name); serr != nil {
			return serr
		}
	}
	i, err := find(ctx)
	switch {
	case err != nil:
		return err
	case i == nil:
		return nil
	case last != nil:
		return last
	}
	return &hypervisor.Error{Class: hypervisor.ErrBusy, Op: opDelete, Err: fmt.Errorf("instance %q is still there", i.Name)}
}
