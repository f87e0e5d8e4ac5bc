package lxd

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	lxdapi "github.com/canonical/lxd/shared/api"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/services/rack/internal/driver/listener"
	"github.com/vmhost-project/vmhost/services/rack/internal/driver/turn"
)

// Driver is one connection to one LXD server and project.
type Driver struct {
	conn *conn
	cfg  Config
	log  *slog.Logger

	project string
	// lookOnly makes nothing, not even the project.
	lookOnly bool
	// member is the cluster member that the driver stands for, empty outside
	// clusters.
	member string
	// certificate is the server's fingerprint; it is part of the uuids of instances
	// that have none.
	certificate string
	extensions  []string

	// background ends with the connection; stop ends it.
	background context.Context //nolint:containedctx // the life of the connection
	stop       context.CancelFunc
	wg         sync.WaitGroup

	index      *index
	operations *operations
	changes    changes
	listeners  listener.Set
	addresses  addresses
	volumes    *volumes
	consoles   *consoles
	logs       *logs
	facts      facts
	// changing holds the machines that a create or delete is at work on.
	changing turn.Keyed
}

var (
	_ hypervisor.Driver   = (*Driver)(nil)
	_ hypervisor.Adopter  = (*Driver)(nil)
	_ hypervisor.Consoler = (*Driver)(nil)
	_ hypervisor.Fixer    = (*Driver)(nil)
)

// newDriver prepares a driver; start does what needs the server.
func newDriver(c *conn, cfg Config, target hypervisor.Target, server *lxdapi.Server) (*Driver, error) {
	d := &Driver{
		conn: c, cfg: cfg, log: cfg.Log.With("vm_host", target.Name), project: projectOf(target.Project), lookOnly: target.LookOnly,
		certificate: server.Environment.CertificateFingerprint, extensions: server.APIExtensions,
		index: newIndex(), operations: newOperations(), changes: newChanges(), addresses: newAddresses(cfg.AddressInterval),
		volumes: newVolumes(), consoles: newConsoles(), logs: newLogs(),
	}
	d.background, d.stop = context.WithCancel(context.Background())
	if missing := d.missing("instances", "projects", "custom_block_volumes"); len(missing) > 0 {
		d.stop()
		return nil, unsupportedServer(server, missing)
	}
	if server.Environment.ServerClustered {
		d.member = target.ClusterMember
		if d.member == "" {
			d.member = server.Environment.ServerName
		}
	} else if target.ClusterMember != "" {
		d.stop()
		return nil, noSuchMember(target.ClusterMember, "the server is not clustered")
	}
	return d, nil
}

// start enters the project and listens for events before anything is read.
func (d *Driver) start(ctx context.Context) error {
	if err := d.enterProject(ctx); err != nil {
		return err
	}
	if d.member != "" {
		if err := d.checkMember(ctx); err != nil {
			return err
		}
	}
	if err := d.subscribe(ctx); err != nil {
		return err
	}
	d.wg.Go(func() { d.conn.keepAlive(d.background, d.cfg.PingInterval) })
	d.wg.Go(func() { d.resolve(d.background) })
	d.wg.Go(func() { d.pollAddresses(d.background) })
	return nil
}

// Close ends the connection and waits for the driver's own goroutines, none of
// which waits for the server.
func (d *Driver) Close() error {
	d.end(errClosed)
	return nil
}

func (d *Driver) end(cause error) {
	d.conn.fail(cause)
	d.stop()
	d.wg.Wait()
}

func (d *Driver) has(extension string) bool { return slices.Contains(d.extensions, extension) }

func (d *Driver) missing(extensions ...string) []string {
	return slices.DeleteFunc(extensions, d.has)
}
