package placement

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
)

// seenOf counts what happened, so that a test can say what never did.
type seenOf map[string]int

// trial is one fleet: requests one after the other, each held against the
// specification, and what it takes put into the records.
type trial struct {
	*rapid.T

	dice  dice
	sites []site
	seen  seenOf
}

func (t *trial) hosts() []*Host {
	out := make([]*Host, len(t.sites))
	for i, s := range t.sites {
		out[i] = s.host()
	}
	return out
}

func (t *trial) fleet() {
	for i := range draw1(t.dice, 0, 1, 2, 3, 4, 5, 6) {
		t.sites = append(t.sites, t.dice.site(fmt.Sprint("h", i)))
	}
	d := NewFleet(t.hosts()).Draft()
	for range 6 {
		req, hosts := t.dice.wish(), t.hosts()
		plan := d.Choose(req)
		shuffled := slices.Clone(hosts)
		t.dice.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		again := NewFleet(shuffled).Choose(req)
		if a, b := plan.Proto(), again.Proto(); !proto.Equal(a, b) || !slices.Equal(plan.PinnedCores, again.PinnedCores) || plan.NUMANode != again.NUMANode {
			t.Fatalf("the same hosts and seed gave two plans: %v\n%v", a, b)
		}
		if plan.Host == nil {
			t.refused(hosts, req, &plan)
			continue
		}
		i := slices.IndexFunc(hosts, func(h *Host) bool { return h.ID == plan.Host.ID })
		t.placed(hosts, i, req, &plan)
		c := plan.Commitment(req)
		t.sites[i] = t.sites[i].committed(c, req.groupKey())
		t.limits(i, c, req)
		d.Take(plan.Host.ID, c, req.groupKey())
		t.taken(*d.Host(plan.Host.ID), t.sites[i].host())
		d.Put(t.sites[i].host())
		if t.larger(req) {
			t.seen["larger"]++
		}
	}
}

// taken holds a host that took a machine against one made of records that have it.
// Of pages and functions the first counts what is in use as others' until the host
// was seen again, which is the safe side.
func (t *trial) taken(took Host, recorded *Host) {
	safe := func(is *Resource, recorded Resource) {
		if is.Foreign < recorded.Foreign {
			t.Fatalf("others have %d, by the records %d", is.Foreign, recorded.Foreign)
		}
		is.Foreign = recorded.Foreign
	}
	safe(&took.Hugepages, recorded.Hugepages)
	took.Networks = slices.Clone(took.Networks)
	for i := range took.Networks {
		safe(&took.Networks[i].Functions, recorded.Networks[i].Functions)
	}
	if a, b := fmt.Sprintf("%+v", *recorded), fmt.Sprintf("%+v", took); a != b {
		t.Fatalf("a host that took a machine, and one made of records that have it:\n%s\n%s", b, a)
	}
}

func (t *trial) refused(hosts []*Host, req *Request, plan *Plan) {
	if len(plan.Refusals) != len(hosts) {
		t.Fatalf("%d refusals for %d hosts", len(plan.Refusals), len(hosts))
	}
	others := withoutIt(hosts, req)
	near := NewFleet(hosts).nearness(req)
	for i, h := range hosts {
		if possible(t.sites[i], hosts, h, req) {
			t.Fatalf("refused: %s\nbut it fits %+v\nfor %+v", plan.Summary(), h, req)
		}
	}
	for _, r := range plan.Refusals {
		t.seen["refused by "+string(r.Filter)]++
		if slow, _ := check(r.Host, req, near, &fitting{}); slow.Filter != r.Filter || slow.Message() != r.Message() {
			t.Fatalf("refused by %s: %s; one by one by %s: %s", r.Filter, r.Message(), slow.Filter, slow.Message())
		}
		if r.Filter == FilterResourcePool {
			continue // as the words say
		}
		checkNewReason(t.T, others, r, req)
	}
}

