// Package undo takes back the steps of work that failed in the middle.
package undo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// limit is how long taking back may take.
const limit = 30 * time.Second

// All takes back the steps of op, newest first, and answers its cause. Where it
// is not known what is left, because of the cause or because a step cannot be
// taken back, the error's class says so: the next create or delete of the machine
// finds it.
func All(ctx context.Context, op string, cause error, steps []func(context.Context) error) error {
	switch {
	case errors.Is(cause, hypervisor.ErrUnreachable), errors.Is(cause, hypervisor.ErrTimeout):
		return cause // a call that was left alone may be at work still
	case ctx.Err() != nil:
		return &hypervisor.Error{Class: hypervisor.ErrTimeout, Op: op, Err: Unclassed(cause)}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for _, step := range slices.Backward(steps) {
		if err := step(ctx); err != nil {
			class := hypervisor.ErrTimeout
			if errors.Is(err, hypervisor.ErrUnreachable) {
				class = hypervisor.ErrUnreachable
			}
			return &hypervisor.Error{Class: class, Op: op, Err: fmt.Errorf("%w; and it could not be undone: %w", Unclassed(cause), Unclassed(err))}
		}
	}
	return cause
}

// Reserve is a context for work that must leave time to be taken back before the
// deadline of ctx.
func Reserve(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, deadline.Add(-min(limit, time.Until(deadline)/5)))
}

// Limit is a context for taking back, whether ctx has ended or not.
func Limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), limit)
}

// Unclassed keeps an error's words and hides its class, where another class now
// holds.
func Unclassed(err error) error { return errors.New(err.Error()) }
