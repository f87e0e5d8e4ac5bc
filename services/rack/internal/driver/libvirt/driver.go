package libvirt

import (
	"context"
	"log/slog"
	"sync"

	lv "github.com/digitalocean/go-libvirt"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
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
	changing  keyed
	leases    leases
	listeners listeners
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
		changing: newKeyed(), library: newLibrary(), snapshots: make(chan struct{}, 1),
		leases: newLeases(), listeners: newListeners(),
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

// keyed lets one caller at a time work on a machine.
type keyed struct {
	mu   *sync.Mutex
	busy map[lv.UUID]chan struct{}
}

func newKeyed() keyed { return keyed{mu: &sync.Mutex{}, busy: map[lv.UUID]chan struct{}{}} }

// lock waits for its turn, no longer than ctx, and answers how to end it.
func (k keyed) lock(ctx context.Context, id lv.UUID, op string) (func(), error) {
	for {
		k.mu.Lock()
		busy, ok := k.busy[id]
		if !ok {
			mine := make(chan struct{})
			k.busy[id] = mine
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.busy, id)
				k.mu.Unlock()
				close(mine)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, &hypervisor.Error{Class: hypervisor.ErrTimeout, Op: op, Err: ctx.Err()}
		}
	}
}
