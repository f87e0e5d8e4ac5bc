package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

const (
	// consoleLimit bounds the opening of a console.
	consoleLimit = 15 * time.Second
)

// Why consoles end that did not end by themselves.
var (
	errTaken  = errors.New("somebody else took the console")
	errFenced = errors.New("the host is not this rack's any more")
	errHungUp = errors.New("the region ended the console")
)

// talk is one open console of a machine.
type talk struct {
	end   context.CancelCauseFunc
	ended chan struct{} // closed when the driver's end is closed
}

// OpenConsole opens a console in a goroutine of its own, and tells the region
// that waits for it whatever comes of it.
func (e *Executor) OpenConsole(ctx context.Context, open *rackv1.OpenConsole) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing || e.asked[open.GetId()] {
		return
	}
	log := e.cfg.Log.With("rack", e.cfg.Rack(), "session", e.session, "vm_host", open.GetVmHost(), "machine", "machines/"+open.GetUid())
	if len(e.asked) >= 2*maxConsoles { // so many cannot even be answered
		log.WarnContext(ctx, "left a console, too many are asked for")
		return
	}
	var refusal error
	h := e.hosts[open.GetVmHostUid()]
	switch {
	case h == nil:
		refusal = &hypervisor.Error{Class: hypervisor.ErrUnreachable, Op: "open console", Err: fmt.Errorf("%s is not assigned to this rack", open.GetVmHost())}
	case len(e.asked) >= maxConsoles:
		refusal = &hypervisor.Error{
			Class: hypervisor.ErrCapacity, Op: "open console", Err: fmt.Errorf("%d consoles are open on this rack", maxConsoles), Hint: "close some of them",
		}
	}
	e.asked[open.GetId()] = true
	e.talks.Go(func() {
		defer func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			delete(e.asked, open.GetId())
		}()
		e.console(e.talking, h, open, refusal, log)
	})
}

// console is one console from the dial to its end.
func (e *Executor) console(ctx context.Context, h *host, open *rackv1.OpenConsole, refusal error, log *slog.Logger) {
	link, err := e.dialConsole(ctx, open)
	if err != nil {
		log.WarnContext(ctx, "could not reach the region for a console", "endpoint", open.GetEndpoint(), "error", err)
		return
	}
	defer link.close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	e.talks.Go(func() { link.receive(cancel) }) // ends with the stream
	began := time.Now()
	if err = refusal; err == nil {
		e.cfg.Metrics.Console(1)
		err = h.talk(ctx, cancel, link, open)
		e.cfg.Metrics.Console(-1)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, errHungUp) {
		err = ended(cause)
	}
	log.InfoContext(ctx, "a console ended", "log", open.GetLogBytes() > 0, "duration", time.Since(began), "error", err)
	link.finish(err)
}

// ended is what the region is told of a console that this rack ended.
func ended(cause error) error {
	if _, classed := errors.AsType[*hypervisor.Error](cause); classed {
		return cause
	}
	class := hypervisor.ErrUnreachable
	if errors.Is(cause, errTaken) {
		class = hypervisor.ErrBusy
	}
	return &hypervisor.Error{Class: class, Op: "keep console", Err: cause}
}

// talk opens what is asked for and carries it until it ends.
func (h *host) talk(ctx context.Context, cancel context.CancelCauseFunc, link *consoleLink, open *rackv1.OpenConsole) error {
	h.mu.Lock()
	fenced, epoch := h.fenced, h.want.GetEpoch()
	h.mu.Unlock()
	if open.GetEpoch() != epoch || h.e.cfg.Journal.Epoch(h.uid) > epoch {
		return &hypervisor.Error{Class: hypervisor.ErrUnreachable, Op: "open console", Err: fmt.Errorf("the console is for epoch %d of %s, which is at %d", open.GetEpoch(), open.GetVmHost(), epoch)}
	}
	watched := make(chan struct{})
	defer close(watched)
	h.e.talks.Go(func() { // ends with the console
		select {
		case <-fenced:
			cancel(errFenced)
		case <-watched:
		}
	})
	conn, err := h.driver(ctx, false)
	if err != nil {
		return err
	}
	consoler, ok := conn.driver.(hypervisor.Consoler)
	if !ok {
		return &hypervisor.Error{Class: hypervisor.ErrUnsupported, Op: "open console", Err: errors.New("this driver reaches no consoles")}
	}
	ref := hypervisor.Ref{UID: open.GetUid(), UUID: open.GetHypervisorUuid(), Name: open.GetHypervisorName()}
	if n := open.GetLogBytes(); n > 0 {
		return link.log(ctx, consoler, ref, n)
	}
	leave, err := h.takeConsole(ctx, cancel, ref.Domain(), open.GetForce())
	if err != nil {
		return err
	}
	defer leave()
	return link.console(ctx, cancel, consoler, ref, open.GetForce())
}

// takeConsole makes the console of a machine the caller's: at once, or with force
// when who has it was ended.
func (h *host) takeConsole(ctx context.Context, cancel context.CancelCauseFunc, machine string, force bool) (leave func(), err error) {
	mine := &talk{end: cancel, ended: make(chan struct{})}
	for {
		h.mu.Lock()
		other := h.consoles[machine]
		if other == nil {
			h.consoles[machine] = mine
		}
		h.mu.Unlock()
		if other == nil {
			return func() {
				h.mu.Lock()
				defer h.mu.Unlock()
				delete(h.consoles, machine)
				close(mine.ended)
			}, nil
		}
		if !force {
			return nil, &hypervisor.Error{Class: hypervisor.ErrBusy, Op: "open console", Err: errors.New("somebody else has the machine's console")}
		}
		other.end(errTaken)
		select {
		case <-other.ended:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
