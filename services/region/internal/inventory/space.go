package inventory

import (
	"math/bits"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// A pool that is a folder reports the space of the whole file system, in which
// others write all the time; so does every processor report another frequency at
// each look. None of it is worth a write. But what is recorded of others' use must
// never be less than the truth (P1). So it stays what it is while the truth is
// below it and near, and is rounded up where it grows by less than a step: from
// then on it changes once per step. What changes by a step or more is recorded as
// it is.

// stepBits is how fine a step is: between 1/8192 and 1/4096 of a capacity.
const stepBits = 13

// step is by how much what is recorded of a pool may be off: a power of two, so
// that it is the same while a capacity moves a little.
func step(capacity int64) int64 {
	return 1 << max(bits.Len64(uint64(max(capacity, 0)))-stepBits, 0)
}

// calm keeps of what was recorded before what did not change enough to be
// recorded anew.
func calm(old, next *vmhostv1.VmHostObservation) {
	if old == nil || next == nil {
		return
	}
	pools := map[string]*vmhostv1.StoragePool{}
	for _, p := range old.GetStoragePools() {
		pools[p.GetName()] = p
	}
	for _, p := range next.GetStoragePools() {
		if was := pools[p.GetName()]; was != nil && was.GetCapacityBytes() > 0 && p.GetCapacityBytes() > 0 {
			calmPool(was, p)
		}
	}
	// The fastest that it was seen at, in steps of a tenth.
	if was, is := old.GetCpuMhz(), next.GetCpuMhz(); old.GetCpuModel() == next.GetCpuModel() && is > 0 && is < was+was/10 {
		next.CpuMhz = was
	}
}

func calmPool(old, next *vmhostv1.StoragePool) {
	s := step(next.GetCapacityBytes())
	others := atMost(max(old.GetAllocationBytes()-old.GetOursBytes(), 0), max(next.GetAllocationBytes()-next.GetOursBytes(), 0), s)
	if d := next.GetOursBytes() - old.GetOursBytes(); -s < d && d < s {
		next.OursBytes = old.GetOursBytes()
	}
	next.AllocationBytes = others + next.GetOursBytes()
	next.CapacityBytes = atLeast(old.GetCapacityBytes(), next.GetCapacityBytes(), s)
	next.AvailableBytes = atLeast(old.GetAvailableBytes(), next.GetAvailableBytes(), s)
}

// atMost is a number that is never below the truth, and above it by less than two
// steps.
func atMost(was, is, step int64) int64 {
	switch {
	case is <= was && was-is < 2*step:
		return was
	case is > was && is-was < step:
		return (is + step - 1) / step * step
	default:
		return is
	}
}

// atLeast is a number that is never above the truth, and below it by less than two
// steps.
func atLeast(was, is, step int64) int64 {
	switch {
	case is >= was && is-was < 2*step:
		return was
	case is < was && was-is < step:
		return is / step * step
	default:
		return is
	}
}
