package placement

import (
	"cmp"
	"math"
	"slices"
)

// How many more fit when hosts share storage pools is less than what fits on each
// of them together. What is counted is what fits in whatever order machines are
// placed: exact where every host has one pool that the disk can be in, and all who
// share it have the same limit; else never more than fit.

// maxFollowed bounds how many machines are placed in turn to count them.
const maxFollowed = 256

// sharedRoom is how many fit on hosts together.
func (c *counter) sharedRoom(hosts []HostRoom) int64 {
	total := int64(0)
	var together components
	for i := range hosts {
		if pools := c.usable(hosts[i].Host); len(pools) > 0 {
			together.add(&hosts[i], pools)
		} else {
			total = plus(total, hosts[i].Machines)
		}
	}
	for _, part := range together {
		total = plus(total, c.roomOf(part))
	}
	return total
}

// usable are the shared pools of a host that a disk of the request can be in.
func (c *counter) usable(h *Host) []*Pool {
	if !h.sharesStorage() {
		return nil
	}
	var out []*Pool
	for j := range h.Pools {
		p := &h.Pools[j]
		if p.Identity == "" || !slices.ContainsFunc(c.q.req.Disks, func(d Disk) bool { return h.mayHave(p, &d) }) {
			continue
		}
		if !slices.ContainsFunc(out, func(o *Pool) bool { return o.Identity == p.Identity }) {
			out = append(out, p)
		}
	}
	return out
}

// mayHave says whether a disk can be in a pool, were there room.
func (h *Host) mayHave(p *Pool, d *Disk) bool {
	name, _ := h.target(d)
	return p.takes(d) && (name == "" || name == p.Name) && d.SizeBytes <= p.Most()
}

// component is hosts that have to do with one another by the pools they share.
type component struct {
	hosts []*HostRoom
	pools map[string][]sharerRoom // by identity
}

// sharerRoom is what one host can have of a pool.
type sharerRoom struct {
	machines int64 // on the host, wherever
	free     int64 // by the host's limit
}

type components []*component

func (s *components) add(h *HostRoom, pools []*Pool) {
	into := &component{pools: map[string][]sharerRoom{}}
	rest := (*s)[:0]
	for _, o := range *s {
		if !slices.ContainsFunc(pools, func(p *Pool) bool { return o.pools[p.Identity] != nil }) {
			rest = append(rest, o)
			continue
		}
		if len(o.hosts) > len(into.hosts) {
			o, into = into, o
		}
		into.hosts = append(into.hosts, o.hosts...)
		for identity, list := range o.pools {
			into.pools[identity] = append(into.pools[identity], list...)
		}
	}
	into.hosts = append(into.hosts, h)
	for _, p := range pools {
		into.pools[p.Identity] = append(into.pools[p.Identity], sharerRoom{h.Machines, p.Free()})
	}
	rest = append(rest, into)
	*s = rest
}

// roomOf is how many fit on hosts that share pools.
func (c *counter) roomOf(part *component) int64 {
	disks := c.q.req.Disks
	size := int64(0) // that one machine takes of a pool at the most
	for i := range disks {
		size = plus(size, disks[i].SizeBytes)
	}
	all, own := int64(0), int64(0)
	for _, h := range part.hosts {
		all = plus(all, h.Machines)
		own = plus(own, min(h.Machines, c.apart(h.Host)))
	}
	if len(disks) > 1 {
		// As long as every pool has room for one more whole machine, a host that can
		// take one otherwise can take it.
		n := all
		for _, list := range part.pools {
			least := int64(math.MaxInt64)
			for _, s := range list {
				least = min(least, s.free)
			}
			n = min(n, least/max(size, 1))
		}
		return max(n, min(all, 1))
	}
	// A host takes no more only when it is full otherwise, or none of its pools has
	// room by its limit.
	best := own
	for _, list := range part.pools {
		slices.SortFunc(list, func(a, b sharerRoom) int { return cmp.Compare(b.free, a.free) })
		sum := int64(0)
		for i, s := range list {
			sum = plus(sum, s.machines)
			if i+1 == len(list) || list[i+1].free != s.free {
				best = max(best, min(sum, s.free/max(size, 1)))
			}
		}
	}
	return min(best, all)
}

// apart is how many machines of one disk fit into pools that are the host's alone.
func (c *counter) apart(h *Host) int64 {
	if len(c.q.req.Disks) != 1 {
		return 0
	}
	d, n := &c.q.req.Disks[0], int64(0)
	for j := range h.Pools {
		if p := &h.Pools[j]; p.Identity == "" && h.mayHave(p, d) {
			n = plus(n, p.Free()/d.SizeBytes)
		}
	}
	return n
}

// shortOfShared says whether what a host is short of first is in pools that it
// shares.
func (c *counter) shortOfShared(h *Host, limit Filter) bool {
	return limit == FilterStorage && len(c.usable(h)) > 0
}

// sharedWord says of storage that it is shared, where hosts are short of such.
func sharedWord(limit Filter, hosts []HostRoom) Filter {
	if limit == FilterStorage && slices.ContainsFunc(hosts, func(h HostRoom) bool { return h.LimitedBy == FilterSharedStorage }) {
		return FilterSharedStorage
	}
	return limit
}

// follow places machines one after the other, at most so many.
func (c *counter) follow(f *Fleet, most int64) int64 {
	d, n := f.Draft(), int64(0)
	for ; n < min(most, maxFollowed); n++ {
		plan := d.Choose(c.q.req)
		if plan.Host == nil {
			break
		}
		d.Take(plan.Host.ID, plan.Commitment(c.q.req), c.q.req.groupKey())
	}
	return n
}

// shared corrects what was counted host by host where hosts share storage pools.
func (c *counter) shared(f *Fleet, out *Room, hosts []HostRoom) {
	if !f.Shares() || len(c.q.req.Disks) == 0 {
		return
	}
	for i := range out.Zones {
		z := &out.Zones[i]
		var in []HostRoom
		for _, h := range hosts {
			if h.Host.Zone == z.Zone {
				in = append(in, h)
			}
		}
		if n := c.sharedRoom(in); n < z.Machines {
			z.Machines, z.LimitedBy = n, FilterSharedStorage
		}
		z.LimitedBy = sharedWord(z.LimitedBy, in)
	}
	out.LimitedBy = sharedWord(out.LimitedBy, hosts)
	switch n := c.sharedRoom(hosts); {
	case c.own.firstHost:
	case c.own.firstZone:
		out.Machines = 0
		for _, z := range out.Zones {
			out.Machines = max(out.Machines, z.Machines)
		}
	case c.own.awayZone || (c.q.req.MaxPerZone > 0 && c.q.req.Group != ""):
		// Who is kept out of one zone may find its pool full in another.
		if counted := c.follow(f, out.Machines); counted < out.Machines {
			out.Machines = counted
			if n <= counted {
				out.LimitedBy = FilterSharedStorage
			}
		}
	case n < out.Machines:
		out.Machines, out.LimitedBy = n, FilterSharedStorage
	}
}
