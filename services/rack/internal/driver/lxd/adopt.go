package lxd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"

	lxdapi "github.com/canonical/lxd/shared/api"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

const (
	opAdopt   = "adopt machine"
	opRelease = "release machine"
	// relabelTries is how often labels are written when somebody else was first.
	relabelTries = 5
)

// Adopt puts our labels on an instance that carries none.
func (d *Driver) Adopt(ctx context.Context, ref hypervisor.Ref, operation string) (*rackv1.MachineObservation, error) {
	return d.relabel(ctx, ref, opAdopt, func(i *instance) (map[string]string, error) {
		switch owner := i.Config[labelUID]; {
		case d.is(i, ref.UID):
			return nil, nil
		case owner != "" && d.ours(i):
			return nil, &hypervisor.Error{
				Class: hypervisor.ErrForeign, Op: opAdopt, Err: fmt.Errorf("instance %q carries the uid %s of another machine", i.Name, owner),
				Hint: "release it where it is adopted, or remove its labels: lxc config unset " + i.Name + " " + labelUID,
			}
		case labelled(i):
			return nil, &hypervisor.Error{
				Class: hypervisor.ErrForeign, Op: opAdopt, Err: fmt.Errorf("instance %q is a copy of a machine of vmhost and carries its labels", i.Name),
				Hint: "remove them: lxc config unset " + i.Name + " for each key that starts with " + labelPrefix,
			}
		case i.derived:
			return nil, &hypervisor.Error{
				Class: hypervisor.ErrUnsupported, Op: opAdopt, Err: fmt.Errorf("LXD has given instance %q no uuid, so it could not be told from another of its name", i.Name),
				Hint: "start it once",
			}
		}
		return map[string]string{labelUID: ref.UID, labelUUID: i.uuid, labelOperation: operation}, nil
	})
}

// Release takes off an instance what adopting or creating it put there for
// people and for us: labels, and the words that vmhost made it. Its volumes keep
// their names, which devices refer to.
func (d *Driver) Release(ctx context.Context, ref hypervisor.Ref) (*rackv1.MachineObservation, error) {
	return d.relabel(ctx, ref, opRelease, func(i *instance) (map[string]string, error) {
		switch {
		case d.is(i, ref.UID):
			return map[string]string{}, d.releaseVolumes(ctx, i, ref.UID)
		case d.ours(i):
			return nil, &hypervisor.Error{
				Class: hypervisor.ErrForeign, Op: opRelease, Err: fmt.Errorf("instance %q carries the uid %s of another machine", i.Name, i.Config[labelUID]),
			}
		}
		// Without labels, or with those of what it was copied from: not ours already.
		return nil, nil
	})
}

func labelled(i *instance) bool {
	for key := range i.Config {
		if strings.HasPrefix(key, labelPrefix) {
			return true
		}
	}
	return false
}

// relabel writes the labels that decide answers; nil leaves the instance as it
// is. Nothing else of the instance changes: what is written is what was read, and
// only if nobody wrote in between.
func (d *Driver) relabel(
	ctx context.Context, ref hypervisor.Ref, op string, decide func(*instance) (map[string]string, error),
) (*rackv1.MachineObservation, error) {
	if err := checkUUID(ref.Domain()); err != nil {
		return nil, err
	}
	unlock, err := d.changing.Lock(ctx, ref.Domain(), op)
	if err != nil {
		return nil, err
	}
	defer unlock()
	for try := 0; ; try++ {
		err := d.relabelOnce(ctx, ref, op, decide)
		if err == nil {
			return d.relabelled(ctx, ref, op)
		}
		if !errors.Is(err, hypervisor.ErrBusy) || try == relabelTries || !pause(ctx, d.conn.dead, d.cfg.OperationInterval/10) {
			return nil, err
		}
	}
}

// releaseVolumes takes off the volumes that were made for an instance what says
// so. Somebody else's words stay.
func (d *Driver) releaseVolumes(ctx context.Context, i *instance, uid string) error {
	for _, dev := range i.Devices {
		if dev["type"] != "disk" || dev["pool"] == "" || !strings.HasPrefix(dev["source"], volumePrefix(uid)) {
			continue
		}
		path := d.volumePath(dev["pool"], dev["source"])
		v, etag, err := getTagged[lxdapi.StorageVolume](ctx, d.conn, opRelease, path)
		if errors.Is(err, hypervisor.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		put := v.Writable()
		put.Config = maps.Clone(v.Config)
		delete(put.Config, labelUID)
		if volumeMadeFor(put.Description) {
			put.Description = ""
		}
		if put.Description == v.Description && len(put.Config) == len(v.Config) {
			continue
		}
		if err := d.change(ctx, opRelease, http.MethodPut, path, put, etag); err != nil {
			return err
		}
	}
	return nil
}

// relabelled is the instance after it; one that is not there is released.
func (d *Driver) relabelled(ctx context.Context, ref hypervisor.Ref, op string) (*rackv1.MachineObservation, error) {
	o, err := d.Machine(ctx, ref.Domain())
	if op == opRelease && errors.Is(err, hypervisor.ErrNotFound) {
		return nil, nil //nolint:nilnil // not there counts as done, and there is nothing to show
	}
	return o, err
}

func (d *Driver) relabelOnce(ctx context.Context, ref hypervisor.Ref, op string, decide func(*instance) (map[string]string, error)) error {
	list, err := d.listOwn(ctx)
	if err != nil {
		return err
	}
	var found *instance
	for _, i := range list {
		if i.uuid == ref.Domain() {
			found = i
		}
	}
	if found == nil {
		if op == opRelease {
			return nil
		}
		return &hypervisor.Error{Class: hypervisor.ErrNotFound, Op: op, Err: fmt.Errorf("project %q of the host has no instance %s", d.project, ref.Domain())}
	}
	// Read again, with the tag of what was read.
	raw, etag, err := getTagged[lxdapi.Instance](ctx, d.conn, op, found.place().path())
	if err != nil {
		return err
	}
	i := d.read(raw)
	if i.uuid != found.uuid {
		return &hypervisor.Error{Class: hypervisor.ErrBusy, Op: op, Err: fmt.Errorf("instance %q is being replaced", i.Name)}
	}
	labels, err := decide(i)
	if err != nil || labels == nil {
		return err
	}
	put := i.Writable()
	put.Config = maps.Clone(i.Config)
	maps.DeleteFunc(put.Config, func(key, _ string) bool { return strings.HasPrefix(key, labelPrefix) })
	maps.Copy(put.Config, labels)
	if op == opRelease && put.Description == madeBy {
		put.Description = ""
	}
	if err := d.change(ctx, op, http.MethodPut, d.instancePath(i.Name), put, etag); err != nil {
		return err
	}
	d.addresses.changed(i.uuid)
	return nil
}
