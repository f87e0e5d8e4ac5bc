// Package region is the service that holds all state and decides: the API, the
// ledger, operations, and the sessions of racks, over one etcd.
//
// New opens everything and makes the deployment when there is none; Run serves
// until its context ends. At a stop the region first tells racks and watchers to
// go to another region, lets calls end, and only then stops what is behind them.
// Several regions over one etcd are equals: safety never depends on there being
// one.
package region

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"buf.build/go/protovalidate"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"github.com/vmhost-project/vmhost/pkg/lifecycle"
	"github.com/vmhost-project/vmhost/pkg/obs"
	"github.com/vmhost-project/vmhost/pkg/pki"
	"github.com/vmhost-project/vmhost/services/region/internal/api"
	"github.com/vmhost-project/vmhost/services/region/internal/bootstrap"
	"github.com/vmhost-project/vmhost/services/region/internal/console"
	"github.com/vmhost-project/vmhost/services/region/internal/enroll"
	"github.com/vmhost-project/vmhost/services/region/internal/interceptor"
	"github.com/vmhost-project/vmhost/services/region/internal/inventory"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/metrics"
	"github.com/vmhost-project/vmhost/services/region/internal/operation"
	"github.com/vmhost-project/vmhost/services/region/internal/secret"
	"github.com/vmhost-project/vmhost/services/region/internal/session"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/sweep"
	"github.com/vmhost-project/vmhost/services/region/internal/trust"
)

// Deps are what a region is given by the process it is part of. Each that is
// nil the region makes for itself.
type Deps struct {
	// Etcd is a client of the state store. It stays the giver's to close.
	Etcd *store.Client
	// Log is where the region logs.
	Log *slog.Logger
	// Registry is where it counts.
	Registry *prometheus.Registry
}

// Region is one region process.
type Region struct {
	cfg        Config
	log        *slog.Logger
	registry   *prometheus.Registry
	store      *store.Store
	deployment *bootstrap.Deployment

	apiListener, rackListener net.Listener
	memory                    *bufconn.Listener
	direct                    grpc.UnaryServerInterceptor

	api      *api.Server
	sessions *session.Server
	consoles *console.Server
	front    *lifecycle.Group // what takes calls
	back     *lifecycle.Group // what calls need

	closeOnce sync.Once
	closers   []func()
}

// New opens a region by itself.
func New(ctx context.Context, cfg Config) (*Region, error) { return NewWith(ctx, cfg, Deps{}) }

// NewWith opens a region in a process that has some of what it needs. Whoever
// does not call Run calls Close.
func NewWith(ctx context.Context, cfg Config, deps Deps) (_ *Region, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("check configuration: %w", err)
	}
	r := &Region{cfg: cfg, log: deps.Log, registry: deps.Registry, memory: newMemory()}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	if r.log == nil {
		if r.log, err = obs.NewLogger(os.Stderr, cfg.LogLevel, cfg.LogFormat); err != nil {
			return nil, err
		}
	}
	if r.registry == nil {
		r.registry = obs.NewRegistry("region", obs.Version)
	}
	secrets, err := r.openState(ctx, deps.Etcd)
	if err != nil {
		return nil, err
	}
	if r.apiListener, err = listen(ctx, "the API", cfg.APIListen); err != nil {
		return nil, err
	}
	r.closers = append(r.closers, func() { _ = r.apiListener.Close() })
	if r.rackListener, err = listen(ctx, "racks", cfg.RackListen); err != nil {
		return nil, err
	}
	r.closers = append(r.closers, func() { _ = r.rackListener.Close() })
	return r, r.wire(secrets) //nolint:contextcheck // a call has a context of its own
}

// openState connects to the store, keeps its copy running, and makes or reads
// the deployment.
func (r *Region) openState(ctx context.Context, client *store.Client) (*secret.Keyset, error) {
	open := secret.Open
	if r.cfg.GenerateSecretKey {
		open = secret.OpenOrGenerate
	}
	secrets, err := open(r.cfg.SecretKeyFile)
	if err != nil {
		return nil, err
	}
	if err := r.openStore(ctx, client); err != nil {
		return nil, err
	}
	r.deployment, err = bootstrap.Ensure(ctx, bootstrap.Config{Store: r.store, Secrets: secrets, AdminTokenFile: r.cfg.AdminTokenFile, Log: r.log})
	return secrets, err
}

