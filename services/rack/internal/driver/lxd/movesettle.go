package lxd

import (
	"context"

	lxdapi "github.com/canonical/lxd/shared/api"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// What a process has told LXD to do goes on when the process is gone. So that a
// move judges what is there and not what is becoming, and removes nothing that LXD
// is at work on, it waits for the end of that first.

// settle waits until neither server is at work on the machine or its volumes.
func (m *move) settle(ctx context.Context) error {
	for _, d := range []*Driver{m.from, m.to} {
		if err := d.settleAll(ctx, m.names()); err != nil {
			return err
		}
	}
	return nil
}

// names are those that LXD's operations on the machine name it and its volumes by.
func (m *move) names() map[string]bool {
	out := map[string]bool{instanceName(m.what.GetMachine()): true, instanceName(m.what.GetMoved()): true, m.aside(): true}
	if m.here != nil {
		out[m.here.Name] = true
	}
	for _, machine := range []*vmhostv1.Machine{m.what.GetMachine(), m.what.GetMoved()} {
		for _, k := range machine.GetDisks() {
			out[k.GetVolume()] = true
		}
	}
	delete(out, "")
	return out
}

// settleAll waits for what LXD is doing to instances and volumes of these names. A
// copy of which the other end is gone ends by itself, and takes back what it did.
func (d *Driver) settleAll(ctx context.Context, names map[string]bool) error {
	byState, err := get[map[string][]lxdapi.Operation](ctx, d.conn, opMove, d.in("/1.0/operations", "recursion", "1"))
	if err != nil {
		return err
	}
	for _, list := range byState {
		for _, o := range list {
			// A terminal is a websocket operation as well, and has fds.
			if _, terminal := o.Metadata["fds"]; terminal || o.StatusCode.IsFinal() || o.Class == "token" || !about(o.Resources, names) {
				continue
			}
			if err := d.await(ctx, opMove, &o); unknown(err) {
				return err
			}
		}
	}
	return nil
}

// about says whether an operation is on an instance or volume of these names.
func about(resources map[string][]string, names map[string]bool) bool {
	for kind, list := range resources {
		if kind != "instances" && kind != "storage_volumes" {
			continue
		}
		for _, path := range list {
			if names[lastOf(path)] {
				return true
			}
		}
	}
	return false
}
