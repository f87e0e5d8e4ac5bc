package placement

import (
	"math"
	"math/big"
)

// epsilon makes up for ratios that have no exact binary form: 10 × 1.1 is 11.
const epsilon = 1e-6

// exactly is up to where a float64 has every whole number.
const exactly = 1 << 53

// Limit is what may be committed of a resource: amount × ratio, rounded down,
// never negative and at most MaxInt64. The amount is what there is less what is reserved.
func Limit(amount int64, ratio float64) int64 {
	if amount <= 0 || !(ratio > 0) {
		return 0
	}
	limit := math.Floor(float64(amount)*ratio + epsilon)
	if limit < exactly {
		return int64(limit)
	}
	exact := new(big.Float).SetPrec(128).SetInt64(amount)
	whole, _ := exact.Mul(exact, big.NewFloat(ratio)).Int64()
	return whole
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

// countable is the most that is counted of an amount and of a limit, so that the
// sum of two does not overflow. No host has as much of anything.
const countable = math.MaxInt64 / 2

// NewResource computes the limit. Amounts below zero count as zero, and those above
// what is countable as that: a lying rack must not make room.
func NewResource(physical, reserved int64, ratio float64, committed, foreign int64) Resource {
	count := func(amount int64) int64 { return min(max(amount, 0), countable) }
	r := Resource{
		Physical: count(physical), Reserved: count(reserved), Ratio: ratio, Committed: count(committed), Foreign: count(foreign),
	}
	r.Limit = count(Limit(r.Most(), ratio))
	return r
}

// newCores is NewResource of cores, of which a ledger counts no more than MaxInt32.
func newCores(physical, reserved int64, ratio float64, committed, foreign int64) Resource {
	r := NewResource(physical, reserved, ratio, committed, foreign)
	r.Limit = min(r.Limit, math.MaxInt32)
	return r
}

// Most is the most that one machine may have, whatever the ratio: what there is
// less what is reserved.
func (r Resource) Most() int64 { return max(r.Physical-r.Reserved, 0) }

// Free is what can still be committed, never negative.
func (r Resource) Free() int64 { return max(r.Limit-r.used(), 0) }

// Over says whether more is in use than the limit allows.
func (r Resource) Over() bool { return r.used() > r.Limit }

func (r Resource) used() int64 { return r.Committed + r.Foreign }

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
