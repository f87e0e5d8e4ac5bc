package placement

import (
	"cmp"
	"math"
	"slices"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// blockSize is how many hosts a block has at most: one for each bit of a mask.
const blockSize = 64

// block is some hosts that follow one another by id, as columns made for
// scanning. A block that a fleet has is never changed.
type block struct {
	n      int
	hosts  [blockSize]*Host
	static [blockSize]*static
	zones  [blockSize]uint32
	groups [blockSize][]uint32 // words of the host's groups
	counts [blockSize][]int32  // machines of each

	// What of a resource is in use, as a share of its limit; what one more takes of
	// it; and the limit against what is really there.
	cores, memory [blockSize]share
	// What is left in the storage pools together, and what a byte takes of it.
	storage [blockSize]share
	// The most that one machine can have: of cores, memory, huge pages, for a disk
	// that names no pool, and for one that does.
	coreRoom, memoryRoom, pageRoom, diskRoom, poolRoom [blockSize]int64

	all                                        uint64
	ready, cordoned, over, kvm, vms, cts, runs uint64
	facts, members                             bitset
	tallies                                    []tally // by group, then zone

	low, high bounds
}

// share is a resource as a line: so much is in use, and each one more adds so
// much.
type share struct{ used, each, over float64 }

// bounds are the least or the most of each column.
type bounds struct {
	cores, memory, storage                             share
	coreRoom, memoryRoom, pageRoom, diskRoom, poolRoom int64
}

func shareOf(r Resource) share {
	if r.Limit <= 0 {
		return share{used: 1}
	}
	limit := float64(r.Limit)
	return share{used: float64(r.used()) / limit, each: 1 / limit, over: limit / float64(max(r.Most(), 1))}
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

// set puts a host in a row. Call seal afterwards.
func (b *block) set(i int, h *Host, s *static, x *index) {
	b.hosts[i], b.static[i], b.zones[i] = h, s, s.zone
	b.groups[i], b.counts[i] = nil, nil
	for _, g := range h.Groups {
		b.groups[i], b.counts[i] = append(b.groups[i], x.facts.number(wordGroup+g.Key)), append(b.counts[i], g.Machines)
	}
	b.cores[i], b.memory[i], b.storage[i] = shareOf(h.Cores), shareOf(h.MemoryMiB), h.stored()
	b.coreRoom[i], b.memoryRoom[i], b.pageRoom[i] = h.Cores.room(), h.MemoryMiB.room(), h.Hugepages.room()
	b.diskRoom[i], b.poolRoom[i] = h.diskRoom()
	_, _, over := h.over()
	for _, m := range []struct {
		mask *uint64
		is   bool
	}{
		{&b.ready, h.State == vmhostv1.VmHostState_VM_HOST_STATE_READY},
		{&b.cordoned, h.Cordoned},
		{&b.over, over},
		{&b.kvm, s.kvm},
		{&b.vms, s.vms},
		{&b.cts, s.cts},
		{&b.runs, len(h.Architectures) > 0},
	} {
		*m.mask &^= 1 << i
		if m.is {
			*m.mask |= 1 << i
		}
	}
}

// replace puts a host in the row of the one before it.
func (b *block) replace(i int, h *Host, x *index) {
	before, groups, counts := b.static[i], b.groups[i], b.counts[i]
	s := x.static(h, before)
	b.set(i, h, s, x)
	if s != before {
		b.fillFacts()
	}
	if !slices.Equal(groups, b.groups[i]) || !slices.Equal(counts, b.counts[i]) || (len(groups) > 0 && s.zone != before.zone) {
		b.fillMembers()
	}
	b.seal()
}

// tally is how many machines of a group are on the hosts of a block in a zone.
type tally struct {
	group, zone uint32
	machines    int32
}

func (b *block) fillFacts() {
	b.facts.fill(b.n, func(i int) []uint32 { return b.static[i].facts })
}

func (b *block) fillMembers() {
	b.members.fill(b.n, func(i int) []uint32 { return b.groups[i] })
	b.tallies = nil
	for i := range b.n {
		for j, g := range b.groups[i] {
			b.tallies = append(b.tallies, tally{g, b.zones[i], b.counts[i][j]})
		}
	}
	slices.SortFunc(b.tallies, compareTally)
	kept := b.tallies[:0]
	for _, t := range b.tallies {
		if n := len(kept); n > 0 && compareTally(kept[n-1], t) == 0 {
			kept[n-1].machines += t.machines
		} else {
			kept = append(kept, t)
		}
	}
	b.tallies = kept
}

func compareTally(a, b tally) int {
	return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.zone, b.zone))
}

// seal computes the bounds.
func (b *block) seal() {
	b.all = math.MaxUint64
	if b.n < blockSize {
		b.all = 1<<b.n - 1
	}
	if b.n == 0 {
		b.low, b.high = bounds{}, bounds{}
		return
	}
	b.low, b.high = b.row(0), b.row(0)
	for i := 1; i < b.n; i++ {
		b.low.cores.low(&b.cores[i])
		b.low.memory.low(&b.memory[i])
		b.low.storage.low(&b.storage[i])
		b.high.cores.high(&b.cores[i])
		b.high.memory.high(&b.memory[i])
		b.high.storage.high(&b.storage[i])
		b.high.coreRoom = max(b.high.coreRoom, b.coreRoom[i])
		b.high.memoryRoom = max(b.high.memoryRoom, b.memoryRoom[i])
		b.high.pageRoom = max(b.high.pageRoom, b.pageRoom[i])
		b.high.diskRoom = max(b.high.diskRoom, b.diskRoom[i])
		b.high.poolRoom = max(b.high.poolRoom, b.poolRoom[i])
	}
}

func (b *block) row(i int) bounds {
	return bounds{b.cores[i], b.memory[i], b.storage[i], b.coreRoom[i], b.memoryRoom[i], b.pageRoom[i], b.diskRoom[i], b.poolRoom[i]}
}

func (s *share) low(o *share) {
	s.used, s.each, s.over = min(s.used, o.used), min(s.each, o.each), min(s.over, o.over)
}

func (s *share) high(o *share) {
	s.used, s.each, s.over = max(s.used, o.used), max(s.each, o.each), max(s.over, o.over)
}

// newBlock makes a block of hosts, sorted by id.
func newBlock(hosts []*Host, statics []*static, x *index) *block {
	b := &block{n: len(hosts)}
	for i, h := range hosts {
		b.set(i, h, statics[i], x)
	}
	b.fillFacts()
	b.fillMembers()
	b.seal()
	return b
}
