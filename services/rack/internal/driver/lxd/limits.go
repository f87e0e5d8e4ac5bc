package lxd

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// What an instance without limits counts as. LXD gives a virtual machine without
// them 1 core and 1 GiB. A container without them may use the whole host; it
// counts as the same, as MAAS did: counted as the whole host, one such container
// would let nothing be placed beside it. See docs/adr/0012.
const (
	unsetCores     = 1
	unsetMemoryMiB = 1024
)

// mostCores bounds what a range may name: Linux has at most 8192.
const mostCores = 8192

// cpuLimit reads limits.cpu: a count, or the cores that the instance is pinned to
// as a list of numbers and ranges. One core alone is pinned to as "3-3".
func cpuLimit(s string) (cores int32, pinned []int32, err error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return unsetCores, nil, nil
	}
	if !strings.ContainsAny(s, ",-") {
		n, err := strconv.ParseInt(s, 10, 32)
		if err != nil || n < 1 || n > mostCores {
			return 0, nil, fmt.Errorf("limits.cpu is no number of cores and no list of them: %q", s)
		}
		return int32(n), nil, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		from, ferr := strconv.ParseInt(strings.TrimSpace(first), 10, 32)
		to, terr := strconv.ParseInt(strings.TrimSpace(last), 10, 32)
		if ferr != nil || terr != nil || from < 0 || to < from || to >= mostCores {
			return 0, nil, fmt.Errorf("limits.cpu is no number of cores and no list of them: %q", s)
		}
		for c := from; c <= to; c++ {
			pinned = append(pinned, int32(c))
		}
	}
	slices.Sort(pinned)
	pinned = slices.Compact(pinned)
	return int32(len(pinned)), pinned, nil
}

// pinList is the limits.cpu of pinned cores, which must not read as a count.
func pinList(pinned []int32) string {
	if len(pinned) == 1 {
		return fmt.Sprintf("%d-%d", pinned[0], pinned[0])
	}
	parts := make([]string, 0, len(pinned))
	for _, c := range pinned {
		parts = append(parts, strconv.Itoa(int(c)))
	}
	return strings.Join(parts, ",")
}

// byteUnits are LXD's, longest first, so that none is taken for the end of
// another.
var byteUnits = []struct {
	suffix string
	bytes  int64
}{
	{"bytes", 1},
	{"kib", 1 << 10},
	{"mib", 1 << 20},
	{"gib", 1 << 30},
	{"tib", 1 << 40},
	{"pib", 1 << 50},
	{"eib", 1 << 60},
	{"kb", 1e3},
	{"mb", 1e6},
	{"gb", 1e9},
	{"tb", 1e12},
	{"pb", 1e15},
	{"eb", 1e18},
	{"b", 1},
}

// byteSize reads a size as LXD writes it: digits and a unit.
func byteSize(s string) (int64, error) {
	text, factor := strings.ToLower(strings.TrimSpace(s)), int64(1)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(text, u.suffix); ok {
			text, factor = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/factor {
		return 0, fmt.Errorf("no size: %q", s)
	}
	return n * factor, nil
}

// memoryLimit reads limits.memory in MiB, rounded up: what counts against a limit
// must not vanish. hostMiB is what a percentage is of; 0 where it is not known.
func memoryLimit(s string, hostMiB int64) (int64, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return unsetMemoryMiB, nil
	}
	if digits, ok := strings.CutSuffix(s, "%"); ok {
		percent, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || percent < 0 || percent > 100 {
			return 0, fmt.Errorf("limits.memory is no amount of memory: %q", s)
		}
		if hostMiB <= 0 {
			return 0, fmt.Errorf("limits.memory is %s of the host's memory, which is not known", s)
		}
		// In this order it never overflows: a percent of a host is far below 2^63 MiB.
		return (hostMiB*percent + 99) / 100, nil
	}
	bytes, err := byteSize(s)
	if err != nil {
		return 0, fmt.Errorf("limits.memory is no amount of memory: %q", s)
	}
	mib := bytes >> 20
	if bytes%(1<<20) != 0 {
		mib++
	}
	return mib, nil
}
