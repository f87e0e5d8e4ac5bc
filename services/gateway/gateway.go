// Package gateway is the HTTP front of vmhost: the JSON form of the public API
// and its description, over TLS 1.3. It holds no state and decides nothing; every
// call goes to a region with the caller's own token.
//
//	/v1/…             the API, see internal/jsonapi
//	/v1/events:watch  events as they happen, as server-sent events or JSON lines
//	/openapi.json     the API's description
//	/healthz /readyz  the gateway answers; a region answers
//
// Run owns all goroutines and ends them. Many gateways may run side by side.
package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/vmhost-project/vmhost/pkg/lifecycle"
	"github.com/vmhost-project/vmhost/pkg/obs"
	"github.com/vmhost-project/vmhost/pkg/pki"
	"github.com/vmhost-project/vmhost/services/gateway/internal/front"
	"github.com/vmhost-project/vmhost/services/gateway/internal/jsonapi"
)

// Deps are what a process that has more in it hands to its gateway. The zero
// value means: as configured.
type Deps struct {
	// Conn is a connection to the region; it stays the caller's. With it,
	// Config.Region is not used.
	Conn grpc.ClientConnInterface
	// Certificate gives the server's certificate. With it, Config.TLS is not used.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Listener is used instead of Config.Listen.
	Listener net.Listener
	// Log is used instead of one to standard error.
	Log *slog.Logger
	// Registry gets the metrics instead of a new one.
	Registry *prometheus.Registry
}

// Gateway is a gateway that is ready to run.
type Gateway struct {
	cfg      Config
	log      *slog.Logger
	registry *prometheus.Registry
	health   healthpb.HealthClient
	server   *http.Server
	listener net.Listener
	group    *lifecycle.Group
}

// New wires a gateway and opens its listener.
func New(ctx context.Context, cfg Config, deps Deps) (*Gateway, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("check configuration: %w", err)
	}
	log, registry, err := observe(cfg.Log, deps)
	if err != nil {
		return nil, err
	}
	certificate, err := certificateSource(cfg.TLS, deps, log)
	if err != nil {
		return nil, err
	}
	g := &Gateway{cfg: cfg, log: log, registry: registry, group: lifecycle.New(log)}
	g.group.Grace(cfg.Grace + 5*time.Second) // the server's own grace comes first
	conn := deps.Conn
	if conn == nil {
		metrics := obs.GRPCClientMetrics(registry)
		dialled, err := dialRegion(cfg.Region,
			grpc.WithChainUnaryInterceptor(metrics.UnaryClientInterceptor()),
			grpc.WithChainStreamInterceptor(metrics.StreamClientInterceptor()))
		if err != nil {
			return nil, err
		}
		g.group.OnClose("region", func(context.Context) error { return dialled.Close() })
		conn = dialled
	}
	g.health = healthpb.NewHealthClient(conn)
	api, err := jsonapi.New(ctx, conn, log)
	if err != nil {
		return nil, errors.Join(err, g.close(ctx))
	}
	g.server = newServer(front.New(log, registry).Wrap(g.routes(api)), certificate, log)
	g.server.RegisterOnShutdown(api.Drain)
	if g.listener = deps.Listener; g.listener == nil {
		if g.listener, err = new(net.ListenConfig).Listen(ctx, "tcp", cfg.Listen); err != nil {
			return nil, errors.Join(fmt.Errorf("listen: %w", err), g.close(ctx))
		}
	}
	g.group.Go("https", g.serve)
	if cfg.Ops.Listen != "" {
		ops := obs.Ops{Addr: cfg.Ops.Listen, Registry: registry, Ready: g.ready, Log: log}
		g.group.Go("ops", ops.Run)
	}
	return g, nil
}

// Addr is where the gateway listens.
func (g *Gateway) Addr() net.Addr { return g.listener.Addr() }

// Run serves until ctx ends or something fails. Call it once.
func (g *Gateway) Run(ctx context.Context) error { return g.group.Run(ctx) }

// close gives back what New has opened so far: a group without goroutines only
// runs its closers.
func (g *Gateway) close(ctx context.Context) error { return g.group.Run(ctx) }

// ready asks a region whether it serves.
func (g *Gateway) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	answer, err := g.health.Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		return fmt.Errorf("ask region: %w", err)
	}
	if answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("region is %s", answer.GetStatus())
	}
	return nil
}

func observe(cfg LogConfig, deps Deps) (*slog.Logger, *prometheus.Registry, error) {
	log, registry := deps.Log, deps.Registry
	if log == nil {
		var err error
		if log, err = obs.NewLogger(stderr(), cfg.Level, cfg.Format); err != nil {
			return nil, nil, err
		}
	}
	if registry == nil {
		registry = obs.NewRegistry("gateway", obs.Version)
	}
	return log.With(obs.KeyComponent, "gateway"), registry, nil
}

func certificateSource(cfg TLSConfig, deps Deps, log *slog.Logger) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	if deps.Certificate != nil {
		return deps.Certificate, nil
	}
	if cfg.CertFile == "" {
		return nil, errors.New("no certificate: set tls.cert_file and tls.key_file")
	}
	files, err := pki.LoadCertificateFiles(cfg.CertFile, cfg.KeyFile, log)
	if err != nil {
		return nil, err
	}
	return files.Get, nil
}
