// Package lifecycle runs the parts of a service together and ends them together.
//
// A Group holds named goroutines and named closers. Run starts the goroutines in
// the order they were added, waits until its context ends or one of them fails,
// tells all to stop, and then calls the closers in reverse order. A panic is an
// error of the goroutine it happened in. The Group owns every goroutine it
// starts: Run returns when they have ended, or when the grace has passed, and
// then says which ones did not end. It restarts nothing.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// DefaultGrace is how long Run waits for goroutines, and again for closers, to
// end after they were told to.
const DefaultGrace = 15 * time.Second

// Group is a set of goroutines and closers that live and end together. Fill it
// from one goroutine, then call Run once.
type Group struct {
	log   *slog.Logger
	grace time.Duration
	tasks []task
	close []task
}

type task struct {
	name string
	run  func(context.Context) error
}

// New makes an empty group.
func New(log *slog.Logger) *Group { return &Group{log: log, grace: DefaultGrace} }

// Grace sets how long to wait instead of DefaultGrace.
func (g *Group) Grace(d time.Duration) { g.grace = d }

// Go adds a goroutine, started by Run. It must end when its context does. An
// error ends the group; nil only ends this goroutine.
func (g *Group) Go(name string, run func(ctx context.Context) error) {
	g.tasks = append(g.tasks, task{name, run})
}

// OnClose adds a closer. Closers are called in reverse order, after all
// goroutines have ended or the grace has passed, each once and whatever the
// others return.
func (g *Group) OnClose(name string, closer func(ctx context.Context) error) {
	g.close = append(g.close, task{name, closer})
}

// Run runs the group until ctx ends, one goroutine fails, or all have ended. It
// returns the first failure with its cause, joined with what closers returned;
// the end of ctx is no failure. What a goroutine returns after it was told to
// stop is logged only: it speaks of the stopping.
func (g *Group) Run(ctx context.Context) error {
	runCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	running := newNames()
	var wg sync.WaitGroup
	for _, t := range g.tasks {
		running.add(t.name)
		wg.Go(func() {
			defer running.remove(t.name)
			err := guard(runCtx, t)
			switch {
			case err == nil:
			case runCtx.Err() == nil:
				cancel(err) // the first caller's cause stays
			case !errors.Is(err, context.Canceled):
				g.log.WarnContext(runCtx, "ended with an error while stopping", "task", t.name, "error", err)
			}
		})
	}
	all := make(chan struct{})
	go func() { wg.Wait(); close(all) }()

	select {
	case <-all:
	case <-runCtx.Done():
	}
	var failures []error
	if runCtx.Err() != nil && ctx.Err() == nil {
		failures = append(failures, context.Cause(runCtx))
	}
	cancel(nil)
	select {
	case <-all:
	case <-time.After(g.grace):
		failures = append(failures, fmt.Errorf("stop: still running after %s: %s", g.grace, running))
	}
	return errors.Join(append(failures, g.closeAll(ctx)...)...)
}

// closeAll calls the closers. They get a context that outlives Run's own.
func (g *Group) closeAll(ctx context.Context) []error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.grace)
	defer cancel()
	var failures []error
	for i := len(g.close) - 1; i >= 0; i-- {
		if err := guard(ctx, g.close[i]); err != nil {
			failures = append(failures, fmt.Errorf("close: %w", err))
		}
	}
	return failures
}
