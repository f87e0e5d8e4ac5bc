package operation

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// dropHeld takes from reservations the places that they hold on a host which is
// being removed, of some at a time, before any machine of it is begun with: nobody
// shall compose one there that would be removed at once. False when there are
// none.
func (c *change) dropHeld(ctx context.Context, w *clearing) (dropped bool, err error) {
	if len(ledger.ReservationsOn(c.view, w.host)) == 0 {
		return false, nil
	}
	next := proto.CloneOf(c.op)
	err = c.engine.cfg.Turn.WithTurn(ctx, func() error {
		v := c.engine.store.Cached()
		if op, ok := store.Operations.Get(v, c.uid); !ok || op.Revision != c.revision {
			return store.ErrConflict
		}
		tx := c.begin(next)
		ledger.DropHeld(tx, v, w.host, next.GetResource().GetPrincipal())
		return c.commit(ctx, tx)
	})
	if err == nil {
		c.op, w.revision = next, c.revision
	}
	return true, err
}
