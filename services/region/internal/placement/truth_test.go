package placement

import (
	"cmp"
	"flag"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
)

// use is of a resource what there is, what is in use, and its limit, reckoned from
// records and without overflow.
type use struct{ most, used, limit *big.Int }

func sum(of ...int64) *big.Int {
	out := new(big.Int)
	for _, n := range of {
		out.Add(out, big.NewInt(min(max(n, 0), countable)))
	}
	return out
}

// useOf is P1's limit: what there is less the reserve, times the ratio, rounded
// down; a hair below the next number is that number.
func useOf(physical, reserved int64, ratio *float64, committed, foreign int64) use {
	u := use{most: new(big.Int).Sub(sum(physical), sum(reserved)), used: sum(committed, foreign)}
	if u.most.Sign() < 0 {
		u.most.SetInt64(0)
	}
	exact := new(big.Rat).SetInt(u.most)
	if ratio != nil {
		exact.Mul(exact, new(big.Rat).SetFloat64(*ratio))
	}
	exact.Add(exact, big.NewRat(1, 1_000_000))
	u.limit = new(big.Int).Div(exact.Num(), exact.Denom())
	return u.limited(countable)
}

// limited is use with a limit that is not above what can be counted.
func (u use) limited(most int64) use {
	if u.limit.Cmp(big.NewInt(most)) > 0 {
		u.limit.SetInt64(most)
	}
	return u
}

func (u use) over() bool { return u.used.Cmp(u.limit) > 0 }

func (u use) fits(want *big.Int) bool {
	return want.Cmp(u.most) <= 0 && new(big.Int).Add(u.used, want).Cmp(u.limit) <= 0
}

// uses are those of the cores, the memory and each storage pool.
func (s site) uses() (cores, memory use, pools map[string]use) {
	spec, o, total := s.spec.GetResource(), s.seen.GetObservation(), s.ledger.GetTotal()
	cores = useOf(int64(o.GetCores()), int64(spec.GetReservedCores()), spec.GetOvercommit().Cores, int64(total.GetCores()), int64(o.GetForeign().GetCores())).limited(math.MaxInt32)
	memory = useOf(o.GetMemoryMib(), spec.GetReservedMemoryMib(), spec.GetOvercommit().Memory, total.GetMemoryMib(), o.GetForeign().GetMemoryMib())
	pools = map[string]use{}
	for name, n := range total.GetStorageBytes() {
		pools[name] = useOf(0, 0, spec.GetOvercommit().Storage, n, 0)
	}
	for _, p := range o.GetStoragePools() {
		foreign := max(p.GetAllocationBytes(), 0) - max(p.GetOursBytes(), 0)
		pools[p.GetName()] = useOf(p.GetCapacityBytes(), 0, spec.GetOvercommit().Storage, total.GetStorageBytes()[p.GetName()], foreign)
	}
	return cores, memory, pools
}

// pages are huge pages of the smallest size there is.
func (s site) pages() (u use, pageMiB int64) {
	o, size := s.seen.GetObservation(), int64(0)
	for _, n := range o.GetNumaNodes() {
		for _, p := range n.GetHugePages() {
			if p.GetTotal() > 0 && (size == 0 || p.GetSizeKib() < size) {
				size = p.GetSizeKib()
			}
		}
	}
	total, inUse := int64(0), int64(0)
	for _, n := range o.GetNumaNodes() {
		for _, p := range n.GetHugePages() {
			if p.GetSizeKib() == size {
				total, inUse = total+p.GetTotal()*size/1024, inUse+(p.GetTotal()-p.GetFree())*size/1024
			}
		}
	}
	committed, foreign := s.ledger.GetTotal().GetHugepagesMib(), inUse
	if o.GetForeign().HugepagesMib != nil {
		foreign = max(o.GetForeign().GetHugepagesMib(), inUse-committed)
	}
	return useOf(total, 0, nil, committed, foreign), size / 1024
}

func (s site) pinned(core int32) bool {
	return slices.Contains(s.ledger.GetTotal().GetPinnedCores(), core) || slices.Contains(s.seen.GetObservation().GetForeign().GetPinnedCores(), core)
}

// overcommitted says whether more is in use than a limit allows.
func (s site) overcommitted() bool {
	cores, memory, pools := s.uses()
	over := cores.over() || memory.over()
	for _, p := range pools {
		over = over || p.over()
	}
	return over
}

// hasRoom is the specification of what there must be room for, from the records.
func (s site) hasRoom(r *Request) bool {
	cores, memory, _ := s.uses()
	if s.overcommitted() || !cores.fits(big.NewInt(int64(r.Cores))) || !memory.fits(big.NewInt(r.MemoryMiB)) {
		return false
	}
	if r.Hugepages {
		if u, page := s.pages(); !u.fits(big.NewInt(r.MemoryMiB)) || r.MemoryMiB%max(page, 1) != 0 {
			return false
		}
	}
	o := s.seen.GetObservation()
	there := map[int32]bool{}
	for _, n := range o.GetNumaNodes() {
		for _, c := range n.GetCores() {
			there[c] = true
		}
	}
	for _, c := range r.PinnedCores {
		if (len(there) > 0 && !there[c]) || (len(there) == 0 && c >= o.GetCores()) || s.pinned(c) {
			return false
		}
	}
	return (!r.OneNUMANode || s.oneNode(r)) && s.holds(r, 0, map[string]*big.Int{})
}

