package units_test

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/vmhost-project/vmhost/pkg/units"
)

func TestParseBytesIsExact(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want int64 // -1: refused
	}{
		{"0", 0},
		{"4096", 4096},
		{"1B", 1},
		{"40GB", 40_000_000_000},
		{"40GiB", 40 << 30},
		{"40gib", 40 << 30},
		{" 40 GB ", 40_000_000_000},
		{"1kB", 1000},
		{"1KB", 1000},
		{"1KiB", 1024},
		{"1.5GiB", 3 << 29},
		{"0.001kB", 1},
		{"2PB", 2e15},
		{"1PiB", 1 << 50},
		{"9223372036854775807", math.MaxInt64},
		{"7.999999999999999999999999EiB", -1},
		{"9223372036854775808", -1},
		{"8192PiB", -1},
		{"0.1B", -1},
		{"0.3KiB", -1},
		{"", -1},
		{"GB", -1},
		{"-1", -1},
		{"+1", -1},
		{"1e9", -1},
		{"40G", -1},
		{"40 Gbit", -1},
		{"1..2GB", -1},
		{".5GB", -1},
		{"5.GB", -1},
		{"1_000", -1},
		{"0x10", -1},
		{"1/2GB", -1},
		{"1GB GB", -1},
		{"٤GB", -1},
		{"NaN", -1},
		{"Inf", -1},
	} {
		got, err := units.ParseBytes(tt.in)
		if (err != nil) != (tt.want < 0) || (err == nil && got != tt.want) {
			t.Errorf("ParseBytes(%q) = %d, %v, want %d", tt.in, got, err, tt.want)
		}
	}
}

func TestParseMemoryIsInMiB(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want int64
	}{
		{"2048", 2048},
		{"8GiB", 8192},
		{"512MiB", 512},
		{"1.5GiB", 1536},
		{"1TiB", 1 << 20},
		{"1024KiB", 1},
		{"8GB", -1},
		{"512KiB", -1},
		{"1B", -1},
		{"0.5", -1},
		{"", -1},
		{"9223372036854775807", -1},
	} {
		got, err := units.ParseMemoryMiB(tt.in)
		if (err != nil) != (tt.want < 0) || (err == nil && got != tt.want) {
			t.Errorf("ParseMemoryMiB(%q) = %d, %v, want %d", tt.in, got, err, tt.want)
		}
	}
}

func TestFormatBytesIsShort(t *testing.T) {
	for in, want := range map[int64]string{
		0: "0B", 1: "1B", 999: "999B", 1000: "1kB", 1024: "1KiB", 1025: "1025B", 40_000_000_000: "40GB",
		40 << 30: "40GiB", 3 << 29: "1536MiB", math.MaxInt64: "9223372036854775807B", -1024: "-1KiB",
	} {
		if got := units.FormatBytes(in); got != want {
			t.Errorf("FormatBytes(%d) = %q, want %q", in, got, want)
		}
	}
}

func TestWhatIsFormattedIsParsedBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Min(0).Draw(t, "n")
		if rapid.Bool().Draw(t, "round") {
			n = n >> 40 << rapid.IntRange(0, 40).Draw(t, "shift")
		}
		text := units.FormatBytes(n)
		if got, err := units.ParseBytes(text); err != nil || got != n {
			t.Fatalf("ParseBytes(%q) = %d, %v, want %d", text, got, err, n)
		}
	})
}
