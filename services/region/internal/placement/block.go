package placement

import (
	"slices"
)

// blockSize is how many hosts a block has at most: one for each bit of a mask.
const blockSize = 64

// block is some hosts that follow one another by id, made for scanning. A block
// that a fleet has is never changed.
type block struct {
	loads [blockSize]load
	rests [blockSize]rest

	n      int
	hosts  [blockSize]*Host
	static [blockSize]*static
	groups [blockSize][]member

	facts, members bitset
	sum            summary
}

// load is what is looked at of every host that the masks let pass: one line of the
// processor's cache. As the masks leave few hosts of a block, that is less to fetch
// than columns are.
type load struct{ cores, memory amount }

// amount is what of a resource is in use, the limit against what is really there,
// and the most that one machine can have.
type amount struct {
	share
	over float64
	room int64
}

// rest is what is looked at of hosts that could win.
type rest struct {
	// What is left in the storage pools together, and what a byte takes of it.
	storage share
	// The most that one machine can have in huge pages, for a disk that names no
	// pool, and for one that does.
	pageRoom, diskRoom, poolRoom int64
	zone, shape                  uint32
}

// row is all of a host that is made for scanning.
type row struct {
	load
	rest
}

// share is a resource as a line: so much is in use, and each one more adds so
// much.
type share struct{ used, each float64 }

// member is how many machines of a group, by its word, a host has.
type member struct {
	group    uint32
	machines int32
}

func shareOf(r Resource) share {
	if r.Limit <= 0 {
		return share{used: 1}
	}
	limit := float64(r.Limit)
	return share{used: float64(r.used()) / limit, each: 1 / limit}
}

func amountOf(r Resource) amount {
	return amount{share: shareOf(r), over: float64(max(r.Limit, 0)) / float64(max(r.Most(), 1)), room: min(r.Most(), r.Free())}
}

// with is the share in use with so much more. Computed so, it is monotonic in
// every part, also as it is rounded: bounds hold exactly.
func (s share) with(amount float64) float64 { return s.used + float64(amount*s.each) }

func (r Resource) room() int64 { return min(r.Most(), r.Free()) }

// diskRoom is the largest disk that there is room for: one that names no pool and
// asks for no tags, and any.
func (h *Host) diskRoom() (open, named int64) {
	for i := range h.Pools {
		p := &h.Pools[i]
		if !p.Active {
			continue
		}
		room := p.room()
		named = max(named, room)
		if h.DefaultPool == "" || h.DefaultPool == p.Name {
			open = max(open, room)
		}
	}
	return open, named
}

// stored is what is left of all storage pools that run.
func (h *Host) stored() share {
	free, limit := 0.0, 0.0
	for i := range h.Pools {
		if p := &h.Pools[i]; p.Active {
			free += float64(p.Free())
			limit += float64(p.Limit)
		}
	}
	if limit <= 0 {
		return share{}
	}
	return share{used: free / limit, each: 1 / limit}
}

// set puts a host in a row. What is known of the block's hosts together is to be
// found anew afterwards.
func (b *block) set(i int, h *Host, s *static, x *index) {
	b.hosts[i], b.static[i] = h, s
	b.groups[i] = nil
	for _, g := range h.Groups {
		b.groups[i] = append(b.groups[i], member{x.facts.number(wordGroup + g.Key), g.Machines})
	}
	open, named := h.diskRoom()
	b.loads[i] = load{cores: amountOf(h.Cores), memory: amountOf(h.MemoryMiB)}
	b.rests[i] = rest{storage: h.stored(), pageRoom: h.Hugepages.room(), diskRoom: open, poolRoom: named, zone: s.zone, shape: s.shape}
	b.sum.mark(i, h, s)
}

// setStorage puts a host in the row of the same that has only something else in its
// storage pools. Call measure afterwards.
func (b *block) setStorage(i int, h *Host) {
	r := &b.rests[i]
	b.hosts[i], r.storage = h, h.stored()
	r.diskRoom, r.poolRoom = h.diskRoom()
}

func (b *block) row(i int) row { return row{b.loads[i], b.rests[i]} }

// replace puts a host in the row of the one before it, and says whether their
// words differ.
func (b *block) replace(i int, h *Host, x *index) (words bool) {
	before, groups, was := b.static[i], b.groups[i], b.row(i)
	s := x.static(h, before)
	b.set(i, h, s, x)
	if s != before {
		b.fillFacts()
	}
	if !slices.EqualFunc(groups, b.groups[i], func(a, b member) bool { return a.group == b.group }) {
		b.fillMembers()
	}
	if is := b.row(i); b.sum.loses(&was, &is) {
		b.measure()
	} else {
		b.sum.add(&is)
	}
	return s != before
}

func (b *block) fillFacts() {
	b.facts.fill(b.n, func(i int, add func(uint32)) {
		for _, w := range b.static[i].facts {
			add(w)
		}
	})
}

func (b *block) fillMembers() {
	b.members.fill(b.n, func(i int, add func(uint32)) {
		for _, m := range b.groups[i] {
			add(m.group)
		}
	})
}

// measure finds the extremes of all rows.
func (b *block) measure() {
	b.sum.reset()
	for i := range b.n {
		r := b.row(i)
		b.sum.add(&r)
	}
}

// newBlock makes a block of hosts, sorted by id.
func newBlock(hosts []*Host, statics []*static, x *index) *block {
	b := &block{n: len(hosts)}
	for i, h := range hosts {
		b.set(i, h, statics[i], x)
	}
	b.fillFacts()
	b.fillMembers()
	b.measure()
	return b
}
