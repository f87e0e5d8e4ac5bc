package undo_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/services/rack/internal/driver/undo"
)

func TestStepsAreTakenBackNewestFirstUnlessItIsNotKnownWhatIsLeft(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	classed := func(class error) error {
		return &hypervisor.Error{Class: class, Op: "make", Err: errors.New("the cause")}
	}
	for _, test := range []struct {
		name   string
		ctx    context.Context
		cause  error
		broken error // of the second step
		class  error
		done   string
	}{
		{"all", t.Context(), classed(hypervisor.ErrCapacity), nil, hypervisor.ErrCapacity, "321"},
		{"the cause is a timeout", t.Context(), classed(hypervisor.ErrTimeout), nil, hypervisor.ErrTimeout, ""},
		{"the connection was lost", t.Context(), classed(hypervisor.ErrUnreachable), nil, hypervisor.ErrUnreachable, ""},
		{"the time is over", over, classed(hypervisor.ErrCapacity), nil, hypervisor.ErrTimeout, ""},
		{"a step cannot be", t.Context(), classed(hypervisor.ErrCapacity), errors.New("stuck"), hypervisor.ErrTimeout, "3"},
		{"a step is refused", t.Context(), classed(hypervisor.ErrCapacity), classed(hypervisor.ErrForeign), hypervisor.ErrTimeout, "3"},
		{"the connection is lost in a step", t.Context(), classed(hypervisor.ErrCapacity), classed(hypervisor.ErrUnreachable), hypervisor.ErrUnreachable, "3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			done := ""
			step := func(name string, err error) func(context.Context) error {
				return func(context.Context) error {
					if err == nil {
						done += name
					}
					return err
				}
			}
			err := undo.All(test.ctx, "make", test.cause, []func(context.Context) error{step("1", nil), step("2", test.broken), step("3", nil)})
			if !errors.Is(err, test.class) || hypervisor.Class(err) != hypervisor.Class(test.class) || !strings.Contains(err.Error(), "the cause") {
				t.Errorf("error %v of class %v, want %v with the cause's words", err, hypervisor.Class(err), test.class)
			}
			if done != test.done {
				t.Errorf("taken back %q, want %q", done, test.done)
			}
		})
	}
}

func TestTimeIsLeftForTakingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct{ all, work time.Duration }{{10 * time.Second, 8 * time.Second}, {time.Hour, time.Hour - 30*time.Second}} {
			ctx, cancel := context.WithTimeout(t.Context(), test.all)
			work, end := undo.Reserve(ctx)
			began := time.Now()
			<-work.Done()
			if took := time.Since(began); took != test.work || ctx.Err() != nil {
				t.Errorf("of %v the work got %v, the rest ended with %v", test.all, took, ctx.Err())
			}
			<-ctx.Done()
			back, done := undo.Limit(ctx)
			if back.Err() != nil {
				t.Error("nothing can be taken back after the end")
			}
			done()
			end()
			cancel()
		}
		if work, end := undo.Reserve(t.Context()); work.Err() != nil {
			t.Error("work without a deadline has ended")
		} else {
			end()
		}
	})
}
