package placement

import (
	"iter"
	"slices"
	"sync"
)

// words gives every word that hosts have, such as a tag, a number. It only grows
// and is shared by a fleet and those made from it: a number that a fleet has not
// is one that none of its hosts has.
type words struct {
	mu  sync.RWMutex
	ids map[string]uint32
}

// The kinds of words, their first byte.
const (
	wordPool       = "p"
	wordZone       = "z"
	wordTag        = "t"
	wordCapability = "c"
	wordArch       = "a"
	wordCPU        = "m"
	wordGroup      = "g"
	wordType       = "h"
)

func (w *words) number(word string) uint32 {
	if id, ok := w.known(word); ok {
		return id
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	id, ok := w.ids[word]
	if !ok {
		if w.ids == nil {
			w.ids = map[string]uint32{}
		}
		id = uint32(len(w.ids))
		w.ids[word] = id
	}
	return id
}

func (w *words) known(word string) (uint32, bool) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	id, ok := w.ids[word]
	return id, ok
}

func (w *words) count() int {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return len(w.ids)
}

// all are the words with their numbers, in no order.
func (w *words) all() iter.Seq2[string, uint32] {
	return func(yield func(string, uint32) bool) {
		w.mu.RLock()
		defer w.mu.RUnlock()
		for word, id := range w.ids {
			if !yield(word, id) {
				return
			}
		}
	}
}

// bitset says for each word which hosts of a block have it.
type bitset struct {
	words []uint32 // sorted
	masks []uint64
}

// of is the hosts that have the word.
func (s *bitset) of(word uint32) uint64 {
	i, found := slices.BinarySearch(s.words, word)
	if !found {
		return 0
	}
	return s.masks[i]
}

// fill makes the set of what each of n hosts has.
func (s *bitset) fill(n int, has func(i int, add func(word uint32))) {
	s.words, s.masks = nil, nil // shared with fleets that are done
	for i := range n {
		has(i, func(w uint32) {
			at, found := slices.BinarySearch(s.words, w)
			if !found {
				s.words, s.masks = slices.Insert(s.words, at, w), slices.Insert(s.masks, at, 0)
			}
			s.masks[at] |= 1 << i
		})
	}
}

// table says for each word which hosts of a stack have it, a mask for each block.
type table struct {
	words []uint32 // sorted
	masks []*[stackSize]uint64
}

// of is the hosts that have the word; nil: none has.
func (t *table) of(word uint32) *[stackSize]uint64 {
	// Words that nearly all hosts have are the first ones.
	if int(word) < len(t.words) && t.words[word] == word {
		return t.masks[word]
	}
	i, found := slices.BinarySearch(t.words, word)
	if !found {
		return nil
	}
	return t.masks[i]
}

// fill makes the table of what the hosts of blocks have.
func (t *table) fill(blocks []*block) {
	t.words, t.masks = nil, nil // shared with fleets that are done
	for _, b := range blocks {
		t.words = append(t.words, b.facts.words...)
	}
	slices.Sort(t.words)
	t.words = slices.Clip(slices.Compact(t.words))
	all := make([][stackSize]uint64, len(t.words))
	t.masks = make([]*[stackSize]uint64, len(t.words))
	for i := range all {
		t.masks[i] = &all[i]
	}
	for slot, b := range blocks {
		for i, w := range b.facts.words {
			at, _ := slices.BinarySearch(t.words, w)
			all[at][slot] = b.facts.masks[i]
		}
	}
}
