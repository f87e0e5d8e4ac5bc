package lxd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	lxdapi "github.com/canonical/lxd/shared/api"
	"golang.org/x/sync/errgroup"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// listing are a host's instances at one moment.
type listing struct {
	taken     time.Time
	instances []*instance
	// partial: the certificate sees the driver's project only.
	partial bool
}

const opList = "list instances"

// listAll reads all instances of the host, by one call: those of other projects
// too where the certificate may, since they take room.
func (d *Driver) listAll(ctx context.Context) (*listing, error) {
	began := d.index.begin()
	out := &listing{}
	list, err := get[[]lxdapi.Instance](ctx, d.conn, opList, "/1.0/instances?recursion=1&all-projects=true")
	if errors.Is(err, hypervisor.ErrRefused) {
		out.partial = true
		list, err = get[[]lxdapi.Instance](ctx, d.conn, opList, d.in("/1.0/instances", "recursion", "1"))
	}
	if err != nil {
		return nil, err
	}
	out.instances = d.readAll(list)
	out.taken = time.Now()
	d.index.replace(out.instances, began)
	return out, nil
}

// listOwn reads the instances of the driver's project, on all members of a
// cluster: the proof of what is there and what is not.
func (d *Driver) listOwn(ctx context.Context) ([]*instance, error) {
	list, err := get[[]lxdapi.Instance](ctx, d.conn, opList, d.in("/1.0/instances", "recursion", "1"))
	if err != nil {
		return nil, err
	}
	out := make([]*instance, 0, len(list))
	for _, i := range list {
		out = append(out, d.read(i))
	}
	return out, nil
}

