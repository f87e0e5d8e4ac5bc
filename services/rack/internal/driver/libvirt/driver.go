package libvirt

import (
	"context"
	"log/slog"
	"sync"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/services/rack/internal/driver/listener"
	"github.com/vmhost-project/vmhost/services/rack/internal/driver/turn"
)

// Driver is one connection to one libvirtd.
type Driver struct {
	conn *conn
	cfg  Config
	log  *slog.Logger
	// opener and target are for connections beside this one.
	opener *Opener
	target hypervisor.Target
	// background ends with the connection; stop ends it.
	background context.Context //nolint:containedctx // the life of the connection
	stop       context.CancelFunc
	wg         sync.WaitGroup

	library *library
	// snapshots is held while the host is read; last is what was read.
	snapshots chan struct{}
	last      *snapshot
	facts     facts
	// changing holds the machines that a create or delete is at work on.
	changing  turn.Keyed
	leases    leases
	listeners listener.Set
}

var (
	_ hypervisor.Driver   = (*Driver)(nil)
	_ hypervisor.Adopter  = (*Driver)(nil)
	_ hypervisor.Consoler = (*Driver)(nil)
)

// newDriver starts what a connection needs in the background.
func newDriver(ctx context.Context, c *conn, o *Opener, target hypervisor.Target) (*Driver, error) {
	cfg := o.cfg
	d := &Driver{
		conn: c, opener: o, target: target, cfg: cfg, log: cfg.Log.With("vm_host", target.Name),
		library: newLibrary(), snapshots: make(chan struct{}, 1),
		leases: newLeases(),
	}
	// The connection outlives the call that opened it.
	d.background, d.stop = context.WithCancel(context.WithoutCancel(ctx))
	if err := d.subscribe(ctx); err != nil {
		d.end(errClosed)
		return nil, err
	}
	d.wg.Go(func() { c.ping(d.background, cfg.PingInterval, cfg.PingTimeout) })
	d.wg.Go(func() { d.pollLeases(d.background) })
	return d, nil
}

// Close ends the connection and waits for the driver's own goroutines, none of
// which waits for libvirtd.
func (d *Driver) Close() error {
	d.end(errClosed)
	return nil
}

func (d *Driver) end(cause error) {
	d.conn.fail(cause)
	d.stop()
	d.wg.Wait()
}
