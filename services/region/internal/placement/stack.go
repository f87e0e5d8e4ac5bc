package placement

import (
	"cmp"
	"slices"
)

// stackSize is how many blocks a stack has at most.
const stackSize = 16

// stack is some blocks that follow one another, with what is looked at of each of
// them side by side: what the best of its hosts could be, and which of its hosts
// have a word. A stack that a fleet has is never changed.
type stack struct {
	sums   [stackSize]summary // by block
	sum    summary            // of all of them
	blocks [stackSize]*block
	n      int // how many blocks
	count  int // how many hosts
	facts  table
	// tallies are how many machines of each group are in each zone, sorted.
	tallies []tally
}

// tally is how many machines of a group are on the hosts of a stack in a zone.
type tally struct {
	group, zone uint32
	machines    int32
}

func compareTally(a, b tally) int {
	return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.zone, b.zone))
}

// newStack makes a stack of blocks, of which none is empty.
func newStack(blocks []*block) *stack {
	st := &stack{}
	st.n = copy(st.blocks[:], blocks)
	for slot, b := range blocks {
		st.count += b.n
		st.sums[slot] = b.sum
		for i := range b.n {
			for _, m := range b.groups[i] {
				st.tallies = append(st.tallies, tally{m.group, b.rests[i].zone, m.machines})
			}
		}
	}
	slices.SortFunc(st.tallies, compareTally)
	kept := st.tallies[:0]
	for _, t := range st.tallies {
		if n := len(kept); n > 0 && compareTally(kept[n-1], t) == 0 {
			kept[n-1].machines += t.machines
		} else {
			kept = append(kept, t)
		}
	}
	st.tallies = slices.Clip(kept)
	st.facts.fill(blocks)
	st.gather()
	return st
}

// gather finds what the blocks are together.
func (st *stack) gather() {
	st.sum.masks = masks{}
	st.sum.reset()
	for slot := range st.n {
		st.sum.merge(&st.sums[slot])
	}
}

// replace puts a host in the row of the one before it. The block is the stack's
// own.
func (st *stack) replace(slot, i int, h *Host, x *index) {
	b := st.blocks[slot]
	groups, zone := b.groups[i], b.rests[i].zone
	words := b.replace(i, h, x)
	if words {
		st.facts.fill(st.blocks[:st.n])
	}
	if now := b.rests[i].zone; zone != now || !slices.Equal(groups, b.groups[i]) {
		st.tallies = slices.Clone(st.tallies) // shared with fleets that are done
		for _, m := range groups {
			if zone != now || !slices.Contains(b.groups[i], m) {
				st.add(tally{m.group, zone, -m.machines})
			}
		}
		for _, m := range b.groups[i] {
			if zone != now || !slices.Contains(groups, m) {
				st.add(tally{m.group, now, m.machines})
			}
		}
	}
	st.sums[slot] = b.sum
	st.gather()
}

// add adds to a tally.
func (st *stack) add(t tally) {
	i, found := slices.BinarySearchFunc(st.tallies, t, compareTally)
	if !found {
		st.tallies = slices.Insert(st.tallies, i, t)
		return
	}
	if st.tallies[i].machines += t.machines; st.tallies[i].machines == 0 {
		st.tallies = slices.Delete(st.tallies, i, i+1)
	}
}
