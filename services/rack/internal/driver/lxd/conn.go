package lxd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	lxdapi "github.com/canonical/lxd/shared/api"
	"github.com/gorilla/websocket"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

const (
	// idleConns are kept for the next request.
	idleConns = 8
	// idleFor is less than what proxies between us and a server allow.
	idleFor = 50 * time.Second
)

var errClosed = errors.New("connection closed")

// conn is one generation of a connection: whatever requests are under way, and
// the events websocket whose loss ends it.
type conn struct {
	api         api
	dialServer  func(ctx context.Context) (net.Conn, error)
	dialTimeout time.Duration
	pingTimeout time.Duration
	// remote: whoever answers is told who we are by a certificate, and may cease to
	// trust it.
	remote bool

	dead  chan struct{}
	once  sync.Once
	cause error // why dead; read only after dead is closed

	mu     sync.Mutex
	open   map[*trackedConn]struct{}
	events *websocket.Conn
	pings  map[string]chan struct{}
	sent   int
}

func newConn(cfg Config, remote bool, dial func(ctx context.Context) (net.Conn, error)) *conn {
	c := &conn{
		dialServer: dial, dialTimeout: cfg.DialTimeout, pingTimeout: cfg.PingTimeout, remote: remote,
		dead: make(chan struct{}), open: map[*trackedConn]struct{}{}, pings: map[string]chan struct{}{},
	}
	transport := &http.Transport{
		// No proxy: neither the environment's nor any other.
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
		MaxIdleConns:   idleConns, MaxIdleConnsPerHost: idleConns, IdleConnTimeout: idleFor,
		DisableCompression: true,
		// LXD looks at the first bytes of a connection to its unix socket before it
		// accepts the next: one that is dialed and not used, which a transport keeps
		// for later, would hold up everybody.
		DisableKeepAlives: !remote,
	}
	c.api = &client{conn: c, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if cfg.through != nil {
		c.api = cfg.through(c, c.api)
	}
	return c
}

// fail ends the connection for the reason given. It never waits.
func (c *conn) fail(cause error) {
	c.once.Do(func() {
		c.mu.Lock()
		c.cause = cause
		close(c.dead)
		open := c.open
		c.open = nil
		c.mu.Unlock()
		for t := range open {
			_ = t.Conn.Close()
		}
	})
}

func (c *conn) gone(op string) error {
	return &hypervisor.Error{Class: hypervisor.ErrUnreachable, Op: op, Err: c.cause}
}

func (c *conn) isDead() bool {
	select {
	case <-c.dead:
		return true
	default:
		return false
	}
}

// dial makes one more connection to the server. It must be the server that the
// others are to, so the events websocket must still answer: otherwise a server
// that was started again would be talked to as if nothing had happened.
func (c *conn) dial(ctx context.Context) (*trackedConn, error) {
	// A transport goes on dialing for whoever comes next.
	ctx, cancel := context.WithTimeout(ctx, c.dialTimeout)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-c.dead:
			cancel()
		case <-stop:
		}
	}()
	if err := c.beat(ctx); err != nil {
		return nil, err
	}
	raw, err := c.dialServer(ctx)
	if err != nil {
		return nil, err
	}
	t := &trackedConn{Conn: raw, owner: c}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		_ = raw.Close()
		return nil, c.cause
	}
	c.open[t] = struct{}{}
	return t, nil
}

// beat is nil when the events websocket answers, or is not there yet.
func (c *conn) beat(ctx context.Context) error {
	c.mu.Lock()
	ws := c.events
	if ws == nil {
		c.mu.Unlock()
		return nil
	}
	c.sent++
	word, pong := strconv.Itoa(c.sent), make(chan struct{})
	c.pings[word] = pong
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.pings, word)
		c.mu.Unlock()
	}()
	if err := ws.WriteControl(websocket.PingMessage, []byte(word), time.Now().Add(c.pingTimeout)); err != nil {
		c.fail(fmt.Errorf("ping LXD: %w", err))
		return c.cause
	}
	select {
	case <-pong:
		return nil
	case <-c.dead:
		return c.cause
	case <-ctx.Done():
		return fmt.Errorf("no answer of LXD: %w", ctx.Err())
	}
}

