package ledger

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// How many of each an answer names when the question does not say, and how many
// at the most.
const (
	defaultRefusals   = 100
	defaultCandidates = 10
	defaultHosts      = 20
	maxMachines       = 1000
)

// Explain says where a machine would go and what was thought of every host. It
// takes nothing. Errors: those of a compose, but that no host fits and what the
// quota says are none.
func (l *Ledger) Explain(ctx context.Context, req *vmhostv1.ExplainRequest) (*vmhostv1.ExplainResponse, error) {
	v, asked, _, err := l.question(ctx, "machine.", req.GetMachine())
	if err != nil {
		return nil, err
	}
	e := l.fleetAt(v).Explain(asked,
		int(cmp.Or(req.GetMaxRefusals(), defaultRefusals)), int(cmp.Or(req.GetMaxCandidates(), defaultCandidates)))
	out := &vmhostv1.ExplainResponse{Placement: e.Plan.Proto()}
	out.Placement.Refusals = nil
	for _, r := range e.Plan.Refusals {
		out.Placement.Refusals = append(out.Placement.Refusals, r.Proto())
	}
	for _, c := range e.Candidates {
		out.Candidates = append(out.Candidates, &vmhostv1.PlacementCandidate{VmHost: "vmHosts/" + c.Host.ID, Total: c.Scores.Total, Scores: c.Scores.Map()})
	}
	return out, nil
}

// Capacity says how many more machines like one fit, and what runs out first: also
// when it is the quota.
func (l *Ledger) Capacity(ctx context.Context, req *vmhostv1.CapacityRequest) (*vmhostv1.CapacityResponse, error) {
	v, asked, w, err := l.question(ctx, "machine.", req.GetMachine())
	if err != nil {
		return nil, err
	}
	room := l.fleetAt(v).Room(asked, int(cmp.Or(req.GetMaxVmHosts(), defaultHosts)))
	out := &vmhostv1.CapacityResponse{Machines: room.Machines, LimitedBy: string(room.LimitedBy), RefusedCounts: countsOf(room.RefusedCounts)}
	for _, z := range room.Zones {
		out.Zones = append(out.Zones, &vmhostv1.ZoneCapacity{Zone: "zones/" + z.Zone, Machines: z.Machines, LimitedBy: string(z.LimitedBy)})
	}
	for _, h := range room.Hosts {
		out.VmHosts = append(out.VmHosts, &vmhostv1.VmHostCapacity{VmHost: "vmHosts/" + h.Host.ID, Machines: h.Machines, LimitedBy: string(h.LimitedBy)})
	}
	if most := quotaRoom(v, w); most < out.GetMachines() {
		out.Machines, out.LimitedBy = most, "quota"
	}
	return out, nil
}

// WhatIf says what would become of machines if something happened to the fleet.
func (l *Ledger) WhatIf(ctx context.Context, req *vmhostv1.WhatIfRequest) (*vmhostv1.WhatIfResponse, error) {
	var imagined placement.Imagined
	var v *store.View
	var err error
	if req.GetMachine() != nil {
		v, imagined.Request, _, err = l.question(ctx, "machine.", req.GetMachine())
	} else if v, err = l.store.View(ctx); err != nil {
		err = unavailable(err)
	}
	if err != nil {
		return nil, err
	}
	if err := imagine(v, req, &imagined); err != nil {
		return nil, err
	}
	lost := l.lost(v, &imagined)
	if imagined.Places, err = l.placesOn(v, lost, time.Now()); err != nil {
		return nil, err
	}
	outcome := l.fleetAt(v).WhatIf(l.machinesOn(v, lost), imagined)
	out := &vmhostv1.WhatIfResponse{
		Placed: int32(len(outcome.Moves)), StrandedTotal: int32(len(outcome.Stranded)),
		CapacityBefore: outcome.RoomBefore, CapacityAfter: outcome.RoomAfter,
	}
	for _, m := range outcome.Moves[:min(len(outcome.Moves), maxMachines)] {
		out.Moves = append(out.Moves, &vmhostv1.MachineMove{Machine: m.Machine.Name, From: "vmHosts/" + m.From, To: "vmHosts/" + m.Plan.Host.ID})
	}
	for _, s := range outcome.Stranded[:min(len(outcome.Stranded), maxMachines)] {
		out.Stranded = append(out.Stranded, &vmhostv1.MachineStranded{Machine: s.Machine.Name, From: "vmHosts/" + s.From, RefusedCounts: countsOf(s.Plan.RefusedCounts)})
	}
	tellPlaces(&outcome, out)
	for _, id := range outcome.Overcommitted {
		out.OvercommittedVmHosts = append(out.OvercommittedVmHosts, "vmHosts/"+id)
	}
	return out, nil
}

