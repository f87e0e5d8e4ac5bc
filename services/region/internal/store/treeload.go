package store

import (
	"slices"
	"strings"
)

// treeLoad makes a tree of keys that come in order, with no room left in it.
//
// What many leaves are made of is allocated together: a list is read and decoded
// meanwhile, and a leaf by itself would lie between what is thrown away of that
// and keep a page of memory each.
type treeLoad struct {
	leaves  []*node
	keys    []string
	entries []entry
	size    int
}

// loadAtOnce is how many entries are made leaves of together.
const loadAtOnce = 64 * maxLeaf

// add adds a key. It answers false when it is not above the one before: then the
// keys do not come in order and make no tree.
func (l *treeLoad) add(key string, e entry) bool {
	if n := len(l.keys); n > 0 && l.keys[n-1] >= key {
		return false
	}
	if len(l.keys) == loadAtOnce {
		last := l.keys[loadAtOnce-1]
		l.flush()
		if last >= key {
			return false
		}
	}
	l.keys, l.entries = append(l.keys, key), append(l.entries, e)
	l.size++
	return true
}

// flush makes leaves of what was added.
func (l *treeLoad) flush() {
	nodes := make([]node, (len(l.keys)+maxLeaf-1)/maxLeaf)
	entries, ends := slices.Clone(l.entries), make([]uint32, len(l.keys))
	var text strings.Builder
	for i := range nodes {
		n := &nodes[i]
		from, to := i*maxLeaf, min((i+1)*maxLeaf, len(l.keys))
		keys := l.keys[from:to]
		n.prefix = strings.Clone(common(keys[0], keys[len(keys)-1]))
		n.entries, n.ends = entries[from:to:to], ends[from:to:to]
		begin := text.Len()
		for j, key := range keys {
			text.WriteString(key[len(n.prefix):])
			n.ends[j] = uint32(text.Len() - begin)
		}
		l.leaves = append(l.leaves, n)
	}
	rest := strings.Clone(text.String()) // no more than there is
	for i := range nodes {
		n := &nodes[i]
		size := n.ends[len(n.ends)-1]
		n.rest, rest = rest[:size], rest[size:]
	}
	clear(l.keys)
	clear(l.entries)
	l.keys, l.entries = l.keys[:0], l.entries[:0]
}

// done is the tree.
func (l *treeLoad) done() *tree {
	l.flush()
	level := l.leaves
	for len(level) > 1 {
		var up []*node
		for kids := range slices.Chunk(level, maxKids) {
			n := &node{inner: &inner{kids: slices.Clone(kids), mins: make([]string, len(kids))}}
			for i, kid := range kids {
				n.mins[i] = kid.first()
			}
			up = append(up, n)
		}
		level = up
	}
	t := &tree{size: l.size}
	if len(level) == 1 {
		t.root = level[0]
	}
	return t
}
