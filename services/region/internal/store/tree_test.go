package store

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// model is what a tree must be the same as.
type model map[string]int64

func (m model) check(t *rapid.T, tree *tree) {
	t.Helper()
	if tree.len() != len(m) {
		t.Fatalf("the tree has %d keys, not %d", tree.len(), len(m))
	}
	for key, want := range m {
		if e := tree.get(key); e == nil || e.modRevision != want {
			t.Fatalf("%q is %v, not %d", key, e, want)
		}
	}
	m.checkFrom(t, tree, "")
}

func (m model) checkFrom(t *rapid.T, tree *tree, from string) {
	t.Helper()
	var want, got []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if key >= from {
			want = append(want, fmt.Sprint(key, "=", m[key]))
		}
	}
	tree.ascend(from, func(head, tail string, e *entry) bool {
		got = append(got, fmt.Sprint(head+tail, "=", e.modRevision))
		return true
	})
	if !slices.Equal(got, want) {
		t.Fatalf("from %q: got %q, want %q", from, got, want)
	}
	checkNode(t, tree.root, tree.made)
}

// checkNode checks that no node is too large, empty, or of a later edit.
func checkNode(t *rapid.T, n *node, made uint64) {
	t.Helper()
	if n == nil {
		return
	}
	size, full := n.amount()
	if size == 0 || size > full || n.made > made {
		t.Fatalf("a node has %d of %d, and was made by edit %d of %d", size, full, n.made, made)
	}
	if n.inner == nil {
		return
	}
	if len(n.mins) != len(n.kids) || !slices.IsSorted(n.mins) {
		t.Fatalf("a node has %d kids from %q", len(n.kids), n.mins)
	}
	for i, kid := range n.kids {
		kid.ascend("", func(head, tail string, _ *entry) bool {
			if key := head + tail; key < n.mins[i] || i+1 < len(n.mins) && key >= n.mins[i+1] {
				t.Fatalf("%q is in the kid from %q", key, n.mins[i])
			}
			return true
		})
		checkNode(t, kid, made)
	}
}

func keyGen() *rapid.Generator[string] {
	number := rapid.IntRange(0, 3000)
	return rapid.OneOf(
		rapid.Map(number, func(i int) string { return fmt.Sprintf("/vmhost/v1/machines/%04d", i) }),
		rapid.Map(number, func(i int) string { return fmt.Sprintf("/vmhost/v1/seen/host-%02d/%d", i%40, i) }),
		rapid.Custom(func(t *rapid.T) string { return strings.Repeat("a", number.Draw(t, "n")%20) }),
		rapid.StringOfN(rapid.RuneFrom([]rune("ab/\x00ÿ")), 0, 6, -1),
	)
}

// setTogether sets many at once, some of them twice, some beside one another and
// behind all that there are.
func setTogether(t *rapid.T, is model, edit *treeEdit, revision int64) int64 {
	keys := rapid.SliceOfN(keyGen(), 0, 40).Draw(t, "keys")
	last := len(is)
	for i := range rapid.SampledFrom([]int{0, 0, 1, 30, 3 * maxLeaf}).Draw(t, "appended") {
		keys = append(keys, fmt.Sprintf("/vmhost/v1/operations/%06d", last*10+i))
	}
	all := make([]setting, len(keys))
	for i, key := range keys {
		all[i] = setting{key: key, entry: entry{modRevision: revision + int64(i) + 1}}
	}
	edit.setMany(all)
	for i, s := range all {
		was, had := is[s.key]
		if s.had != had || s.was.modRevision != was {
			t.Fatalf("set of %q found %v %v, want %d %v", s.key, s.was, s.had, was, had)
		}
		revision++
		if is[s.key] = revision; s.modRevision != revision {
			t.Fatalf("%d is of revision %d", i, s.modRevision)
		}
	}
	return revision
}

