package lxd

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestCPULimitIsACountOrAListOfCores(t *testing.T) {
	for _, test := range []struct {
		in     string
		cores  int32
		pinned []int32
		bad    bool
	}{
		{in: "", cores: unsetCores},
		{in: "4", cores: 4},
		{in: " 2 ", cores: 2},
		{in: "3-3", cores: 1, pinned: []int32{3}},
		{in: "0,1,2", cores: 3, pinned: []int32{0, 1, 2}},
		{in: "0-1, 4-5", cores: 4, pinned: []int32{0, 1, 4, 5}},
		{in: "2,1,1-2", cores: 2, pinned: []int32{1, 2}},
		{in: "0", bad: true},
		{in: "-1", bad: true},
		{in: "5-3", bad: true},
		{in: "a", bad: true},
		{in: "1,", bad: true},
		{in: "0-99999999999", bad: true},
		{in: "99999", bad: true},
		{in: "1.5", bad: true},
		{in: "50%", bad: true},
	} {
		cores, pinned, err := cpuLimit(test.in)
		if (err != nil) != test.bad || cores != test.cores || !slices.Equal(pinned, test.pinned) {
			t.Errorf("%q is %d cores, pinned to %v, error %v; want %+v", test.in, cores, pinned, err, test)
		}
	}
}

func TestPinnedCoresAreWrittenAsTheyAreRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pinned := rapid.SliceOfNDistinct(rapid.Int32Range(0, mostCores-1), 1, 40, rapid.ID).Draw(t, "pinned")
		slices.Sort(pinned)
		cores, got, err := cpuLimit(pinList(pinned))
		if err != nil || int(cores) != len(pinned) || !slices.Equal(got, pinned) {
			t.Fatalf("%v is written %q and read as %d, %v, error %v", pinned, pinList(pinned), cores, got, err)
		}
	})
}

func TestMemoryLimitHasEveryUnitOfLXD(t *testing.T) {
	for _, test := range []struct {
		in   string
		host int64
		want int64
		bad  bool
	}{
		{in: "", want: unsetMemoryMiB},
		{in: "256MiB", want: 256},
		{in: "256MB", want: 245},
		{in: "1GiB", want: 1024},
		{in: "2gib", want: 2048},
		{in: "1", want: 1},
		{in: "1073741824", want: 1024},
		{in: "1073741825", want: 1025},
		{in: "512 MiB", want: 512},
		{in: "1048576B", want: 1},
		{in: "1048576bytes", want: 1},
		{in: "7EiB", want: 7 << 40},
		{in: "50%", host: 1000, want: 500},
		{in: "1%", host: 50, want: 1},
		{in: "50%", bad: true},
		{in: "101%", host: 10, bad: true},
		{in: "-1%", host: 10, bad: true},
		{in: "%", host: 10, bad: true},
		{in: "8EiB", bad: true},
		{in: "1.5GiB", bad: true},
		{in: "-1", bad: true},
		{in: "lots", bad: true},
		{in: "MiB", bad: true},
		{in: "1ZiB", bad: true},
	} {
		got, err := memoryLimit(test.in, test.host)
		if (err != nil) != test.bad || got != test.want {
			t.Errorf("%q of %d MiB is %d, error %v; want %d, error %v", test.in, test.host, got, err, test.want, test.bad)
		}
	}
}

// What counts against a limit must not vanish, and nothing overflows.
func TestSizesAreExactAndMemoryIsRoundedUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(0, math.MaxInt64).Draw(t, "n")
		u := rapid.SampledFrom(byteUnits).Draw(t, "unit")
		text := fmt.Sprintf("%d%s", n, strings.ToUpper(u.suffix))
		got, err := byteSize(text)
		if fits := n <= math.MaxInt64/u.bytes; fits != (err == nil) {
			t.Fatalf("%q is %d, error %v", text, got, err)
		}
		if err != nil {
			return
		}
		if got/u.bytes != n || got%u.bytes != 0 {
			t.Fatalf("%q is %d bytes", text, got)
		}
		mib, err := memoryLimit(text, 0)
		if err != nil || mib < got>>20 || mib > got>>20+1 || (got%(1<<20) != 0) != (mib > got>>20) {
			t.Fatalf("%q of %d bytes is %d MiB, error %v", text, got, mib, err)
		}
	})
}

func TestNothingThatIsReadAsALimitPanics(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringMatching(`[-0-9,% ]{0,12}`), rapid.StringMatching(`[0-9]{1,20}[KMGTPEkmgtpe]?[iI]?[bB]?`)).Draw(t, "text")
		if cores, pinned, err := cpuLimit(text); err == nil && (cores < 1 || cores > mostCores || (pinned != nil && len(pinned) != int(cores))) {
			t.Fatalf("%q is %d cores, %v", text, cores, pinned)
		}
		if mib, err := memoryLimit(text, 1<<20); err == nil && mib < 0 {
			t.Fatalf("%q is %d MiB", text, mib)
		}
	})
}
