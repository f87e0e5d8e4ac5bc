package placement

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
)

// sized is a host of an ordinary size, with so much of it in use.
func sized(r *rand.Rand, id string) *Host {
	ratio := []float64{1, 1, 2, 0.5, 4, 0, 1.1}[r.IntN(7)]
	some := func(most int64) Resource {
		res := NewResource(r.Int64N(most+1), r.Int64N(most/8+1), ratio, 0, 0)
		return NewResource(res.Physical, res.Reserved, ratio, r.Int64N(res.Limit+1), r.Int64N(res.Limit/8+1)*int64(r.IntN(2)))
	}
	h := &Host{
		ID: id, State: 2, Type: 1, ResourcePool: "a", Zone: fmt.Sprint(r.IntN(3)), Architectures: []string{"x86_64"}, KVM: r.IntN(3) > 0,
		Cores: some([]int64{8, 64, 128, 700}[r.IntN(4)]), MemoryMiB: some([]int64{4096, 1 << 16, 1 << 18, 1 << 20}[r.IntN(4)]), Hugepages: some(1 << 14),
		Tags: []string{fmt.Sprint("rack", r.IntN(40)), []string{"ssd", "hdd"}[r.IntN(2)]}, Cordoned: r.IntN(20) == 0,
	}
	for i := range r.IntN(3) {
		h.Pools = append(h.Pools, Pool{Name: fmt.Sprint("p", i), Active: r.IntN(5) > 0, Resource: some(1 << 40)})
	}
	for range r.IntN(3) {
		h = h.Join(fmt.Sprint("a/g", r.IntN(4)), int32(1+r.IntN(3)))
	}
	return h
}

// sizedWish asks for an amount of a rung, or one next to it, or any.
func sizedWish(r *rand.Rand) *Request {
	pick := func(first int64) int64 {
		n := first << r.IntN(9)
		return max([]int64{n, n, n, n + 1, n - 1, n + n/2, 1 + r.Int64N(2*n)}[r.IntN(7)], 1)
	}
	w := func() float64 { return []float64{0, 0, 0.25, 1, 3}[r.IntN(5)] }
	req := &Request{
		Cores: int32(min(pick(firstCores), 4096)), MemoryMiB: pick(firstMemory / 4), ResourcePool: "a", Hugepages: r.IntN(10) == 0,
		Policy: Policy{Weights: Weights{w(), w(), w(), w(), w(), w(), w(), w()}},
	}
	if r.IntN(3) == 0 {
		req.Policy, _ = Preset([]string{"spread", "pack", "balanced"}[r.IntN(3)])
	}
	if r.IntN(4) > 0 {
		req.Disks = []Disk{{SizeBytes: 1 + r.Int64N(1<<36)}}
	}
	if r.IntN(3) == 0 {
		req.RequiredTags = []string{[]string{"ssd", "hdd", "rack7"}[r.IntN(3)]}
	}
	if r.IntN(3) == 0 {
		req.Group, req.Affinity = "g1", []Rule{{Group: "g2", Zone: r.IntN(2) == 0, Near: r.IntN(2) == 0, Soft: true}}
	}
	req.Seed = uint64(r.IntN(2))
	return req
}

// What is known of a block and of a stack is the same whether its hosts changed one
// by one or all at once, and promises no less than any host of it has.
func TestABlockPromisesWhatItsBestHostIs(t *testing.T) {
	bounds, tight := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		var hosts []*Host
		n := rapid.SampledFrom([]int{1300, 65, 64, 2500, 1024, 63, 1, 0}).Draw(t, "hosts")
		for i := range n {
			hosts = append(hosts, sized(r, fmt.Sprintf("h%04d", 2*i)))
		}
		d := NewFleet(hosts).Draft()
		for range rapid.IntRange(0, 300).Draw(t, "changes") {
			if d.Len() == 0 {
				break
			}
			id := fmt.Sprintf("h%04d", r.IntN(2*n+1))
			c := &storev1.Commitment{Cores: int32(r.IntN(5)), MemoryMib: r.Int64N(9000), StorageBytes: map[string]int64{"p0": r.Int64N(1 << 38)}}
			switch r.IntN(8) {
			case 0:
				d.Remove(id)
			case 1:
				d.Put(sized(r, id))
			case 2, 3:
				d.Give(id, c)
			default:
				if req := sizedWish(r); r.IntN(2) == 0 {
					if p := d.Choose(req); p.Host != nil {
						id, c = p.Host.ID, p.Commitment(req) // the best one of its block
					}
				}
				d.Take(id, c, "a/g1")
			}
		}
		f := d.Fleet()
		for k, st := range f.stacks {
			checkStack(t, f, st)
			for range 4 {
				q := f.query(sizedWish(r))
				whole := q.bound(&st.sum)
				for slot, b := range st.blocks[:st.n] {
					bound := q.bound(&b.sum)
					if q.rooms(&b.sum) && (!q.rooms(&st.sum) || bound > whole) {
						t.Fatalf("a block promises %v, its stack %v", bound, whole)
					}
					best := -1.0
					for i := range b.n {
						if !q.roomy(b, i) {
							continue
						}
						if !q.rooms(&b.sum) {
							t.Fatalf("a host has room, its block has none: %+v", b.hosts[i])
						}
						best = max(best, q.score(k*stackSize+slot, b, i))
					}
					if best >= 0 && best > bound {
						t.Fatalf("a block promises %v, a host has %v for %+v", bound, best, q.req)
					}
					if bounds++; best >= 0 && bound-best < 0.1 {
						tight++
					}
				}
			}
		}
	})
	t.Logf("%d bounds, %d within 0.1", bounds, tight)
}

// checkStack makes everything of a stack anew.
func checkStack(t *rapid.T, f *Fleet, st *stack) {
	var blocks []*block
	for slot, b := range st.blocks[:st.n] {
		anew := newBlock(b.hosts[:b.n], b.static[:b.n], f.index)
		if anew.sum != b.sum || st.sums[slot] != b.sum {
			t.Fatalf("a block is %+v, made anew %+v", b.sum, anew.sum)
		}
		for _, g := range []string{"a/g0", "a/g1", "a/g2", "a/g3"} {
			if w, known := f.index.facts.known(wordGroup + g); known && anew.members.of(w) != b.members.of(w) {
				t.Fatalf("%s has members %b, made anew %b", g, b.members.of(w), anew.members.of(w))
			}
		}
		blocks = append(blocks, anew)
	}
	anew := newStack(blocks)
	if anew.sum != st.sum || anew.count != st.count || !slices.Equal(anew.tallies, st.tallies) || !slices.Equal(anew.facts.words, st.facts.words) {
		t.Fatalf("a stack is %+v, made anew %+v", st, anew)
	}
	for i, m := range st.facts.masks {
		if *m != *anew.facts.masks[i] || st.facts.of(st.facts.words[i]) != m {
			t.Fatalf("word %d: %v, made anew %v", st.facts.words[i], *m, *anew.facts.masks[i])
		}
	}
	if f.number(at(0, 0)) != 0 {
		t.Fatal("there are hosts before the first one")
	}
}
