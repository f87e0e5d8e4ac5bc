package placement

import "math"

// epsilon makes up for ratios that have no exact binary form: 10 × 1.1 is 11.
const epsilon = 1e-6

// Limit is what may be committed of a resource: physical × ratio, rounded down,
// never negative.
func Limit(physical int64, ratio float64) int64 {
	if physical <= 0 || !(ratio > 0) {
		return 0
	}
	limit := math.Floor(float64(physical)*ratio + epsilon)
	if limit >= math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(limit)
}

// Resource is one resource of a host.
type Resource struct {
	// Physical is what the hardware has.
	Physical int64
	// Ratio is the overcommit ratio.
	Ratio float64
	// Limit is Limit(Physical, Ratio), computed once.
	Limit int64
	// Committed is what the ledger holds.
	Committed int64
	// Foreign is what machines that vmhost did not compose use.
	Foreign int64
}

// NewResource computes the limit. Amounts below zero count as zero: a lying rack
// must not make room.
func NewResource(physical int64, ratio float64, committed, foreign int64) Resource {
	physical, committed, foreign = max(physical, 0), max(committed, 0), max(foreign, 0)
	return Resource{Physical: physical, Ratio: ratio, Limit: Limit(physical, ratio), Committed: committed, Foreign: foreign}
}

// Free is what can still be committed, never negative.
func (r Resource) Free() int64 { return max(r.Limit-r.used(), 0) }

// used does not overflow: both sums are at most MaxInt64 and not negative.
func (r Resource) used() int64 {
	if r.Committed > math.MaxInt64-r.Foreign {
		return math.MaxInt64
	}
	return r.Committed + r.Foreign
}

// fits says whether amount can be taken: it must be free, and the hardware must
// have it whatever the ratio.
func (r Resource) fits(amount int64) bool { return amount <= r.Physical && amount <= r.Free() }

// loadWith is the load after taking amount; a full or absent resource is loaded
// above everything else.
func (r Resource) loadWith(amount int64) float64 {
	if r.Limit <= 0 {
		return math.MaxFloat64
	}
	return (float64(r.used()) + float64(amount)) / float64(r.Limit)
}
