package placement

import (
	"iter"
	"slices"
	"strings"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
)

// Fleet is all hosts at one time, made for scanning. It never changes, so that
// many may read it; a Draft makes the next one and shares with it every block in
// which no host changed.
type Fleet struct {
	blocks []*block
	count  int
	index  *index
}

// position is where a host is: the number of its block, and its row. Positions
// are in the order of ids.
type position int

func at(block, row int) position { return position(block*blockSize + row) }

func (p position) block() int { return int(p) / blockSize }
func (p position) row() int   { return int(p) % blockSize }

// NewFleet makes a fleet of hosts, in any order. Of several of one id the last
// counts.
func NewFleet(hosts []*Host) *Fleet {
	list := slices.Clone(hosts)
	slices.SortStableFunc(list, func(a, b *Host) int { return strings.Compare(a.ID, b.ID) })
	kept := list[:0]
	for i, h := range list {
		if i+1 == len(list) || list[i+1].ID != h.ID {
			kept = append(kept, h)
		}
	}
	f := &Fleet{count: len(kept), index: &index{}}
	statics := make([]*static, 0, blockSize)
	var last *static
	for some := range slices.Chunk(kept, blockSize) {
		statics = statics[:0]
		for _, h := range some {
			last = f.index.static(h, last)
			statics = append(statics, last)
		}
		f.blocks = append(f.blocks, newBlock(some, statics, f.index))
	}
	f.index.initial = f.index.size()
	return f
}

// Len is how many hosts there are.
func (f *Fleet) Len() int { return f.count }

// Hosts are all hosts, by id.
func (f *Fleet) Hosts() iter.Seq[*Host] {
	return func(yield func(*Host) bool) {
		for _, b := range f.blocks {
			for _, h := range b.hosts[:b.n] {
				if !yield(h) {
					return
				}
			}
		}
	}
}

// Host is the host of an id, nil when there is none.
func (f *Fleet) Host(id string) *Host {
	p, found := f.find(id)
	if !found {
		return nil
	}
	return f.at(p)
}

func (f *Fleet) at(p position) *Host { return f.blocks[p.block()].hosts[p.row()] }

// find is where the host of an id is, or would be.
func (f *Fleet) find(id string) (position, bool) {
	// The last block that does not begin after the id.
	k, exact := slices.BinarySearchFunc(f.blocks, id, func(b *block, id string) int { return strings.Compare(b.hosts[0].ID, id) })
	if exact {
		return at(k, 0), true
	}
	if k == 0 {
		return at(0, 0), false
	}
	b := f.blocks[k-1]
	i, found := slices.BinarySearchFunc(b.hosts[:b.n], id, func(h *Host, id string) int { return strings.Compare(h.ID, id) })
	if i == blockSize {
		return at(k, 0), false
	}
	return at(k-1, i), found
}

// Draft begins a fleet that can be changed; this one stays as it is.
func (f *Fleet) Draft() *Draft {
	return &Draft{fleet: Fleet{blocks: slices.Clone(f.blocks), count: f.count, index: f.index}, own: make([]bool, len(f.blocks))}
}

// Draft is a fleet in the making: the next snapshot, or what will be once
// decisions came true. It is for one goroutine.
type Draft struct {
	fleet Fleet
	own   []bool // whether the block is the draft's alone
}

// Fleet is the fleet as it is now. The draft can go on.
func (d *Draft) Fleet() *Fleet {
	// Words that no host has any more are left behind now and then.
	if d.fleet.index.size() > 4*d.fleet.index.initial+4096 {
		d.fleet = *NewFleet(slices.Collect(d.fleet.Hosts()))
		d.own = make([]bool, len(d.fleet.blocks))
	}
	clear(d.own)
	return &Fleet{blocks: slices.Clone(d.fleet.blocks), count: d.fleet.count, index: d.fleet.index}
}

// Len is how many hosts there are now.
func (d *Draft) Len() int { return d.fleet.count }

// Host is the host of an id as it is now, nil when there is none.
func (d *Draft) Host(id string) *Host { return d.fleet.Host(id) }

// mine is a block that may be changed.
func (d *Draft) mine(k int) *block {
	if !d.own[k] {
		b := *d.fleet.blocks[k]
		d.fleet.blocks[k], d.own[k] = &b, true
	}
	return d.fleet.blocks[k]
}

// Put adds a host, or replaces the one of its id.
func (d *Draft) Put(h *Host) {
	p, found := d.fleet.find(h.ID)
	if found {
		d.mine(p.block()).replace(p.row(), h, d.fleet.index)
		return
	}
	d.fleet.count++
	k, i := p.block(), p.row()
	if k == len(d.fleet.blocks) || (i == 0 && k > 0 && d.fleet.blocks[k-1].n < blockSize) {
		if k > 0 && d.fleet.blocks[k-1].n < blockSize {
			k, i = k-1, d.fleet.blocks[k-1].n
		} else {
			d.insert(k, newBlock(nil, nil, d.fleet.index))
		}
	}
	b := d.fleet.blocks[k]
	var before *static
	if b.n > 0 {
		before = b.static[0]
	}
	hosts, statics := slices.Insert(slices.Clone(b.hosts[:b.n]), i, h), slices.Insert(slices.Clone(b.static[:b.n]), i, d.fleet.index.static(h, before))
	if len(hosts) <= blockSize {
		d.fleet.blocks[k], d.own[k] = newBlock(hosts, statics, d.fleet.index), true
		return
	}
	half := len(hosts) / 2
	d.fleet.blocks[k], d.own[k] = newBlock(hosts[:half], statics[:half], d.fleet.index), true
	d.insert(k+1, newBlock(hosts[half:], statics[half:], d.fleet.index))
}

func (d *Draft) insert(k int, b *block) {
	d.fleet.blocks, d.own = slices.Insert(d.fleet.blocks, k, b), slices.Insert(d.own, k, true)
}

// Remove removes the host of an id, if there is one.
func (d *Draft) Remove(id string) {
	p, found := d.fleet.find(id)
	if !found {
		return
	}
	d.fleet.count--
	k, i := p.block(), p.row()
	b := d.fleet.blocks[k]
	if b.n == 1 {
		d.fleet.blocks, d.own = slices.Delete(d.fleet.blocks, k, k+1), slices.Delete(d.own, k, k+1)
		return
	}
	hosts, statics := slices.Delete(slices.Clone(b.hosts[:b.n]), i, i+1), slices.Delete(slices.Clone(b.static[:b.n]), i, i+1)
	d.fleet.blocks[k], d.own[k] = newBlock(hosts, statics, d.fleet.index), true
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
	begin.fleet.blocks, begin.own = slices.Clone(d.fleet.blocks), make([]bool, len(d.own))
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
