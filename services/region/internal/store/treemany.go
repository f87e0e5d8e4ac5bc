package store

import (
	"slices"
	"strings"
)

// setting is an entry that is put, and the one before it.
type setting struct {
	key string
	entry
	was entry
	had bool
}

// item is an entry on its way into leaves. Its key is head+tail.
type item struct {
	head, tail string
	entry
}

func (m *item) key() string { return m.head + m.tail }

// after is the key without its first n bytes, in two parts.
func (m *item) after(n int) (string, string) {
	if n <= len(m.head) {
		return m.head[n:], m.tail
	}
	return "", m.tail[n-len(m.head):]
}

// setMany is set of many, in any order, that goes down the tree once for those
// that are beside one another. Of two of one key the later one counts.
func (d *treeEdit) setMany(all []setting) {
	if len(all) == 0 {
		return
	}
	d.group = d.group[:0]
	for i := range all {
		d.group = append(d.group, &all[i])
	}
	slices.SortStableFunc(d.group, func(a, b *setting) int { return strings.Compare(a.key, b.key) })
	root := d.root
	if root == nil {
		root = &node{made: d.made}
	}
	level := d.many(root, d.group)
	for len(level) > 1 {
		level = d.above(level, nil, false)
	}
	d.root = level[0]
}

// many puts a group, sorted by key, below a node, and answers what there is in its
// place.
func (d *treeEdit) many(n *node, group []*setting) []*node {
	if n.inner == nil {
		return d.leaves(n, group)
	}
	n = d.mine(n)
	grown := false
	for at := 0; at < len(group); {
		k := n.below(group[at].key)
		end := len(group)
		if k+1 < len(n.mins) {
			end = at + 1
			for end < len(group) && group[end].key < n.mins[k+1] {
				end++
			}
		}
		if k == 0 {
			n.mins[0] = min(n.mins[0], group[at].key)
		}
		now := d.many(n.kids[k], group[at:end])
		n.kids[k] = now[0]
		if more := now[1:]; len(more) > 0 {
			mins := make([]string, len(more))
			for i, kid := range more {
				mins[i] = kid.first()
			}
			n.mins, n.kids = slices.Insert(n.mins, k+1, mins...), slices.Insert(n.kids, k+1, more...)
			grown = at == 0 && end == len(group) && k+len(now) == len(n.kids)
		}
		at = end
	}
	if len(n.kids) <= maxKids {
		return []*node{n}
	}
	return d.above(n.kids, n.mins, grown)
}

// above makes nodes that have these below them; mins may be nil.
func (d *treeEdit) above(kids []*node, mins []string, appended bool) []*node {
	if mins == nil {
		for _, kid := range kids {
			mins = append(mins, kid.first())
		}
	}
	var out []*node
	for size := range shares(len(kids), maxKids, appended) {
		out = append(out, &node{made: d.made, inner: &inner{mins: slices.Clone(mins[:size]), kids: slices.Clone(kids[:size])}})
		mins, kids = mins[size:], kids[size:]
	}
	return out
}

// leaves are the leaves that there are when a group was put into one.
func (d *treeEdit) leaves(n *node, group []*setting) []*node {
	if len(n.entries) > 0 && d.replaces(n, group) {
		n = d.mine(n)
		for _, s := range group {
			i, _ := n.find(s.key)
			s.was, s.had, n.entries[i] = n.entries[i], true, s.entry
		}
		return []*node{n}
	}
	if d.items == nil {
		d.items = make([]item, 0, 2*maxLeaf)
	}
	items, i := d.items[:0], 0
	for _, s := range group {
		if last := len(items) - 1; last >= 0 && items[last].head == s.key && items[last].tail == "" {
			s.was, s.had = items[last].entry, true
			items[last].entry = s.entry
			continue
		}
		at, found := n.find(s.key)
		for ; i < at; i++ {
			items = append(items, item{n.prefix, n.tail(i), n.entries[i]})
		}
		if found {
			s.was, s.had = n.entries[i], true
			i++
		} else {
			d.size++
		}
		items = append(items, item{s.key, "", s.entry})
	}
	appended := i == len(n.entries) && len(items) > len(group)
	for ; i < len(n.entries); i++ {
		items = append(items, item{n.prefix, n.tail(i), n.entries[i]})
	}
	d.items = items
	var out []*node
	for size := range shares(len(items), maxLeaf, appended) {
		out = append(out, d.leaf(items[:size]))
		items = items[size:]
	}
	return out
}

// replaces says whether all of a group is in a leaf already.
func (d *treeEdit) replaces(n *node, group []*setting) bool {
	for _, s := range group {
		if _, found := n.find(s.key); !found {
			return false
		}
	}
	return true
}

// leaf makes a leaf.
func (d *treeEdit) leaf(items []item) *node {
	n := &node{made: d.made, ends: make([]uint32, len(items)), entries: make([]entry, len(items))}
	first, last := &items[0], &items[len(items)-1]
	n.prefix = common(first.key(), last.key())
	if len(first.head) == len(n.prefix) {
		n.prefix = first.head // is there already
	}
	size := 0
	for i := range items {
		size += len(items[i].head) + len(items[i].tail) - len(n.prefix)
	}
	var b strings.Builder
	b.Grow(size)
	for i := range items {
		head, tail := items[i].after(len(n.prefix))
		b.WriteString(head)
		b.WriteString(tail)
		n.ends[i], n.entries[i] = uint32(b.Len()), items[i].entry
	}
	n.rest = b.String()
	return n
}

// shares are the sizes of nodes that so many are divided among: alike, or, where
// what came was appended, as it will be again, full ones and the rest.
func shares(n, full int, appended bool) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		for parts := (n + full - 1) / full; n > 0; parts-- {
			size := (n + parts - 1) / parts
			if appended {
				size = min(n, full)
			}
			if !yield(size) {
				return
			}
			n -= size
		}
	}
}