// question reads the machine that is asked about, as a compose of now would.
func (l *Ledger) question(ctx context.Context, field string, in *vmhostv1.ComposeMachineRequest) (*store.View, *placement.Request, *want, error) {
	w, err := newWant("", in)
	if err != nil {
		return nil, nil, nil, below(field, err)
	}
	v, err := l.store.View(ctx)
	if err != nil {
		return nil, nil, nil, unavailable(err)
	}
	if err := named(v, w); err != nil {
		return nil, nil, nil, below(field, err)
	}
	if err := l.resolve(v, w); err != nil {
		return nil, nil, nil, below(field, err)
	}
	asked := w.place
	if w.hostname != "" {
		asked = w.requestAs(w.hostname)
		asked.NameTaken = func(host, name string) bool { return l.index.nameTaken(v, host, name) }
	}
	return v, &asked, w, nil
}

func (l *Ledger) fleetAt(v *store.View) *placement.Fleet { return l.fleets.at(v) }

func countsOf(counts map[placement.Filter]int) map[string]int32 {
	out := make(map[string]int32, len(counts))
	for filter, n := range counts {
		out[string(filter)] = int32(n)
	}
	return out
}

// quotaRoom is how many more machines the quota of the pool allows.
func quotaRoom(v *store.View, w *want) int64 {
	pool, _ := store.ResourcePools.Get(v, w.place.ResourcePool)
	q := quotaOf(pool.Value)
	if q == nil {
		return math.MaxInt64
	}
	used, each, most := Used(v, w.place.ResourcePool), w.amount(), int64(math.MaxInt64)
	look := func(limited bool, quota, used, each int64) {
		if limited && each > 0 {
			most = min(most, max(quota-used, 0)/each)
		}
	}
	look(q.Machines != nil, int64(q.GetMachines()), int64(used.GetMachines()), 1)
	look(q.Cores != nil, q.GetCores(), used.GetCores(), each.GetCores())
	look(q.MemoryMib != nil, q.GetMemoryMib(), used.GetMemoryMib(), each.GetMemoryMib())
	look(q.StorageBytes != nil, q.GetStorageBytes(), used.GetStorageBytes(), each.GetStorageBytes())
	return most
}

// imagine reads what is imagined, and refuses what names something that is not
// there.
func imagine(v *store.View, req *vmhostv1.WhatIfRequest, out *placement.Imagined) error {
	hosts := func(field string, names []string) (ids []string, err error) {
		for i, name := range names {
			at := fmt.Sprintf("%s[%d]", field, i)
			id, err := idOf(at, "vmHosts/", name)
			if err != nil {
				return nil, err
			}
			if _, ok := store.VmHosts.Get(v, id); !ok {
				return nil, apierror.NotFound(name).WithField(at, "does not exist")
			}
			ids = append(ids, id)
		}
		return ids, nil
	}
	var err error
	if out.LostHosts, err = hosts("lost_vm_hosts", req.GetLostVmHosts()); err != nil {
		return err
	}
	if out.RatioHosts, err = hosts("ratio_vm_hosts", req.GetRatioVmHosts()); err != nil {
		return err
	}
	for i, name := range req.GetLostZones() {
		at := fmt.Sprintf("lost_zones[%d]", i)
		id, err := idOf(at, "zones/", name)
		if err != nil {
			return err
		}
		if _, ok := store.Zones.Get(v, id); !ok {
			return apierror.NotFound(name).WithField(at, "does not exist")
		}
		out.LostZones = append(out.LostZones, id)
	}
	if out.Overcommit = req.GetOvercommit(); out.Overcommit == nil && len(out.RatioHosts) > 0 {
		return apierror.InvalidField("overcommit", "is not set, but ratio_vm_hosts names hosts whose ratios change").WithHint("say which ratio")
	}
	return nil
}

// lost are the hosts that are imagined to be lost, by id.
func (l *Ledger) lost(v *store.View, what *placement.Imagined) map[string]bool {
	lost := map[string]bool{}
	for _, id := range what.LostHosts {
		lost[id] = true
	}
	if len(what.LostZones) == 0 {
		return lost
	}
	for h := range l.fleets.at(v).Hosts() {
		if slices.Contains(what.LostZones, h.Zone) {
			lost[h.ID] = true
		}
	}
	return lost
}

// machinesOn are the machines of ours on hosts, as placement asks for another
// place for them.
func (l *Ledger) machinesOn(v *store.View, hosts map[string]bool) []placement.Machine {
	if len(hosts) == 0 {
		return nil
	}
	var out []placement.Machine
	for _, m := range MachinesOn(v, slices.Sorted(maps.Keys(hosts))) {
		out = append(out, l.MachineOf(v, m))
	}
	return out
}
