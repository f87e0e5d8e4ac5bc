package units_test

import (
	"cmp"
	"math"
	"math/big"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/vmhost-project/vmhost/pkg/units"
)

func TestAmountsAreToldInBinaryUnits(t *testing.T) {
	const gib = 1 << 30
	for _, tt := range []struct {
		measure units.Measure
		amounts []units.Amount
		want    string
	}{
		{units.Count, []units.Amount{units.Need(4), units.Room(20000)}, "4, 20000"},
		{units.MiB, []units.Amount{units.Need(2048), units.Room(1536), units.Room(1025), units.Room(512), units.Room(0)}, "2 GiB, 1.5 GiB, 1025 MiB, 512 MiB, 0 MiB"},
		{units.MiB, []units.Amount{units.Need(15907), units.Room(15907 << 10)}, "15.6 GiB, 15.5 TiB"},
		{units.Bytes, []units.Amount{units.Need(16 * gib), units.Room(3 * gib / 2), units.Room(1), units.Room(50), units.Room(0)}, "16 GiB, 1.5 GiB, 1 byte, 50 bytes, 0 bytes"},
		{units.Bytes, []units.Amount{units.Need(40e9), units.Room(1e12), units.Room(2e15), units.Room(5 << 50)}, "37.3 GiB, 931.3 GiB, 1.7 PiB, 5 PiB"},
		// Whole only because it is rounded: the decimal says so.
		{units.Bytes, []units.Amount{units.Room(16*gib + 1), units.Need(8*gib - 1)}, "16.0 GiB, 8.0 GiB"},
		{units.Bytes, []units.Amount{units.Need(1<<40 - 1)}, "1.0 TiB"},
		// They differ by less than is shown.
		{units.Bytes, []units.Amount{units.Room(16 * gib), units.Room(16*gib + 1), units.Room(1)}, "17179869184 bytes, 17179869185 bytes, 1 byte"},
		{units.MiB, []units.Amount{units.Room(16385), units.Room(16386)}, "16385 MiB, 16386 MiB"},
		// The smaller one is rounded past the larger one.
		{units.MiB, []units.Amount{units.Need(16385), units.Room(16386)}, "16385 MiB, 16386 MiB"},
		{units.MiB, []units.Amount{units.Need(16386), units.Room(16385)}, "16.1 GiB, 16.0 GiB"},
		// Those that are equal read the same.
		{units.Bytes, []units.Amount{units.Need(1e12), units.Room(1e12), units.Room(1e11)}, "931.4 GiB, 931.4 GiB, 93.1 GiB"},
		{units.MiB, []units.Amount{units.Exact(1024), units.Exact(16385), units.Exact(1536)}, "1 GiB, 16385 MiB, 1536 MiB"},
		{units.MiB, []units.Amount{units.Room(-5), units.Room(5)}, "-5 MiB, 5 MiB"},
		{units.MiB, []units.Amount{units.Room(math.MaxInt64), units.Need(math.MinInt64)}, "8589934591.9 PiB, -9223372036854775808 MiB"},
	} {
		if got := strings.Join(tt.measure.Say(tt.amounts...), ", "); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.amounts, got, tt.want)
		}
	}
}

// read is what an amount is taken for by who reads it, in its smallest unit.
func read(t *rapid.T, m units.Measure, text string) *big.Rat {
	number, unit, _ := strings.Cut(text, " ")
	names := map[units.Measure][]string{units.Count: {""}, units.MiB: {"MiB", "GiB", "TiB", "PiB"}, units.Bytes: {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"}}[m]
	at := slices.Index(names, unit)
	if unit == "byte" {
		at = 0
	}
	value, ok := new(big.Rat).SetString(number)
	if !ok || at < 0 {
		t.Fatalf("%q is no amount", text)
	}
	return value.Mul(value, new(big.Rat).SetInt(new(big.Int).Lsh(big.NewInt(1), uint(10*at))))
}

// Whatever a sentence compares is as it says, also to who knows only the sentence.
func TestAmountsReadBackCompareAsTheyDo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.SampledFrom([]units.Measure{units.Count, units.MiB, units.Bytes}).Draw(t, "measure")
		size := rapid.OneOf(rapid.Int64Min(0), rapid.Int64Range(0, 1<<14), rapid.Map(rapid.Int64Range(1, 4096), func(n int64) int64 { return n << 30 }))
		base := size.Draw(t, "base")
		near := rapid.Custom(func(t *rapid.T) int64 { // apart by what is or is not shown
			n := base + rapid.Int64Range(-3, 3).Draw(t, "off")<<rapid.IntRange(0, 40).Draw(t, "by")
			if n < 0 {
				return base
			}
			return n
		})
		var amounts []units.Amount
		var numbers []int64
		var needed []bool
		for range rapid.IntRange(1, 7).Draw(t, "amounts") {
			n := rapid.OneOf(near, size).Draw(t, "n")
			way := rapid.SampledFrom([]func(int64) units.Amount{units.Need, units.Room, units.Exact}).Draw(t, "way")
			amounts, numbers = append(amounts, way(n)), append(numbers, n)
			needed = append(needed, amounts[len(amounts)-1] == units.Need(n))
		}
		said := m.Say(amounts...)
		for i, a := range numbers {
			is := read(t, m, said[i])
			switch c := is.Cmp(new(big.Rat).SetInt64(a)); {
			case needed[i] && c < 0:
				t.Fatalf("%d is needed and told as %s, which is less", a, said[i])
			case amounts[i] == units.Exact(a) && c != 0:
				t.Fatalf("%d is told as %s", a, said[i])
			case amounts[i] == units.Room(a) && c > 0 && !slices.Contains(amounts, units.Need(a)):
				t.Fatalf("%d is there and told as %s, which is more", a, said[i])
			}
			for j, b := range numbers {
				if cmp.Compare(a, b) != is.Cmp(read(t, m, said[j])) {
					t.Fatalf("%d and %d are told as %s and %s", a, b, said[i], said[j])
				}
			}
		}
	})
}
