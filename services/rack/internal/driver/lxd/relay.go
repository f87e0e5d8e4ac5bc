package lxd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	lxdapi "github.com/canonical/lxd/shared/api"
	"github.com/gorilla/websocket"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/services/rack/internal/driver/undo"
)

// control is the websocket of a migration by which the two servers agree; without
// it there is none.
const control = "control"

// relayed is one end of a copy: a request by which LXD waits for whoever is to
// send or to receive.
type relayed struct {
	driver *Driver
	path   string
	body   any
}

// relay has one server send what another receives, through this process: servers
// need not reach one another, nor trust each other. It is done when both say so;
// one that fails tells the other.
//
// What one side has begun and the other has not is left alone: LXD ends it after
// ten seconds. It is never cancelled, because LXD 5.0 panics when an operation is
// cancelled that has hardly begun.
func relay(ctx context.Context, op string, source, target relayed) error {
	sending, err := source.begin(ctx, op)
	if err != nil {
		return err
	}
	receiving, err := target.begin(ctx, op)
	if err != nil {
		return atDestination(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var pipes pipes
	defer pipes.wait()
	defer cancel() // ends the pipes
	if err := pipes.connect(ctx, op, side{source.driver, sending}, side{target.driver, receiving}); err != nil {
		return err
	}
	var wg sync.WaitGroup
	var sent, received error
	wg.Go(func() { sent = source.driver.await(ctx, op, sending) })
	wg.Go(func() { received = target.driver.await(ctx, op, receiving) })
	wg.Wait()
	return both(op, sent, received)
}

// both is how a copy failed: nil when it did on neither side.
func both(op string, sent, received error) error {
	switch {
	case sent == nil && received == nil:
		return nil
	case sent == nil:
		return received
	case received == nil:
		return sent
	}
	class := error(nil)
	for _, err := range []error{sent, received} {
		if e, ok := errors.AsType[*hypervisor.Error](err); ok && (class == nil || unknown(err)) {
			class = e.Class
		}
	}
	return &hypervisor.Error{Class: class, AtDestination: errors.Is(class, hypervisor.ErrCapacity), Op: op, Err: fmt.Errorf("the destination: %w; the source: %w", undo.Unclassed(received), undo.Unclassed(sent))}
}

func (r *relayed) begin(ctx context.Context, op string) (*lxdapi.Operation, error) {
	resp, _, err := r.driver.conn.query(ctx, op, http.MethodPost, r.path, r.body, "")
	if err != nil {
		return nil, err
	}
	started, err := resp.MetadataAsOperation()
	if err != nil {
		return nil, classify(op, lxdapi.NewStatusError(http.StatusInternalServerError, "LXD's operation cannot be read: "+err.Error()))
	}
	return started, nil
}

// side is one server's side of a copy that was begun.
type side struct {
	driver    *Driver
	operation *lxdapi.Operation
}

func (e side) secret(name string) string {
	s, _ := e.operation.Metadata[name].(string)
	return s
}

func (e side) websocket(ctx context.Context, op, name string) (*websocket.Conn, error) {
	ws, err := e.driver.conn.api.websocket(ctx, e.driver.operationPath(e.operation.ID)+"/websocket?secret="+e.secret(name))
	if err != nil {
		return nil, e.driver.conn.refused(ctx, op, err)
	}
	return ws, nil
}

// pipes are the websockets of a copy, pair by pair.
type pipes struct{ wg sync.WaitGroup }

func (p *pipes) wait() { p.wg.Wait() }

// connect joins what the source has with what the destination waits for.
func (p *pipes) connect(ctx context.Context, op string, source, target side) error {
	if target.secret(control) == "" {
		return &hypervisor.Error{Class: hypervisor.ErrUnsupported, Op: op, Err: errors.New("the destination takes no copies in this way")}
	}
	for name := range target.operation.Metadata {
		if target.secret(name) == "" {
			continue
		}
		if source.secret(name) == "" {
			return &hypervisor.Error{Class: hypervisor.ErrUnsupported, Op: op, Err: fmt.Errorf("the destination waits for %q, which the source does not send", name)}
		}
		from, err := source.websocket(ctx, op, name)
		if err != nil {
			return err
		}
		to, err := target.websocket(ctx, op, name)
		if err != nil {
			_ = from.NetConn().Close()
			return err
		}
		p.join(ctx, from, to)
	}
	return nil
}

// join passes on what either side sends until one has ended, or ctx.
func (p *pipes) join(ctx context.Context, a, b *websocket.Conn) {
	end := func() { _, _ = a.NetConn().Close(), b.NetConn().Close() }
	stop := context.AfterFunc(ctx, end)
	for _, pair := range [][2]*websocket.Conn{{a, b}, {b, a}} {
		p.wg.Go(func() {
			pass(pair[0], pair[1])
			end() // for the other direction
			stop()
		})
	}
}

// closing is how long it may take to say that a side has ended.
const closing = 5 * time.Second

// pass copies messages as they are: LXD says by their kind where something ends.
func pass(from, to *websocket.Conn) {
	buffer := make([]byte, 64<<10)
	for {
		kind, r, err := from.NextReader()
		if err != nil {
			if c, ok := errors.AsType[*websocket.CloseError](err); ok && c.Code != websocket.CloseAbnormalClosure {
				_ = to.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(c.Code, c.Text), time.Now().Add(closing))
			}
			return
		}
		w, err := to.NextWriter(kind)
		if err != nil {
			return
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, buffer); err != nil {
			return // not closed: what was cut off must not look whole
		}
		if err := w.Close(); err != nil {
			return
		}
	}
}
