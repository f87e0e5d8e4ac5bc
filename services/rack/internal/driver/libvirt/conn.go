package libvirt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	lv "github.com/digitalocean/go-libvirt"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// libvirtd reads no sixth request of a client while five are under way
// (max_client_requests). Four are for us, so that a ping always gets through;
// of these, calls that take seconds get three, so that reading never waits for
// them.
const (
	callsAtOnce     = 4
	slowCallsAtOnce = 3
)

var errClosed = errors.New("connection closed")

// conn is one generation of a connection.
type conn struct {
	api  api
	wire *guardedConn
	// slots and slow bound what is under way.
	slots, slow chan struct{}

	dead  chan struct{}
	once  sync.Once
	cause error // why dead; read only after dead is closed
}

func newConn(a api, wire *guardedConn) *conn {
	c := &conn{
		api: a, wire: wire, dead: make(chan struct{}),
		slots: make(chan struct{}, callsAtOnce), slow: make(chan struct{}, slowCallsAtOnce),
	}
	wire.onError(c.fail)
	return c
}

// fail ends the connection for the reason given. It never waits.
func (c *conn) fail(cause error) {
	c.once.Do(func() {
		c.cause = cause
		close(c.dead)
		// Makes every call of go-libvirt that waits return ErrInterrupted.
		_ = c.wire.Close()
	})
}

func (c *conn) gone(op string) error {
	return &hypervisor.Error{Class: hypervisor.ErrUnreachable, Op: op, Err: c.cause}
}

// weight is how long a call takes when all is well.
type weight int

const (
	fast weight = iota
	slow
)

// acquire takes the slots of a call and answers how to give them back.
func (c *conn) acquire(ctx context.Context, op string, w weight) (func(), error) {
	var held []chan struct{}
	release := func() {
		for _, s := range held {
			<-s
		}
	}
	wanted := []chan struct{}{c.slots}
	if w == slow {
		wanted = []chan struct{}{c.slow, c.slots}
	}
	for _, s := range wanted {
		select {
		case s <- struct{}{}:
			held = append(held, s)
		case <-c.dead:
			release()
			return nil, c.gone(op)
		case <-ctx.Done():
			release()
			// Nothing was sent: the connection is as good as before.
			return nil, &hypervisor.Error{Class: hypervisor.ErrTimeout, Op: op, Err: ctx.Err()}
		}
	}
	return release, nil
}

// call runs one call of libvirt and ends with ctx, whatever libvirtd does.
func call[T any](ctx context.Context, c *conn, op string, w weight, fn func(api) (T, error)) (T, error) {
	var zero T
	select {
	case <-c.dead:
		return zero, c.gone(op)
	default:
	}
	if err := ctx.Err(); err != nil {
		return zero, &hypervisor.Error{Class: hypervisor.ErrTimeout, Op: op, Err: err}
	}
	release, err := c.acquire(ctx, op, w)
	if err != nil {
		return zero, err
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		defer release()
		defer func() {
			// An answer that go-libvirt cannot decode must not end the process.
			if p := recover(); p != nil {
				err := fmt.Errorf("decode libvirt's answer: %v", p)
				c.fail(err)
				done <- result{err: &hypervisor.Error{Class: hypervisor.ErrUnreachable, Op: op, Err: err}}
			}
		}()
		v, err := fn(c.api)
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		if r.err != nil && number(r.err) == lv.ErrOk {
			if errors.Is(r.err, lv.ErrInterrupted) {
				c.fail(r.err)
			}
			select {
			case <-c.dead:
				return zero, c.gone(op)
			default:
			}
		}
		return r.value, classify(op, r.err)
	case <-c.dead:
		return zero, c.gone(op)
	case <-ctx.Done():
		err := fmt.Errorf("no answer of libvirt: %w", ctx.Err())
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			c.fail(fmt.Errorf("%s: %w", op, err))
		}
		return zero, &hypervisor.Error{Class: hypervisor.ErrTimeout, Op: op, Err: err}
	}
}

// do is call for calls without an answer.
func do(ctx context.Context, c *conn, op string, w weight, fn func(api) error) error {
	_, err := call(ctx, c, op, w, func(a api) (struct{}, error) { return struct{}{}, fn(a) })
	return err
}

// ping notices a peer that is gone without a word, until the connection ends.
func (c *conn) ping(ctx context.Context, interval, timeout time.Duration) {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-c.dead:
			return
		case <-t.C:
		}
		sent := time.Now()
		pingCtx, cancel := context.WithTimeout(ctx, timeout)
		answered := make(chan error, 1)
		go func() {
			_, err := c.api.ConnectGetLibVersion()
			answered <- err
		}()
		select {
		case err := <-answered:
			if err != nil && number(err) == lv.ErrOk {
				c.fail(fmt.Errorf("ping libvirt: %w", err))
			}
		case <-c.dead:
		case <-pingCtx.Done():
			// A peer that sends something lives, even when it is slow to answer.
			if c.wire.lastRead().Before(sent) {
				c.fail(fmt.Errorf("libvirt did not answer a ping in %v", timeout))
			}
		}
		cancel()
	}
}

// fixedDialer hands a connection that is there already to go-libvirt.
type fixedDialer struct{ conn net.Conn }

// Dial is called once: connections are never made anew.
func (d fixedDialer) Dial() (net.Conn, error) { return d.conn, nil }
