package ledger

import (
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// When many composes wait, two transactions are under way at the same time. They
// are decided on in different lanes of the fleet, so that they have no host in
// common: neither depends on what becomes of the other, and it does not matter in
// which order etcd does them. Whatever cannot be decided on in one lane, a refusal
// above all, is decided on over all hosts, with nothing else under way.

const (
	// manyCallers is how many composes at a time make it worth to choose among
	// half of the hosts only.
	manyCallers = 32
	// manyHosts is how many hosts there must be for that.
	manyHosts = 16
)

// lines has one for each lane, and in it a token while somebody submits.
type lines [2]chan struct{}

func newLines() lines { return lines{make(chan struct{}, 1), make(chan struct{}, 1)} }

// of are the lines of a lane.
func (l *lines) of(lane placement.Lane) []chan struct{} {
	switch lane {
	case placement.EvenLane:
		return l[:1]
	case placement.OddLane:
		return l[1:]
	default:
		return l[:]
	}
}

func otherLane(lane placement.Lane) placement.Lane {
	return placement.EvenLane + placement.OddLane - lane
}

// goesTo says whether a compose may be decided on in a lane.
func (p *pending) goesTo(lane placement.Lane) bool {
	return lane == placement.AllLanes || p.lanes&lane != 0
}

// passOn leaves a compose for which a lane has no host to the other one. When
// neither has any it is as good as refused.
func (p *pending) passOn(lane placement.Lane) {
	p.lanes &^= lane
	p.refused = p.lanes == 0
}

// laneOf is where the next batch is decided on, of which this will be the first.
// Whoever calls it has the turn.
func (l *Ledger) laneOf(v *store.View, first *pending, hosts int) placement.Lane {
	if l.joint > 0 {
		l.joint--
		return placement.AllLanes
	}
	if l.inside.Load() < manyCallers || first.lanes == 0 || indivisible(v, first.want) || hosts < manyHosts {
		return placement.AllLanes
	}
	l.lane = otherLane(l.lane)
	if !first.goesTo(l.lane) {
		l.lane = otherLane(l.lane)
	}
	return l.lane
}

// jointBatches is how many batches are decided over all hosts after a compose that
// takes of a storage pool that hosts share: most probably the next ones do as well.
const jointBatches = 64

// indivisible says whether a compose has to do with hosts of both lanes: by the
// group that it is in, by machines that it is near to or away from, or by the quota
// of its pool, which is one count.
func indivisible(v *store.View, w *want) bool {
	if w.place.Group != "" || len(w.place.Affinity) > 0 {
		return true
	}
	pool, _ := store.ResourcePools.Get(v, w.place.ResourcePool)
	return quotaOf(pool.Value) != nil
}

// getInLine waits until nothing is being submitted in a lane. Whenever the queue
// has grown meanwhile, more is called; it may be nil. Whoever calls it has the turn.
func (l *Ledger) getInLine(lane placement.Lane, more func()) (end func()) {
	arrived := l.arrived
	if more == nil {
		arrived = nil
	}
	lines := l.lines.of(lane)
	for _, line := range lines {
		for in := false; !in; {
			select {
			case line <- struct{}{}:
				in = true
			case <-arrived:
				more()
			}
		}
	}
	return func() {
		for _, line := range lines {
			<-line
		}
	}
}

// fill waits for more composes while the other lane is under way, until the batch
// has a third of those that there are: one third is under way in either lane, and
// one comes or waits. A transaction costs much, and one more compose in it little.
func (l *Ledger) fill(d *decision, more func()) {
	if d.lane == placement.AllLanes {
		return
	}
	other := l.lines.of(otherLane(d.lane))[0]
	for len(d.placed) < min(int(l.inside.Load())/3, maxBatch) {
		select {
		case other <- struct{}{}: // nothing is under way there any more
			<-other
			return
		case <-l.arrived:
			more()
		}
	}
}
