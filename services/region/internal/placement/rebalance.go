package placement

import (
	"cmp"
	"container/heap"
	"fmt"
	"math"
	"slices"

	"github.com/vmhost-project/vmhost/pkg/units"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Rebalancing is what is to be improved.
type Rebalancing struct {
	// ResourcePool and Zone are ids: only their hosts count; empty: all.
	ResourcePool, Zone string
	// MaxMoves is how many moves there may be.
	MaxMoves int
	// MinGain is what a move must gain; not above 0: smallGain by the hosts that
	// count.
	MinGain float64
	// MachinesOn are the machines of a host that may be moved. It is asked about
	// few hosts, and once each.
	MachinesOn func(host string) []Machine
}

// smallGain by the number of hosts is the gain that is not worth a move: one move
// changes two hosts, whatever their number.
const smallGain = 0.01

// leastGain is more than what rounding makes of nothing: the root of what is lost of
// the squares.
const leastGain = 1e-7

// Rebalanced is what would improve the fleet.
type Rebalanced struct {
	// Moves, each possible after those before it. Each is, when it is its turn, the
	// one that gains most of those that were looked at.
	Moves []Gain
	// Before and After are the imbalance, see Fleet.Rebalance.
	Before, After float64
	// Considered is how many hosts count.
	Considered int
}

// Gain is a move and by how much it lowers the imbalance, given those before it.
type Gain struct {
	Move

	Gain float64
	// Source and Target are the hosts before the move.
	Source, Target *Host
	// Left is the load of the source afterwards, Then that of the target.
	Left, Then float64
}

// Rebalance proposes a few moves that make the load of hosts more even. The
// imbalance is the standard deviation of the loads of all hosts that count, the
// larger of cores and memory against their limits, and what hosts are over their
// limits, added up. Hosts that are cordoned or not ready do not count: nothing can
// go there, and to empty one is a drain.
//
// It looks for what to move on hosts over their limits and on the most loaded
// ones, and for each machine at the best host for it: a search that finds good
// moves fast, not the best plan there is. A machine is moved only to where it may
// be by what it was composed with, and never from where a soft rule of it is kept
// to where it is not, nor from KVM to emulation.
func (f *Fleet) Rebalance(what Rebalancing) Rebalanced {
	b := balance{draft: f.Draft(), what: what, counted: map[string]bool{}}
	for h := range f.Hosts() {
		if b.matters(h) {
			b.add(h)
		}
	}
	out := Rebalanced{Considered: len(b.counted), Before: b.imbalance()}
	out.After = out.Before
	if b.what.MinGain <= 0 {
		b.what.MinGain = smallGain / float64(max(len(b.counted), 1))
	}
	b.what.MinGain = max(b.what.MinGain, leastGain)
	b.collect()
	for len(out.Moves) < what.MaxMoves {
		g, ok := b.next()
		if !ok {
			break
		}
		out.Moves = append(out.Moves, g)
		out.After = b.imbalance()
	}
	return out
}

// balance is the loads of hosts while moves are looked for.
type balance struct {
	draft *Draft
	what  Rebalancing
	sums

	counted    map[string]bool // by host
	lowest     float64         // load of any host in the beginning
	candidates candidates
	moves      int // made so far
	tries      int // how often a host was looked for
	renewed    int // how many moves were made when all was looked at again
}

// sums are of what the imbalance is made.
type sums struct {
	loads, squares, over float64
	hosts                float64
}

func (s *sums) imbalance() float64 {
	if s.hosts == 0 {
		return 0
	}
	mean := s.loads / s.hosts
	return math.Sqrt(max(s.squares/s.hosts-mean*mean, 0)) + s.over
}

// change is the sums with a host that is something else now.
func (s *sums) change(before, after *Host) {
	was, is := before.load(), after.load()
	s.loads += is - was
	s.squares += is*is - was*was
	s.over += after.excess() - before.excess()
}

func (b *balance) matters(h *Host) bool {
	return (b.what.ResourcePool == "" || b.what.ResourcePool == h.ResourcePool) && (b.what.Zone == "" || b.what.Zone == h.Zone) &&
		!h.Cordoned && h.State == vmhostv1.VmHostState_VM_HOST_STATE_READY
}

func (b *balance) add(h *Host) {
	l := h.load()
	if b.hosts == 0 || l < b.lowest {
		b.lowest = l
	}
	b.counted[h.ID] = true
	b.loads += l
	b.squares += l * l
	b.over += h.excess()
	b.hosts++
}

// load is what of the host is in use: the larger of cores and memory against their
// limits; where there is no limit but none, against what there is.
func (h *Host) load() float64 {
	return max(h.Cores.inUse(), h.MemoryMiB.inUse())
}

func (r Resource) inUse() float64 {
	return float64(r.used()) / float64(max(cmp.Or(r.Limit, r.Most()), 1))
}

// excess is what is over limits, as shares of them; where a limit is less than
// what there is, of that.
func (h *Host) excess() float64 {
	sum := h.Cores.excess() + h.MemoryMiB.excess()
	for i := range h.Pools {
		if h.Pools[i].Identity == "" { // moving helps
			sum += h.Pools[i].excess()
		}
	}
	return sum
}

func (r Resource) excess() float64 {
	return float64(max(r.used()-r.Limit, 0)) / float64(max(r.Limit, r.Most(), 1))
}

// candidate is a machine that could be moved, with what that would gain when it
// was last looked at, or would gain at the most.
type candidate struct {
	machine *Machine
	gain    Gain
	at      int // how many moves were made when it was looked at; -1: never
}

// candidates is a heap, the one that promises most first.
type candidates []*candidate

func (c candidates) Len() int      { return len(c) }
func (c candidates) Swap(i, j int) { c[i], c[j] = c[j], c[i] }
func (c *candidates) Push(x any)   { *c = append(*c, x.(*candidate)) } //nolint:forcetypeassert // nothing else is pushed
func (c candidates) Less(i, j int) bool {
	a, b := c[i], c[j]
	return cmp.Or(cmp.Compare(b.gain.Gain, a.gain.Gain), cmp.Compare(a.machine.Name, b.machine.Name)) < 0
}

func (c *candidates) Pop() any {
	last := len(*c) - 1
	x := (*c)[last]
	*c = (*c)[:last]
	return x
}

// How many of the most loaded hosts are looked at beside those over their limits,
// and for how many machines a host is looked for, for each move and at least.
const (
	sourcesPerMove, fewSources = 2, 32
	triesPerMove, fewTries     = 16, 1024
)

// collect takes the machines of the hosts that it could help most to relieve.
func (b *balance) collect() {
	var sources []*Host
	for h := range b.draft.fleet.Hosts() {
		if b.counted[h.ID] && h.Machines > 0 {
			sources = append(sources, h)
		}
	}
	over := 0
	slices.SortFunc(sources, func(x, y *Host) int {
		return cmp.Or(cmp.Compare(y.excess(), x.excess()), cmp.Compare(y.load(), x.load()), cmp.Compare(x.ID, y.ID))
	})
	for over < len(sources) && sources[over].excess() > 0 {
		over++
	}
	for _, h := range sources[:min(len(sources), over+fewSources+sourcesPerMove*b.what.MaxMoves)] {
		machines := b.what.MachinesOn(h.ID)
		for i := range machines {
			c := &candidate{machine: &machines[i], at: -1}
			c.gain.Gain = b.promise(h, c.machine)
			b.candidates = append(b.candidates, c)
		}
	}
	heap.Init(&b.candidates)
}

// promise is the most that it can gain to move a machine: as if it brought the
// emptiest host to just where that is best.
func (b *balance) promise(from *Host, m *Machine) float64 {
	if b.hosts < 2 {
		return math.Inf(-1)
	}
	s := b.sums
	s.change(from, from.Give(m.Held))
	gap := max(s.loads/s.hosts-b.lowest, 0)
	s.squares -= gap * gap * s.hosts / (s.hosts - 1)
	return b.imbalance() - s.imbalance()
}

// again takes what was looked at before the last move for as good as it could be,
// once after each.
func (b *balance) again() bool {
	if b.renewed == b.moves {
		return false
	}
	b.renewed = b.moves
	for _, c := range b.candidates {
		if c.at < b.moves {
			c.gain.Gain = b.promise(b.draft.Host(c.machine.Host), c.machine)
		}
	}
	heap.Init(&b.candidates)
	return true
}

// next makes the move that gains most. What was looked at before the last move is
// looked at again when it is its turn, so that gains are those of now; and when
// nothing seems worth a move any more, so is the rest.
func (b *balance) next() (Gain, bool) {
	for len(b.candidates) > 0 && b.tries < fewTries+triesPerMove*b.what.MaxMoves {
		c := b.candidates[0]
		switch {
		case c.gain.Gain < b.what.MinGain && b.again():
		case c.gain.Gain < b.what.MinGain:
			return Gain{}, false
		case c.at == b.moves:
			heap.Pop(&b.candidates)
			b.make(&c.gain)
			return c.gain, true
		default:
			b.tries++
			c.gain, c.at = b.best(c.machine), b.moves
			heap.Fix(&b.candidates, 0)
		}
	}
	return Gain{}, false
}

// best is the move of a machine to the host that is least loaded with it; one that
// gains less than nothing when there is none.
func (b *balance) best(m *Machine) Gain {
	none := Gain{Gain: math.Inf(-1)}
	from, req := b.draft.Host(m.Host), m.Request
	if from == nil || (b.what.Zone != "" && req.Zone != "" && req.Zone != b.what.Zone) {
		return none
	}
	req.Zone = cmp.Or(req.Zone, b.what.Zone)
	req.From, req.Seed, req.VMHost = m.Host, 0, ""
	req.Policy.Weights = Weights{LeastLoaded: 1, AvoidEmulation: 1}
	req.Affinity = b.keptRules(from.Give(m.Held), &req)
	q := b.draft.fleet.query(&req)
	where, found := q.best()
	if !found {
		return none
	}
	to := q.fleet.at(where)
	if !b.counted[to.ID] || (from.KVM && !to.KVM && !req.container()) {
		return none
	}
	g := Gain{Move: Move{Machine: m, From: m.Host, Plan: Plan{Index: -1, NUMANode: -1}}, Source: from, Target: to}
	q.fill(&g.Plan, where)
	left, then := from.Give(m.Held), to.Take(g.Plan.Arrived(&req, m.Held))
	s := b.sums
	s.change(from, left)
	s.change(to, then)
	g.Gain, g.Left, g.Then = b.imbalance()-s.imbalance(), left.load(), then.load()
	return g
}

// keptRules are the rules of a machine that must be kept where it goes: the hard
// ones, and soft ones that are kept where it is.
func (b *balance) keptRules(from *Host, req *Request) []Rule {
	if len(req.Affinity) == 0 {
		return nil
	}
	var out []Rule
	near := b.draft.fleet.nearness(req)
	for i, r := range req.Affinity {
		if !r.Soft || near.keeps(from, req, i) {
			r.Soft = false
			out = append(out, r)
		}
	}
	return out
}

// make makes a move.
func (b *balance) make(g *Gain) {
	m := g.Machine
	from, to := b.draft.Host(g.From), b.draft.Host(g.Plan.Host.ID)
	b.draft.Take(to.ID, g.Plan.Arrived(&m.Request, m.Held), m.Request.groupKey())
	b.draft.Give(from.ID, m.Held)
	b.change(from, b.draft.Host(from.ID))
	b.change(to, b.draft.Host(to.ID))
	b.moves++
	b.lowest = min(b.lowest, b.draft.Host(from.ID).load())
}

// Why says what the move is good for, for people.
func (g *Gain) Why() string {
	target := fmt.Sprintf("%s %.0f%% → %.0f%%", g.Target.ID, 100*g.Target.load(), 100*g.Then)
	if o, over := g.Source.over(); over {
		var used, limit string
		tell(o.Name, told{&used, units.Need(o.used())}, told{&limit, units.Room(o.Limit)})
		return fmt.Sprintf("%s has %s in use, past its limit of %s; load of %s", g.Source.ID, o.inUse(used), limit, target)
	}
	return fmt.Sprintf("load of %s %.0f%% → %.0f%%, of %s", g.Source.ID, 100*g.Source.load(), 100*g.Left, target)
}
