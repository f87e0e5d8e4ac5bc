package placement

import (
	"cmp"
	"math/bits"
	"slices"
)

// refused is why hosts were refused, in short: words are made only for those that
// are named.
type refused struct {
	q    *query
	all  []Filter // ordered
	list []short
	fits []position
}

type short struct {
	at     position
	filter uint8 // its place in ordered
}

// ordered are all filters in the order they are tried.
func ordered() []Filter {
	return append(slices.Clone(early[:]), FilterCores, FilterMemory, FilterHugepages, FilterPinnedCores, FilterNUMA, FilterStorage)
}

// refusals tries every host. The filters that are masks take a block at a time.
func (q *query) refusals() *refused {
	r := &refused{q: q, all: ordered(), list: make([]short, 0, q.fleet.count)}
	place := map[Filter]uint8{}
	for i, f := range r.all {
		place[f] = uint8(i)
	}
	only := position(-1)
	if q.req.VMHost != "" {
		if p, found := q.fleet.find(q.req.VMHost); found {
			only = p
		}
	}
	certain := q.certain()
	for k, b := range q.fleet.blocks {
		m := b.all
		drop := func(out uint64, f Filter) {
			for out &= m; out != 0; out &= out - 1 {
				r.list = append(r.list, short{at(k, bits.TrailingZeros64(out)), place[f]})
			}
		}
		if q.req.VMHost != "" {
			asked := uint64(0)
			if only >= 0 && only.block() == k {
				asked = 1 << only.row()
			}
			drop(^asked, FilterVMHost)
			m &= asked
		}
		left := q.left(k)
		drop(left, FilterVMHost)
		m &^= left
		for i := range q.steps {
			if m == 0 {
				break
			}
			pass := q.steps[i].passes(b, q)
			drop(^pass, q.steps[i].filter)
			m &= pass
		}
		late := uint64(0)
		for ; m != 0; m &= m - 1 {
			i := bits.TrailingZeros64(m)
			if why, ok := q.late(b, i); !ok {
				r.list = append(r.list, short{at(k, i), place[why.Filter]})
			} else {
				late |= 1 << i
			}
		}
		m = late
		hard := b.all
		for i := range q.rules {
			if !q.req.Affinity[i].Soft {
				hard &= q.rules[i].keeps(k, b)
			}
		}
		drop(^hard, FilterAffinity)
		m &= hard
		full := q.fullZones(b)
		drop(full, FilterSpread)
		for m &^= full; m != 0; m &= m - 1 {
			i := bits.TrailingZeros64(m)
			if certain && q.roomy(b, i) {
				r.fits = append(r.fits, at(k, i))
			} else if why, ok := q.fit.room(b.hosts[i], q.req); !ok {
				r.list = append(r.list, short{at(k, i), place[why.Filter]})
			} else {
				r.fits = append(r.fits, at(k, i))
			}
		}
	}
	return r
}

// counts are how many hosts each filter refused.
func (r *refused) counts() map[Filter]int {
	var n [32]int
	for _, s := range r.list {
		n[s.filter]++
	}
	out := map[Filter]int{}
	for i, f := range r.all {
		if n[i] > 0 {
			out[f] = n[i]
		}
	}
	return out
}

// first are so many refusals at most, those nearest to fitting first, then by id.
func (r *refused) first(most int) []Refusal {
	room := uint8(FilterCores.rank())
	rank := func(s short) uint8 { return min(s.filter, room) }
	var byRank [32]int
	for _, s := range r.list {
		byRank[rank(s)]++
	}
	out := make([]Refusal, 0, min(most, len(r.list)))
	for at := int(room); at >= 0 && len(out) < most; at-- {
		if byRank[at] == 0 {
			continue
		}
		for _, s := range r.list {
			if int(rank(s)) == at && len(out) < most {
				out = append(out, r.q.why(s.at, r.all[s.filter]))
			}
		}
	}
	return out
}

// why is a refusal with its numbers.
func (q *query) why(where position, f Filter) Refusal {
	h := q.fleet.at(where)
	switch f {
	case FilterVMHost, FilterResourcePool, FilterZone, FilterTags, FilterCordon, FilterState, FilterType, FilterArchitecture, FilterCPUModel, FilterCapability:
		return Refusal{Host: h, Filter: f, req: q.req}
	case FilterCores, FilterMemory, FilterHugepages, FilterPinnedCores, FilterNUMA, FilterStorage:
		r, _ := q.fit.room(h, q.req)
		return r
	default:
		r, _ := check(h, q.req, q.near, &q.fit)
		return r
	}
}

// Explain is Choose with what was thought of every host: at most so many refused
// ones and candidates by name, the best of each, and all of them counted.
func (f *Fleet) Explain(req *Request, maxRefusals, maxCandidates int) Explanation {
	q := f.query(req)
	out := Explanation{Plan: Plan{Index: -1, Considered: f.count, NUMANode: -1}}
	r := q.refusals()
	out.Plan.RefusedCounts, out.Plan.Refusals = r.counts(), r.first(maxRefusals)
	out.Fitting = len(r.fits)
	type scored struct {
		at    position
		score float64
		pick  uint64
	}
	list := make([]scored, 0, len(r.fits))
	var p parts
	for _, where := range r.fits {
		k, i := where.block(), where.row()
		b := f.blocks[k]
		q.parts(&p, k, b, i)
		s := scored{at: where, score: q.weigh(&p)}
		if req.Seed != 0 {
			s.pick = draw(req.Seed, b.hosts[i].ID)
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b scored) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.pick, b.pick), cmp.Compare(a.at, b.at))
	})
	if len(list) > 0 {
		q.fill(&out.Plan, list[0].at)
	}
	for _, s := range list[:min(len(list), maxCandidates)] {
		k := s.at.block()
		out.Candidates = append(out.Candidates, Candidate{Host: f.at(s.at), Scores: q.scores(k, f.blocks[k], s.at.row())})
	}
	return out
}
