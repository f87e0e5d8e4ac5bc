package placement

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// searchLimit bounds the exact search for pools on one host. It is far above
// what real hosts need and keeps a request of many odd disks from stalling
// everybody else: beyond it the host is refused.
const searchLimit = 20_000

// Pool is one storage pool, in bytes.
type Pool struct {
	// Name on its host.
	Name string
	// Active pools only take volumes.
	Active bool
	// Tags is what the operator calls it.
	Tags []string
	// Resource of a pool that is shared is that of all who share it, for a host of a
	// Fleet; of a host by itself it is what that host knows.
	Resource
	Shared
}

func pools(observed []*vmhostv1.StoragePool, labels []*vmhostv1.StoragePoolLabels, ratio float64, ledger *storev1.StoredLedger) []Pool {
	out := make([]Pool, 0, len(observed))
	committed, identities := ledger.GetTotal().GetStorageBytes(), ledger.GetSharedPools()
	for _, p := range observed {
		// What our volumes have allocated is already committed, in full; but for disks
		// that stay while their machines are moved here, for which another ledger has it,
		// and whose host shows them too.
		ours := max(p.GetOursBytes()-ledger.GetStayingBytes()[p.GetName()], 0)
		foreign := max(p.GetAllocationBytes(), 0) - ours
		out = append(out, Pool{
			Name: p.GetName(), Active: p.GetActive(),
			Resource: NewResource(p.GetCapacityBytes(), 0, ratio, committed[p.GetName()], foreign),
			Shared:   sharedBy(identities[p.GetName()], p, ours, committed[p.GetName()]),
		})
	}
	// What is committed in a pool that is not seen now stays in the usage.
	for _, name := range slices.Sorted(maps.Keys(committed)) {
		if !slices.ContainsFunc(out, func(p Pool) bool { return p.Name == name }) && committed[name] != 0 {
			out = append(out, Pool{Name: name, Resource: NewResource(0, 0, ratio, committed[name], 0), Shared: sharedBy(identities[name], nil, 0, committed[name])})
		}
	}
	for _, l := range labels {
		for i := range out {
			if out[i].Name == l.GetStoragePool() {
				out[i].Tags = l.GetTags()
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Pool) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (h *Host) pool(name string) int {
	return slices.IndexFunc(h.Pools, func(p Pool) bool { return p.Name == name })
}

// how is by what a disk's pool was chosen.
type how int

const (
	byName how = iota
	byDefault
	byRoom
	bySearch
	byStaying
)

// target is the only pool that a disk may be in: the one it names, else the
// host's default pool if that has the tags; empty: any that has them.
func (h *Host) target(d *Disk) (string, how) {
	if d.Pool != "" || h.DefaultPool == "" {
		return d.Pool, byName
	}
	if len(d.Tags) > 0 {
		if j := h.pool(h.DefaultPool); j < 0 || !all(d.Tags, h.Pools[j].Tags) {
			return "", byRoom
		}
	}
	return h.DefaultPool, byDefault
}

// choosePools gives every disk a pool. Disks without a target go to the pool with
// the most room one after the other; when they do not fit that way, all ways are
// tried.
func (f *fitting) choosePools(h *Host, req *Request) (Refusal, bool) {
	f.pools = append(f.pools[:0], make([]string, len(req.Disks))...)
	f.poolHow = append(f.poolHow[:0], make([]how, len(req.Disks))...)
	f.free = f.free[:0]
	for _, p := range h.Pools {
		free := int64(0)
		if p.Active {
			free = p.Free()
		}
		f.free = append(f.free, free)
	}
	var open []int
	for i := range req.Disks {
		d := &req.Disks[i]
		if j := h.holds(d); j >= 0 || d.Held != "" && d.Bound {
			r, ok := f.stay(h, req, i, j)
			if !ok {
				return r, false
			}
			continue
		}
		name, by := h.target(d)
		if name == "" {
			open = append(open, i)
			f.poolHow[i] = byRoom
			continue
		}
		j := h.pool(name)
		if j < 0 || !h.Pools[j].Active {
			return Refusal{Host: h, Filter: FilterStorage, Item: i, Requested: d.SizeBytes, Pool: name, Missing: true, req: req}, false
		}
		if !all(d.Tags, h.Pools[j].Tags) {
			return Refusal{Host: h, Filter: FilterStorage, Item: i, Requested: d.SizeBytes, Pool: name, Tagless: true, Resource: h.Pools[j].Resource, req: req}, false
		}
		if d.SizeBytes > h.Pools[j].Most() || d.SizeBytes > f.free[j] {
			all, disks := together(req, h, name)
			return Refusal{
				Host: h, Filter: FilterStorage, Item: i, Requested: all, Largest: d.SizeBytes, Disks: disks,
				Pool: name, Resource: h.Pools[j].Resource, req: req,
			}, false
		}
		f.pools[i], f.poolHow[i] = name, by
		h.takeOf(f.free, j, d.SizeBytes)
	}
	if len(open) == 0 || f.spread(h, req, open) || f.search(h, req, open) {
		return Refusal{}, true
	}
	return f.noRoom(h, req, open), false
}

// together is how much the request wants of one pool without having a choice, in
// how many disks.
func together(req *Request, h *Host, pool string) (bytes int64, disks int) {
	for i := range req.Disks {
		if name, _ := h.target(&req.Disks[i]); name == pool && h.holds(&req.Disks[i]) < 0 {
			bytes, disks = bytes+req.Disks[i].SizeBytes, disks+1
		}
	}
	return bytes, disks
}

// takes says whether a pool may have a disk at all.
func (p *Pool) takes(d *Disk) bool { return p.Active && all(d.Tags, p.Tags) }

// spread puts each disk where the most room is.
func (f *fitting) spread(h *Host, req *Request, open []int) bool {
	free := slices.Clone(f.free)
	for _, i := range open {
		d, best := &req.Disks[i], -1
		for j := range h.Pools {
			if h.Pools[j].takes(d) && d.SizeBytes <= h.Pools[j].Most() && d.SizeBytes <= free[j] && (best < 0 || free[j] > free[best]) {
				best = j
			}
		}
		if best < 0 {
			return false
		}
		h.takeOf(free, best, d.SizeBytes)
		f.pools[i] = h.Pools[best].Name
	}
	return true
}

// search tries all ways, the largest disks first.
func (f *fitting) search(h *Host, req *Request, open []int) bool {
	order := slices.Clone(open)
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(req.Disks[b].SizeBytes, req.Disks[a].SizeBytes) })
	free, want := int64(0), int64(0)
	for j := range f.free {
		free += min(f.free[j], int64(1)<<60)
	}
	for _, i := range order {
		want += req.Disks[i].SizeBytes
	}
	if want > free {
		return false
	}
	left := slices.Clone(f.free)
	budget := searchLimit
	var try func(k int) bool
	try = func(k int) bool {
		if k == len(order) {
			return true
		}
		d := &req.Disks[order[k]]
		for j := range h.Pools {
			if budget--; budget < 0 {
				return false
			}
			if !h.Pools[j].takes(d) || d.SizeBytes > h.Pools[j].Most() || d.SizeBytes > left[j] {
				continue
			}
			h.takeOf(left, j, d.SizeBytes)
			f.pools[order[k]], f.poolHow[order[k]] = h.Pools[j].Name, bySearch
			if try(k + 1) {
				return true
			}
			h.takeOf(left, j, -d.SizeBytes)
		}
		return false
	}
	return try(0)
}

// noRoom says why the disks that may choose find no room: one of them alone, or
// those that may be in one pool together.
func (f *fitting) noRoom(h *Host, req *Request, open []int) Refusal {
	for _, i := range open {
		d, best, fits := &req.Disks[i], -1, false
		for j := range h.Pools {
			p := &h.Pools[j]
			if !p.takes(d) {
				continue
			}
			fits = fits || d.SizeBytes <= p.Most() && d.SizeBytes <= f.free[j]
			if best < 0 || f.free[j] > f.free[best] {
				best = j
			}
		}
		switch {
		case best < 0:
			return Refusal{Host: h, Filter: FilterStorage, Item: i, Requested: d.SizeBytes, Missing: true, req: req}
		case !fits:
			p := &h.Pools[best]
			bound, disks := together(req, h, p.Name)
			return Refusal{
				Host: h, Filter: FilterStorage, Item: i, Requested: d.SizeBytes + bound, Largest: d.SizeBytes, Disks: 1 + disks,
				Pool: p.Name, Resource: p.Resource, req: req,
			}
		}
	}
	// If in every pool there were room for all that may be in it, any way would do.
	r := Refusal{Host: h, Filter: FilterStorage, Item: open[0], req: req}
	for j := range h.Pools {
		p := &h.Pools[j]
		want, disks := together(req, h, p.Name)
		for _, i := range open {
			if p.takes(&req.Disks[i]) {
				want, disks = want+req.Disks[i].SizeBytes, disks+1
			}
		}
		if p.Active && want > p.Free() && (r.Pool == "" || p.Free() > r.Resource.Free()) {
			r.Pool, r.Resource, r.Requested, r.Disks = p.Name, p.Resource, want, disks
		}
	}
	return r
}

// whyPool says by what the pool of a disk was chosen.
func (f *fitting) whyPool(h *Host, req *Request, i int) string {
	d := &req.Disks[i]
	with := ""
	if len(d.Tags) > 0 {
		with = " with tags " + strings.Join(d.Tags, ", ")
	}
	able := 0
	for j := range h.Pools {
		if h.Pools[j].takes(d) {
			able++
		}
	}
	switch f.poolHow[i] {
	case byName:
		return "asked for by name" + strings.Replace(with, " with", "; it has", 1)
	case byDefault:
		return "the host's default pool" + strings.Replace(with, " with", "; it has", 1)
	case bySearch:
		return "where all disks fit together" + with
	case byStaying:
		return "the disk is in it and stays where it is"
	default:
	}
	if able == 1 {
		return "the only running pool" + with
	}
	return "the pool" + with + " that had the most room"
}
