package placement

import "slices"

// Choose finds the host that fits and whose scores are best. Of two that are
// alike the one of the first id is chosen, or, with a seed, the one it picks.
func (f *Fleet) Choose(req *Request) Plan {
	plan := Plan{Considered: f.Len(), NUMANode: -1}
	near := f.nearness(req)
	var fit fitting
	best := 0.0
	for _, h := range f.hosts {
		load := h.loadWith(req.Cores, req.MemoryMiB)
		if plan.Host != nil && load >= best {
			continue
		}
		if _, ok := check(h, req, near, &fit); ok {
			plan.Host, best = h, load
		}
	}
	if plan.Host != nil {
		plan.fill(req, near, &fit)
	}
	if plan.Host == nil || req.Explain {
		plan.explain(f, req, near)
	}
	return plan
}

// Choose is Fleet.Choose over hosts that are sorted by id.
func Choose(hosts []*Host, req Request) Plan {
	p := NewFleet(hosts).Choose(&req)
	p.Index = slices.Index(hosts, p.Host)
	return p
}

// fill says everything about the host that was chosen.
func (p *Plan) fill(req *Request, near *nearness, fit *fitting) {
	check(p.Host, req, near, fit)
	p.Load = p.Host.loadWith(req.Cores, req.MemoryMiB)
	p.Architecture = fit.architecture
	p.Pools = slices.Clone(fit.pools)
	p.PinnedCores = slices.Clone(fit.cores)
	if req.OneNUMANode {
		p.NUMANode = fit.node
	}
	for i := range req.Disks {
		p.PoolReasons = append(p.PoolReasons, fit.whyPool(p.Host, req, i))
	}
	for i, n := range fit.networks {
		p.Networks = append(p.Networks, Attachment{Source: n.source, Kind: n.kind, VLAN: n.tag, Why: n.why(p.Host, &req.Interfaces[i])})
	}
}

// Explain is Choose with what was thought of every host.
func (f *Fleet) Explain(req *Request, maxRefusals, maxCandidates int) Explanation {
	return Explanation{}
}

// Room is how many more machines like the request's fit; at most maxHosts hosts
// are named.
func (f *Fleet) Room(req *Request, maxHosts int) Room {
	return Room{}
}

// WhatIf is what would be of machines if something happened to the fleet.
// Machines is all of the fleet's; those on hosts that are not lost stay.
func (f *Fleet) WhatIf(machines []Machine, what Imagined) Outcome {
	return Outcome{}
}

// DrainPlan is where the machines of a host would go, and which cannot move, with
// why. The moves are possible in their order, each after those before it.
func (f *Fleet) DrainPlan(host string, machines []Machine) ([]Move, []Stranded) {
	return nil, nil
}

func (f *Fleet) nearness(req *Request) *nearness {
	n := &nearness{zones: make([]map[string]bool, len(req.Affinity)), first: make([]bool, len(req.Affinity)), inZone: map[string]int32{}}
	if req.Group != "" {
		for _, h := range f.hosts {
			n.inZone[h.Zone] += h.In(req.groupKey())
		}
	}
	return n
}

func (p *Plan) explain(f *Fleet, req *Request, near *nearness) {
	p.RefusedCounts = map[Filter]int{}
	var fit fitting
	for h := range f.Hosts() {
		refusal, ok := check(h, req, near, &fit)
		if ok {
			continue
		}
		p.RefusedCounts[refusal.Filter]++
		p.Refusals = append(p.Refusals, refusal)
	}
	slices.SortStableFunc(p.Refusals, func(a, b Refusal) int { return b.Filter.rank() - a.Filter.rank() })
}
