// Package session is the rack's end of vmhost.rack.v1.RackService/Connect: it
// keeps a session with some region, for as long as Run runs, and hides from its
// Handler how often that had to be made anew.
//
// Invariants: one session at a time; one goroutine sends on a stream; the queue
// before it is bounded, and a region that does not take what is sent is
// disconnected; what the region says is acted on by its typed reasons only; a
// Handler is Connected before it is told anything else of a session.
//
// Goroutines, all ended before a session ends: one that sends, with the
// heartbeats, and one that runs Handler.Resume. Receiving is in Run's own.
package session

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	waits "github.com/vmhost-project/vmhost/pkg/backoff"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack/internal/metric"
)

// Errors that end Run for good.
var (
	// ErrRevoked says that the region removed this rack.
	ErrRevoked = errors.New("this rack was removed from the region")
	// ErrMustEnroll says that the region wants this rack to enrol again.
	ErrMustEnroll = errors.New("the region wants this rack to enroll again")
	// ErrNoSession says that no session is up.
	ErrNoSession = errors.New("no session with a region is up")
)

const (
	// stable is how long a session must have been up for the next one to be made
	// without the waits of those before it.
	stable = 2 * time.Minute
	// Pings that find a dead peer behind a silent network.
	pingAfter, pingLimit = 30 * time.Second, 10 * time.Second
	// dialLimit bounds the making of one connection.
	dialLimit = 10 * time.Second
	// maxMessage is what one message may weigh, both ways.
	maxMessage = 16 << 20
	// window is how much the region may send ahead of what was read. It is fixed: to
	// find it out, gRPC would ping with every message.
	window = 1 << 20
)

// Sender sends to the region of one session.
type Sender interface {
	// Send queues a message. It waits while the queue is full and fails when the
	// session ends.
	Send(ctx context.Context, message *rackv1.ConnectRequest) error
}

// Handler is who the session is for. Its methods but Resume are called one
// after another from one goroutine, and must not wait for anything.
type Handler interface {
	// Connected begins a session.
	Connected(to Sender, region *rackv1.RegionHello)
	// Resume tells the region what it may not know. It may send as much as it
	// likes; ctx ends with the session. The other methods are called meanwhile.
	Resume(ctx context.Context)
	// Disconnected ends a session, after Resume has returned.
	Disconnected()
	// Assign says to drive a host.
	Assign(ctx context.Context, assignment *rackv1.Assignment)
	// Unassign says to stop driving a host.
	Unassign(ctx context.Context, uid string)
	// Do says to do a step.
	Do(ctx context.Context, step *rackv1.Step)
	// Acknowledged says that the result of a step is recorded.
	Acknowledged(id string)
	// ReportAgain says to report a host whole.
	ReportAgain(ctx context.Context, uid string, epoch int64)
	// OpenConsole says to dial RackService.Console for a machine.
	OpenConsole(ctx context.Context, open *rackv1.OpenConsole)
}

// Config is what a Client needs.
type Config struct {
	// Endpoints are the regions' addresses, host:port, at the time of a try.
	Endpoints func() []string
	// Credentials are those of a connection to a host.
	Credentials func(host string) *tls.Config
	// Expired says that no region will take the certificate any more.
	Expired func() bool
	// Rack is the rack's resource name, for logs.
	Rack func() string
	// Hello is what the rack says of itself.
	Hello func() *rackv1.RackHello
	// Handler is who the session is for.
	Handler Handler
	// Options are added to every dial.
	Options []grpc.DialOption
	// Metrics counts sessions.
	Metrics *metric.Metrics
	// Log gets what happens to sessions.
	Log *slog.Logger
}

// Client keeps a session.
type Client struct {
	cfg Config

	mu   sync.Mutex
	conn grpc.ClientConnInterface // nil while no session is up
	at   string                   // where conn leads
	last error
}

// New makes a client; Run does its work.
func New(cfg Config) *Client { return &Client{cfg: cfg, last: errors.New("not tried yet")} }

// Ready is nil while a session is up, and else says why none is.
func (c *Client) Ready(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return fmt.Errorf("%w: %w", ErrNoSession, c.last)
	}
	return nil
}

// RenewCertificate calls the region of the present session.
func (c *Client) RenewCertificate(ctx context.Context, request *rackv1.RenewCertificateRequest) (*rackv1.RenewCertificateResponse, error) {
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn == nil {
		return nil, ErrNoSession
	}
	return rackv1.NewRackServiceClient(conn).RenewCertificate(ctx, request)
}

