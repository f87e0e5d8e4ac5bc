package standalone

import (
	"context"
	"errors"
	"fmt"

	"github.com/vmhost-project/vmhost/services/rack"
)

// runRack runs the rack of this machine. It enrols by itself, at the first start
// and whenever its certificate ran out while the process was down.
func (s *Standalone) runRack(ctx context.Context) error {
	cfg := rack.Default()
	cfg.DataDir = s.cfg.path("rack")
	cfg.LocalSockets, cfg.LXDSockets, cfg.Drivers = s.cfg.LocalSockets, s.cfg.LXDSockets, s.cfg.Drivers
	cfg.Fake = rack.FakeConfig{Hosts: s.cfg.FakeHosts, StateFile: s.cfg.path("fake-hosts.json")}
	cfg.InventoryInterval = s.cfg.InventoryInterval
	cfg.OpsListen = "" // the region's serves the whole process
	// Addresses in the identity are of the time it was made; ports may change.
	cfg.Regions = []string{loopback(s.region.RackAddr())}
	r, err := rack.NewWith(ctx, cfg, rack.Deps{
		Log: s.log, Registry: s.registry,
		JoinToken: func(ctx context.Context) (string, error) { return s.region.JoinToken(ctx, localRack, "", joinTTL) },
	})
	if err != nil {
		return fmt.Errorf("open the local rack: %w", err)
	}
	err = r.Run(ctx)
	if errors.Is(err, rack.ErrRevoked) {
		// Somebody removed it; everything else goes on.
		s.log.ErrorContext(ctx, "the local rack was removed and has ended; it enrolls again when vmhost is started again", "error", err)
		return nil
	}
	return err
}
