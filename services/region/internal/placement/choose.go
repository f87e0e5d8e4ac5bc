package placement

import (
	"math/bits"
	"slices"
)

// Choose finds the host that fits and whose scores are best, of all there are. Of
// two that are alike the one of the first id is chosen, or, with a seed, the one
// that it picks.
func (f *Fleet) Choose(req *Request) Plan {
	q := f.query(req)
	plan := Plan{Index: -1, Considered: f.count, NUMANode: -1}
	if p, found := q.best(); found {
		q.fill(&plan, p)
	}
	if req.Explain || plan.Host == nil && req.Lane == AllLanes {
		refused := q.refusals()
		plan.RefusedCounts = refused.counts()
		plan.Refusals = refused.first(maxRefusals)
	}
	return plan
}

// Choose is Fleet.Choose over hosts that are sorted by id.
func Choose(hosts []*Host, req Request) Plan {
	p := NewFleet(hosts).Choose(&req)
	p.Index = slices.Index(hosts, p.Host)
	return p
}

// search is the best host so far.
type search struct {
	found bool
	at    position
	score float64
	pick  uint64 // of the seed
}

// firstBlocks is how many blocks are looked at in the order of what they promise.
// Then the best is mostly known, and of the others only few can be better.
const firstBlocks = 8

// best goes over the blocks, the most promising ones first and then in order, and
// leaves out those of which no host can be better than the best so far. That
// leaves out none that would be chosen: bounds are exact.
func (q *query) best() (position, bool) {
	if q.req.VMHost != "" {
		return q.only()
	}
	const done = -1
	var s search
	blocks := q.fleet.blocks
	bounds := make([]float64, len(blocks))
	for k, b := range blocks {
		bounds[k] = done
		if q.rooms(b) {
			bounds[k] = q.bound(b)
		}
	}
	hopeless := func(k int) bool {
		return s.found && (bounds[k] < s.score || (bounds[k] == s.score && q.req.Seed == 0 && s.at < at(k, 0)))
	}
	for range min(firstBlocks, len(bounds)) {
		k := 0
		for j, bound := range bounds {
			if bound > bounds[k] {
				k = j
			}
		}
		if bounds[k] == done || hopeless(k) {
			break
		}
		q.scan(&s, k)
		bounds[k] = done
	}
	for k, bound := range bounds {
		if bound != done && !hopeless(k) {
			q.scan(&s, k)
		}
	}
	return s.at, s.found
}

// scan looks at the hosts of a block: what is cheap of all of them, the rest of
// those only that would be the best.
func (q *query) scan(s *search, k int) {
	b := q.fleet.blocks[k]
	var p parts
	for m := q.able(k, b); m != 0; m &= m - 1 {
		i := bits.TrailingZeros64(m)
		if !q.roomy(b, i) {
			continue
		}
		q.parts(&p, k, b, i)
		score := q.weigh(&p)
		if s.found && score < s.score {
			continue
		}
		here, pick := at(k, i), uint64(0)
		if s.found && score == s.score {
			if q.req.Seed != 0 {
				pick = draw(q.req.Seed, b.hosts[i].ID)
			}
			if pick > s.pick || (pick == s.pick && here > s.at) {
				continue
			}
		}
		if !q.fits(b, i) {
			continue
		}
		if q.req.Seed != 0 && pick == 0 {
			pick = draw(q.req.Seed, b.hosts[i].ID)
		}
		*s = search{found: true, at: here, score: score, pick: pick}
	}
}

// only is the host that was asked for, if it fits.
func (q *query) only() (position, bool) {
	p, found := q.fleet.find(q.req.VMHost)
	if !found || q.req.Lane.rows()&(1<<p.row()) == 0 {
		return 0, false
	}
	_, ok := check(q.fleet.at(p), q.req, q.near, &q.fit)
	return p, ok
}

// fits says whether a host that passes the masks and may have room fits.
func (q *query) fits(b *block, i int) bool {
	if _, ok := q.late(b, i); !ok {
		return false
	}
	if q.certain() {
		return true
	}
	_, ok := q.fit.room(b.hosts[i], q.req)
	return ok
}

// draw is a number for a host that a seed decides: FNV-1a, then mixed.
func draw(seed uint64, id string) uint64 {
	x := seed ^ 14695981039346656037
	for i := range len(id) {
		x = (x ^ uint64(id[i])) * 1099511628211
	}
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// fill says everything about the host that was chosen.
func (q *query) fill(p *Plan, where position) {
	req, fit := q.req, &q.fit
	p.Host = q.fleet.at(where)
	p.Index = q.fleet.number(where)
	check(p.Host, req, q.near, fit)
	p.Load = p.Host.loadWith(req.Cores, req.MemoryMiB)
	p.Scores = q.scores(where.block(), q.fleet.blocks[where.block()], where.row())
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

// number is how many hosts come before one.
func (f *Fleet) number(p position) int {
	n := p.row()
	for _, b := range f.blocks[:p.block()] {
		n += b.n
	}
	return n
}
