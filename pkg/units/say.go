package units

import (
	"cmp"
	"math/bits"
	"strconv"
)

// Measure is what amounts are counted in.
type Measure uint8

// The measures. Memory is counted in MiB, storage in bytes, all else by number.
const (
	Count Measure = iota
	MiB
	Bytes
)

// names are the units of a measure, each 1024 of the one before it.
func (m Measure) names() []string {
	switch m {
	case Bytes:
		return []string{"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"}
	case MiB:
		return []string{"MiB", "GiB", "TiB", "PiB"}
	default:
		return []string{""}
	}
}

// Amount is an amount that a sentence for people tells, and how it may be rounded
// there.
type Amount struct {
	n   int64
	way way
}

type way uint8

const (
	down way = iota
	up
	never
)

// Need is an amount that is asked for or in use: told as no less than it is.
func Need(n int64) Amount { return Amount{n, up} }

// Room is an amount that is there or free: told as no more than it is.
func Room(n int64) Amount { return Amount{n, down} }

// Exact is an amount that is told as what it is.
func Exact(n int64) Amount { return Amount{n, never} }

// Say tells the amounts of one sentence in binary units (IEC 80000-13): 2 GiB,
// 1.5 GiB, 500 MiB. One that would be long is told with one decimal, also where
// that is 0, rounded as it says itself; those that are equal are all told as a need
// if one of them is.
//
// Read back, any two amounts compare as they do: where rounding would make two of
// them the same, or turn them around, all are told by the smallest unit. So a
// sentence that says that one is too much for the other stays true.
func (m Measure) Say(amounts ...Amount) []string {
	out, read := make([]string, len(amounts)), make([]reading, len(amounts))
	for i, a := range amounts {
		for _, b := range amounts {
			if a.way == down && b.way == up && a.n == b.n {
				a.way = up
			}
		}
		out[i], read[i] = m.say(a)
	}
	for i, a := range amounts {
		for j, b := range amounts[:i] {
			if cmp.Compare(a.n, b.n) != read[i].compare(read[j]) {
				return m.plain(amounts)
			}
		}
	}
	return out
}

// plain tells amounts by the smallest unit.
func (m Measure) plain(amounts []Amount) []string {
	out := make([]string, len(amounts))
	for i, a := range amounts {
		out[i] = m.name(strconv.FormatInt(a.n, 10), 0)
	}
	return out
}

// name adds a unit.
func (m Measure) name(number string, unit int) string {
	name := m.names()[unit]
	if name == "" {
		return number
	}
	if name == "bytes" && number == "1" {
		name = "byte"
	}
	return number + " " + name
}

// reading is what a reader takes an amount for, in tenths of the smallest unit.
type reading struct {
	below  bool // zero
	hi, lo uint64
}

func readingOf(tenths, unit uint64) reading {
	hi, lo := bits.Mul64(tenths, unit)
	return reading{hi: hi, lo: lo}
}

func (r reading) compare(other reading) int {
	if r.below != other.below {
		if r.below {
			return -1
		}
		return 1
	}
	c := cmp.Or(cmp.Compare(r.hi, other.hi), cmp.Compare(r.lo, other.lo))
	if r.below {
		return -c
	}
	return c
}

// enough is the number from which on a smaller unit is too long.
const enough = 10_000

// say tells one amount, and what that is read as.
func (m Measure) say(a Amount) (string, reading) {
	if a.n < 0 { // no amount; whatever it is, as it is
		r := readingOf(-uint64(a.n), 10)
		r.below = true
		return m.name(strconv.FormatInt(a.n, 10), 0), r
	}
	n, unit, size := uint64(a.n), 0, uint64(1)
	for last := len(m.names()) - 1; unit < last && n >= size*1024; unit++ {
		size *= 1024
	}
	switch rest := n % size; {
	case rest == 0:
		return m.name(strconv.FormatUint(n/size, 10), unit), readingOf(n, 10)
	case rest*10%size == 0 && a.way != never:
		return m.decimal(n/size*10+rest*10/size, unit), readingOf(n, 10)
	case a.way == never, n%(size/1024) == 0 && n/(size/1024) < enough:
		for n%size != 0 {
			size, unit = size/1024, unit-1
		}
		return m.name(strconv.FormatUint(n/size, 10), unit), readingOf(n, 10)
	default:
		tenths := n/size*10 + rest*10/size
		if a.way == up {
			tenths++
		}
		if tenths == 10*1024 && unit < len(m.names())-1 {
			tenths, unit, size = 10, unit+1, size*1024
		}
		return m.decimal(tenths, unit), readingOf(tenths, size)
	}
}

func (m Measure) decimal(tenths uint64, unit int) string {
	return m.name(strconv.FormatUint(tenths/10, 10)+"."+strconv.FormatUint(tenths%10, 10), unit)
}
