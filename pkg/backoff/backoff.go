// Package backoff spaces out repeated tries with full jitter: a wait is chosen
// evenly between nothing and a ceiling that doubles. Many clients that lost the
// same server therefore do not come back at the same moment. It starts no
// goroutine and decides nothing about what is worth repeating.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff gives the waits of one loop. The zero value waits between 0 and 1 s,
// up to 60 s. It is not safe for use by several goroutines at once.
type Backoff struct {
	// Min is the first ceiling; 0 means 1 s.
	Min time.Duration
	// Max is the last ceiling; 0 means 60 s.
	Max time.Duration

	ceiling time.Duration
}

// Next is how long to wait before the next try.
func (b *Backoff) Next() time.Duration {
	lowest, highest := b.Min, b.Max
	if lowest <= 0 {
		lowest = time.Second
	}
	if highest <= 0 {
		highest = time.Minute
	}
	switch {
	case b.ceiling == 0:
		b.ceiling = lowest
	case b.ceiling > highest/2: // also where doubling would overflow
		b.ceiling = highest
	default:
		b.ceiling *= 2
	}
	b.ceiling = min(b.ceiling, highest)
	return rand.N(b.ceiling) + 1 //nolint:gosec // jitter is no secret; never 0, so that a loop always yields
}

// Reset starts again at Min; call it when a try has gone well for a while.
func (b *Backoff) Reset() { b.ceiling = 0 }

// Wait waits for d or until ctx ends, and then returns the cause of that.
func Wait(ctx context.Context, d time.Duration) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
