package placement

import (
	"iter"
	"slices"
	"strings"
)

// Fleet is all hosts at one time, made for scanning: stacks of blocks of hosts. It
// never changes, so that many may read it; a Draft makes the next one and shares
// with it every block in which no host changed.
type Fleet struct {
	stacks []*stack
	count  int
	index  *index
	shared map[string]*sharing // pools that hosts share, by Identity; nil: none
}

// position is where a host is: the number of its block, and its row. Positions
// are in the order of ids. Blocks are counted as if all stacks were full.
type position int

func at(block, row int) position { return position(block*blockSize + row) }

func (p position) block() int { return int(p) / blockSize }
func (p position) row() int   { return int(p) % blockSize }

// NewFleet makes a fleet of hosts, in any order. Of several of one id the last
// counts.
func NewFleet(hosts []*Host) *Fleet {
	list := slices.Clone(hosts)
	slices.SortStableFunc(list, func(a, b *Host) int { return strings.Compare(a.ID, b.ID) })
	kept := list[:0]
	for i, h := range list {
		if i+1 == len(list) || list[i+1].ID != h.ID {
			kept = append(kept, h)
		}
	}
	f := &Fleet{count: len(kept), index: &index{}, shared: sharings(kept)}
	for i, h := range kept {
		kept[i] = f.Together(h)
	}
	statics := make([]*static, 0, blockSize)
	var last *static
	var blocks []*block
	for some := range slices.Chunk(kept, blockSize) {
		statics = statics[:0]
		for _, h := range some {
			last = f.index.static(h, last)
			statics = append(statics, last)
		}
		blocks = append(blocks, newBlock(some, statics, f.index))
	}
	for some := range slices.Chunk(blocks, stackSize) {
		f.stacks = append(f.stacks, newStack(some))
	}
	f.index.initial = f.index.size()
	return f
}

// Len is how many hosts there are.
func (f *Fleet) Len() int { return f.count }

// Hosts are all hosts, by id.
func (f *Fleet) Hosts() iter.Seq[*Host] {
	return func(yield func(*Host) bool) {
		for _, b := range f.blocks() {
			for _, h := range b.hosts[:b.n] {
				if !yield(h) {
					return
				}
			}
		}
	}
}

// blocks are all blocks by their numbers.
func (f *Fleet) blocks() iter.Seq2[int, *block] {
	return func(yield func(int, *block) bool) {
		for k, st := range f.stacks {
			for slot, b := range st.blocks[:st.n] {
				if !yield(k*stackSize+slot, b) {
					return
				}
			}
		}
	}
}

func (f *Fleet) block(k int) *block { return f.stacks[k/stackSize].blocks[k%stackSize] }

// Host is the host of an id, nil when there is none.
func (f *Fleet) Host(id string) *Host {
	p, found := f.find(id)
	if !found {
		return nil
	}
	return f.at(p)
}

func (f *Fleet) at(p position) *Host { return f.block(p.block()).hosts[p.row()] }

// find is where the host of an id is.
func (f *Fleet) find(id string) (position, bool) {
	k, slot, i, found := f.place(id)
	return at(k*stackSize+slot, i), found
}

// place is in which row of which block of which stack the host of an id is, or
// would be: behind the others of the last block that does not begin after it.
func (f *Fleet) place(id string) (k, slot, row int, found bool) {
	begins := func(b *block, id string) int { return strings.Compare(b.hosts[0].ID, id) }
	k, exact := slices.BinarySearchFunc(f.stacks, id, func(st *stack, id string) int { return begins(st.blocks[0], id) })
	switch {
	case exact:
		return k, 0, 0, true
	case k == 0:
		return 0, 0, 0, false
	}
	st := f.stacks[k-1]
	slot, exact = slices.BinarySearchFunc(st.blocks[:st.n], id, begins)
	if exact {
		return k - 1, slot, 0, true
	}
	b := st.blocks[slot-1]
	row, found = slices.BinarySearchFunc(b.hosts[:b.n], id, func(h *Host, id string) int { return strings.Compare(h.ID, id) })
	return k - 1, slot - 1, row, found
}

// number is how many hosts come before one.
func (f *Fleet) number(p position) int {
	k, slot := p.block()/stackSize, p.block()%stackSize
	n := p.row()
	for _, st := range f.stacks[:k] {
		n += st.count
	}
	for _, b := range f.stacks[k].blocks[:slot] {
		n += b.n
	}
	return n
}
