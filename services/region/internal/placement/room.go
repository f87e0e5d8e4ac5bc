package placement

import (
	"cmp"
	"maps"
	"math"
	"math/bits"
	"slices"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Room is how many more machines like the request's fit; at most maxHosts hosts
// are named. The hostname plays no part.
func (f *Fleet) Room(req *Request, maxHosts int) Room {
	nameless := *req
	nameless.NameTaken = nil
	q := f.query(&nameless)
	r := q.refusals()
	c := counter{q: q, own: q.ownRules(), zones: map[string]*zoneCount{}}
	hosts := make([]HostRoom, 0, len(r.fits))
	for _, at := range r.fits {
		h := f.at(at)
		n, limit := c.host(h)
		if c.shortOfShared(h, limit) {
			limit = FilterSharedStorage
		}
		hosts = append(hosts, HostRoom{Host: h, Machines: n, LimitedBy: limit})
		c.add(h.Zone, n, limit)
	}
	for h := range f.Hosts() {
		c.zone(h.Zone)
	}
	fleet := &zoneCount{}
	for _, s := range r.list {
		if filter := r.all[s.filter]; filter.rank() == len(early) {
			c.zone(f.at(s.at).Zone).limits[s.filter]++
		}
	}
	out := Room{RefusedCounts: r.counts()}
	for _, zone := range slices.Sorted(maps.Keys(c.zones)) {
		z := c.zones[zone]
		n, limit := c.capped(zone, z, r.all)
		out.Zones = append(out.Zones, ZoneRoom{Zone: zone, Machines: n, LimitedBy: limit})
		fleet.merge(z, n)
	}
	out.Machines, out.LimitedBy = fleet.machines, fleet.most(r.all)
	c.together(&out, hosts)
	c.shared(f, &out, hosts)
	if out.LimitedBy == "" {
		out.LimitedBy = mostOf(out.RefusedCounts)
	}
	slices.SortFunc(hosts, func(a, b HostRoom) int {
		return cmp.Or(cmp.Compare(b.Machines, a.Machines), cmp.Compare(a.Host.ID, b.Host.ID))
	})
	out.Hosts = slices.Clip(hosts[:min(len(hosts), maxHosts)])
	return out
}

// counter counts by zone.
type counter struct {
	q     *query
	own   ownRules
	zones map[string]*zoneCount
	place map[Filter]int
}

type zoneCount struct {
	machines int64
	limits   [32]int // hosts, by the place of the filter that limits them
}

// ownRules are those that the machines set one another.
type ownRules struct {
	awayHost, awayZone   bool // no two on a host, in a zone
	firstHost, firstZone bool // all on the host, in the zone of the first
}

func (q *query) ownRules() ownRules {
	var o ownRules
	for i, r := range q.req.Affinity {
		if r.Soft || r.Group == "" || r.Group != q.req.Group {
			continue
		}
		switch {
		case !r.Near && r.Zone:
			o.awayZone = true
		case !r.Near:
			o.awayHost = true
		case q.near.first[i] && r.Zone:
			o.firstZone = true
		case q.near.first[i]:
			o.firstHost = true
		default:
		}
	}
	return o
}

func (c *counter) zone(zone string) *zoneCount {
	z := c.zones[zone]
	if z == nil {
		z = &zoneCount{}
		c.zones[zone] = z
	}
	return z
}

func (c *counter) add(zone string, n int64, limit Filter) {
	if c.place == nil {
		c.place = map[Filter]int{}
		for i, f := range ordered() {
			c.place[f] = i
		}
		c.place[FilterSharedStorage] = c.place[FilterStorage]
	}
	z := c.zone(zone)
	z.machines = plus(z.machines, n)
	z.limits[c.place[limit]]++
}

func (z *zoneCount) merge(o *zoneCount, machines int64) {
	z.machines = plus(z.machines, machines)
	for i, n := range o.limits {
		z.limits[i] += n
	}
}

// most is what limits most hosts; empty when nothing does.
func (z *zoneCount) most(all []Filter) Filter {
	best := -1
	for i, n := range z.limits {
		if n > 0 && (best < 0 || n > z.limits[best]) {
			best = i
		}
	}
	if best < 0 {
		return ""
	}
	return all[best]
}

func mostOf(counts map[Filter]int) Filter {
	var best Filter
	for _, f := range ordered() {
		if counts[f] > counts[best] {
			best = f
		}
	}
	return best
}

// capped is what fits in a zone, given what the machines' group may have there.
func (c *counter) capped(zone string, z *zoneCount, all []Filter) (int64, Filter) {
	n, limit := z.machines, z.most(all)
	if req := c.q.req; req.MaxPerZone > 0 && req.Group != "" {
		if left := int64(max(req.MaxPerZone-c.q.near.inZone[zone], 0)); left < n {
			n, limit = left, FilterSpread
		}
	}
	if c.own.awayZone && n > 1 {
		n, limit = 1, FilterAffinity
	}
	return n, limit
}

// together corrects the sum for machines that must all be where the first is.
func (c *counter) together(out *Room, hosts []HostRoom) {
	switch {
	case c.own.firstHost:
		out.Machines = 0
		for _, h := range hosts {
			n, _ := c.capped(h.Host.Zone, &zoneCount{machines: h.Machines}, nil)
			if n > out.Machines {
				out.Machines = n
			}
		}
		for i := range out.Zones {
			best := int64(0)
			for _, h := range hosts {
				if h.Host.Zone == out.Zones[i].Zone {
					best = max(best, h.Machines)
				}
			}
			out.Zones[i].Machines = min(out.Zones[i].Machines, best)
		}
	case c.own.firstZone:
		out.Machines = 0
		for _, z := range out.Zones {
			out.Machines = max(out.Machines, z.Machines)
		}
	}
}

// host is how many fit on a host that fits one, and what refuses one more.
func (c *counter) host(h *Host) (int64, Filter) {
	req := c.q.req
	switch {
	case slices.ContainsFunc(req.Interfaces, func(i Interface) bool { return i.Address.IsValid() }):
		return 1, FilterNetwork
	case c.own.awayHost || c.own.awayZone:
		if !c.q.plain { // networks are tried before
			if after, why := c.take(h); why == "" {
				if _, ok := c.q.fit.chooseNetworks(after, req); !ok {
					return 1, FilterNetwork
				}
			}
		}
		return 1, FilterAffinity
	case len(req.PinnedCores) > 0:
		return c.tried(h, 1, FilterPinnedCores)
	}
	n, limit := int64(math.MaxInt64), Filter("")
	least := func(m int64, f Filter) {
		if m < n {
			n, limit = m, f
		}
	}
	functions := 0
	for i := range req.Interfaces {
		if req.Interfaces[i].Kind == vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV {
			functions++
		}
	}
	if functions == 1 {
		least(h.functionsFor(req), FilterNetwork)
	}
	least(h.Cores.Free()/int64(max(req.Cores, 1)), FilterCores)
	least(h.MemoryMiB.Free()/max(req.MemoryMiB, 1), FilterMemory)
	if req.Hugepages {
		least(h.Hugepages.Free()/max(req.MemoryMiB, 1), FilterHugepages)
	}
	switch disks := len(req.Disks); {
	case functions > 1 || req.OneNUMANode || (disks > 1 && !h.targeted(req)):
		return c.tried(h, n, limit)
	case disks > 1:
		least(h.disksFor(req), FilterStorage)
	case disks == 1:
		least(h.diskFor(&req.Disks[0]), FilterStorage)
	}
	return n, limit
}

// maxTried bounds how many machines are placed on one host to count them.
const maxTried = 128

// tried places one after the other, as long as they fit, at most so many.
func (c *counter) tried(h *Host, most int64, limit Filter) (int64, Filter) {
	q, n := c.q, int64(0)
	for ; n < maxTried; n++ {
		after, why := c.take(h)
		if why != "" {
			return n, why
		}
		h = after
	}
	if n == most {
		return n, limit
	}
	// A large host and small machines: whole machines in one pool each fit for sure.
	if q.certainlyMore() {
		sum := int64(0)
		for i := range q.req.Disks {
			sum = plus(sum, q.req.Disks[i].SizeBytes)
		}
		more := int64(0)
		for j := range h.Pools {
			if !h.twin(j) && h.takesAll(&h.Pools[j], q.req) {
				more = plus(more, h.Pools[j].Free()/sum)
			}
		}
		if more < most-n {
			return n + more, FilterStorage
		}
		return most, limit
	}
	return n, limit
}

// take is the host with one more machine, or the filter that refuses that.
func (c *counter) take(h *Host) (*Host, Filter) {
	q := c.q
	if _, ok := q.fit.chooseNetworks(h, q.req); !ok {
		return h, FilterNetwork
	}
	if why, ok := q.fit.room(h, q.req); !ok {
		return h, why.Filter
	}
	p := Plan{Pools: q.fit.pools, PinnedCores: q.fit.cores}
	for _, pick := range q.fit.networks {
		p.Networks = append(p.Networks, Attachment{Source: pick.source, Kind: pick.kind})
	}
	return h.Take(p.Commitment(q.req)), ""
}

// certainlyMore says whether nothing but disks has to be tried.
func (q *query) certainlyMore() bool { return q.plain && !q.req.OneNUMANode && len(q.req.Disks) > 0 }

// takesAll says whether a pool may have every disk.
func (h *Host) takesAll(p *Pool, req *Request) bool {
	for i := range req.Disks {
		d := &req.Disks[i]
		name, _ := h.target(d)
		if !p.takes(d) || (name != "" && name != p.Name) || d.SizeBytes > p.Most() {
			return false
		}
	}
	return true
}

// functionsFor is how many virtual functions there are for the one interface that
// wants one.
func (h *Host) functionsFor(req *Request) int64 {
	sum := int64(0)
	for i := range req.Interfaces {
		want := &req.Interfaces[i]
		if want.Kind != vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV {
			continue
		}
		for j := range h.Networks {
			if m, _ := h.look(want, &h.Networks[j]); m == missNothing {
				sum += h.Networks[j].Functions.Free()
			}
		}
	}
	return sum
}

// targeted says whether every disk has only one pool to be in.
func (h *Host) targeted(req *Request) bool {
	for i := range req.Disks {
		if name, _ := h.target(&req.Disks[i]); name == "" {
			return false
		}
	}
	return true
}

// disksFor is for how many machines the pools have room that the disks must be in.
func (h *Host) disksFor(req *Request) int64 {
	n := int64(math.MaxInt64)
	for i := range req.Disks {
		name, _ := h.target(&req.Disks[i])
		if j := h.pool(name); j >= 0 {
			n = min(n, h.Pools[j].Free()/max(h.togetherIn(req, j), 1))
		}
	}
	return n
}

// diskFor is how many disks like this one there is room for.
func (h *Host) diskFor(d *Disk) int64 {
	name, _ := h.target(d)
	n := int64(0)
	for j := range h.Pools {
		if p := &h.Pools[j]; p.takes(d) && (name == "" || name == p.Name) && d.SizeBytes <= p.Most() && (name != "" || !h.twin(j)) {
			n = plus(n, p.Free()/d.SizeBytes)
		}
	}
	return n
}

// twin says whether a pool before is the same under another name.
func (h *Host) twin(j int) bool {
	return h.Pools[j].Identity != "" && slices.ContainsFunc(h.Pools[:j], func(p Pool) bool { return p.Identity == h.Pools[j].Identity && p.Active })
}

// togetherIn is how much the request wants of a pool, and of those that are the
// same, without having a choice.
func (h *Host) togetherIn(req *Request, j int) int64 {
	sum, _ := together(req, h, h.Pools[j].Name)
	for k := range h.Pools {
		if p := &h.Pools[k]; k != j && p.Identity != "" && p.Identity == h.Pools[j].Identity {
			twin, _ := together(req, h, p.Name)
			sum += twin
		}
	}
	return sum
}

// plus does not overflow.
func plus(a, b int64) int64 {
	sum, carry := bits.Add64(uint64(a), uint64(b), 0)
	if carry != 0 || sum > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(sum)
}
