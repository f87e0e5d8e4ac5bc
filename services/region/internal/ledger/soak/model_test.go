package soak

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/anishathalye/porcupine"
)

// amount is what there is, or is taken, of a host.
type amount struct{ cores, memoryMiB, diskMiB int64 }

func (a amount) plus(b amount) amount {
	return amount{a.cores + b.cores, a.memoryMiB + b.memoryMiB, a.diskMiB + b.diskMiB}
}

func (a amount) minus(b amount) amount {
	return amount{a.cores - b.cores, a.memoryMiB - b.memoryMiB, a.diskMiB - b.diskMiB}
}

func (a amount) within(limit amount) bool {
	return a.cores <= limit.cores && a.memoryMiB <= limit.memoryMiB && a.diskMiB <= limit.diskMiB
}

// tenths are overcommit ratios, times ten.
type tenths struct{ cores, memory, disk int64 }

func tenth(ratio float64) int64 { return int64(math.Round(ratio * 10)) }

// of is the limit of what a host has.
func (r tenths) of(has amount) amount {
	return amount{has.cores * r.cores / 10, has.memoryMiB * r.memory / 10, has.diskMiB * r.disk / 10}
}

// register is what a host's ledger must behave like.
type register struct {
	limit, used amount
	cordoned    bool
	rank        int // of the last call that changed it
}

// takes says whether the host must take a machine of this size; if not, it must
// refuse it.
func (r register) takes(a amount) bool {
	return !r.cordoned && r.used.within(r.limit) && r.used.plus(a).within(r.limit)
}

type verb int

const (
	look   verb = iota // the answer is the register
	take               // the answer is whether it was taken
	give               // never refused
	resize             // of the limit
	cordon             // or the end of one
)

// call is what somebody asked of a host.
type call struct {
	verb     verb
	amount   amount
	cordoned bool
	// revision is the one of etcd with which it was done; 0 when nothing was.
	revision int64
	// rank, if it has one, says the how many-th change of the register it must be.
	rank int
}

// ranked is a history in which changes have to happen in the order of their
// revisions. An order that explains it explains the history without ranks too,
// and with them there is nothing to search: what was refused changes nothing. The
// reverse need not hold.
func ranked(history []porcupine.Operation) []porcupine.Operation {
	out := slices.Clone(history)
	slices.SortStableFunc(out, func(a, b porcupine.Operation) int {
		return cmp.Compare(a.Input.(call).revision, b.Input.(call).revision)
	})
	rank := 0
	for i := range out {
		if in := out[i].Input.(call); in.revision > 0 {
			rank++
			in.rank = rank
			out[i].Input = in
		}
	}
	return out
}

// model is a host: one register.
func model() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return register{} },
		Step: func(state, input, output any) (bool, any) {
			r, in := state.(register), input.(call)
			if in.rank > 0 {
				if r.rank++; r.rank != in.rank {
					return false, r
				}
			}
			switch in.verb {
			case look:
				seen := output.(register)
				seen.rank = r.rank
				return r == register{} || r == seen, seen
			case take:
				if ok := output.(bool); ok != r.takes(in.amount) {
					return false, r
				} else if ok {
					r.used = r.used.plus(in.amount)
				}
			case give:
				r.used = r.used.minus(in.amount)
			case resize:
				r.limit = in.amount
			case cordon:
				r.cordoned = in.cordoned
			}
			return true, r
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
	}
}
