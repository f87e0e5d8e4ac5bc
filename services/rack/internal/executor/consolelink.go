package executor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

const (
	// consoleChunk is how much travels in one message.
	consoleChunk = 32 << 10
	// farewell is how long the region may take to hear why a console ended.
	farewell = 2 * time.Second
)

// consoleLink is the stream of one console to a region. What is not taken at
// either end holds the other back: nothing is buffered but by the transport.
type consoleLink struct {
	stream rackv1.RackService_ConsoleClient
	typed  chan []byte
	over   chan struct{} // nobody takes what is typed any more
	done   chan struct{} // nothing is received any more
	cancel context.CancelFunc
	close  func()
}

// dialConsole begins the stream and says which console it is for.
func (e *Executor) dialConsole(ctx context.Context, open *rackv1.OpenConsole) (*consoleLink, error) {
	// The stream outlives the console by the message that says why it ended.
	outer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	slow := time.AfterFunc(consoleLimit, cancel)
	defer slow.Stop()
	stream, end, err := e.cfg.Console(outer, open.GetEndpoint())
	if err != nil {
		cancel()
		return nil, err
	}
	link := &consoleLink{
		stream: stream, typed: make(chan []byte), over: make(chan struct{}), done: make(chan struct{}), cancel: cancel,
		close: func() { cancel(); end() },
	}
	if err := stream.Send(&rackv1.ConsoleRequest{Message: &rackv1.ConsoleRequest_Id{Id: open.GetId()}}); err != nil {
		_, err = stream.Recv() // what Send failed for
		link.close()
		return nil, err
	}
	return link, nil
}

// receive takes what is typed until the stream ends, which ends the console.
func (l *consoleLink) receive(hangUp context.CancelCauseFunc) {
	defer close(l.done)
	for {
		m, err := l.stream.Recv()
		if err != nil {
			hangUp(errHungUp)
			return
		}
		if len(m.GetData()) == 0 {
			continue
		}
		select {
		case l.typed <- m.GetData():
		case <-l.over:
		}
	}
}

func (l *consoleLink) send(data []byte) error {
	return l.stream.Send(&rackv1.ConsoleRequest{Message: &rackv1.ConsoleRequest_Data{Data: data}})
}

// finish says why the console ended, nil for by itself, and lets the region hear
// it.
func (l *consoleLink) finish(err error) {
	late := time.AfterFunc(farewell, l.cancel)
	defer late.Stop()
	close(l.over)
	if err != nil {
		_ = l.stream.Send(&rackv1.ConsoleRequest{Message: &rackv1.ConsoleRequest_Error{Error: hypervisor.StepError(err)}})
	}
	_ = l.stream.CloseSend() // who does not hear it sees the stream end
	<-l.done
}

// bound ends the stream soon after ctx, so that nothing waits for a region that
// takes nothing.
func (l *consoleLink) bound(ctx context.Context) (free func()) {
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(farewell, l.cancel) })
	return func() { stop() }
}

// log carries a machine's log.
func (l *consoleLink) log(ctx context.Context, consoler hypervisor.Consoler, ref hypervisor.Ref, tail int64) error {
	log, err := consoler.ConsoleLog(ctx, ref, tail)
	if err != nil {
		return err
	}
	end := sync.OnceFunc(func() { _ = log.Close() })
	defer end()
	defer context.AfterFunc(ctx, end)()
	defer l.bound(ctx)()
	if err := l.send(nil); err != nil { // it is open
		return err
	}
	return l.output(ctx, io.LimitReader(log, tail))
}

// console carries a console both ways until either end is closed.
func (l *consoleLink) console(ctx context.Context, cancel context.CancelCauseFunc, consoler hypervisor.Consoler, ref hypervisor.Ref, force bool) error {
	slow := time.AfterFunc(consoleLimit, func() {
		cancel(&hypervisor.Error{Class: hypervisor.ErrTimeout, Op: "open console", Err: errors.New("the hypervisor did not open it in time")})
	})
	console, err := consoler.OpenConsole(ctx, ref, force)
	slow.Stop()
	if err != nil {
		return err
	}
	var typing sync.WaitGroup
	defer typing.Wait()
	end := sync.OnceFunc(func() { _ = console.Close() })
	defer end()
	defer context.AfterFunc(ctx, end)()
	defer l.bound(ctx)()
	if err := l.send(nil); err != nil { // it is open
		return err
	}
	closed := make(chan struct{})
	defer close(closed)
	typing.Go(func() { l.input(cancel, console, closed) }) // ends with closed, or when the console is closed
	return l.output(ctx, console)
}

// input types until closed is.
func (l *consoleLink) input(cancel context.CancelCauseFunc, to io.Writer, closed <-chan struct{}) {
	for {
		select {
		case data := <-l.typed:
			if _, err := to.Write(data); err != nil && !errors.Is(err, io.ErrClosedPipe) {
				cancel(err)
			}
		case <-closed:
			return
		}
	}
}

// output sends what is read until its end.
func (l *consoleLink) output(ctx context.Context, from io.Reader) error {
	buf := make([]byte, consoleChunk)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if err := l.send(bytes.Clone(buf[:n])); err != nil {
				return err
			}
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}
