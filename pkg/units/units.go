// Package units reads and writes sizes as people write them: 40GB is decimal,
// 40GiB is binary. Reading is exact: what is not a whole number of bytes, or does
// not fit, is refused and never rounded. Sentences tell amounts by Measure.Say.
package units

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

type unit struct {
	name string
	size int64
}

// units are all that are read, from large to small.
func units() []unit {
	return []unit{
		{"PiB", 1 << 50},
		{"PB", 1e15},
		{"TiB", 1 << 40},
		{"TB", 1e12},
		{"GiB", 1 << 30},
		{"GB", 1e9},
		{"MiB", 1 << 20},
		{"MB", 1e6},
		{"KiB", 1 << 10},
		{"kB", 1e3},
		{"B", 1},
	}
}

// ParseBytes reads a size such as 40GB, 1.5TiB or 4096, which is bytes.
func ParseBytes(s string) (int64, error) { return parse(s, "B") }

// FormatBytes writes a size exactly, in the unit that makes it shortest.
// ParseBytes reads it back.
func FormatBytes(n int64) string {
	best := strconv.FormatInt(n, 10) + "B"
	for _, u := range slices.Backward(units()) {
		if n%u.size != 0 {
			continue
		}
		if text := strconv.FormatInt(n/u.size, 10) + u.name; len(text) <= len(best) && n != 0 {
			best = text
		}
	}
	return best
}

// ParseMemoryMiB reads a size of memory such as 8GiB, 512MiB or 2048, which is
// MiB, and gives it in MiB.
func ParseMemoryMiB(s string) (int64, error) {
	n, err := parse(s, "MiB")
	if err != nil {
		return 0, err
	}
	if n%(1<<20) != 0 {
		return 0, fmt.Errorf("memory %q is not a whole number of MiB; binary units such as GiB are", s)
	}
	return n >> 20, nil
}

// parse reads a number with a unit, or with the unit bare.
func parse(s, bare string) (int64, error) {
	text := strings.TrimSpace(s)
	end := strings.IndexFunc(text, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if end < 0 {
		end = len(text)
	}
	number, name := text[:end], strings.TrimSpace(text[end:])
	if name == "" {
		name = bare
	}
	i := slices.IndexFunc(units(), func(u unit) bool { return strings.EqualFold(u.name, name) })
	whole, fraction, hasPoint := strings.Cut(number, ".")
	if i < 0 || whole == "" || (hasPoint && fraction == "") || strings.Contains(fraction, ".") || len(number) > 40 {
		return 0, fmt.Errorf("size %q is not a number with a unit such as GB, GiB or MiB", s)
	}
	value, ok := new(big.Rat).SetString(number)
	if !ok {
		return 0, fmt.Errorf("size %q is not a number with a unit such as GB, GiB or MiB", s)
	}
	value.Mul(value, new(big.Rat).SetInt64(units()[i].size))
	switch {
	case !value.IsInt():
		return 0, fmt.Errorf("size %q is not a whole number of bytes", s)
	case !value.Num().IsInt64():
		return 0, fmt.Errorf("size %q is more than %s", s, strconv.FormatInt(math.MaxInt64, 10))
	}
	return value.Num().Int64(), nil
}