func TestATreeIsAMapInOrderAndNoTreeChangesOnceItIsDone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		is, now := model{}, &tree{}
		type snapshot struct {
			model
			tree *tree
		}
		var before []snapshot
		revision := int64(0)
		for range rapid.IntRange(1, 12).Draw(t, "edits") {
			edit := now.edit()
			for range rapid.IntRange(0, 200).Draw(t, "steps") {
				if rapid.IntRange(0, 20).Draw(t, "together") == 0 {
					revision = setTogether(t, is, edit, revision)
					continue
				}
				key := keyGen().Draw(t, "key")
				was, had := is[key]
				revision++
				if rapid.IntRange(0, 9).Draw(t, "kind") < 6 {
					old, there := edit.set(key, entry{modRevision: revision})
					if there != had || old.modRevision != was {
						t.Fatalf("set of %q found %v %v, want %d %v", key, old, there, was, had)
					}
					is[key] = revision
					continue
				}
				old, there := edit.delete(key)
				if there != had || old.modRevision != was {
					t.Fatalf("delete of %q found %v %v, want %d %v", key, old, there, was, had)
				}
				delete(is, key)
			}
			if rapid.IntRange(0, 5).Draw(t, "much") == 0 { // a stretch of keys goes
				for _, key := range slices.Sorted(maps.Keys(is))[:len(is)/2] {
					edit.delete(key)
					delete(is, key)
				}
			}
			now = edit.done()
			is.check(t, now)
			is.checkFrom(t, now, keyGen().Draw(t, "from"))
			before = append(before, snapshot{maps.Clone(is), now})
		}
		for _, s := range before {
			s.check(t, s.tree)
		}
	})
}

func TestManyThatAreAppendedFillTheTree(t *testing.T) {
	now, n, batches := &tree{}, 0, []int{1, maxLeaf, 3*maxLeaf + 1, maxLeaf*maxKids + 1, 22, 22, 2*maxLeaf*maxKids + 5, 1}
	for range 200 {
		batches = append(batches, 22)
	}
	for _, size := range batches {
		edit := now.edit()
		all := make([]setting, size)
		for i := range all {
			n++
			all[i] = setting{key: fmt.Sprintf("/vmhost/v1/operations/%08d", n), entry: entry{modRevision: int64(n)}}
		}
		edit.setMany(all)
		now = edit.done()
	}
	leaves := 0
	var walk func(n *node, depth int) int
	walk = func(n *node, depth int) int {
		if size, full := n.amount(); size == 0 || size > full {
			t.Fatalf("a node has %d of %d", size, full)
		}
		if n.inner == nil {
			leaves++
			return depth
		}
		deep := walk(n.kids[0], depth+1)
		for _, kid := range n.kids[1:] {
			if other := walk(kid, depth+1); other != deep {
				t.Fatalf("leaves are at %d and at %d", deep, other)
			}
		}
		return deep
	}
	walk(now.root, 0)
	seen := 0
	now.ascend("", func(head, tail string, e *entry) bool {
		if seen++; head+tail != fmt.Sprintf("/vmhost/v1/operations/%08d", seen) || e.modRevision != int64(seen) {
			t.Fatalf("%d is %s of %d", seen, head+tail, e.modRevision)
		}
		return true
	})
	if seen != n || now.len() != n {
		t.Errorf("%d of %d are there, and it says %d", seen, n, now.len())
	}
	if most := n/maxLeaf*11/10 + 4; leaves > most {
		t.Errorf("%d keys are in %d leaves, more than %d", n, leaves, most)
	}
}

func TestATreeOfAListIsTheSameAsOneOfItsKeysOneByOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		is := model{}
		for i, key := range rapid.SliceOfN(keyGen(), 0, 300).Draw(t, "keys") {
			is[key] = int64(i + 1)
		}
		for i := range rapid.SampledFrom([]int{0, 10, maxLeaf, maxLeaf * maxKids, maxLeaf*maxKids + 1}).Draw(t, "more") {
			is[fmt.Sprintf("/vmhost/v1/names/%06d", i)] = int64(i + 1)
		}
		var l treeLoad
		for _, key := range slices.Sorted(maps.Keys(is)) {
			if !l.add(key, entry{modRevision: is[key]}) {
				t.Fatalf("%q is refused", key)
			}
			if l.add(key, entry{}) {
				t.Fatalf("%q is taken twice", key)
			}
		}
		loaded := l.done()
		is.check(t, loaded)
		edit := loaded.edit()
		for _, key := range rapid.SliceOfN(keyGen(), 0, 50).Draw(t, "changed") {
			edit.set(key, entry{modRevision: 1})
		}
		is.check(t, loaded)
	})
}
