package placement

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Shared is what a pool is that several hosts have; the zero value is one that is
// its host's alone.
type Shared struct {
	// Identity is what is behind it, the same on all of them: see Identity.
	Identity string
	// Hosts is how many of a fleet have it.
	Hosts int32

	reads           bool  // the host reads what is allocated in it
	own             int64 // that the host's own machines hold
	allocated, ours int64 // as the host reads it
}

func sharedBy(identity string, p *vmhostv1.StoragePool, ours, committed int64) Shared {
	if identity == "" {
		return Shared{}
	}
	return Shared{
		Identity: identity, Hosts: 1, own: max(committed, 0), reads: p.GetActive() && p.GetCapacityBytes() > 0,
		allocated: max(p.GetAllocationBytes(), 0), ours: ours,
	}
}

// take takes bytes, or gives them back.
func (p *Pool) take(bytes int64) {
	p.Committed = max(p.Committed+bytes, 0)
	if p.Identity != "" {
		p.own = max(p.own+bytes, 0)
	}
}

// sharesStorage says whether any pool of the host is shared.
func (h *Host) sharesStorage() bool {
	return h != nil && slices.ContainsFunc(h.Pools, func(p Pool) bool { return p.Identity != "" })
}

// takeTwins takes what machines commit in a pool of the others of the host that
// are the same: a host can have one under two names.
func (h *Host) takeTwins(c *storev1.Commitment, sign int64) {
	for i := range h.Pools {
		p := &h.Pools[i]
		if p.Identity == "" || c.GetStorageBytes()[p.Name] == 0 {
			continue
		}
		for j := range h.Pools {
			if twin := &h.Pools[j]; j != i && twin.Identity == p.Identity {
				twin.Committed = max(twin.Committed+sign*c.GetStorageBytes()[p.Name], 0)
			}
		}
	}
}

// takeOf takes room of one pool, and of those that are the same.
func (h *Host) takeOf(free []int64, j int, bytes int64) {
	free[j] -= bytes
	if h.Pools[j].Identity == "" {
		return
	}
	for k := range h.Pools {
		if k != j && h.Pools[k].Identity == h.Pools[j].Identity {
			free[k] -= bytes
		}
	}
}

// sharedPool is a pool of the host that is shared; nil for any other.
func (h *Host) sharedPool(name string) *Pool {
	if j := h.pool(name); j >= 0 && h.Pools[j].Identity != "" {
		return &h.Pools[j]
	}
	return nil
}

// UsesShared says whether a plan puts a disk into a pool that other hosts have as
// well: then it depends on more than its host.
func (p *Plan) UsesShared() bool {
	return p.Host != nil && slices.ContainsFunc(p.Pools, func(name string) bool { return p.Host.sharedPool(name) != nil })
}

// sharing is one shared pool as all who have it see it. It is never changed once a
// fleet has it.
type sharing struct {
	sharers []sharer // by host, then pool
	// committed is what machines on any of the hosts hold. foreign is what is in it
	// besides: the most that any host reads, less what machines of ours have
	// allocated on all of them.
	committed, foreign int64
	hosts              int32
}

type sharer struct {
	host, pool string
	Shared
}

func compareSharers(a, b sharer) int {
	return cmp.Or(strings.Compare(a.host, b.host), strings.Compare(a.pool, b.pool))
}

// sum computes what follows from the sharers.
func (s *sharing) sum() {
	s.committed, s.foreign, s.hosts = 0, 0, 0
	read, ours, last := int64(0), int64(0), ""
	for i := range s.sharers {
		m := &s.sharers[i]
		s.committed = plus(s.committed, m.own)
		ours = plus(ours, m.ours)
		if i == 0 || m.host != last {
			s.hosts++ // which can have it under two names
		}
		if m.reads {
			read = max(read, m.allocated)
		}
		last = m.host
	}
	s.foreign = max(read-ours, 0)
}

// without is the pool without a host.
func (s *sharing) without(host string) *sharing {
	out := &sharing{}
	if s != nil {
		out.sharers = slices.DeleteFunc(slices.Clone(s.sharers), func(m sharer) bool { return m.host == host })
	}
	return out
}

// with is the pool with a host, as that has it now.
func (s *sharing) with(identity string, h *Host) {
	for i := range h.Pools {
		if h.Pools[i].Identity == identity {
			one := sharer{h.ID, h.Pools[i].Name, h.Pools[i].Shared}
			at, _ := slices.BinarySearchFunc(s.sharers, one, compareSharers)
			s.sharers = slices.Insert(s.sharers, at, one)
		}
	}
}

