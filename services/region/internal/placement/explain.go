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

// refusals tries every host. The filters that are masks take a stack at a time.
func (q *query) refusals() *refused {
	r := &refused{q: q, all: ordered(), list: make([]short, 0, q.fleet.count)}
	only := position(-1)
	if q.req.VMHost != "" {
		if p, found := q.fleet.find(q.req.VMHost); found {
			only = p
		}
	}
	for n, st := range q.fleet.stacks {
		var m [stackSize]uint64
		for slot := range st.n {
			k := n*stackSize + slot
			not := q.left(k)
			if q.req.VMHost != "" && (only < 0 || only.block() != k) {
				not = ^uint64(0)
			} else if q.req.VMHost != "" {
				not |= ^(uint64(1) << only.row())
			}
			m[slot] = r.without(k, st.sums[slot].all, not, FilterVMHost)
		}
		for i := range q.steps {
			pass := m
			q.steps[i].passes(st, q, &pass)
			for slot := range st.n {
				m[slot] = r.without(n*stackSize+slot, m[slot], ^pass[slot], q.steps[i].filter)
			}
		}
		for slot := range st.n {
			r.late(n*stackSize+slot, m[slot])
		}
	}
	return r
}

// late tries the filters that are no words.
func (r *refused) late(k int, m uint64) {
	q := r.q
	b := q.fleet.block(k)
	for left := m; left != 0; left &= left - 1 {
		i := bits.TrailingZeros64(left)
		if why, ok := q.late(b, i); !ok {
			m = r.without(k, m, 1<<i, why.Filter)
		}
	}
	hard := b.sum.all
	for i := range q.rules {
		if !q.req.Affinity[i].Soft {
			hard &= q.rules[i].keeps(q.fleet, k)
		}
	}
	m = r.without(k, m, ^hard, FilterAffinity)
	certain := q.certain()
	for m = r.without(k, m, q.fullZones(k), FilterSpread); m != 0; m &= m - 1 {
		i := bits.TrailingZeros64(m)
		if certain && q.roomy(b, i) {
			r.fits = append(r.fits, at(k, i))
		} else if why, ok := q.fit.room(b.hosts[i], q.req); !ok {
			r.without(k, m, 1<<i, why.Filter)
		} else {
			r.fits = append(r.fits, at(k, i))
		}
	}
}

// without notes of hosts of a block which ones a filter refuses, and answers the
// others.
func (r *refused) without(k int, hosts, refused uint64, f Filter) uint64 {
	if refused &= hosts; refused == 0 {
		return hosts
	}
	filter := uint8(slices.Index(r.all, f))
	for out := refused; out != 0; out &= out - 1 {
		r.list = append(r.list, short{at(k, bits.TrailingZeros64(out)), filter})
	}
	return hosts &^ refused
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
	for _, where := range r.fits {
		k, i := where.block(), where.row()
		b := f.block(k)
		s := scored{at: where, score: q.score(k, b, i)}
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
		out.Candidates = append(out.Candidates, Candidate{Host: f.at(s.at), Scores: q.scores(s.at)})
	}
	return out
}