// answer notes the answer to a ping.
func (c *conn) answer(word string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if pong, ok := c.pings[word]; ok {
		close(pong)
		delete(c.pings, word)
	}
	return nil
}

// keepAlive notices a peer that is gone without a word, until the connection
// ends.
func (c *conn) keepAlive(ctx context.Context, interval time.Duration) {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-c.dead:
			return
		case <-ctx.Done():
			return
		case <-t.C:
		}
		ping, cancel := context.WithTimeout(ctx, c.pingTimeout)
		if err := c.beat(ping); err != nil && ctx.Err() == nil {
			c.fail(fmt.Errorf("LXD did not answer a ping in %v: %w", c.pingTimeout, err))
		}
		cancel()
	}
}

// query sends one request of the driver's and classes what comes of it.
func (c *conn) query(ctx context.Context, op, method, path string, body any, etag string) (*lxdapi.Response, string, error) {
	if err := c.ready(ctx, op); err != nil {
		return nil, "", err
	}
	resp, tag, err := c.api.query(ctx, method, path, body, etag)
	if err == nil {
		return resp, tag, nil
	}
	return nil, "", c.refused(ctx, op, err)
}

func (c *conn) ready(ctx context.Context, op string) error {
	if c.isDead() {
		return c.gone(op)
	}
	if err := ctx.Err(); err != nil {
		return &hypervisor.Error{Class: hypervisor.ErrTimeout, Op: op, Err: err}
	}
	return nil
}

// refused classes a request that failed.
func (c *conn) refused(ctx context.Context, op string, err error) error {
	if c.isDead() {
		return c.gone(op)
	}
	if e, ok := errors.AsType[*hypervisor.Error](err); ok {
		// The certificate of a new connection is another: nothing is to be sent there.
		c.fail(err)
		return &hypervisor.Error{Class: e.Class, Op: op, Err: e.Err, Hint: e.Hint, PresentedHostKey: e.PresentedHostKey}
	}
	status, answered := lxdapi.StatusErrorMatch(err)
	if ctx.Err() != nil && !answered {
		return &hypervisor.Error{Class: hypervisor.ErrTimeout, Op: op, Err: fmt.Errorf("no answer of LXD: %w", ctx.Err())}
	}
	out := classify(op, err)
	if !answered && errors.Is(out, hypervisor.ErrUnreachable) {
		c.fail(err)
	}
	if status == http.StatusForbidden && c.remote && !c.trusted(ctx) {
		out = &hypervisor.Error{
			Class: hypervisor.ErrAuth, Op: op, Err: fmt.Errorf("the server does not trust our certificate any more: %w", err),
			Hint: "have it trust the host's certificate again: `vmhostctl vm-host parameters` with --certificate shows it, `lxc config trust add` takes it",
		}
		c.fail(out)
	}
	return out
}

// trusted asks whether the server still trusts us; true where it does not say.
func (c *conn) trusted(ctx context.Context) bool {
	resp, _, err := c.api.query(ctx, http.MethodGet, "/1.0", nil, "")
	if err != nil {
		return true
	}
	var server lxdapi.ServerUntrusted
	return resp.MetadataAsStruct(&server) != nil || server.Auth != "untrusted"
}

// trackedConn is closed when its owner ends.
type trackedConn struct {
	net.Conn
	owner *conn
}

func (t *trackedConn) dialed(context.Context, string, string) (net.Conn, error) { return t, nil }

// Close forgets the connection.
func (t *trackedConn) Close() error {
	t.owner.mu.Lock()
	delete(t.owner.open, t)
	t.owner.mu.Unlock()
	return t.Conn.Close()
}