func (t *trial) placed(hosts []*Host, i int, req *Request, plan *Plan) {
	s, h := t.sites[i], hosts[i]
	if !possible(s, hosts, h, req) {
		t.Fatalf("placed on %+v, which does not fit %+v", h, req)
	}
	checkPlan(t.T, *plan, *withChosen(req, *plan))
	nodes := s.seen.GetObservation().GetNumaNodes()
	if req.OneNUMANode && len(nodes) > 0 {
		t.seen["on one node"]++
		n := nodes[plan.NUMANode]
		if n.GetMemoryMib() < req.MemoryMiB || len(plan.PinnedCores) != int(req.Cores) || !subset(plan.PinnedCores, n.GetCores()) {
			t.Fatalf("cores %v on %v for %+v", plan.PinnedCores, n, req)
		}
	}
	for _, c := range plan.PinnedCores {
		t.seen["pinned"]++
		if s.pinned(c) {
			t.Fatalf("core %d is pinned twice", c)
		}
	}
	pools := map[string]bool{}
	for j, name := range plan.Pools {
		pools[name] = true
		if !s.mayHold(&req.Disks[j], name) {
			t.Fatalf("disk %d is in %s of %+v", j, name, h)
		}
	}
	if len(pools) > 1 {
		t.seen["disks in several pools"]++
	}
	if slices.Contains(plan.PoolReasons, "where all disks fit together") {
		t.seen["disks by search"]++
	}
	if req.Hugepages {
		t.seen["huge pages"]++
	}
	if len(plan.Commitment(req).GetSriovFunctions()) > 0 {
		t.seen["virtual functions"]++
	}
	if slices.ContainsFunc(req.Affinity, func(r Rule) bool { return !r.Soft }) {
		t.seen["by a rule"]++
	}
}

// limits holds what is in use of a host that took a machine against P1.
func (t *trial) limits(i int, c *storev1.Commitment, req *Request) {
	s := t.sites[i]
	if s.overcommitted() {
		t.Fatalf("past a limit: %+v, after %+v", s.host(), c)
	}
	if u, _ := s.pages(); req.Hugepages && u.over() {
		t.Fatalf("past its huge pages: %+v", s.host())
	}
	o := s.seen.GetObservation()
	for _, dev := range o.GetSriovDevices() {
		name := dev.GetName()
		ours := s.ledger.GetTotal().GetSriovFunctions()[name]
		others := dev.GetFunctions() - dev.GetFree()
		if told, ok := o.GetForeign().GetSriovFunctions()[name]; ok {
			others = max(told, others-ours)
		}
		if c.GetSriovFunctions()[name] > 0 && ours+others > dev.GetFunctions() {
			t.Fatalf("%d of ours and %d of others of %d virtual functions of %s", ours, others, dev.GetFunctions(), name)
		}
	}
}

// larger asks the same of the fleet as it is now, and then of one with more room.
func (t *trial) larger(req *Request) bool {
	if NewFleet(t.hosts()).Choose(req).Host == nil {
		return false
	}
	more := &trial{T: t.T, dice: t.dice}
	for _, s := range t.sites {
		more.sites = append(more.sites, t.dice.grown(s))
	}
	another := t.dice.site("h9")
	another.ledger.Total.Groups = nil // it breaks no rule that was kept
	more.sites = append(more.sites, another)
	if plan := NewFleet(more.hosts()).Choose(req); plan.Host == nil {
		t.Fatalf("%+v fitted, and with more room nowhere: %s", req, plan.Summary())
	}
	return true
}

// checks makes rapid check so often, unless it was told another number.
func checks(t *testing.T, n int, property func(*rapid.T)) {
	t.Helper()
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		t.Cleanup(func() { _ = f.Value.Set(f.DefValue) })
		if err := f.Value.Set(strconv.Itoa(n)); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, property)
}

// Thousands of fleets of what is dangerous: lying racks, numbers that overflow,
// reserves larger than hosts, limits that are passed already, pinned cores, NUMA
// nodes, huge pages, virtual functions, disks that fit in one way only.
func TestInThousandsOfFleetsNothingGoesPastALimitAndEveryAnswerIsTrue_P1(t *testing.T) {
	const fleets = 20 // for each of rapid's 100
	seen, n := seenOf{}, 0
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		for i := range uint64(fleets) {
			n++
			(&trial{T: t, dice: dice{rand.New(rand.NewPCG(seed, i))}, seen: seen}).fleet()
		}
	})
	t.Logf("%d fleets: %v", n, seen)
	want := []string{"larger", "on one node", "pinned", "disks in several pools", "huge pages", "virtual functions", "by a rule"}
	for _, f := range ordered() {
		if f != FilterVMHost && f != FilterPolicy && f != FilterHostname { // other tests have them
			want = append(want, "refused by "+string(f))
		}
	}
	for _, what := range want {
		if seen[what] == 0 {
			t.Errorf("of %d fleets in none: %s", n, what)
		}
	}
}
