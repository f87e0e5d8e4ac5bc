package sweep

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

type reservations struct {
	calls  []time.Time
	answer error
}

func (r *reservations) ExpireReservations(_ context.Context, now time.Time) (int, error) {
	r.calls = append(r.calls, now)
	return 1, r.answer
}

func TestReservationsAreLookedAtEveryFewSecondsAlsoAfterAFailure(t *testing.T) {
	for name, answer := range map[string]error{"well": nil, "failing": errors.New("the store does not answer")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &reservations{answer: answer}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := NewExpiry(r, slog.New(slog.DiscardHandler)).Run(ctx); err != nil {
					t.Error(err)
				}
				if n := len(r.calls); n < 20 || n > 60 {
					t.Errorf("%d times in a minute", n)
				}
			})
		})
	}
}
