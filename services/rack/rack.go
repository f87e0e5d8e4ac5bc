// Package rack is the agent near hypervisors: it dials a region, does the steps
// it is sent and reports what it sees. It holds no truth and decides nothing.
//
// A rack without identity enrols with a join token first; then it keeps a
// session with some region (package session), drives the hosts it is assigned
// (package executor), remembers what it accepted (package journal) and renews
// its certificate (package enroll). It listens nowhere but for operators on
// loopback. Run owns every goroutine.
package rack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	"github.com/vmhost-project/vmhost/pkg/lifecycle"
	"github.com/vmhost-project/vmhost/pkg/obs"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack/internal/driver/libvirt"
	"github.com/vmhost-project/vmhost/services/rack/internal/driver/lxd"
	"github.com/vmhost-project/vmhost/services/rack/internal/enroll"
	"github.com/vmhost-project/vmhost/services/rack/internal/executor"
	"github.com/vmhost-project/vmhost/services/rack/internal/journal"
	"github.com/vmhost-project/vmhost/services/rack/internal/metric"
	"github.com/vmhost-project/vmhost/services/rack/internal/session"
)

// Errors that Run ends with.
var (
	// ErrNotEnrolled says that there is no identity and no join token.
	ErrNotEnrolled = enroll.ErrNotEnrolled
	// ErrRevoked says that the region removed this rack; its identity is wiped.
	ErrRevoked = session.ErrRevoked
	// ErrMustEnroll says that the region wants a rack without join token to
	// enrol again.
	ErrMustEnroll = session.ErrMustEnroll
	// ErrTokenInvalid says that the region does not take the join token.
	ErrTokenInvalid = enroll.ErrTokenInvalid
)

// Deps are what a process that has them already gives a rack.
type Deps struct {
	// Log is where the rack logs.
	Log *slog.Logger
	// Registry is where it counts.
	Registry *prometheus.Registry
	// Fleet are the hosts of the fake driver, instead of the configured ones. It
	// stays the giver's to close.
	Fleet *fake.Fleet
	// JoinToken makes a join token whenever the rack must enrol, instead of the
	// configured one.
	JoinToken func(ctx context.Context) (string, error)
}

// Rack is one rack process.
type Rack struct {
	cfg      Config
	log      *slog.Logger
	registry *prometheus.Registry
	identity *enroll.Store
	journal  *journal.Journal
	fleet    *fake.Fleet // to be closed; nil when given or not there
	drivers  map[vmhostv1.VmHostType]hypervisor.Opener
	executor *executor.Executor
	session  *session.Client

	joinToken func(ctx context.Context) (string, error)
}

// New opens a rack. Whoever does not call Run calls Close.
func New(ctx context.Context, cfg Config) (*Rack, error) { return NewWith(ctx, cfg, Deps{}) }

// NewWith opens a rack in a process that has some of what it needs. Whoever does
// not call Run calls Close.
func NewWith(ctx context.Context, cfg Config, deps Deps) (_ *Rack, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("check configuration: %w", err)
	}
	r := &Rack{cfg: cfg, log: deps.Log, registry: deps.Registry, joinToken: deps.JoinToken}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close(ctx))
		}
	}()
	if r.log == nil {
		if r.log, err = obs.NewLogger(os.Stderr, cfg.LogLevel, cfg.LogFormat); err != nil {
			return nil, err
		}
	}
	r.log = r.log.With(obs.KeyComponent, "rack")
	if r.registry == nil {
		r.registry = obs.NewRegistry("rack", obs.Version)
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	if r.identity, err = enroll.Load(cfg.DataDir); err != nil {
		return nil, err
	}
	if r.journal, err = journal.Open(filepath.Join(cfg.DataDir, "journal.db")); err != nil {
		return nil, err
	}
	if err := r.openDrivers(deps.Fleet); err != nil {
		return nil, err
	}
	metrics := metric.New(r.registry, r.identity.Expiry)
	r.executor = executor.New(executor.Config{
		Drivers: r.drivers, Journal: r.journal, Unseal: r.identity.Unseal, Rack: r.identity.Rack,
		InventoryInterval: cfg.InventoryInterval, StepsPerHost: cfg.StepsPerHost, Metrics: metrics, Log: r.log,
		Console: func(ctx context.Context, endpoint string) (rackv1.RackService_ConsoleClient, func(), error) {
			return r.session.Console(ctx, endpoint)
		},
	})
	r.session = session.New(session.Config{
		Endpoints: r.endpoints, Credentials: r.identity.TLS, Expired: r.identity.Expired,
		Rack: r.identity.Rack, Hello: r.hello(), Handler: r.executor, Metrics: metrics, Log: r.log,
	})
	return r, nil
}