// sharings finds the pools that hosts share.
func sharings(hosts []*Host) map[string]*sharing {
	var out map[string]*sharing
	for _, h := range hosts {
		for i := range h.Pools {
			p := &h.Pools[i]
			if p.Identity == "" {
				continue
			}
			if out == nil {
				out = map[string]*sharing{}
			}
			if out[p.Identity] == nil {
				out[p.Identity] = &sharing{}
			}
			out[p.Identity].sharers = append(out[p.Identity].sharers, sharer{h.ID, p.Name, p.Shared})
		}
	}
	for _, s := range out {
		slices.SortFunc(s.sharers, compareSharers)
		s.sum()
	}
	return out
}

// Together is a host by itself with what all who share its pools have in them.
func (f *Fleet) Together(h *Host) *Host {
	if !h.sharesStorage() {
		return h
	}
	out := *h
	out.Pools = slices.Clone(h.Pools)
	for i := range out.Pools {
		p := &out.Pools[i]
		s := f.shared[p.Identity]
		if s == nil {
			continue
		}
		p.Committed, p.Foreign, p.Hosts = s.committed, s.foreign, s.hosts
		// What this host does not show to the fleet yet, as a record that is being
		// written.
		if at, ok := slices.BinarySearchFunc(s.sharers, sharer{host: h.ID, pool: p.Name}, compareSharers); !ok {
			p.Committed, p.Hosts = plus(s.committed, p.own), s.hosts+1
		} else if was := s.sharers[at].own; was != p.own {
			p.Committed = max(s.committed-was+p.own, 0)
		}
	}
	out.levelTwins()
	return &out
}

// levelTwins has pools of the host that are the same take no more than any of them
// may.
func (h *Host) levelTwins() {
	for i := range h.Pools {
		for j := range h.Pools[:i] {
			a, b := &h.Pools[i], &h.Pools[j]
			if a.Identity == "" || a.Identity != b.Identity || !a.Active || !b.Active {
				continue
			}
			a.Limit, b.Limit = min(a.Limit, b.Limit), min(a.Limit, b.Limit)
			a.Physical, b.Physical = min(a.Physical, b.Physical), min(a.Physical, b.Physical)
		}
	}
}

// Shares says whether any pool of the fleet is shared.
func (f *Fleet) Shares() bool { return len(f.shared) > 0 }

// exchange has the pools that a host shares, or shared, count it as it is now. The
// answer is the pools of which that changes something for others.
func (d *Draft) exchange(before, now *Host) []string {
	identities := map[string]bool{}
	for _, h := range []*Host{before, now} {
		if h == nil {
			continue
		}
		for i := range h.Pools {
			if h.Pools[i].Identity != "" {
				identities[h.Pools[i].Identity] = true
			}
		}
	}
	var changed []string
	id := ""
	switch {
	case now != nil:
		id = now.ID
	case before != nil:
		id = before.ID
	}
	d.fleet.shared = maps.Clone(d.fleet.shared)
	if d.fleet.shared == nil {
		d.fleet.shared = map[string]*sharing{}
	}
	for identity := range identities {
		was := d.fleet.shared[identity]
		s := was.without(id)
		if now != nil {
			s.with(identity, now)
		}
		s.sum()
		if len(s.sharers) == 0 {
			delete(d.fleet.shared, identity)
			continue
		}
		d.fleet.shared[identity] = s
		if was == nil || was.committed != s.committed || was.foreign != s.foreign || was.hosts != s.hosts {
			changed = append(changed, identity)
		}
	}
	return changed
}

// spreadOut shows all hosts that share some pools what is in them now.
func (d *Draft) spreadOut(identities []string, except string) {
	type place struct{ stack, slot int }
	rows := map[place][]int{}
	for _, identity := range identities {
		s := d.fleet.shared[identity]
		if s == nil {
			continue
		}
		last := ""
		for _, m := range s.sharers {
			if m.host == last || m.host == except {
				continue
			}
			last = m.host
			if k, slot, row, found := d.fleet.place(m.host); found {
				rows[place{k, slot}] = append(rows[place{k, slot}], row)
			}
		}
	}
	stacks := map[*stack]bool{}
	for at, list := range rows {
		st := d.mine(at.stack, at.slot)
		b := st.blocks[at.slot]
		for _, i := range list {
			b.setStorage(i, d.fleet.Together(b.hosts[i]))
		}
		b.measure()
		st.sums[at.slot], stacks[st] = b.sum, true
	}
	for st := range stacks {
		st.gather()
	}
}
