package ledger

import (
	"fmt"
	"time"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/policy"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// placesOn are the places that reservations hold on hosts, each as a machine that
// asks for another place as the reservation did. Those that expired are about to
// be given back, and do not count.
func (l *Ledger) placesOn(v *store.View, hosts map[string]bool, now time.Time) ([]placement.Machine, error) {
	if len(hosts) == 0 {
		return nil, nil
	}
	var out []placement.Machine
	for uid, r := range store.Reservations.All(v) {
		if Usable(r.Value, now) != nil {
			continue
		}
		var asked *placement.Request
		for _, h := range r.Value.GetHolds() {
			if !hosts[h.GetVmHost()] {
				continue
			}
			if asked == nil {
				var err error
				if asked, err = l.askedBy(v, r.Value.GetResource().GetMachine()); err != nil {
					return nil, fmt.Errorf("read what %s%s holds places for: %w", reservations, uid, err)
				}
			}
			for range h.GetCount() {
				out = append(out, placement.Machine{
					Name: reservations + uid, Host: h.GetVmHost(), Held: r.Value.GetKinds()[h.GetKind()].GetCommitment(), Request: *asked,
				})
			}
		}
	}
	return out, nil
}

// askedBy is what a reservation asks of a host, as far as it can be asked for by
// now: a policy and machines of rules that are gone bind nobody.
func (l *Ledger) askedBy(v *store.View, machine *vmhostv1.ComposeMachineRequest) (*placement.Request, error) {
	w, err := newWant("", machine)
	if err != nil {
		return nil, err
	}
	p, err := l.policies.At(v, "placement_policy", machine.GetPlacementPolicy())
	if err != nil {
		p = defaultPolicy()
	}
	req := &w.place
	req.Policy = preferenceOf(p, &policy.Machine{Cores: int64(req.Cores), MemoryMiB: req.MemoryMiB, Tags: machine.GetTags(), ResourcePool: req.ResourcePool})
	l.judgeBy(req, p)
	req.Affinity = boundBy(v, machine.GetAffinity(), req.Affinity)
	return req, nil
}

// boundBy are the rules that bind somebody, with where the machines are that they
// name.
func boundBy(v *store.View, asked []*vmhostv1.AffinityRule, rules []placement.Rule) []placement.Rule {
	out := rules[:0]
	for i, r := range asked {
		rule := rules[i]
		rule.Hosts = whereabouts(v, r.GetMachines())
		if rule.Group != "" || len(rule.Hosts) > 0 {
			out = append(out, rule)
		}
	}
	return out
}

func defaultPolicy() *policy.Policy {
	return &policy.Policy{ID: policy.Default, Weights: policy.Preset(policy.Default).GetWeights()}
}

// tellPlaces sums up by reservation what becomes of its places.
func tellPlaces(o *placement.Outcome, out *vmhostv1.WhatIfResponse) {
	out.HeldPlaced, out.HeldStranded = int32(len(o.PlacesMoved)), int32(len(o.PlacesStranded))
	byName := map[string]*vmhostv1.ReservationOutcome{}
	of := func(name string) *vmhostv1.ReservationOutcome {
		r := byName[name]
		if r == nil {
			r = &vmhostv1.ReservationOutcome{Reservation: name}
			if byName[name] = r; len(out.GetReservations()) < maxMachines {
				out.Reservations = append(out.Reservations, r)
			}
		}
		return r
	}
	for i := range o.PlacesStranded {
		s := &o.PlacesStranded[i]
		r := of(s.Machine.Name)
		if r.Stranded++; r.GetStranded() == 1 {
			r.RefusedCounts = countsOf(s.Plan.RefusedCounts)
		}
	}
	for i := range o.PlacesMoved {
		of(o.PlacesMoved[i].Machine.Name).Placed++
	}
}
