package backoff_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/vmhost-project/vmhost/pkg/backoff"
)

func TestWaitsStayUnderADoublingCeiling(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lowest := time.Duration(rapid.Int64Range(1, math.MaxInt64).Draw(t, "min"))
		highest := time.Duration(rapid.Int64Range(int64(lowest), math.MaxInt64).Draw(t, "max"))
		b := backoff.Backoff{Min: lowest, Max: highest}
		ceiling := float64(lowest)
		for range 80 {
			if got := b.Next(); got <= 0 || float64(got) > min(ceiling, float64(highest)) {
				t.Fatalf("Next = %d, want between 1 and %g", got, min(ceiling, float64(highest)))
			}
			ceiling *= 2
		}
		b.Reset()
		if got := b.Next(); got > lowest {
			t.Fatalf("Next after Reset = %d, want at most %d", got, lowest)
		}
	})
}

func TestWaitsAreSpreadOverTheWholeCeiling(t *testing.T) {
	var low, high int
	for range 1000 {
		b := backoff.Backoff{Min: time.Second}
		if b.Next() < 500*time.Millisecond {
			low++
		} else {
			high++
		}
	}
	if low < 300 || high < 300 {
		t.Errorf("%d waits in the lower half and %d in the upper, want both near 500", low, high)
	}
}

func TestTheZeroValueGrowsToAMinute(t *testing.T) {
	var b backoff.Backoff
	if got := b.Next(); got > time.Second {
		t.Errorf("first wait = %s, want at most 1s", got)
	}
	longest := time.Duration(0)
	for range 1000 {
		longest = max(longest, b.Next())
	}
	if longest > time.Minute || longest < 30*time.Second {
		t.Errorf("longest wait of 1000 = %s, want near a minute", longest)
	}
}

func TestWaitEndsWithTimeOrContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if err := backoff.Wait(t.Context(), time.Hour); err != nil || time.Since(start) != time.Hour {
			t.Errorf("Wait = %v after %s, want nil after an hour", err, time.Since(start))
		}

		why := errors.New("why")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Minute, func() { cancel(why) })
		start = time.Now()
		if err := backoff.Wait(ctx, time.Hour); !errors.Is(err, why) || time.Since(start) != time.Minute {
			t.Errorf("Wait = %v after %s, want the cause after a minute", err, time.Since(start))
		}
		if err := backoff.Wait(ctx, 0); !errors.Is(err, why) {
			t.Errorf("Wait with an ended context = %v, want the cause", err)
		}
	})
}
