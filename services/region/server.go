package region

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/test/bufconn"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/encoded"
	"github.com/vmhost-project/vmhost/services/region/internal/interceptor"
)

const (
	// maxMessage bounds what is received: the largest request of the contract is
	// far below.
	maxMessage = 4 << 20
	// Clients may ping as often as the project's own do; racks ping every 30 s.
	minPing = 10 * time.Second
	// A peer that is gone without a word is noticed after ping and pong.
	pingAfter, pongWithin = 30 * time.Second, 10 * time.Second
	// The windows are how much a client may send ahead of what was read: the largest
	// message of a rack, which has 1 MiB, fits. They are fixed: to find them out, gRPC
	// would ping with every message, which doubles what a small one costs both sides.
	streamWindow, connWindow = 1 << 20, 2 << 20
	// bufconnSize is the window of the in-memory listener.
	bufconnSize = 1 << 20
)

// serverOptions are what all servers have in common.
func serverOptions(chain interceptor.Interceptors, security *tls.Config) []grpc.ServerOption {
	opts := append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.InitialWindowSize(streamWindow), grpc.InitialConnWindowSize(connWindow),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pongWithin}),
	}, slices.Concat(chain.Options(), encoded.Options())...)
	if security != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(security)))
	}
	return opts
}

// server is one gRPC server on its listener.
type server struct {
	name     string
	grpc     *grpc.Server
	listener net.Listener
	drain    time.Duration
	log      *slog.Logger
	// draining tells long-lived streams to end; they never do by themselves.
	draining func()
}

// run serves until ctx ends; then calls may end until the drain time is over.
func (s *server) run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- s.grpc.Serve(s.listener) }()
	s.log.InfoContext(ctx, "listener is open", "listener", s.name, "address", s.listener.Addr().String())
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", s.name, err)
	case <-ctx.Done():
	}
	s.draining()
	ended := make(chan struct{})
	go func() { s.grpc.GracefulStop(); close(ended) }()
	timer := time.NewTimer(s.drain)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		s.grpc.Stop()
		<-ended
	}
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve %s: %w", s.name, err)
	}
	return nil
}

// apiServers are the API on its TLS listener, and the same in memory for a
// gateway in this process. Both go through the same interceptors.
func (r *Region) apiServers(chain interceptor.Interceptors, cert certificate) []*server {
	status := health.NewServer()
	draining := func() {
		status.Shutdown()
		r.api.Drain()
		r.consoles.Drain()
	}
	var servers []*server
	for name, where := range map[string]struct {
		listener net.Listener
		security *tls.Config
	}{"api": {r.apiListener, apiTLS(cert)}, "memory": {r.memory, nil}} {
		g := grpc.NewServer(serverOptions(chain, where.security)...)
		r.api.Register(g)
		grpc_health_v1.RegisterHealthServer(g, status)
		reflection.Register(g)
		servers = append(servers, &server{name: name, grpc: g, listener: where.listener, drain: r.cfg.DrainTimeout, log: r.log, draining: draining})
	}
	for _, service := range []string{
		vmhostv1.VmHostService_ServiceDesc.ServiceName, vmhostv1.MachineService_ServiceDesc.ServiceName, vmhostv1.OperationService_ServiceDesc.ServiceName,
		vmhostv1.ZoneService_ServiceDesc.ServiceName, vmhostv1.ResourcePoolService_ServiceDesc.ServiceName, vmhostv1.RackService_ServiceDesc.ServiceName,
		vmhostv1.EventService_ServiceDesc.ServiceName,
	} {
		status.SetServingStatus(service, grpc_health_v1.HealthCheckResponse_SERVING)
	}
	return servers
}

func listen(ctx context.Context, what, address string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w", what, err)
	}
	return l, nil
}

func newMemory() *bufconn.Listener { return bufconn.Listen(bufconnSize) }
