package store

import (
	"slices"
	"sort"
	"strings"
)

// tree has entries by their keys, in order. It is never changed: an edit makes
// the next one, which shares with it every node that is not touched.
//
// A leaf holds the keys of its entries as one text without what they have in
// common, and entries stand in the leaf itself: most of a key is the same as of
// the one beside it, and a hundred thousand machines have four keys each.
type tree struct {
	root *node // nil: empty
	size int
	made uint64 // no node in it was made by a later edit
}

const (
	// maxLeaf is how many entries a leaf has at most: a write copies one leaf.
	maxLeaf = 32
	maxKids = 64
	// fewPart is the part of a full node below which it is put together with the one
	// beside it; together they then fill at most mostPart quarters.
	fewPart, mostQuarters = 4, 3
)

// node is a leaf, or has others below it.
type node struct {
	made uint64

	prefix  string // of all keys
	rest    string // what follows it in each key, one after another
	ends    []uint32
	entries []entry

	*inner // nil: a leaf
}

// inner is what a node has below it. A key is below the last of kids whose first
// key, in mins, is not above it; the first one takes what is below all.
type inner struct {
	mins []string
	kids []*node
}

func (t *tree) len() int { return t.size }

// get is the entry of a key; nil when there is none. It must not be changed.
func (t *tree) get(key string) *entry {
	n := t.root
	if n == nil {
		return nil
	}
	for n.inner != nil {
		n = n.kids[n.below(key)]
	}
	if i, found := n.find(key); found {
		return &n.entries[i]
	}
	return nil
}

// ascend goes through the entries from a key on until yield answers false. The key
// of an entry is head+tail: putting them together is left to who needs it.
func (t *tree) ascend(from string, yield func(head, tail string, e *entry) bool) {
	if t.root != nil {
		t.root.ascend(from, yield)
	}
}

func (n *node) ascend(from string, yield func(head, tail string, e *entry) bool) bool {
	if n.inner != nil {
		for _, kid := range n.kids[n.below(from):] {
			if !kid.ascend(from, yield) {
				return false
			}
			from = ""
		}
		return true
	}
	first, _ := n.find(from)
	for i := first; i < len(n.entries); i++ {
		if !yield(n.prefix, n.tail(i), &n.entries[i]) {
			return false
		}
	}
	return true
}

// below is which of the kids has a key.
func (n *node) below(key string) int {
	return sort.Search(len(n.mins)-1, func(i int) bool { return n.mins[i+1] > key })
}

func (n *node) start(i int) uint32 {
	if i == 0 {
		return 0
	}
	return n.ends[i-1]
}

func (n *node) tail(i int) string { return n.rest[n.start(i):n.ends[i]] }

func (n *node) key(i int) string { return n.prefix + n.tail(i) }

// find is where a key is in a leaf, or would be.
func (n *node) find(key string) (int, bool) {
	tail, in := strings.CutPrefix(key, n.prefix)
	switch {
	case in:
		i := sort.Search(len(n.entries), func(i int) bool { return n.tail(i) >= tail })
		return i, i < len(n.entries) && n.tail(i) == tail
	case key < n.prefix:
		return 0, false
	default:
		return len(n.entries), false
	}
}

// first is the smallest key.
func (n *node) first() string {
	if n.inner != nil {
		return n.mins[0]
	}
	return n.key(0)
}

// fill makes a leaf of keys, in order.
func (n *node) fill(keys []string, entries []entry) {
	n.prefix = common(keys[0], keys[len(keys)-1])
	n.ends, n.entries = make([]uint32, len(keys)), entries
	size := 0
	for _, key := range keys {
		size += len(key) - len(n.prefix)
	}
	var b strings.Builder
	b.Grow(size)
	for i, key := range keys {
		b.WriteString(key[len(n.prefix):])
		n.ends[i] = uint32(b.Len())
	}
	n.rest = b.String()
}

func common(a, b string) string {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return a[:i]
		}
	}
	return a[:n]
}

// keys are the keys of a leaf.
func (n *node) keys() []string {
	keys := make([]string, len(n.entries))
	for i := range keys {
		keys[i] = n.key(i)
	}
	return keys
}

// treeEdit makes the next tree. It is for one goroutine.
type treeEdit struct {
	tree

	group []*setting // of setMany
	items []item
}

// edit begins the next tree.
func (t *tree) edit() *treeEdit {
	next := *t
	next.made++
	return &treeEdit{tree: next}
}

// done is the tree as it is now. The edit can go on.
func (d *treeEdit) done() *tree {
	t := d.tree
	d.made++
	return &t
}

// mine is a node that the edit may change.
func (d *treeEdit) mine(n *node) *node {
	if n.made == d.made {
		return n
	}
	out := *n
	out.made = d.made
	if n.inner != nil {
		out.inner = &inner{mins: slices.Clone(n.mins), kids: slices.Clone(n.kids)}
	} else {
		out.entries = slices.Clone(n.entries)
	}
	return &out
}

// set puts an entry, and answers the one before.
func (d *treeEdit) set(key string, e entry) (was entry, had bool) {
	if d.root == nil {
		d.root = &node{made: d.made}
		d.root.fill([]string{key}, []entry{e})
		d.size++
		return entry{}, false
	}
	was, had = d.put(&d.root, key, e)
	if right := d.split(d.root); right != nil {
		d.root = &node{made: d.made, inner: &inner{mins: []string{d.root.first(), right.first()}, kids: []*node{d.root, right}}}
	}
	if !had {
		d.size++
	}
	return was, had
}

