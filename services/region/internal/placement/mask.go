package placement

import (
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// maxSteps is how many filters are words.
const maxSteps = 10

// step is one filter as words: all of need, none of avoid.
type step struct {
	filter      Filter
	need, avoid []uint32
	never       bool // a word is needed that no host has
}

// rule is an affinity rule as masks: the words of a group or of zones, or hosts by
// block.
type rule struct {
	members []uint32
	zones   []uint32
	rows    map[int]uint64
	near    bool
	always  bool
}

func (q *query) words() {
	r, facts := q.req, &q.fleet.index.facts
	need := func(s *step, kind string, words ...string) {
		for _, w := range words {
			id, ok := facts.known(kind + w)
			s.need, s.never = append(s.need, id), s.never || !ok
		}
	}
	pool := step{filter: FilterResourcePool}
	need(&pool, wordPool, r.ResourcePool)
	q.steps = append(q.steps, pool)
	if r.Zone != "" {
		s := step{filter: FilterZone}
		need(&s, wordZone, r.Zone)
		q.steps = append(q.steps, s)
	}
	tags := step{filter: FilterTags}
	need(&tags, wordTag, r.RequiredTags...)
	for _, t := range r.ForbiddenTags {
		if id, ok := facts.known(wordTag + t); ok {
			tags.avoid = append(tags.avoid, id)
		}
	}
	kind := step{filter: FilterType}
	if r.HostType != vmhostv1.VmHostType_VM_HOST_TYPE_UNSPECIFIED {
		need(&kind, wordType, typeWord(r.HostType))
	}
	q.steps = append(q.steps, tags, step{filter: FilterCordon}, step{filter: FilterState}, step{filter: FilterOvercommitted}, kind)
	arch := step{filter: FilterArchitecture}
	if r.Architecture != "" {
		need(&arch, wordArch, r.Architecture)
	}
	q.steps = append(q.steps, arch)
	if r.CPUModel != "" {
		s := step{filter: FilterCPUModel}
		need(&s, wordCPU, r.CPUModel)
		q.steps = append(q.steps, s)
	}
	can := step{filter: FilterCapability}
	if r.SecureBoot {
		need(&can, wordCapability, secureBoot)
	}
	if r.Hugepages {
		need(&can, wordCapability, hugePages)
	}
	if r.functions() {
		need(&can, wordCapability, srIOV)
	}
	need(&can, wordCapability, r.Capabilities...)
	q.steps = append(q.steps, can)
}

// passes leaves of the hosts of a stack those that a filter lets pass.
func (s *step) passes(st *stack, q *query, left *[stackSize]uint64) {
	switch s.filter {
	case FilterCordon:
		for i := range left {
			left[i] &^= st.sums[i].cordoned
		}
	case FilterState:
		for i := range left {
			left[i] &= st.sums[i].ready
		}
	case FilterOvercommitted:
		for i := range left {
			left[i] &^= st.sums[i].over
		}
	case FilterType:
		for i := range left {
			if q.container {
				left[i] &= st.sums[i].cts
			} else {
				left[i] &= st.sums[i].vms
			}
		}
	case FilterArchitecture:
		for i := range left {
			left[i] &= st.sums[i].runs
		}
	default:
	}
	for _, w := range s.need {
		has := st.facts.of(w)
		if s.never || has == nil {
			*left = [stackSize]uint64{}
			return
		}
		for i := range left {
			left[i] &= has[i]
		}
	}
	for _, w := range s.avoid {
		if has := st.facts.of(w); has != nil {
			for i := range left {
				left[i] &^= has[i]
			}
		}
	}
}

// able is the hosts of a stack that pass every filter that is a word.
func (q *query) able(st *stack, m *[stackSize]uint64) {
	rows := q.req.Lane.rows()
	for i := range m {
		m[i] = st.sums[i].all & rows
	}
	for i := range q.steps {
		q.steps[i].passes(st, q, m)
	}
}

// keeping is the hosts of a block, of some, that pass the other filters that are
// masks: all but images, the policy, networks, the hostname, and what there must be
// room for.
func (q *query) keeping(k int, m uint64) uint64 {
	m &^= q.left(k)
	for i := range q.rules {
		if !q.req.Affinity[i].Soft {
			m &= q.rules[i].keeps(q.fleet, k)
		}
	}
	return m &^ q.fullZones(k)
}

// left is the host of a block that the machine is on and is to leave.
func (q *query) left(k int) uint64 {
	if q.from < 0 || q.from.block() != k {
		return 0
	}
	return 1 << q.from.row()
}

// fullZones is the hosts in zones that have as many of the group as they may.
func (q *query) fullZones(k int) uint64 {
	m := uint64(0)
	for _, zone := range q.full {
		m |= q.fleet.having(k, zone)
	}
	return m
}

// having is the hosts of a block that have a word.
func (f *Fleet) having(k int, word uint32) uint64 {
	if m := f.stacks[k/stackSize].facts.of(word); m != nil {
		return m[k%stackSize]
	}
	return 0
}

func (q *query) compileRules() {
	facts := &q.fleet.index.facts
	for i := range q.req.Affinity {
		r := &q.req.Affinity[i]
		out := rule{near: r.Near, always: q.near.first[i]}
		if r.Soft {
			q.soft = append(q.soft, i)
		}
		switch {
		case r.Zone:
			for zone := range q.near.zones[i] {
				if id, ok := facts.known(wordZone + zone); ok {
					out.zones = append(out.zones, id)
				}
			}
		case r.Group != "":
			if id, ok := facts.known(wordGroup + GroupKey(q.req.ResourcePool, r.Group)); ok {
				out.members = append(out.members, id)
			}
		default:
			out.rows = map[int]uint64{}
			for _, id := range r.Hosts {
				if p, found := q.fleet.find(id); found {
					out.rows[p.block()] |= 1 << p.row()
				}
			}
		}
		q.rules = append(q.rules, out)
	}
	if q.req.MaxPerZone <= 0 || q.req.Group == "" {
		return
	}
	for zone, n := range q.near.inZone {
		if id, ok := facts.known(wordZone + zone); ok && n >= q.req.MaxPerZone {
			q.full = append(q.full, id)
		}
	}
}

// keeps is the hosts of a block that keep a rule.
func (r *rule) keeps(f *Fleet, k int) uint64 {
	st := f.stacks[k/stackSize]
	all := st.sums[k%stackSize].all
	if r.always {
		return all
	}
	m := r.rows[k]
	for _, w := range r.zones {
		m |= f.having(k, w)
	}
	for _, w := range r.members {
		m |= st.blocks[k%stackSize].members.of(w)
	}
	if r.near {
		return m
	}
	return all &^ m
}
