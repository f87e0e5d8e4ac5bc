package placement

import (
	"math"
	"math/bits"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// summary is what is known of the hosts of a block together, or of a stack: how
// they stand, as masks, and the extremes of their rows.
type summary struct {
	masks
	cores, memory extent
	// The most that is left in storage pools, and the least that a byte takes of it.
	storage share
	// The most that one machine can have.
	coreRoom, memoryRoom, pageRoom, diskRoom, poolRoom int64
}

// masks are the hosts that there are and how they stand. Of a stack they mean
// nothing but whether there are any.
type masks struct {
	all, ready, cordoned, over, kvm, vms, cts, runs uint64
}

// extent is the extremes of one resource.
type extent struct {
	low, high share
	over      float64 // the least
	rungs     [rungs]rung
}

// rung is the extremes of the shares in use with a certain amount more, of the
// hosts that can take it. Without that the fullest hosts, which have no room, would
// promise most to who packs.
type rung struct{ low, high float64 }

// The amounts of rungs are the first one doubled again and again.
const (
	rungs             = 9
	firstCores  int64 = 1
	firstMemory int64 = 1024
	aLittleMore       = 1 + 1e-12 // than what rounding can make of it
	nothing           = -1
	lastRung          = rungs - 1
)

// asked is an amount of a resource: so much, which is the amount of a rung (-1:
// none) and some more.
type asked struct {
	amount, more float64
	rung         int
}

func askFor(amount, first int64) asked {
	a := asked{amount: float64(amount), rung: min(bits.Len64(uint64(max(amount, 0)/first))-1, lastRung)}
	if a.rung >= 0 {
		a.more = float64(amount - first<<a.rung)
	}
	return a
}

func (e *extent) reset() {
	e.low, e.high, e.over = share{math.MaxFloat64, math.MaxFloat64}, share{-math.MaxFloat64, -math.MaxFloat64}, math.MaxFloat64
	for i := range e.rungs {
		e.rungs[i] = rung{math.MaxFloat64, -math.MaxFloat64}
	}
}

// add widens it by a row.
func (e *extent) add(a *amount, first int64) {
	e.low.used, e.low.each = min(e.low.used, a.used), min(e.low.each, a.each)
	e.high.used, e.high.each = max(e.high.used, a.used), max(e.high.each, a.each)
	e.over = min(e.over, a.over)
	for i := 0; i < rungs && first<<i <= a.room; i++ {
		r, with := &e.rungs[i], a.with(float64(first<<i))
		if with < r.low {
			r.low = with
		}
		if with > r.high {
			r.high = with
		}
	}
}

// loses says whether it may be narrower when a row has another resource in place
// of one.
func (e *extent) loses(was, is *amount, first int64) bool {
	if (was.used <= e.low.used && is.used > was.used) || (was.each <= e.low.each && is.each > was.each) || (was.over <= e.over && is.over > was.over) ||
		(was.used >= e.high.used && is.used < was.used) || (was.each >= e.high.each && is.each < was.each) {
		return true
	}
	for i := 0; i < rungs && first<<i <= was.room; i++ {
		r, before, after := &e.rungs[i], was.with(float64(first<<i)), is.with(float64(first<<i))
		takes := first<<i <= is.room
		if (before <= r.low && !(takes && after <= before)) || (before >= r.high && !(takes && after >= before)) {
			return true
		}
	}
	return false
}

// merge widens it by another.
func (e *extent) merge(o *extent) {
	e.low.used, e.low.each = min(e.low.used, o.low.used), min(e.low.each, o.low.each)
	e.high.used, e.high.each = max(e.high.used, o.high.used), max(e.high.each, o.high.each)
	e.over = min(e.over, o.over)
	for i := range e.rungs {
		e.rungs[i].low, e.rungs[i].high = min(e.rungs[i].low, o.rungs[i].low), max(e.rungs[i].high, o.rungs[i].high)
	}
}

// span is between what the shares in use are of all rows that can take so much
// more, with it. Where it is the amount of a rung it is as narrow as can be.
func (e *extent) span(a *asked) (low, high float64) {
	low, high = e.low.with(a.amount), e.high.with(a.amount)
	if a.rung < 0 {
		return low, high
	}
	r := &e.rungs[a.rung]
	low = max(low, r.low)
	if a.more == 0 {
		return low, min(high, r.high)
	}
	return low, min(high, (r.high+a.more*e.high.each)*aLittleMore)
}

// reset makes it that of no row; masks stay.
func (s *summary) reset() {
	s.cores.reset()
	s.memory.reset()
	s.storage = share{-math.MaxFloat64, math.MaxFloat64}
	s.coreRoom, s.memoryRoom, s.pageRoom, s.diskRoom, s.poolRoom = nothing, nothing, nothing, nothing, nothing
}

// add widens it by a row.
func (s *summary) add(r *row) {
	s.cores.add(&r.cores, firstCores)
	s.memory.add(&r.memory, firstMemory)
	s.storage.used, s.storage.each = max(s.storage.used, r.storage.used), min(s.storage.each, r.storage.each)
	s.coreRoom, s.memoryRoom, s.pageRoom = max(s.coreRoom, r.cores.room), max(s.memoryRoom, r.memory.room), max(s.pageRoom, r.pageRoom)
	s.diskRoom, s.poolRoom = max(s.diskRoom, r.diskRoom), max(s.poolRoom, r.poolRoom)
}

// loses says whether it may be narrower when a row is another in place of one.
func (s *summary) loses(was, is *row) bool {
	less := func(most, was, is int64) bool { return was >= most && is < was }
	return (was.storage.used >= s.storage.used && is.storage.used < was.storage.used) || (was.storage.each <= s.storage.each && is.storage.each > was.storage.each) ||
		less(s.coreRoom, was.cores.room, is.cores.room) || less(s.memoryRoom, was.memory.room, is.memory.room) || less(s.pageRoom, was.pageRoom, is.pageRoom) ||
		less(s.diskRoom, was.diskRoom, is.diskRoom) || less(s.poolRoom, was.poolRoom, is.poolRoom) ||
		s.cores.loses(&was.cores, &is.cores, firstCores) || s.memory.loses(&was.memory, &is.memory, firstMemory)
}

// merge widens it by another.
func (s *summary) merge(o *summary) {
	s.all, s.kvm = s.all|o.all, s.kvm|o.kvm
	s.cores.merge(&o.cores)
	s.memory.merge(&o.memory)
	s.storage.used, s.storage.each = max(s.storage.used, o.storage.used), min(s.storage.each, o.storage.each)
	s.coreRoom, s.memoryRoom, s.pageRoom = max(s.coreRoom, o.coreRoom), max(s.memoryRoom, o.memoryRoom), max(s.pageRoom, o.pageRoom)
	s.diskRoom, s.poolRoom = max(s.diskRoom, o.diskRoom), max(s.poolRoom, o.poolRoom)
}

// mark says how the host of a row stands.
func (m *masks) mark(i int, h *Host, s *static) {
	_, over := h.over()
	for _, b := range []struct {
		mask *uint64
		is   bool
	}{
		{&m.all, true},
		{&m.ready, h.State == vmhostv1.VmHostState_VM_HOST_STATE_READY},
		{&m.cordoned, h.Cordoned},
		{&m.over, over},
		{&m.kvm, s.kvm},
		{&m.vms, s.vms},
		{&m.cts, s.cts},
		{&m.runs, len(h.Architectures) > 0},
	} {
		*b.mask &^= 1 << i
		if b.is {
			*b.mask |= 1 << i
		}
	}
}