func (d *Driver) readAll(list []lxdapi.Instance) []*instance {
	out := make([]*instance, 0, len(list))
	for _, i := range list {
		if d.here(i.Location) {
			out = append(out, d.read(i))
		}
	}
	slices.SortFunc(out, func(a, b *instance) int {
		return cmp.Or(cmp.Compare(a.Project, b.Project), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// Machines reads all machines of the host, ours and foreign.
func (d *Driver) Machines(ctx context.Context) ([]*rackv1.MachineObservation, error) {
	l, err := d.listAll(ctx)
	if err != nil {
		return nil, err
	}
	return d.observe(ctx, l.instances)
}

// Inventory reads the host and all its machines, of which there is one list.
func (d *Driver) Inventory(ctx context.Context) (*vmhostv1.VmHostObservation, []*rackv1.MachineObservation, error) {
	o, l, err := d.probe(ctx)
	if err != nil {
		return nil, nil, err
	}
	machines, err := d.observe(ctx, l.instances)
	return o, machines, err
}

// observe is a list of instances in the protocol's form.
func (d *Driver) observe(ctx context.Context, list []*instance) ([]*rackv1.MachineObservation, error) {
	v, err := d.view(ctx, list)
	if err != nil {
		return nil, err
	}
	d.addresses.keep(list, d.ours)
	d.readLeases(ctx, list, v)
	out := make([]*rackv1.MachineObservation, 0, len(list))
	for _, i := range list {
		out = append(out, d.observation(i, v))
	}
	return out, nil
}

// view reads what observations need besides the instances; nearly always it is
// kept from the last time.
func (d *Driver) view(ctx context.Context, list []*instance) (*view, error) {
	v := &view{pools: map[string]*pool{}, networks: map[string]*network{}}
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		pools, err := d.readPools(gctx)
		for _, p := range pools {
			v.pools[p.Name] = p
		}
		return err
	})
	group.Go(func() error {
		networks, err := d.readNetworks(gctx)
		for _, n := range networks {
			v.networks[n.Name] = n
		}
		return err
	})
	group.Go(func() error {
		// The size of the host is needed for percentages only.
		if r, err := d.resources(gctx, factsFor); err == nil {
			v.hostMiB = int64(r.Memory.Total >> 20)
		} else if unknown(err) {
			return err
		}
		return nil
	})
	group.Go(func() (err error) {
		v.volumes, err = d.volumeSizes(gctx, list)
		return err
	})
	return v, group.Wait()
}

// Machine reads one machine by its uuid, with its addresses as they are now.
func (d *Driver) Machine(ctx context.Context, id string) (*rackv1.MachineObservation, error) {
	i, err := d.find(ctx, id, d.index.nameOf(id))
	if err != nil {
		return nil, err
	}
	if i == nil {
		return nil, &hypervisor.Error{Class: hypervisor.ErrNotFound, Op: "read instance " + id, Err: errors.New("no instance has this uuid")}
	}
	v, err := d.view(ctx, []*instance{i})
	if err != nil {
		return nil, err
	}
	if err := d.readState(ctx, i); err != nil {
		return nil, err
	}
	return d.observation(i, v), nil
}

// find looks for an instance by its uuid, first where it was last seen; nil when
// it is not on the host.
func (d *Driver) find(ctx context.Context, id string, hint place) (*instance, error) {
	if hint.name != "" {
		i, err := d.byName(ctx, hint)
		if err != nil {
			return nil, err
		}
		if i != nil && i.uuid == id {
			return i, nil
		}
	}
	l, err := d.listAll(ctx)
	if err != nil {
		return nil, err
	}
	// Uuids are not unique on LXD: a copy by hand of a file may have the same. The
	// one in our project is ours to look at.
	var found *instance
	for _, i := range l.instances {
		if i.uuid == id && (found == nil || i.Project == d.project) {
			found = i
		}
	}
	return found, nil
}

// byName reads the instance of a name; nil when there is none on the host.
func (d *Driver) byName(ctx context.Context, p place) (*instance, error) {
	raw, err := get[lxdapi.Instance](ctx, d.conn, "read instance "+p.name, p.path())
	if errors.Is(err, hypervisor.ErrNotFound) {
		return nil, nil //nolint:nilnil // absent is no error
	}
	if err != nil || !d.here(raw.Location) {
		return nil, err
	}
	i := d.read(raw)
	d.index.put(i)
	return i, nil
}

// own finds the machine of a ref and makes sure that it is ours; nil when it is
// not there.
func (d *Driver) own(ctx context.Context, ref hypervisor.Ref, op string) (*instance, error) {
	if ref.Name != "" {
		i, err := d.byName(ctx, place{d.project, ref.Name})
		if err != nil {
			return nil, err
		}
		if i != nil && i.uuid == ref.Domain() && d.is(i, ref.UID) {
			return i, nil
		}
	}
	list, err := d.listOwn(ctx)
	if err != nil {
		return nil, err
	}
	return d.pick(list, ref, op)
}

// pick finds the machine of a ref in a list.
func (d *Driver) pick(list []*instance, ref hypervisor.Ref, op string) (*instance, error) {
	var other, elsewhere *instance
	for _, i := range list {
		switch {
		case i.uuid != ref.Domain():
		case !d.is(i, ref.UID):
			other = i
		case d.here(i.Location):
			return i, nil
		default:
			elsewhere = i
		}
	}
	switch {
	case elsewhere != nil && op == opDelete:
		// What is to go goes wherever it is: not there must mean nowhere.
		return elsewhere, nil
	case elsewhere != nil:
		return nil, &hypervisor.Error{
			Class: hypervisor.ErrNotFound, Op: op, Err: fmt.Errorf("instance %q is on the cluster member %q now", elsewhere.Name, elsewhere.Location),
			Hint: "add that member as a host; the machine follows it there",
		}
	case other != nil:
		return nil, notOurs(op, other)
	}
	return nil, nil //nolint:nilnil // absent is no error
}

// mine is own for calls that need it there.
func (d *Driver) mine(ctx context.Context, ref hypervisor.Ref, op string) (*instance, error) {
	i, err := d.own(ctx, ref, op)
	if err == nil && i == nil {
		err = &hypervisor.Error{Class: hypervisor.ErrNotFound, Op: op, Err: fmt.Errorf("project %q of the host has no instance %s", d.project, ref.Domain())}
	}
	return i, err
}
