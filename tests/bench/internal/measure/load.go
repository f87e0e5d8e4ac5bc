package measure

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Load is what a number of clients got done in a while.
type Load struct {
	Done    int
	Elapsed time.Duration
	// Took are the times of all calls, sorted.
	Took []time.Duration
}

// PerSecond is the rate.
func (l Load) PerSecond() float64 { return float64(l.Done) / l.Elapsed.Seconds() }

// P50 is the median time of a call.
func (l Load) P50() time.Duration { return l.Took[len(l.Took)/2] }

// Clients lets n clients call one after another for the given time. call gets
// the number of the client and a number that no other call of this load has. The
// first error ends all.
func Clients(ctx context.Context, n int, d time.Duration, call func(ctx context.Context, client int, number int64) error) (Load, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		group  sync.WaitGroup
		number atomic.Int64
	)
	took := make([][]time.Duration, n)
	start := time.Now()
	end := start.Add(d)
	for c := range n {
		group.Go(func() {
			for before := time.Now(); before.Before(end) && ctx.Err() == nil; {
				if err := call(ctx, c, number.Add(1)); err != nil {
					cancel(err)
					return
				}
				after := time.Now()
				took[c] = append(took[c], after.Sub(before))
				before = after
			}
		})
	}
	group.Wait()
	l := Load{Elapsed: time.Since(start), Took: slices.Concat(took...)}
	if ctx.Err() != nil {
		return l, context.Cause(ctx)
	}
	if l.Done = len(l.Took); l.Done == 0 {
		return l, errors.New("not one call in the given time")
	}
	slices.Sort(l.Took)
	return l, nil
}

// Times calls n times, one after another, and answers with the median.
func Times(ctx context.Context, n int, call func(ctx context.Context, number int) error) (time.Duration, error) {
	took := make([]time.Duration, n)
	for i := range n {
		before := time.Now()
		if err := call(ctx, i); err != nil {
			return 0, err
		}
		took[i] = time.Since(before)
	}
	return Median(took), nil
}
