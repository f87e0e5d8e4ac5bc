package lxd

import (
	"context"
	"errors"
	"maps"
	"net/http"

	lxdapi "github.com/canonical/lxd/shared/api"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// All members of a cluster share the names of its instances. So that the source is
// removed last within a cluster as well, it is renamed before its copy is made,
// and has its name back if that fails. What it is found by, its uuid and our
// labels, does not change.

// aside is the name that an instance has while its copy is made.
func (m *move) aside() string { return "vmhost-move-" + m.ref.Domain() }

// name is what the instance is called when it is not out of the way.
func (m *move) name() string {
	if was := m.here.Config[labelAside]; m.here.Name == m.aside() && was != "" {
		return was
	}
	return m.here.Name
}

// stepAside takes an instance out of the way of its copy.
func (m *move) stepAside(ctx context.Context) error {
	if !m.siblings() || m.here.Name == m.aside() {
		return nil
	}
	if err := m.label(ctx, labelAside, m.here.Name); err != nil {
		return err
	}
	return m.rename(ctx, m.aside())
}

// backFromAside gives an instance its name back.
func (m *move) backFromAside(ctx context.Context) error {
	if m.here.Name == m.aside() {
		if err := m.rename(ctx, m.name()); err != nil {
			return err
		}
	}
	return m.label(ctx, labelAside, "")
}

func (m *move) rename(ctx context.Context, to string) error {
	op := "rename instance " + m.here.Name
	err := m.from.change(ctx, op, http.MethodPost, m.from.instancePath(m.here.Name), lxdapi.InstancePost{Name: to}, "")
	if unknown(err) {
		return err
	}
	// What it is called now is known only by looking.
	now, nerr := m.from.onHost(ctx, m.ref)
	if nerr != nil {
		return nerr
	}
	if now == nil || now.Name != to {
		if err != nil {
			return definite(err)
		}
		return errors.New(op + ": it is not there under its new name")
	}
	m.here = now
	return nil
}

// note writes down on the source that an operation has stopped the instance, or
// that none has.
func (m *move) note(ctx context.Context, operation string) error {
	return m.label(ctx, labelMoving, operation)
}

// label sets one of our labels on the source; empty takes it off.
func (m *move) label(ctx context.Context, key, value string) error {
	err := m.from.rewrite(ctx, m.here.Name, func(put *lxdapi.InstancePut) bool {
		if put.Config[key] == value {
			return false
		}
		if value == "" {
			delete(put.Config, key)
		} else {
			put.Config[key] = value
		}
		return true
	})
	if err == nil {
		m.here.Config = maps.Clone(m.here.Config)
		m.here.Config[key] = value
	}
	return err
}

// rewrite changes the definition of an instance, if change says so: what is written
// is what was read, and only if nobody wrote in between.
func (d *Driver) rewrite(ctx context.Context, name string, change func(put *lxdapi.InstancePut) bool) error {
	op := "change instance " + name
	for try := 0; ; try++ {
		raw, etag, err := getTagged[lxdapi.Instance](ctx, d.conn, op, place{d.project, name}.path())
		if err != nil {
			return err
		}
		put := raw.Writable()
		put.Config = maps.Clone(raw.Config)
		if !change(&put) {
			return nil
		}
		err = d.change(ctx, op, http.MethodPut, d.instancePath(name), put, etag)
		if !errors.Is(err, hypervisor.ErrBusy) || try == relabelTries || !pause(ctx, d.conn.dead, d.cfg.OperationInterval/10) {
			return err
		}
	}
}
