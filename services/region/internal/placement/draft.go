package placement

import (
	"slices"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
)

// Draft is a fleet in the making: the next snapshot, or what will be once
// decisions came true. It is for one goroutine.
type Draft struct {
	fleet Fleet
	own   []own // by stack
}

// own is what of a stack is the draft's alone, and may be changed: the stack, and
// blocks of it, one bit each.
type own struct {
	stack  bool
	blocks uint32
}

// Draft begins a fleet that can be changed; this one stays as it is.
func (f *Fleet) Draft() *Draft {
	return &Draft{fleet: Fleet{stacks: slices.Clone(f.stacks), count: f.count, index: f.index, shared: f.shared}, own: make([]own, len(f.stacks))}
}

// Fleet is the fleet as it is now. The draft can go on.
func (d *Draft) Fleet() *Fleet {
	// Words that no host has any more are left behind now and then.
	if d.fleet.index.size() > 4*d.fleet.index.initial+4096 {
		d.fleet = *NewFleet(slices.Collect(d.fleet.Hosts()))
		d.own = make([]own, len(d.fleet.stacks))
	}
	clear(d.own)
	return &Fleet{stacks: slices.Clone(d.fleet.stacks), count: d.fleet.count, index: d.fleet.index, shared: d.fleet.shared}
}

// Len is how many hosts there are now.
func (d *Draft) Len() int { return d.fleet.count }

// Host is the host of an id as it is now, nil when there is none.
func (d *Draft) Host(id string) *Host { return d.fleet.Host(id) }

// Put adds a host, or replaces the one of its id. Hosts that share storage pools
// with it see what it has in them.
func (d *Draft) Put(h *Host) {
	before := d.fleet.Host(h.ID)
	if !h.sharesStorage() && !before.sharesStorage() {
		d.put(h)
		return
	}
	changed := d.exchange(before, h)
	d.put(d.fleet.Together(h))
	d.spreadOut(changed, h.ID)
}

func (d *Draft) put(h *Host) {
	k, slot, i, found := d.fleet.place(h.ID)
	if found {
		d.mine(k, slot).replace(slot, i, h, d.fleet.index)
		return
	}
	d.fleet.count++
	if len(d.fleet.stacks) == 0 {
		d.fleet.stacks = []*stack{newStack([]*block{newBlock([]*Host{h}, []*static{d.fleet.index.static(h, nil)}, d.fleet.index)})}
		d.own = []own{{}}
		return
	}
	b := d.fleet.stacks[k].blocks[slot]
	s := d.fleet.index.static(h, b.static[0])
	if i == blockSize { // it comes after a full block: the next one is for it
		d.build(k, slot+1, 0, newBlock([]*Host{h}, []*static{s}, d.fleet.index))
		return
	}
	hosts, statics := slices.Insert(slices.Clone(b.hosts[:b.n]), i, h), slices.Insert(slices.Clone(b.static[:b.n]), i, s)
	if len(hosts) <= blockSize {
		d.build(k, slot, 1, newBlock(hosts, statics, d.fleet.index))
		return
	}
	half := len(hosts) / 2
	d.build(k, slot, 1, newBlock(hosts[:half], statics[:half], d.fleet.index), newBlock(hosts[half:], statics[half:], d.fleet.index))
}

// Remove removes the host of an id, if there is one, with what it has in pools that
// it shares.
func (d *Draft) Remove(id string) {
	h := d.fleet.Host(id)
	if !h.sharesStorage() {
		d.remove(id)
		return
	}
	changed := d.exchange(h, nil)
	d.remove(id)
	d.spreadOut(changed, id)
}

func (d *Draft) remove(id string) {
	k, slot, i, found := d.fleet.place(id)
	if !found {
		return
	}
	d.fleet.count--
	b := d.fleet.stacks[k].blocks[slot]
	if b.n == 1 {
		d.build(k, slot, 1)
		return
	}
	hosts, statics := slices.Delete(slices.Clone(b.hosts[:b.n]), i, i+1), slices.Delete(slices.Clone(b.static[:b.n]), i, i+1)
	d.build(k, slot, 1, newBlock(hosts, statics, d.fleet.index))
}

// mine is a stack that may be changed, with a block of it.
func (d *Draft) mine(k, slot int) *stack {
	if !d.own[k].stack {
		st := *d.fleet.stacks[k]
		d.fleet.stacks[k], d.own[k] = &st, own{stack: true}
	}
	st := d.fleet.stacks[k]
	if d.own[k].blocks&(1<<slot) == 0 {
		b := *st.blocks[slot]
		st.blocks[slot] = &b
		d.own[k].blocks |= 1 << slot
	}
	return st
}

// build puts blocks in the place of so many of a stack, which becomes two when
// they are too many, and none when there are none left.
func (d *Draft) build(k, slot, less int, more ...*block) {
	st := d.fleet.stacks[k]
	blocks := slices.Replace(slices.Clone(st.blocks[:st.n]), slot, slot+less, more...)
	var stacks []*stack
	switch {
	case len(blocks) > stackSize:
		half := len(blocks) / 2
		if slot == stackSize { // at the end: as when hosts are added by id
			half = stackSize
		}
		stacks = []*stack{newStack(blocks[:half]), newStack(blocks[half:])}
	case len(blocks) > 0:
		stacks = []*stack{newStack(blocks)}
	default:
	}
	d.fleet.stacks = slices.Replace(d.fleet.stacks, k, k+1, stacks...)
	d.own = slices.Replace(d.own, k, k+1, make([]own, len(stacks))...)
}

// Take takes what a machine commits of a host, and counts it in its group, if it
// has one.
func (d *Draft) Take(host string, c *storev1.Commitment, groupKey string) {
	h := d.fleet.Host(host)
	if h == nil {
		return
	}
	h = h.Take(c)
	if groupKey != "" {
		h = h.Join(groupKey, 1)
	}
	d.Put(h)
}

// Give gives back what a machine commits of a host.
func (d *Draft) Give(host string, c *storev1.Commitment) {
	if h := d.fleet.Host(host); h != nil {
		d.Put(h.Give(c))
	}
}

// Choose is Fleet.Choose on the draft. It takes nothing.
func (d *Draft) Choose(req *Request) Plan { return d.fleet.Choose(req) }

// Explain is Fleet.Explain on the draft.
func (d *Draft) Explain(req *Request, maxRefusals, maxCandidates int) Explanation {
	return d.fleet.Explain(req, maxRefusals, maxCandidates)
}

// Place chooses for each request in turn and takes for it, so that each finds
// what those before it left, and their groups. With all, either every one of them
// fits, or nothing is taken.
func (d *Draft) Place(reqs []*Request, all bool) Many {
	begin := *d
	begin.fleet.stacks, begin.own = slices.Clone(d.fleet.stacks), make([]own, len(d.own))
	clear(d.own) // those are the beginning's as well now
	out := Many{Refused: -1, Plans: make([]Plan, 0, len(reqs))}
	for i, req := range reqs {
		plan := d.fleet.Choose(req)
		out.Plans = append(out.Plans, plan)
		if plan.Host != nil {
			d.Take(plan.Host.ID, plan.Commitment(req), req.groupKey())
			continue
		}
		if out.Refused < 0 {
			out.Refused = i
		}
		out.Unplaced++
		if all {
			*d = begin
			out.Unplaced = len(reqs)
			return out
		}
	}
	return out
}