func (r *Rack) openDrivers(fleet *fake.Fleet) (err error) {
	r.drivers = map[vmhostv1.VmHostType]hypervisor.Opener{}
	if r.cfg.has(DriverLibvirt) {
		r.drivers[vmhostv1.VmHostType_VM_HOST_TYPE_LIBVIRT] = libvirt.NewOpener(libvirt.Config{LocalSockets: r.cfg.LocalSockets, Log: r.log})
	}
	if r.cfg.has(DriverLXD) {
		r.drivers[vmhostv1.VmHostType_VM_HOST_TYPE_LXD] = lxd.NewOpener(lxd.Config{LocalSockets: r.cfg.LXDSockets, Log: r.log})
	}
	if !r.cfg.has(DriverFake) {
		return nil
	}
	if fleet == nil && r.cfg.Fake.StateFile != "" {
		if fleet, err = fake.NewFleetFile(r.cfg.Fake.StateFile, r.cfg.Fake.Hosts...); err != nil {
			return err
		}
		r.fleet = fleet
	} else if fleet == nil {
		fleet = fake.NewFleet(r.cfg.Fake.Hosts...)
	}
	r.drivers[vmhostv1.VmHostType_VM_HOST_TYPE_FAKE] = fleet
	return nil
}

// endpoints are where to look for a region.
func (r *Rack) endpoints() []string {
	if len(r.cfg.Regions) > 0 {
		return r.cfg.Regions
	}
	return r.identity.Endpoints()
}

// lxdSocket starts the names of LXD's sockets in what the rack says of itself.
const lxdSocket = "lxd:"

// hello is what the rack says of itself, the same for the life of the process.
func (r *Rack) hello() func() *rackv1.RackHello {
	hello := &rackv1.RackHello{
		Protocol: session.Protocol, Version: obs.Version, BootId: uuid.NewString(), Drivers: slices.Sorted(slices.Values(r.cfg.Drivers)),
	}
	hello.Movers = hello.GetDrivers() // all of them move machines
	for _, driver := range hello.GetDrivers() {
		if driver == DriverLibvirt || driver == DriverFake { // LXD copies whatever it moves
			hello.SharedMovers = append(hello.SharedMovers, driver)
		}
	}
	if r.cfg.has(DriverLibvirt) {
		hello.LocalSockets = append([]string{""}, slices.Sorted(maps.Keys(r.cfg.LocalSockets))...)
	}
	if r.cfg.has(DriverLXD) {
		// One name may be a socket of each.
		hello.LocalSockets = append(hello.LocalSockets, lxdSocket)
		for _, name := range slices.Sorted(maps.Keys(r.cfg.LXDSockets)) {
			hello.LocalSockets = append(hello.LocalSockets, lxdSocket+name)
		}
	}
	return func() *rackv1.RackHello { return hello }
}

// Name is the rack's resource name, empty before it is enrolled.
func (r *Rack) Name() string { return r.identity.Rack() }

// Ready is nil while a session with a region is up.
func (r *Rack) Ready(ctx context.Context) error { return r.session.Ready(ctx) }

// Run runs the rack until ctx ends, which is no error, or it must not go on; see
// the errors of this package.
func (r *Rack) Run(ctx context.Context) error {
	group := lifecycle.New(r.log)
	group.Grace(r.cfg.DrainTimeout + lifecycle.DefaultGrace)
	group.OnClose("rack", r.Close)
	if r.cfg.OpsListen != "" {
		group.Go("ops", obs.Ops{Addr: r.cfg.OpsListen, Registry: r.registry, Ready: r.Ready, Log: r.log}.Run)
	}
	group.Go("session", r.keepSession)
	return group.Run(ctx)
}

// Close lets steps end for as long as the configuration says, and closes what
// New opened. Run calls it.
func (r *Rack) Close(ctx context.Context) error {
	var faults []error
	if r.executor != nil {
		drain, cancel := context.WithTimeout(ctx, r.cfg.DrainTimeout)
		defer cancel()
		faults = append(faults, r.executor.Close(drain))
	}
	if r.journal != nil {
		faults = append(faults, r.journal.Close())
	}
	if r.fleet != nil {
		faults = append(faults, r.fleet.Close())
		r.fleet = nil
	}
	return errors.Join(faults...)
}
