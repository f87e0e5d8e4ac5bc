package placement

import "math"

// epsilon makes up for ratios that have no exact binary form: 10 × 1.1 is 11.
const epsilon = 1e-6

// Limit is what may be committed of a resource: amount × ratio, rounded down,
// never negative. The amount is what there is less what is reserved.
func Limit(amount int64, ratio float64) int64 {
	if amount <= 0 || !(ratio > 0) {
		return 0
	}
	limit := math.Floor(float64(amount)*ratio + epsilon)
	if limit >= math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(limit)
}

// Resource is one resource of a host.
type Resource struct {
	// Physical is what the hardware has, Reserved what of it is kept for the host
	// itself.
	Physical, Reserved int64
	// Ratio is the overcommit ratio.
	Ratio float64
	// Limit is Limit(Physical − Reserved, Ratio), computed once.
	Limit int64
	// Committed is what the ledger holds.
	Committed int64
	// Foreign is what machines that vmhost did not compose use.
	Foreign int64
}

// NewResource computes the limit. Amounts below zero count as zero: a lying rack
// must not make room.
func NewResource(physical, reserved int64, ratio float64, committed, foreign int64) Resource {
	r := Resource{
		Physical: max(physical, 0), Reserved: max(reserved, 0), Ratio: ratio, Committed: max(committed, 0), Foreign: max(foreign, 0),
	}
	r.Limit = Limit(r.Most(), ratio)
	return r
}

// Most is the most that one machine may have, whatever the ratio: what there is
// less what is reserved.
func (r Resource) Most() int64 { return max(r.Physical-r.Reserved, 0) }

// Free is what can still be committed, never negative.
func (r Resource) Free() int64 { return max(r.Limit-r.used(), 0) }

// Over says whether more is in use than the limit allows.
func (r Resource) Over() bool { return r.used() > r.Limit }

// used does not overflow: both sums are at most MaxInt64 and not negative.
func (r Resource) used() int64 {
	if r.Committed > math.MaxInt64-r.Foreign {
		return math.MaxInt64
	}
	return r.Committed + r.Foreign
}

// fits says whether amount can be taken: it must be free, and the host must have
// it whatever the ratio.
func (r Resource) fits(amount int64) bool { return amount <= r.Most() && amount <= r.Free() }

// loadWith is the load after taking amount; a full or absent resource is loaded
// above everything else.
func (r Resource) loadWith(amount int64) float64 {
	if r.Limit <= 0 {
		return math.MaxFloat64
	}
	return (float64(r.used()) + float64(amount)) / float64(r.Limit)
}