// oneNode says whether some NUMA node has everything.
func (s site) oneNode(r *Request) bool {
	o := s.seen.GetObservation()
	_, page := s.pages()
	for _, n := range o.GetNumaNodes() {
		free, pages := 0, int64(0)
		for _, c := range n.GetCores() {
			if !s.pinned(c) && (len(r.PinnedCores) == 0 || slices.Contains(r.PinnedCores, c)) {
				free++
			}
		}
		for _, p := range n.GetHugePages() {
			if p.GetSizeKib() == page*1024 {
				pages += p.GetFree() * page
			}
		}
		if free >= int(r.Cores) && n.GetMemoryMib() >= r.MemoryMiB && (!r.Hugepages || pages >= r.MemoryMiB) {
			return true
		}
	}
	if len(o.GetNumaNodes()) > 0 {
		return false
	}
	free := int32(0)
	for c := range min(o.GetCores(), 64) {
		if !s.pinned(c) {
			free++
		}
	}
	return len(r.PinnedCores) > 0 || free >= r.Cores
}

func (s site) tags(pool string) []string {
	for _, l := range s.spec.GetResource().GetStoragePoolLabels() {
		if l.GetStoragePool() == pool {
			return l.GetTags()
		}
	}
	return nil
}

// holds tries every way to spread the disks.
func (s site) holds(r *Request, i int, taken map[string]*big.Int) bool {
	if i == len(r.Disks) {
		return true
	}
	d := &r.Disks[i]
	_, _, pools := s.uses()
	for _, p := range s.seen.GetObservation().GetStoragePools() {
		name := p.GetName()
		if !p.GetActive() || !s.mayHold(d, name) {
			continue
		}
		was := cmp.Or(taken[name], new(big.Int))
		all := new(big.Int).Add(was, big.NewInt(d.SizeBytes))
		if u := pools[name]; big.NewInt(d.SizeBytes).Cmp(u.most) > 0 || new(big.Int).Add(u.used, all).Cmp(u.limit) > 0 {
			continue
		}
		taken[name] = all
		if s.holds(r, i+1, taken) {
			return true
		}
		taken[name] = was
	}
	return false
}

// mayHold says whether a disk may be in a pool at all: the one that it names, else
// the default one if that has the tags, else any that has them.
func (s site) mayHold(d *Disk, pool string) bool {
	has := func(pool string) bool { return len(d.Tags) == 0 || slices.Contains(s.tags(pool), d.Tags[0]) }
	name, there := d.Pool, false
	if def := s.spec.GetResource().GetDefaultStoragePool(); name == "" && def != "" {
		for _, p := range s.seen.GetObservation().GetStoragePools() {
			there = there || p.GetName() == def
		}
		if _, left := s.ledger.GetTotal().GetStorageBytes()[def]; len(d.Tags) == 0 || ((there || left) && has(def)) {
			name = def
		}
	}
	return (name == "" || name == pool) && has(pool)
}

// possible is the specification of whether a request fits a host: its room from
// the records, the rest as other tests have it.
func possible(s site, hosts []*Host, h *Host, r *Request) bool {
	rest := *r
	rest.OneNUMANode = false
	return s.hasRoom(r) && admitted(h, *r) && ableTo(h, *r) && attachable(h, *r, 0, map[string]int64{}) && suits(withoutIt(hosts, r), h, &rest)
}

// committed is the site with so much more committed.
func (s site) committed(c *storev1.Commitment, group string) site {
	t, out := s.ledger.GetTotal(), &storev1.Commitment{StorageBytes: map[string]int64{}, SriovFunctions: map[string]int32{}, Groups: map[string]int32{}}
	out.Cores, out.MemoryMib, out.HugepagesMib = t.GetCores()+c.GetCores(), t.GetMemoryMib()+c.GetMemoryMib(), t.GetHugepagesMib()+c.GetHugepagesMib()
	out.PinnedCores = slices.Concat(t.GetPinnedCores(), c.GetPinnedCores())
	out.FixedAddresses = slices.Sorted(slices.Values(slices.Concat(t.GetFixedAddresses(), c.GetFixedAddresses())))
	for _, from := range []*storev1.Commitment{t, c} {
		for k, n := range from.GetStorageBytes() {
			out.StorageBytes[k] += n
		}
		for k, n := range from.GetSriovFunctions() {
			out.SriovFunctions[k] += n
		}
		for k, n := range from.GetGroups() {
			out.Groups[k] += n
		}
	}
	if group != "" {
		out.Groups[group]++
	}
	return site{s.spec, s.seen, &storev1.StoredLedger{Machines: s.ledger.GetMachines() + 1, Total: out}}
}

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