// openStore connects to etcd, unless a client is given, and waits for the first
// copy of the state.
func (r *Region) openStore(ctx context.Context, client *store.Client) error {
	if client == nil {
		var err error
		if client, err = store.Connect(ctx, store.Endpoints{
			URLs: r.cfg.Etcd.Endpoints, CertFile: r.cfg.Etcd.CertFile, KeyFile: r.cfg.Etcd.KeyFile, CAFile: r.cfg.Etcd.CAFile,
		}); err != nil {
			return err
		}
		r.closers = append(r.closers, func() { _ = client.Close() })
	}
	r.store = store.New(client, r.log)
	r.keepStore(ctx)
	select {
	case <-r.store.Ready():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("read the state from etcd: %w", context.Cause(ctx))
	}
}

// keepStore keeps the store's copy running until Close: it outlives everything
// that reads it.
func (r *Region) keepStore(ctx context.Context) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { _ = r.store.Run(ctx) }) // its only end is the context's
	r.closers = append(r.closers, func() { cancel(); running.Wait() })
}

// wire makes every part and says who knows whom.
func (r *Region) wire(secrets *secret.Keyset) error {
	key, err := r.deployment.Key("api")
	if err != nil {
		return err
	}
	validator, err := protovalidate.New()
	if err != nil {
		return fmt.Errorf("compile the contract's rules: %w", err)
	}
	// Compose and operations.
	composer := ledger.New(r.store, r.log)
	hub := session.NewHub()
	seen := inventory.New(r.store, r.log)
	engine := operation.New(operation.Config{
		Store: r.store, Seen: seen, Sender: hub, Turn: composer, Places: composer, Secrets: secrets, Log: r.log, TakeOut: api.TakeOut, Ended: metrics.NewOperations(r.registry).Ended,
	})
	metrics.Register(r.registry, r.store, composer)
	// Racks.
	memoryPace := newPace()
	enrolment := enroll.New(r.store, r.deployment)
	r.sessions = session.New(session.Config{
		Store: r.store, Hub: hub, Inventory: seen, Results: engine, Secrets: secrets, Identity: rackIdentity,
		RegionID: regionID(), Version: obs.Version, Log: r.log, Grace: r.cfg.RackGrace,
		Begun: memoryPace.begun,
	})
	r.consoles = console.New(console.Config{
		Store: r.store, Lease: r.sessions.Lease, Local: func(rack string) bool { return hub.Session(rack) != "" }, Identity: rackIdentity,
		Endpoint: r.cfg.advertised(r.rackListener.Addr()), Registry: r.registry, Log: r.log,
	})
	// The API.
	r.api = api.New(api.Config{
		Store: r.store, Seen: seen, Secrets: secrets, Composer: composer, Operations: engine, Consoles: r.consoles, Key: key,
		RackEndpoints: r.cfg.endpoints(r.rackListener.Addr()), CASPKI: r.CASPKI(), Log: r.log,
	})
	calls := interceptor.NewMetrics(r.registry)
	apiChain := interceptor.Chain(interceptor.Config{
		Log: r.log.With("component", "api"), Metrics: calls, Auth: interceptor.NewBearerTokens(r.store, interceptor.APIPolicy()), Validator: validator,
	})
	rackChain := interceptor.Chain(interceptor.Config{Log: r.log.With("component", "racks"), Metrics: calls, Auth: enrolment})
	own := certificate(r.CertificateSource())
	apiCertificate, err := r.apiCertificate(own)
	if err != nil {
		return err
	}

	r.back = lifecycle.New(r.log)
	r.back.Go("ledger", composer.Run)
	r.back.Go("operations", engine.Run)
	r.back.Go("sessions", r.sessions.Run)
	r.back.Go("inventory", func(ctx context.Context) error { return seen.Run(ctx, hub) })
	r.back.Go("consoles", r.consoles.Run)
	r.back.Go("pace", memoryPace.run)
	r.back.Go("events", r.api.Run)
	r.back.Go("sweep", sweep.New(r.store, r.log).Run)
	r.back.Go("expiry", sweep.NewExpiry(composer, r.log).Run)
	r.back.Go("trust", trust.New(r.store, secrets, r.log).Run)

	r.front = lifecycle.New(r.log)
	r.front.Grace(r.cfg.DrainTimeout + lifecycle.DefaultGrace)
	r.direct = apiChain.Unary
	for _, s := range r.apiServers(apiChain, apiCertificate) {
		r.front.Go(s.name, s.run)
	}
	racks := r.rackServer(rackChain, own, enrolment)
	r.front.Go(racks.name, racks.run)
	if r.cfg.OpsListen != "" {
		r.front.Go("ops", obs.Ops{Addr: r.cfg.OpsListen, Registry: r.registry, Ready: r.Ready, Log: r.log}.Run)
	}
	return nil
}

