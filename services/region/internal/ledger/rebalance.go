package ledger

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// defaultMoves is how many moves are proposed at the most when nothing is said.
const defaultMoves = 10

// Rebalance proposes moves that would make the load of hosts more even. Machines
// that something is being done to, or that are missing, are left where they are.
// Errors: INVALID_FIELD, NOT_FOUND (pool, zone).
func (l *Ledger) Rebalance(ctx context.Context, req *vmhostv1.RebalanceRequest) (*vmhostv1.RebalanceResponse, error) {
	v, err := l.store.View(ctx)
	if err != nil {
		return nil, unavailable(err)
	}
	what := placement.Rebalancing{MaxMoves: int(cmp.Or(req.GetMaxMoves(), defaultMoves)), MinGain: req.GetMinGain()}
	if what.ResourcePool, err = idOf("resource_pool", "resourcePools/", req.GetResourcePool()); err != nil {
		return nil, err
	}
	if _, ok := store.ResourcePools.Get(v, what.ResourcePool); !ok && what.ResourcePool != "" {
		return nil, apierror.NotFound(req.GetResourcePool()).WithField("resource_pool", "does not exist")
	}
	if what.Zone, err = idOf("zone", "zones/", req.GetZone()); err != nil {
		return nil, err
	}
	if _, ok := store.Zones.Get(v, what.Zone); !ok && what.Zone != "" {
		return nil, apierror.NotFound(req.GetZone()).WithField("zone", "does not exist")
	}
	what.MachinesOn = func(host string) (out []placement.Machine) {
		// One that is not seen where it is recorded cannot be moved now.
		found, _ := seenOn(v, host)
		for _, uid := range slices.Sorted(maps.Keys(found)) {
			if m := found[uid]; movable(m) {
				out = append(out, l.MachineOf(v, m))
			}
		}
		return out
	}
	found := l.fleetAt(v).Rebalance(what)
	out := &vmhostv1.RebalanceResponse{ImbalanceBefore: found.Before, ImbalanceAfter: found.After, Considered: int32(found.Considered)}
	for i := range found.Moves {
		g := &found.Moves[i]
		staying, copied := g.Plan.Disks()
		out.Moves = append(out.Moves, &vmhostv1.RebalanceMove{
			Machine: g.Machine.Name, From: "vmHosts/" + g.From, To: "vmHosts/" + g.Plan.Host.ID, Gain: g.Gain, Why: g.Why(),
			StayingDisks: staying, CopiedDisks: copied,
		})
	}
	return out, nil
}

// movable says whether nothing is being done to a machine.
func movable(m *storev1.StoredMachine) bool {
	r := m.GetResource()
	return r.GetPhase() == vmhostv1.MachinePhase_MACHINE_PHASE_READY && r.GetOperation() == "" && m.GetMove() == nil
}
