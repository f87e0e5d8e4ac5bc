package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	lv "github.com/digitalocean/go-libvirt"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const (
	opConsole = "open console"
	// partTime is how long libvirtd may take to let go of a console that is closed.
	partTime = 2 * time.Second
)

// OpenConsole opens the serial console of a running machine of ours. It has a
// connection of its own: one whose reader is slow would hold up every other call.
func (d *Driver) OpenConsole(ctx context.Context, ref hypervisor.Ref, force bool) (io.ReadWriteCloser, error) {
	one, err := d.ownOne(ctx, ref, opConsole)
	if err != nil {
		return nil, err
	}
	if s := powerOf(one.state); s != vmhostv1.PowerState_POWER_STATE_ON && s != vmhostv1.PowerState_POWER_STATE_PAUSED {
		return nil, &hypervisor.Error{Class: hypervisor.ErrRefused, Op: opConsole, Err: errors.New("the machine is off"), Hint: "start it"}
	}
	s, err := d.newStream(ctx)
	if err != nil {
		return nil, err
	}
	var flags lv.DomainConsoleFlags
	if force {
		flags = lv.DomainConsoleForce
	}
	s.run(func(a api) error {
		return a.DomainOpenConsoleBidirectional(one.dom, nil, s.typed(), s.shown(), uint32(flags))
	})
	select {
	case <-s.opened:
		return s, nil
	case <-s.done:
		err = s.err
	case <-ctx.Done():
		err = &hypervisor.Error{Class: hypervisor.ErrTimeout, Op: opConsole, Err: ctx.Err()}
	}
	_ = s.Close()
	switch {
	case err == nil:
		// It was opened and ended at once: the machine has just stopped.
		return nil, &hypervisor.Error{Class: hypervisor.ErrRefused, Op: opConsole, Err: errors.New("the machine has stopped")}
	case number(err) == lv.ErrOperationFailed && !force:
		// The one thing that libvirt means by it here.
		return nil, &hypervisor.Error{Class: hypervisor.ErrBusy, Op: opConsole, Err: err, Hint: "open it with force to take it from whoever has it"}
	}
	return nil, classify(opConsole, err)
}

// ownOne reads a domain that must be there and be the machine of ref.
func (d *Driver) ownOne(ctx context.Context, ref hypervisor.Ref, op string) (*seen, error) {
	id, err := parseUUID(ref.Domain())
	if err != nil {
		return nil, err
	}
	one, err := d.own(ctx, id, ref.UID, op)
	if err == nil && one == nil {
		err = &hypervisor.Error{Class: hypervisor.ErrNotFound, Op: op, Err: fmt.Errorf("the host has no domain %s", ref.Domain())}
	}
	return one, err
}

// stream is a stream of libvirt on a connection of its own. Its one goroutine
// ends with the stream: when the machine stops, when it is closed, or with the
// driver's connection.
type stream struct {
	conn *conn
	in   *io.PipeReader // what the guest writes
	inW  *io.PipeWriter
	out  *io.PipeReader // what is typed
	outW *io.PipeWriter

	opened  chan struct{} // libvirtd has accepted
	first   sync.Once
	closing atomic.Bool
	done    chan struct{}
	err     error // why it ended; read only after done is closed
}

func (d *Driver) newStream(ctx context.Context) (*stream, error) {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.DialTimeout)
	defer cancel()
	c, err := d.opener.connect(ctx, d.target, true)
	if err != nil {
		return nil, err
	}
	s := &stream{conn: c, opened: make(chan struct{}), done: make(chan struct{})}
	s.in, s.inW = io.Pipe()
	s.out, s.outW = io.Pipe()
	go func() {
		// The driver's connection is pinged, this one cannot be while its reader is
		// slow: they share their fate.
		select {
		case <-d.conn.dead:
			c.fail(d.conn.cause)
		case <-c.dead:
		}
	}()
	return s, nil
}

// run does a call that lasts as long as the stream.
func (s *stream) run(fn func(api) error) {
	go func() {
		defer close(s.done)
		defer func() {
			if p := recover(); p != nil {
				s.err = fmt.Errorf("decode libvirt's answer: %v", p)
			}
			s.end()
		}()
		s.err = fn(s.conn.api)
	}()
}

// end tells the readers why there is no more. What libvirt answers is the end of
// the guest, or of our having its console; anything else is a lost connection.
func (s *stream) end() {
	err := io.EOF
	if s.err != nil && number(s.err) == lv.ErrOk && !s.closing.Load() {
		err = &hypervisor.Error{Class: hypervisor.ErrUnreachable, Op: "use console", Err: s.err}
	}
	_ = s.inW.CloseWithError(err)
	_ = s.out.CloseWithError(io.ErrClosedPipe)
	s.conn.fail(errClosed)
}

// readerFunc and writerFunc are what go-libvirt is given.
type (
	readerFunc func([]byte) (int, error)
	writerFunc func([]byte) (int, error)
)

// Read is io.Reader.
func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Write is io.Writer.
func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// typed is read by go-libvirt from when libvirtd has accepted the stream.
func (s *stream) typed() io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		s.first.Do(func() { close(s.opened) })
		return s.out.Read(p)
	})
}

// shown takes what libvirtd sends. Once nobody reads it is thrown away, so that the
// stream comes to its proper end: go-libvirt stops taking what arrives when it is
// told of an error, and waits for ever for a lock that whoever brings it holds.
func (s *stream) shown() io.Writer {
	return writerFunc(func(p []byte) (int, error) {
		_, _ = s.inW.Write(p)
		return len(p), nil
	})
}

// Read answers what the guest writes.
func (s *stream) Read(p []byte) (int, error) { return s.in.Read(p) }

// Write is typed to the guest.
func (s *stream) Write(p []byte) (int, error) { return s.outW.Write(p) }

// Close gives the console back and closes the connection, no later than partTime.
func (s *stream) Close() error {
	if s.closing.Swap(true) {
		return nil
	}
	_ = s.in.CloseWithError(io.ErrClosedPipe)
	_ = s.outW.Close() // libvirtd is told that the stream ends
	timer := time.NewTimer(partTime)
	defer timer.Stop()
	select {
	case <-s.done:
	case <-s.conn.dead:
	case <-timer.C:
	}
	s.conn.fail(errClosed)
	return nil
}
