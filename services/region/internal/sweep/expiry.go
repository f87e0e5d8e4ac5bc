package sweep

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/vmhost-project/vmhost/pkg/backoff"
)

// expiryInterval is how often reservations are looked at, on average. That is a
// look at memory; only one that has expired costs the store anything.
const expiryInterval = 2 * time.Second

// Reservations gives back what expired ones hold; the ledger does.
type Reservations interface {
	ExpireReservations(ctx context.Context, now time.Time) (expired int, err error)
}

// Expiry ends reservations that have expired. Every region does it; one of them is
// first.
type Expiry struct {
	reservations Reservations
	log          *slog.Logger
}

// NewExpiry makes one.
func NewExpiry(r Reservations, log *slog.Logger) *Expiry {
	return &Expiry{reservations: r, log: log.With("component", "expiry")}
}

// Run ends what has expired until ctx ends.
func (e *Expiry) Run(ctx context.Context) error {
	for {
		if err := backoff.Wait(ctx, expiryInterval/2+rand.N(expiryInterval)); err != nil { //nolint:gosec // spreads load, hides nothing
			return nil //nolint:nilerr // ended because it was told to
		}
		expired, err := e.reservations.ExpireReservations(ctx, time.Now())
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // ended because it was told to
		case err != nil:
			e.log.WarnContext(ctx, "reservations were not given back, it goes on later", "error", err)
		case expired > 0:
			e.log.InfoContext(ctx, "reservations expired", "expired", expired)
		}
	}
}
