package placement

import (
	"cmp"
	"slices"
)

// searchLimit bounds the exact search for pools on one host. It is far above
// what real hosts need and keeps a request of many odd disks from stalling
// everybody else: beyond it the host is refused.
const searchLimit = 20_000

// choosePools gives every disk a pool: the one it names, else the host's default
// pool, else one with room. Disks that name no pool go to the pool with the most
// room one after the other; when they do not fit that way, all ways are tried.
func (f *fitting) choosePools(h *Host, req *Request) (Refusal, bool) {
	f.pools = append(f.pools[:0], make([]string, len(req.Disks))...)
	f.free = f.free[:0]
	for _, p := range h.Pools {
		free := int64(0)
		if p.Active {
			free = p.Free()
		}
		f.free = append(f.free, free)
	}
	var open []int
	for i, d := range req.Disks {
		name := cmp.Or(d.Pool, h.DefaultPool)
		if name == "" {
			open = append(open, i)
			continue
		}
		j := h.pool(name)
		if j < 0 || !h.Pools[j].Active {
			return Refusal{Host: h, Filter: FilterStorage, Item: i, Requested: d.SizeBytes, Pool: name, NoPool: true, req: req}, false
		}
		if d.SizeBytes > h.Pools[j].Physical || d.SizeBytes > f.free[j] {
			return Refusal{
				Host: h, Filter: FilterStorage, Item: i, Requested: together(req, h, name), Largest: d.SizeBytes,
				Pool: name, Resource: h.Pools[j].Resource, req: req,
			}, false
		}
		f.pools[i] = name
		f.free[j] -= d.SizeBytes
	}
	if len(open) == 0 || f.spread(h, req, open) || f.search(h, req, open) {
		return Refusal{}, true
	}
	return f.noRoom(h, req, open), false
}

// together is how much the request wants of one pool.
func together(req *Request, h *Host, pool string) int64 {
	sum := int64(0)
	for _, d := range req.Disks {
		if cmp.Or(d.Pool, h.DefaultPool) == pool {
			sum += d.SizeBytes
		}
	}
	return sum
}

// spread puts each disk where the most room is.
func (f *fitting) spread(h *Host, req *Request, open []int) bool {
	free := slices.Clone(f.free)
	for _, i := range open {
		size, best := req.Disks[i].SizeBytes, -1
		for j := range h.Pools {
			if size <= h.Pools[j].Physical && size <= free[j] && (best < 0 || free[j] > free[best]) {
				best = j
			}
		}
		if best < 0 {
			return false
		}
		free[best] -= size
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
		size := req.Disks[order[k]].SizeBytes
		for j := range h.Pools {
			if budget--; budget < 0 {
				return false
			}
			if size > h.Pools[j].Physical || size > left[j] {
				continue
			}
			left[j] -= size
			f.pools[order[k]] = h.Pools[j].Name
			if try(k + 1) {
				return true
			}
			left[j] += size
		}
		return false
	}
	return try(0)
}

// noRoom names the pool with the most room: even that one does not do.
func (f *fitting) noRoom(h *Host, req *Request, open []int) Refusal {
	r := Refusal{Host: h, Filter: FilterStorage, Item: open[0], req: req}
	for _, i := range open {
		r.Largest = max(r.Largest, req.Disks[i].SizeBytes)
	}
	// All disks, since those that name a pool may be in the same one.
	for _, d := range req.Disks {
		r.Requested += d.SizeBytes
	}
	best := -1
	for j := range h.Pools {
		if h.Pools[j].Active && (best < 0 || h.Pools[j].Free() > h.Pools[best].Free()) {
			best = j
		}
	}
	if best < 0 {
		r.NoPool = true
		return r
	}
	r.Pool, r.Resource = h.Pools[best].Name, h.Pools[best].Resource
	return r
}
