package lifecycle_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/vmhost-project/vmhost/pkg/lifecycle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errBoom = errors.New("boom")

func newGroup() *lifecycle.Group {
	return lifecycle.New(slog.New(slog.DiscardHandler))
}

func untilDone(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestTheEndOfTheContextIsNoFailure(t *testing.T) {
	g := newGroup()
	ctx, cancel := context.WithCancel(t.Context())
	g.Go("waits", untilDone)
	g.Go("stops", func(context.Context) error { cancel(); return nil })
	if err := g.Run(ctx); err != nil {
		t.Fatalf("Run = %v, want nil", err)
	}
}

func TestTheFirstFailureEndsTheGroupAndIsTheCause(t *testing.T) {
	g := newGroup()
	var cause error
	g.Go("waits", func(ctx context.Context) error {
		<-ctx.Done()
		cause = context.Cause(ctx)
		return errors.New("a complaint about stopping")
	})
	g.Go("fails", func(context.Context) error { return errBoom })
	err := g.Run(t.Context())
	if !errors.Is(err, errBoom) || !errors.Is(cause, errBoom) {
		t.Fatalf("Run = %v, cause = %v, want both %v", err, cause, errBoom)
	}
	if got := err.Error(); got != "fails: boom" {
		t.Errorf("Run = %q, want the goroutine's name and nothing about stopping", got)
	}
}

func TestAPanicIsAnErrorWithItsStack(t *testing.T) {
	g := newGroup()
	g.Go("panics", func(context.Context) error { panic(errBoom) })
	err := g.Run(t.Context())
	p, ok := errors.AsType[*lifecycle.PanicError](err)
	if !ok || !errors.Is(err, errBoom) {
		t.Fatalf("Run = %v, want a PanicError of %v", err, errBoom)
	}
	if !strings.Contains(string(p.Stack), "TestAPanicIsAnErrorWithItsStack") {
		t.Errorf("stack does not show the function that panicked:\n%s", p.Stack)
	}
}

func TestGoroutinesThatAllEndEndTheGroup(t *testing.T) {
	g := newGroup()
	g.Go("a", func(context.Context) error { return nil })
	g.Go("b", func(context.Context) error { return nil })
	if err := g.Run(t.Context()); err != nil {
		t.Fatalf("Run = %v, want nil", err)
	}
}

func TestClosersRunInReverseAfterTheGoroutinesWhateverFails(t *testing.T) {
	g := newGroup()
	var order []string
	note := func(what string, err error) func(context.Context) error {
		return func(ctx context.Context) error {
			if ctx.Err() != nil {
				t.Errorf("%s got a context that has ended", what)
			}
			order = append(order, what)
			return err
		}
	}
	g.OnClose("store", note("store", nil))
	g.OnClose("server", note("server", errBoom))
	g.OnClose("panics", func(context.Context) error { panic("at the door") })
	g.Go("run", func(context.Context) error { order = append(order, "run"); return io.EOF })
	err := g.Run(t.Context())
	if want := []string{"run", "server", "store"}; !slices.Equal(order, want) {
		t.Errorf("order = %v, want %v", order, want)
	}
	for _, want := range []error{io.EOF, errBoom} {
		if !errors.Is(err, want) {
			t.Errorf("Run = %v, want it to contain %v", err, want)
		}
	}
	if !strings.Contains(err.Error(), "close: panics: panic: at the door") {
		t.Errorf("Run = %v, want the closer's panic", err)
	}
}

func TestAGoroutineThatDoesNotStopIsNamedAfterTheGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup()
		g.Grace(time.Minute)
		release := make(chan struct{})
		g.Go("good", untilDone)
		g.Go("stuck", func(context.Context) error { <-release; return nil })
		closed := false
		g.OnClose("store", func(context.Context) error { closed = true; close(release); return nil })

		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		start := time.Now()
		err := g.Run(ctx)
		if err == nil || err.Error() != "stop: still running after 1m0s: stuck" {
			t.Errorf("Run = %v, want the name of the one that is stuck", err)
		}
		if got := time.Since(start); got != time.Hour+time.Minute {
			t.Errorf("Run took %s, want an hour and the grace", got)
		}
		if !closed {
			t.Error("closers did not run")
		}
	})
}
