// Package etcd runs the state store of a standalone vmhost: one etcd member in
// this process, which listens nowhere. Its only client is this process, by
// function calls, so that no local user can read or change the state.
//
// Every write is synced to disk before it is acknowledged (promise P6). Close
// ends all its goroutines.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// startTimeout is how long the member may take to become ready: it replays its
// log first, which is bounded by the snapshot interval.
const startTimeout = 60 * time.Second

// Server is a running member.
type Server struct {
	etcd   *embed.Etcd
	client *clientv3.Client
}

// Start runs a member with its state in dir and waits until it is ready. Its
// own log goes to out, errors and worse: its warnings are about listeners and
// permissions that it does not need here.
func Start(ctx context.Context, dir string, out zapcore.WriteSyncer) (*Server, error) {
	cfg := embed.NewConfig()
	cfg.Name = "standalone"
	cfg.Dir = dir
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = nil, nil
	cfg.ListenPeerUrls = nil
	// A member must have a peer URL to be known by; nothing listens there.
	cfg.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "localhost:0"}}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = "periodic", "10m"
	cfg.QuotaBackendBytes = 8 << 30
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(zapcore.NewCore(encoder, out, zapcore.ErrorLevel)))
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("start the embedded etcd in %s: %w", dir, err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	select {
	case <-e.Server.ReadyNotify():
		return &Server{etcd: e, client: v3client.New(e.Server)}, nil
	case err := <-e.Err():
		e.Close()
		return nil, fmt.Errorf("start the embedded etcd in %s: %w", dir, err)
	case <-ctx.Done():
		e.Close()
		return nil, fmt.Errorf("wait for the embedded etcd in %s: %w", dir, context.Cause(ctx))
	}
}

// Client is a client by function calls. It is closed with the server.
func (s *Server) Client() *clientv3.Client { return s.client }

// Run answers when ctx ends, or with the error that stopped the member.
func (s *Server) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.etcd.Err():
		return fmt.Errorf("embedded etcd: %w", err)
	case <-s.etcd.Server.StopNotify():
		return errors.New("embedded etcd stopped")
	}
}

// Close stops the member and syncs what is left to disk.
func (s *Server) Close() error {
	err := s.client.Close()
	s.etcd.Close()
	if errors.Is(err, context.Canceled) { // how a client without a connection says that it closed
		return nil
	}
	return err
}
