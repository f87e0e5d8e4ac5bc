package placement

import (
	"cmp"
	"math"
	"math/big"
	"slices"

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