func (d *treeEdit) put(at **node, key string, e entry) (was entry, had bool) {
	if (*at).inner == nil {
		return d.putLeaf(at, key, e)
	}
	n := d.mine(*at)
	*at = n
	k := n.below(key)
	was, had = d.put(&n.kids[k], key, e)
	if k == 0 {
		n.mins[0] = min(n.mins[0], key)
	}
	if right := d.split(n.kids[k]); right != nil {
		n.mins, n.kids = slices.Insert(n.mins, k+1, right.first()), slices.Insert(n.kids, k+1, right)
	}
	return was, had
}

func (d *treeEdit) putLeaf(at **node, key string, e entry) (was entry, had bool) {
	n := *at
	i, found := n.find(key)
	if found {
		n = d.mine(n)
		*at = n
		was, n.entries[i] = n.entries[i], e
		return was, true
	}
	// Exactly as large as it must be: most leaves stay as they are for long.
	entries := make([]entry, len(n.entries)+1)
	copy(entries, n.entries[:i])
	entries[i] = e
	copy(entries[i+1:], n.entries[i:])
	out := &node{made: d.made}
	if tail, in := strings.CutPrefix(key, n.prefix); in {
		at := n.start(i)
		out.prefix, out.rest, out.entries = n.prefix, n.rest[:at]+tail+n.rest[at:], entries
		out.ends = make([]uint32, len(entries))
		copy(out.ends, n.ends[:i])
		out.ends[i] = at + uint32(len(tail))
		for j, end := range n.ends[i:] {
			out.ends[i+1+j] = end + uint32(len(tail))
		}
	} else {
		out.fill(slices.Insert(n.keys(), i, key), entries)
	}
	*at = out
	return entry{}, false
}

// split takes what is too much for a node of the edit into one to its right; nil
// when there is nothing.
func (d *treeEdit) split(n *node) *node {
	right := &node{made: d.made}
	if n.inner != nil {
		if len(n.kids) <= maxKids {
			return nil
		}
		half := len(n.kids) / 2
		right.inner = &inner{mins: slices.Clone(n.mins[half:]), kids: slices.Clone(n.kids[half:])}
		n.mins, n.kids = slices.Clone(n.mins[:half]), slices.Clone(n.kids[:half])
		return right
	}
	if len(n.entries) <= maxLeaf {
		return nil
	}
	half := len(n.entries) / 2
	keys, entries := n.keys(), n.entries
	right.fill(keys[half:], slices.Clone(entries[half:]))
	n.fill(keys[:half], slices.Clone(entries[:half]))
	return right
}

// delete removes a key, and answers what it had.
func (d *treeEdit) delete(key string) (was entry, had bool) {
	if d.get(key) == nil {
		return entry{}, false
	}
	was = d.remove(&d.root, key)
	d.size--
	for d.root.inner != nil && len(d.root.kids) == 1 {
		d.root = d.root.kids[0]
	}
	if d.size == 0 {
		d.root = nil
	}
	return was, true
}

// remove removes a key that is there. A leaf can be empty after it, at the root
// only.
func (d *treeEdit) remove(at **node, key string) (was entry) {
	n := *at
	if n.inner == nil {
		i, _ := n.find(key)
		was = n.entries[i]
		out := &node{made: d.made}
		if len(n.entries) > 1 {
			out.fill(slices.Delete(n.keys(), i, i+1), slices.Concat(n.entries[:i], n.entries[i+1:]))
		}
		*at = out
		return was
	}
	n = d.mine(n)
	*at = n
	k := n.below(key)
	was = d.remove(&n.kids[k], key)
	d.tidy(n, k)
	return was
}

// tidy removes a kid that is empty, and puts one with little in it together with
// the one beside it.
func (d *treeEdit) tidy(n *node, k int) {
	kid := n.kids[k]
	switch size, full := kid.amount(); {
	case size == 0:
		n.mins, n.kids = slices.Delete(n.mins, k, k+1), slices.Delete(n.kids, k, k+1)
	case size <= full/fewPart && len(n.kids) > 1:
		left := max(k-1, 0)
		a, b := n.kids[left], n.kids[left+1]
		more, _ := a.amount()
		other, _ := b.amount()
		if more+other > full*mostQuarters/4 {
			return
		}
		n.kids[left] = d.join(a, b)
		n.mins, n.kids = slices.Delete(n.mins, left+1, left+2), slices.Delete(n.kids, left+1, left+2)
	}
}

// amount is how many there are in a node, and how many there can be.
func (n *node) amount() (size, full int) {
	if n.inner != nil {
		return len(n.kids), maxKids
	}
	return len(n.entries), maxLeaf
}

func (d *treeEdit) join(a, b *node) *node {
	out := &node{made: d.made}
	if a.inner != nil {
		out.inner = &inner{mins: slices.Concat(a.mins, b.mins), kids: slices.Concat(a.kids, b.kids)}
		return out
	}
	out.fill(slices.Concat(a.keys(), b.keys()), slices.Concat(a.entries, b.entries))
	return out
}
