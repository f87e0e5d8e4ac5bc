package placement

import (
	"slices"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// query is a request as it is asked of a fleet: words as numbers, amounts as
// columns have them, and what was found out about hosts of one shape.
type query struct {
	fleet *Fleet
	req   *Request
	near  *nearness
	fit   fitting
	from  position // of the host that is left; -1: none

	steps []step // the filters that are words, in order
	rules []rule

	w                  Weights
	keptWeight         float64
	cores, memory      float64
	storage            float64
	diskRoom, poolRoom int64 // the largest disk that names no pool, and that does
	pageRoom           int64
	plain              bool // every interface is answered alike by hosts of one shape
	zoneScore          []float64
	zoneBest           float64
	refusing           map[position]float64
	soft               []int  // rules that are
	softBlock          *block // that softMasks are of
	softMasks          []uint64
	shapes             []verdict
	container          bool
}

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

// verdict is what is known of a shape.
type verdict struct {
	asked  bool
	filter Filter // that refuses; empty: none
	item   int32
}

func (f *Fleet) query(req *Request) *query {
	q := &query{
		fleet: f, req: req, w: req.Policy.Weights.effective(), cores: float64(req.Cores), memory: float64(req.MemoryMiB),
		container: req.container(), plain: true, from: -1,
	}
	if p, found := f.find(req.From); found && req.From != "" {
		q.from = p
	}
	q.keptWeight = 1 + q.w.sum()
	q.near = f.nearness(req)
	q.words()
	q.compileRules()
	for i := range req.Disks {
		d := &req.Disks[i]
		q.storage += float64(d.SizeBytes)
		if d.Pool == "" && len(d.Tags) == 0 {
			q.diskRoom = max(q.diskRoom, d.SizeBytes)
		} else {
			q.poolRoom = max(q.poolRoom, d.SizeBytes)
		}
	}
	if req.Hugepages {
		q.pageRoom = req.MemoryMiB
	}
	for i := range req.Interfaces {
		n := &req.Interfaces[i]
		q.plain = q.plain && !n.Address.IsValid() && n.Kind != vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV
	}
	if q.w.SpreadZones > 0 && req.Group != "" {
		q.zoneScore = make([]float64, f.index.zones.count())
		for i := range q.zoneScore {
			q.zoneScore[i] = 1
		}
		for zone, n := range q.near.inZone {
			if id, ok := f.index.zones.known(zone); ok {
				q.zoneScore[id] = emptiness(n)
			}
		}
		for _, s := range q.zoneScore {
			q.zoneBest = max(q.zoneBest, s)
		}
	}
	if q.w.AvoidRefusing > 0 {
		for id, n := range req.Refusing {
			if p, found := f.find(id); found && n > 0 {
				if q.refusing == nil {
					q.refusing = map[position]float64{}
				}
				q.refusing[p] = 1 / float64(1+n)
			}
		}
	}
	return q
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

// passes is which hosts of a block a filter lets pass.
func (s *step) passes(b *block, q *query) uint64 {
	switch s.filter {
	case FilterCordon:
		return ^b.cordoned
	case FilterState:
		return b.ready
	case FilterOvercommitted:
		return ^b.over
	case FilterType:
		m := b.vms
		switch {
		case s.never:
			return 0
		case q.container:
			m = b.cts
		}
		for _, w := range s.need {
			m &= b.facts.of(w)
		}
		return m
	default:
	}
	if s.never {
		return 0
	}
	m := b.all
	if s.filter == FilterArchitecture && len(s.need) == 0 {
		m &= b.runs
	}
	for _, w := range s.need {
		m &= b.facts.of(w)
	}
	for _, w := range s.avoid {
		m &^= b.facts.of(w)
	}
	return m
}

// able is the hosts of a block that pass every filter that is a mask: all but
// images, the policy, networks, the hostname, and what there must be room for.
func (q *query) able(k int, b *block) uint64 {
	m := b.all & q.req.Lane.rows() &^ q.left(k)
	for i := range q.steps {
		if m &= q.steps[i].passes(b, q); m == 0 {
			return 0
		}
	}
	for i := range q.rules {
		if !q.req.Affinity[i].Soft {
			m &= q.rules[i].keeps(k, b)
		}
	}
	return m &^ q.fullZones(b)
}

// left is the host of a block that the machine is on and is to leave.
func (q *query) left(k int) uint64 {
	if q.from < 0 || q.from.block() != k {
		return 0
	}
	return 1 << q.from.row()
}

// fullZones is the hosts in zones that have as many of the group as they may.
func (q *query) fullZones(b *block) uint64 {
	if q.req.MaxPerZone <= 0 || q.req.Group == "" {
		return 0
	}
	m := uint64(0)
	for zone, n := range q.near.inZone {
		if n >= q.req.MaxPerZone {
			if id, ok := q.fleet.index.facts.known(wordZone + zone); ok {
				m |= b.facts.of(id)
			}
		}
	}
	return m
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
}

// keeps is the hosts of a block that keep a rule.
func (r *rule) keeps(k int, b *block) uint64 {
	if r.always {
		return b.all
	}
	m := r.rows[k]
	for _, w := range r.zones {
		m |= b.facts.of(w)
	}
	for _, w := range r.members {
		m |= b.members.of(w)
	}
	if r.near {
		return m
	}
	return b.all &^ m
}

// shape is whether hosts of the shape of this one have the image and, where that
// is a matter of the shape, the networks.
func (q *query) shape(b *block, i int) verdict {
	s := b.static[i].shape
	if int(s) >= len(q.shapes) {
		q.shapes = append(q.shapes, make([]verdict, max(int(s)+1, q.fleet.index.shapes.count())-len(q.shapes))...)
	}
	v := &q.shapes[s]
	if v.asked {
		return *v
	}
	v.asked = true
	h := b.hosts[i]
	if !q.fit.chooseImage(h, q.req) {
		v.filter = FilterImage
	} else if q.plain {
		if item, ok := q.fit.chooseNetworks(h, q.req); !ok {
			v.filter, v.item = FilterNetwork, int32(item)
		}
	}
	return *v
}

// late tries, for a host that passes the masks, the filters that are none, in
// order up to the hostname.
func (q *query) late(b *block, i int) (Refusal, bool) {
	h := b.hosts[i]
	v := q.shape(b, i)
	if v.filter == FilterImage {
		return Refusal{Host: h, Filter: FilterImage, req: q.req}, false
	}
	if why, ok := q.req.Policy.admits(h); !ok {
		return Refusal{Host: h, Filter: FilterPolicy, Why: why, req: q.req}, false
	}
	if v.filter == FilterNetwork {
		return Refusal{Host: h, Filter: FilterNetwork, Item: int(v.item), req: q.req}, false
	}
	if !q.plain {
		if item, ok := q.fit.chooseNetworks(h, q.req); !ok {
			return Refusal{Host: h, Filter: FilterNetwork, Item: item, req: q.req}, false
		}
	}
	if q.req.NameTaken != nil && q.req.NameTaken(h.ID, q.req.NameOn(h)) {
		return Refusal{Host: h, Filter: FilterHostname, req: q.req}, false
	}
	return Refusal{}, true
}

// roomy says whether a host may have room, by what columns say: if not, it has
// none.
func (q *query) roomy(b *block, i int) bool {
	return int64(q.req.Cores) <= b.coreRoom[i] && q.req.MemoryMiB <= b.memoryRoom[i] && q.pageRoom <= b.pageRoom[i] &&
		q.diskRoom <= b.diskRoom[i] && q.poolRoom <= b.poolRoom[i]
}

// rooms says the same of all of a block.
func (q *query) rooms(b *block) bool {
	return int64(q.req.Cores) <= b.high.coreRoom && q.req.MemoryMiB <= b.high.memoryRoom && q.pageRoom <= b.high.pageRoom &&
		q.diskRoom <= b.high.diskRoom && q.poolRoom <= b.high.poolRoom
}

// certain says that columns are all there is to having room.
func (q *query) certain() bool {
	return len(q.req.PinnedCores) == 0 && !q.req.OneNUMANode && !q.req.Hugepages && q.poolRoom == 0 && len(q.req.Disks) <= 1
}

// nearness finds where the machines are that the request's rules are about.
func (f *Fleet) nearness(req *Request) *nearness {
	n := &nearness{zones: make([]map[string]bool, len(req.Affinity)), first: make([]bool, len(req.Affinity))}
	if req.Group != "" && (req.MaxPerZone > 0 || req.Policy.Weights.SpreadZones > 0) {
		n.inZone = f.others(req, req.Group)
	}
	for i := range req.Affinity {
		r := &req.Affinity[i]
		own := r.Near && r.Group != "" && r.Group == req.Group
		if !r.Zone && !own {
			continue
		}
		zones := map[string]bool{}
		for _, id := range r.Hosts {
			if h := f.Host(id); h != nil && r.Group == "" {
				zones[h.Zone] = true
			}
		}
		if r.Group != "" {
			for zone := range f.others(req, r.Group) {
				zones[zone] = true
			}
		}
		n.zones[i], n.first[i] = zones, own && len(zones) == 0
	}
	return n
}

// others is how many machines of a group beside the request's own are in each
// zone that has any.
func (f *Fleet) others(req *Request, group string) map[string]int32 {
	key := GroupKey(req.ResourcePool, group)
	zones := f.groupZones(key)
	if req.From == "" || group != req.Group {
		return zones
	}
	if h := f.Host(req.From); h != nil && h.In(key) > 0 {
		if zones[h.Zone]--; zones[h.Zone] <= 0 {
			delete(zones, h.Zone)
		}
	}
	return zones
}

// groupZones is how many machines of a group are in each zone that has any.
func (f *Fleet) groupZones(key string) map[string]int32 {
	word, ok := f.index.facts.known(wordGroup + key)
	if !ok {
		return nil
	}
	sums := make([]int32, f.index.zones.count())
	for _, b := range f.blocks {
		i, _ := slices.BinarySearchFunc(b.tallies, tally{group: word}, compareTally)
		for ; i < len(b.tallies) && b.tallies[i].group == word; i++ {
			sums[b.tallies[i].zone] += b.tallies[i].machines
		}
	}
	out := map[string]int32{}
	for zone, id := range f.index.zones.all() {
		if int(id) < len(sums) && sums[id] > 0 {
			out[zone] = sums[id]
		}
	}
	return out
}

// emptiness is the score of a zone with so many machines of the group.
func emptiness(machines int32) float64 { return 1 / float64(1+machines) }
