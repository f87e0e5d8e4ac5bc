// Package standalone is vmhost in one process: a region with an etcd of its own,
// a gateway, and a rack that drives this machine's hypervisors.
//
// The parts are the same as those of a site and talk the same protocols; only
// the gateway reaches the region in memory. All state is in one folder. New
// opens everything, Run serves until its context ends, and both may be killed at
// any moment: what was acknowledged is on disk.
package standalone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/zapcore"

	"github.com/vmhost-project/vmhost/pkg/lifecycle"
	"github.com/vmhost-project/vmhost/pkg/obs"
	"github.com/vmhost-project/vmhost/services/gateway"
	"github.com/vmhost-project/vmhost/services/region"
	"github.com/vmhost-project/vmhost/services/standalone/internal/etcd"
)

// Standalone is one process with everything in it.
type Standalone struct {
	cfg      Config
	log      *slog.Logger
	registry *prometheus.Registry
	etcd     *etcd.Server
	region   *region.Region
	gateway  *gateway.Gateway

	closers []func() error
}

// New opens the state, making it when there is none, and every listener.
// Messages and the log go to out.
func New(ctx context.Context, cfg Config, out io.Writer) (_ *Standalone, err error) {
	s := &Standalone{cfg: cfg, registry: obs.NewRegistry("standalone", obs.Version)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.log, err = obs.NewLogger(out, cfg.LogLevel, cfg.LogFormat); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data folder: %w", err)
	}
	held, err := lock(cfg.path("lock"))
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, held.Close)
	if s.etcd, err = etcd.Start(ctx, cfg.path("etcd"), zapcore.AddSync(out)); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, s.etcd.Close)
	if err := s.openRegion(ctx); err != nil {
		return nil, err
	}
	if err := s.openGateway(ctx); err != nil {
		return nil, err
	}
	return s, s.writeAccess()
}

func (s *Standalone) openRegion(ctx context.Context) error {
	cfg := region.Default()
	cfg.APIListen, cfg.RackListen, cfg.OpsListen = s.cfg.APIListen, s.cfg.RackListen, s.cfg.OpsListen
	cfg.Names = s.cfg.Names
	cfg.SecretKeyFile, cfg.GenerateSecretKey = s.cfg.path("secret.key"), true
	cfg.AdminTokenFile = s.cfg.path("admin.token")
	r, err := region.NewWith(ctx, cfg, region.Deps{Etcd: s.etcd.Client(), Log: s.log, Registry: s.registry})
	if err != nil {
		return fmt.Errorf("open the region: %w", err)
	}
	s.region = r
	s.closers = append(s.closers, func() error { r.Close(); return nil })
	return nil
}

func (s *Standalone) openGateway(ctx context.Context) error {
	conn, err := s.region.Connect()
	if err != nil {
		return fmt.Errorf("connect the gateway to the region: %w", err)
	}
	s.closers = append(s.closers, conn.Close)
	cfg := gateway.Default()
	cfg.Listen = s.cfg.GatewayListen
	cfg.Ops.Listen = "" // the region's serves the whole process
	g, err := gateway.New(ctx, cfg, gateway.Deps{Conn: conn, Certificate: s.region.CertificateSource(), Log: s.log, Registry: s.registry})
	if err != nil {
		return fmt.Errorf("open the gateway: %w", err)
	}
	s.gateway = g
	return nil
}

// Run serves until ctx ends. The rack ends first, then the gateway and the
// region, then the state.
func (s *Standalone) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, s.close()) }()
	// The region outlives what calls it, so that a stop is orderly; it ends the
	// others when it fails.
	regionCtx, stopRegion := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRegion()
	frontCtx, stopFront := context.WithCancelCause(ctx)
	defer stopFront(nil)
	var regionErr error
	var region sync.WaitGroup
	region.Go(func() {
		regionErr = s.region.Run(regionCtx)
		stopFront(regionErr)
	})
	front := lifecycle.New(s.log)
	front.Go("etcd", s.etcd.Run)
	front.Go("gateway", s.gateway.Run)
	front.Go("rack", s.runRack)
	s.log.InfoContext(ctx, "vmhost is up", "data_dir", s.cfg.DataDir, "api", s.region.APIAddr().String(),
		"gateway", "https://"+s.gateway.Addr().String(), "racks", s.region.RackAddr().String())
	frontErr := front.Run(frontCtx)
	stopRegion()
	region.Wait()
	return errors.Join(frontErr, regionErr)
}

func (s *Standalone) close() error {
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		errs = append(errs, s.closers[i]())
	}
	s.closers = nil
	return errors.Join(errs...)
}