func (r *Region) apiCertificate(own certificate) (certificate, error) {
	if r.cfg.TLS.CertFile == "" {
		return own, nil
	}
	files, err := pki.LoadCertificateFiles(r.cfg.TLS.CertFile, r.cfg.TLS.KeyFile, r.log)
	if err != nil {
		return nil, err
	}
	return files.Get, nil
}

// rackServer is the listener of racks. Its certificate is always of the
// deployment's authority, which racks have pinned.
func (r *Region) rackServer(chain interceptor.Interceptors, own certificate, enrolment *enroll.Server) *server {
	opts := serverOptions(chain, rackTLS(own, r.deployment.Authority))
	// A rack says little, and there are a thousand: TLS holds what has come already,
	// and a second buffer of 32 KiB for each would be half of what a session takes.
	opts = append(opts, grpc.ReadBufferSize(0))
	g := grpc.NewServer(opts...)
	enrolment.Register(g, r.sessions, r.consoles)
	return &server{name: "racks", grpc: g, listener: r.rackListener, drain: r.cfg.DrainTimeout, log: r.log, draining: r.drainRacks}
}

// drainRacks sends racks elsewhere. Consoles first: who has one is told why.
func (r *Region) drainRacks() {
	r.consoles.Drain()
	r.sessions.Drain()
}

func rackIdentity(ctx context.Context) (id, uid string, ok bool) {
	who, ok := enroll.IdentityFrom(ctx)
	return who.ID, who.UID, ok
}

// regionID names this process among others on this machine and elsewhere.
func regionID() string {
	host, err := os.Hostname()
	if err != nil {
		host = "region"
	}
	return host + "-" + uuid.NewString()[:8]
}

// Run serves until ctx ends. What takes calls stops first; what they need goes
// on until they have ended.
func (r *Region) Run(ctx context.Context) error {
	defer r.Close()
	frontCtx, stopFront := context.WithCancelCause(ctx)
	defer stopFront(nil)
	backCtx, stopBack := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBack()
	backEnded := make(chan error, 1)
	go func() {
		err := r.back.Run(backCtx)
		stopFront(err)
		backEnded <- err
	}()
	frontErr := r.front.Run(frontCtx)
	stopBack()
	return errors.Join(frontErr, <-backEnded)
}

// Close ends what New opened. Run does it by itself.
func (r *Region) Close() {
	r.closeOnce.Do(func() {
		for i := len(r.closers) - 1; i >= 0; i-- {
			r.closers[i]()
		}
	})
}

// Ready says why the region cannot do its work: the store must answer.
func (r *Region) Ready(ctx context.Context) error {
	if _, err := r.store.View(ctx); err != nil {
		return fmt.Errorf("the state store does not answer: %w", err)
	}
	return nil
}

// APIAddr is where the API answers.
func (r *Region) APIAddr() net.Addr { return r.apiListener.Addr() }

// RackAddr is where racks connect.
func (r *Region) RackAddr() net.Addr { return r.rackListener.Addr() }

// CACertPEM is the certificate of the deployment's authority.
func (r *Region) CACertPEM() []byte { return r.deployment.CAPEM() }

// CASPKI is the pin of the deployment's authority.
func (r *Region) CASPKI() string { return pki.SPKIHash(r.deployment.Authority.Certificate()) }

// AdminTokenFile is where the administrator's first token is.
func (r *Region) AdminTokenFile() string { return r.cfg.AdminTokenFile }

// JoinToken makes a one-time token with which a rack of this process enrols.
func (r *Region) JoinToken(ctx context.Context, rack, zone string, ttl time.Duration) (string, error) {
	return r.api.JoinToken(ctx, rack, zone, ttl)
}

// ServerCertificate issues a certificate for another server of the deployment,
// such as a gateway.
func (r *Region) ServerCertificate(names []string, ttl time.Duration) (tls.Certificate, error) {
	return r.deployment.Authority.ServerCertificate(names, ttl)
}
