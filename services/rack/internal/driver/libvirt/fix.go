package libvirt

import (
	"context"
	"fmt"
	"strings"

	lv "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// The pool that is made where there is none, as every tool of libvirt makes it.
const (
	defaultPool     = "default"
	defaultPoolPath = "/var/lib/libvirt/images"
)

var _ hypervisor.Fixer = (*Driver)(nil)

// Fix makes the pool default where there is no pool at all, and starts pools and
// networks that do not run, now and with the host. What runs is left as it is.
// What could not be done is an error, after all that could be was.
func (d *Driver) Fix(ctx context.Context) (map[string]string, error) {
	done := map[string][]string{}
	var failed []string
	note := func(check, what string, err error) error {
		switch {
		case err == nil:
			done[check] = append(done[check], what)
		case number(err) == lv.ErrOk:
			return err
		default:
			failed = append(failed, err.Error())
		}
		return nil
	}
	if err := d.fixPools(ctx, note); err != nil {
		return nil, err
	}
	if err := d.readNetworks(ctx); err != nil {
		return nil, err
	}
	for _, n := range d.facts.networks() {
		if n.active {
			continue
		}
		err := do(ctx, d.conn, "start network "+n.name, slow, func(a api) error { return a.NetworkCreate(n.handle) })
		if err == nil {
			err = do(ctx, d.conn, "set autostart of network "+n.name, fast, func(a api) error { return a.NetworkSetAutostart(n.handle, 1) })
		}
		if err := note("network", "started network "+n.name+", also when the host boots", err); err != nil {
			return nil, err
		}
	}
	out := make(map[string]string, len(done))
	for check, list := range done {
		out[check] = strings.Join(list, "; ")
	}
	if len(failed) > 0 {
		return out, &hypervisor.Error{Class: hypervisor.ErrRefused, Op: "mend the host", Err: fmt.Errorf("%s", strings.Join(failed, "; "))}
	}
	return out, nil
}

func (d *Driver) fixPools(ctx context.Context, note func(check, what string, err error) error) error {
	if err := d.readPools(ctx); err != nil {
		return err
	}
	if len(d.facts.pools()) == 0 {
		return note("storage-pool", "made storage pool "+defaultPool+" in "+defaultPoolPath, d.makeDefaultPool(ctx))
	}
	for _, p := range d.facts.pools() {
		if p.active {
			continue
		}
		if err := note("storage-pool", "started storage pool "+p.name+", also when the host boots", d.startPool(ctx, p.handle)); err != nil {
			return err
		}
	}
	return d.readPools(ctx)
}

func (d *Driver) makeDefaultPool(ctx context.Context) error {
	text, err := (&libvirtxml.StoragePool{Type: "dir", Name: defaultPool, Target: &libvirtxml.StoragePoolTarget{Path: defaultPoolPath}}).Marshal()
	if err != nil {
		return err
	}
	p, err := call(ctx, d.conn, "define storage pool "+defaultPool, fast, func(a api) (lv.StoragePool, error) { return a.StoragePoolDefineXML(text, 0) })
	if err != nil {
		return err
	}
	// Makes the folder where it is missing, and nothing where it is there.
	err = do(ctx, d.conn, "build storage pool "+defaultPool, slow, func(a api) error { return a.StoragePoolBuild(p, 0) })
	if err == nil {
		err = d.startPool(ctx, p)
	}
	if err != nil && number(err) != lv.ErrOk {
		// Half a pool would be worse to mend than none.
		_ = do(ctx, d.conn, "undefine storage pool "+defaultPool, fast, func(a api) error { return a.StoragePoolUndefine(p) })
	}
	return err
}

func (d *Driver) startPool(ctx context.Context, p lv.StoragePool) error {
	if err := do(ctx, d.conn, "start storage pool "+p.Name, slow, func(a api) error { return a.StoragePoolCreate(p, 0) }); err != nil {
		return err
	}
	return do(ctx, d.conn, "set autostart of storage pool "+p.Name, fast, func(a api) error { return a.StoragePoolSetAutostart(p, 1) })
}