// Console begins the stream of one console: to the region of the present session
// when the endpoint is empty or its own, else to the one that answers there. The
// stream ends with ctx; end closes what was dialled for it.
func (c *Client) Console(ctx context.Context, endpoint string) (stream rackv1.RackService_ConsoleClient, end func(), err error) {
	c.mu.Lock()
	conn, at := c.conn, c.at
	c.mu.Unlock()
	end = func() {}
	switch {
	case conn != nil && (endpoint == "" || endpoint == at):
	case endpoint == "":
		return nil, nil, ErrNoSession
	default:
		dialled, err := c.dial(endpoint)
		if err != nil {
			return nil, nil, err
		}
		conn, end = dialled, func() { _ = dialled.Close() }
	}
	stream, err = rackv1.NewRackServiceClient(conn).Console(ctx)
	if err != nil {
		end()
		return nil, nil, fmt.Errorf("begin a console: %w", err)
	}
	return stream, end, nil
}

func (c *Client) setConn(conn grpc.ClientConnInterface, at string, last error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn, c.at, c.last = conn, at, last
	c.cfg.Metrics.SessionUp(conn != nil)
}

// Run keeps a session until ctx ends, which is no error, or the region says
// that it must not go on: ErrRevoked or ErrMustEnroll.
func (c *Client) Run(ctx context.Context) error {
	var (
		wait pace
		next int
	)
	for {
		if c.cfg.Expired() {
			return fmt.Errorf("the certificate has expired: %w", ErrMustEnroll)
		}
		endpoints := c.cfg.Endpoints()
		if len(endpoints) == 0 {
			return errors.New("connect to region: no endpoint is known")
		}
		endpoint := endpoints[next%len(endpoints)]
		next++
		began := time.Now()
		up, err := c.once(ctx, endpoint)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end of ctx is the end of the work
		}
		reason := apierror.Reason(err)
		c.cfg.Metrics.SessionEnded(reason.String())
		switch reason {
		case vmhostv1.ErrorReason_RACK_REVOKED:
			return fmt.Errorf("%w: %w", ErrRevoked, err)
		case vmhostv1.ErrorReason_RACK_MUST_ENROLL:
			return fmt.Errorf("%w: %w", ErrMustEnroll, err)
		default:
		}
		pause := wait.next(up, time.Since(began), reason == vmhostv1.ErrorReason_REGION_DRAINING, len(endpoints))
		c.cfg.Log.WarnContext(ctx, "no session with the region, will connect again",
			"rack", c.cfg.Rack(), "region", endpoint, "was_up", up, "after", pause, "error", err)
		if err := waits.Wait(ctx, pause); err != nil {
			return nil //nolint:nilerr // the end of ctx is the end of the work
		}
	}
}

// pace is the wait before the next try.
type pace struct {
	waits.Backoff
	hurried int
}

// next is how long to wait. After a region that is draining it is nothing, but
// only until every endpoint was tried: all may be draining.
func (b *pace) next(up bool, lasted time.Duration, draining bool, endpoints int) time.Duration {
	if up && lasted >= stable {
		b.Reset()
		b.hurried = 0
	}
	if draining && b.hurried < endpoints {
		b.hurried++
		return 0
	}
	b.hurried = 0
	return b.Next()
}

// dial makes a connection to the region that answers at an endpoint.
func (c *Client) dial(endpoint string) (*grpc.ClientConn, error) {
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		return nil, fmt.Errorf("read endpoint %q: %w", endpoint, err)
	}
	conn, err := grpc.NewClient("passthrough:///"+endpoint, append([]grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(c.cfg.Credentials(host))),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingLimit}),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: dialLimit, Backoff: backoff.DefaultConfig}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
		grpc.WithDisableServiceConfig(), grpc.WithIdleTimeout(0),
	}, c.cfg.Options...)...)
	if err != nil {
		return nil, fmt.Errorf("dial region: %w", err)
	}
	return conn, nil
}

// once is one session from dial to end. Its error is never nil.
func (c *Client) once(ctx context.Context, endpoint string) (up bool, err error) {
	conn, err := c.dial(endpoint)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := rackv1.NewRackServiceClient(conn).Connect(ctx)
	if err != nil {
		return false, fmt.Errorf("connect to region: %w", err)
	}
	s := &link{stream: stream, cancel: cancel, queue: make(chan *rackv1.ConnectRequest, queueLength), ended: ctx.Done()}
	hello, err := s.greet(c.cfg.Hello())
	if err != nil {
		c.setConn(nil, "", err)
		return false, cause(ctx, err)
	}
	c.setConn(conn, endpoint, nil)
	log := c.cfg.Log.With("rack", c.cfg.Rack(), "session", hello.GetSession(), "region", hello.GetRegion())
	log.InfoContext(ctx, "session is up", "region_version", hello.GetVersion(), "endpoint", endpoint)
	err = s.run(ctx, hello, c.cfg.Handler, log)
	c.setConn(nil, "", err)
	return true, err
}
