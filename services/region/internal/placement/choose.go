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
	p.Index = slices.IndexFunc(hosts, func(h *Host) bool { return p.Host != nil && h.ID == p.Host.ID })
	return p
}

// search is the best host so far.
type search struct {
	found bool
	at    position
	score float64
	pick  uint64 // of the seed
}

// hopeless says that no host from a position on that promises so much would be
// chosen.
func (s *search) hopeless(bound float64, seed uint64, from position) bool {
	return s.found && (bound < s.score || (bound == s.score && seed == 0 && s.at < from))
}

// shelf is what is known of a stack during a search.
type shelf struct {
	// top is the most that the blocks that were not looked at can promise.
	top float64
	// Once the shelf is open: the hosts of each block that pass the masks, and what
	// the best of them could be.
	open   bool
	able   [stackSize]uint64
	bounds [stackSize]float64
}

// done is the bound of what holds nothing, or nothing more.
const done = -1

// best looks at the block of which most can be expected, again and again, until no
// host of the others can be better than the best so far. That leaves out none that
// would be chosen: bounds are exact.
func (q *query) best() (position, bool) {
	if q.req.VMHost != "" {
		return q.only()
	}
	var s search
	shelves := make([]shelf, len(q.fleet.stacks))
	for k, st := range q.fleet.stacks {
		shelves[k].top = done
		if q.rooms(&st.sum) {
			shelves[k].top = q.bound(&st.sum)
		}
	}
	for {
		k := 0
		for i := range shelves {
			if shelves[i].top > shelves[k].top {
				k = i
			}
		}
		if k == len(shelves) || shelves[k].top == done {
			break
		}
		sh, slot := &shelves[k], 0
		if sh.open {
			slot = sh.highest()
		}
		if s.hopeless(sh.top, q.req.Seed, at(k*stackSize+slot, 0)) {
			break
		}
		if sh.open {
			q.scan(&s, k*stackSize+slot, sh.able[slot])
			sh.bounds[slot] = done
		} else {
			q.open(sh, k)
		}
		sh.top = sh.bounds[sh.highest()]
	}
	return s.at, s.found
}

func (sh *shelf) highest() int {
	slot := 0
	for i, bound := range sh.bounds {
		if bound > sh.bounds[slot] {
			slot = i
		}
	}
	return slot
}

// open finds the bounds of a stack's blocks.
func (q *query) open(sh *shelf, k int) {
	st := q.fleet.stacks[k]
	sh.open = true
	q.able(st, &sh.able)
	for slot := range sh.bounds {
		sh.bounds[slot] = done
		if sum := &st.sums[slot]; sh.able[slot] != 0 && q.rooms(sum) {
			sh.bounds[slot] = q.bound(sum)
		}
	}
}

// scan looks at the hosts of a block that pass the masks: what is cheap of all of
// them, the rest of those only that would be the best.
func (q *query) scan(s *search, k int, able uint64) {
	b := q.fleet.block(k)
	for m := q.keeping(k, able); m != 0; m &= m - 1 {
		i := bits.TrailingZeros64(m)
		if l := &b.loads[i]; int64(q.req.Cores) > l.cores.room || q.req.MemoryMiB > l.memory.room {
			continue
		}
		score := q.score(k, b, i)
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
		if !q.roomy(b, i) || !q.fits(b, i) {
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
	p.Scores = q.scores(where)
	p.Architecture = fit.architecture
	p.Pools = slices.Clone(fit.pools)
	if slices.Contains(fit.poolHow, byStaying) {
		for _, by := range fit.poolHow {
			p.Staying = append(p.Staying, by == byStaying)
		}
	}
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
