package placement

// Scores are how a host that fits is judged, each from 0 to 1, the more the
// better.
type Scores struct {
	// Total is the weighted sum.
	Total float64
	// Those that policies weigh, see Weights.
	LeastLoaded, MostLoaded, Balance, FreeStorage, SpreadZones, AvoidOvercommit, AvoidEmulation, AvoidRefusing float64
	// Affinity is the share of soft rules that the host keeps; 1 without any. It
	// weighs more than everything else together.
	Affinity float64
}

// Map is the scores by the names of their weights, and `affinity`.
func (s Scores) Map() map[string]float64 {
	return map[string]float64{
		"least_loaded": s.LeastLoaded, "most_loaded": s.MostLoaded, "balance": s.Balance, "free_storage": s.FreeStorage, "spread_zones": s.SpreadZones,
		"avoid_overcommit": s.AvoidOvercommit, "avoid_emulation": s.AvoidEmulation, "avoid_refusing": s.AvoidRefusing, "affinity": s.Affinity,
	}
}

// parts are what the scores of a host, or the best of a block, are made of.
type parts struct {
	low, high float64 // the load after the machine; alike for one host
	gap       float64 // between cores and memory
	over      float64 // use of what is really there, 1 is all of it
	left      float64 // of storage
	zone      float64
	kvm       bool
	refusing  float64
	kept      float64
}

// weigh is the weighted sum. It is monotonic in every part, also as it is
// rounded: what is weighed from the best parts of a block is never less than what
// is weighed from those of any of its hosts.
func (q *query) weigh(p *parts) float64 {
	w, t := &q.w, 0.0
	if w.LeastLoaded != 0 {
		t += float64(w.LeastLoaded * max(0, 1-p.low))
	}
	if w.MostLoaded != 0 {
		t += float64(w.MostLoaded * min(1, p.high))
	}
	if w.Balance != 0 {
		t += float64(w.Balance * max(0, 1-p.gap))
	}
	if w.FreeStorage != 0 {
		t += float64(w.FreeStorage * min(1, max(0, p.left)))
	}
	if w.SpreadZones != 0 {
		t += float64(w.SpreadZones * p.zone)
	}
	if w.AvoidOvercommit != 0 {
		t += float64(w.AvoidOvercommit * within(p.over))
	}
	if p.kvm {
		t += w.AvoidEmulation
	}
	if w.AvoidRefusing != 0 {
		t += float64(w.AvoidRefusing * p.refusing)
	}
	return t + float64(q.keptWeight*p.kept)
}

// within is 1 while there is something real for everybody.
func within(over float64) float64 {
	if over <= 1+epsilon {
		return 1
	}
	return 1 / over
}

// parts of a host.
func (q *query) parts(p *parts, k int, b *block, i int) {
	l := &b.loads[i]
	cores, memory := l.cores.with(q.cores.amount), l.memory.with(q.memory.amount)
	p.low, p.gap = cores, cores-memory
	if memory > cores {
		p.low, p.gap = memory, memory-cores
	}
	p.high = p.low
	p.over = max(float64(cores*l.cores.over), float64(memory*l.memory.over))
	p.zone, p.refusing, p.kept = 1, 1, 0
	if q.w.FreeStorage != 0 {
		p.left = b.rests[i].left(q.storage)
	}
	if q.zoneScore != nil {
		p.zone = q.zoneScore[b.rests[i].zone]
	}
	p.kvm = q.container || b.sum.kvm&(1<<i) != 0
	if q.refusing != nil {
		if r, ok := q.refusing[at(k, i)]; ok {
			p.refusing = r
		}
	}
	if len(q.soft) > 0 {
		for _, m := range q.softly(k) {
			p.kept += float64(m >> i & 1)
		}
	}
}

// left is what is left of storage after so much more.
func (r *rest) left(bytes float64) float64 {
	return r.storage.used - float64(bytes*r.storage.each)
}

// score of a host.
func (q *query) score(k int, b *block, i int) float64 {
	var p parts
	q.parts(&p, k, b, i)
	return q.weigh(&p)
}

// softly is which hosts of a block keep each soft rule.
func (q *query) softly(k int) []uint64 {
	if q.softBlock == k {
		return q.softMasks
	}
	q.softBlock, q.softMasks = k, q.softMasks[:0]
	for _, j := range q.soft {
		q.softMasks = append(q.softMasks, q.rules[j].keeps(q.fleet, k))
	}
	return q.softMasks
}

// bound is at least the sum of any host of a summary that has room.
func (q *query) bound(s *summary) float64 {
	lowCores, highCores := s.cores.span(&q.cores)
	lowMemory, highMemory := s.memory.span(&q.memory)
	p := parts{
		low: max(lowCores, lowMemory), high: max(highCores, highMemory),
		gap:  max(0, lowCores-highMemory, lowMemory-highCores),
		over: max(float64(lowCores*s.cores.over), float64(lowMemory*s.memory.over)),
		left: s.storage.used - float64(q.storage*s.storage.each),
		zone: 1, refusing: 1, kvm: q.container || s.kvm != 0, kept: float64(len(q.soft)),
	}
	if q.zoneScore != nil {
		p.zone = q.zoneBest
	}
	return q.weigh(&p)
}

// scores are the parts by their names.
func (q *query) scores(where position) Scores {
	var p parts
	k, i := where.block(), where.row()
	b := q.fleet.block(k)
	q.parts(&p, k, b, i)
	p.left = b.rests[i].left(q.storage)
	s := Scores{
		Total: q.weigh(&p), LeastLoaded: max(0, 1-p.low), MostLoaded: min(1, p.high), Balance: max(0, 1-p.gap), FreeStorage: min(1, max(0, p.left)),
		SpreadZones: p.zone, AvoidOvercommit: within(p.over), AvoidRefusing: p.refusing, Affinity: 1,
	}
	if q.zoneScore == nil {
		if n, ok := q.near.inZone[b.hosts[i].Zone]; ok {
			s.SpreadZones = emptiness(n)
		}
	}
	if q.refusing == nil && q.req.Refusing[b.hosts[i].ID] > 0 {
		s.AvoidRefusing = 1 / float64(1+q.req.Refusing[b.hosts[i].ID])
	}
	if p.kvm {
		s.AvoidEmulation = 1
	}
	if len(q.soft) > 0 {
		s.Affinity = p.kept / float64(len(q.soft))
	}
	return s
}
