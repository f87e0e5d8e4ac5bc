package placement

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/vmhost-project/vmhost/pkg/units"
)

func TestAmountsOfARefusalAreInBinaryUnits(t *testing.T) {
	const gib = 1 << 30
	for _, tt := range []struct {
		name, got, want string
	}{
		{
			"memory", NewResource(65536, 2048, 1.5, 90112, 1536).notFree(resourceMemory, 8192),
			"has 3.5 GiB of memory free of the limit 93 GiB ((64 GiB physical − 2 GiB reserved) × ratio 1.5; 88 GiB committed, 1.5 GiB used by others), 8 GiB asked for",
		},
		{
			"storage, as it is sold", NewResource(1e12, 0, 1, 990e9, 0).notFree(resourceStorage, 40e9),
			"has 9.3 GiB free of the limit 931.3 GiB (931.3 GiB physical × ratio 1; 922.0 GiB committed, 0 bytes used by others), 37.3 GiB asked for",
		},
		{
			"a byte too much", NewResource(20*gib, 0, 1, 4*gib, 0).notFree(resourceStorage, 16*gib+1),
			"has 16 GiB free of the limit 20 GiB (20 GiB physical × ratio 1; 4 GiB committed, 0 bytes used by others), 16.1 GiB asked for",
		},
		{
			"a byte too few", NewResource(20*gib, 0, 1, 4*gib+1, 0).notFree(resourceStorage, 16*gib),
			"has 15.9 GiB free of the limit 20 GiB (20 GiB physical × ratio 1; 4.0 GiB committed, 0 bytes used by others), 16 GiB asked for",
		},
		{
			"what tenths do not tell apart", NewResource(1e12, 0, 1, 2, 0).notFree(resourceStorage, 1e12-1),
			"has 999999999998 bytes free of the limit 1000000000000 bytes (1000000000000 bytes physical × ratio 1; 2 bytes committed, 0 bytes used by others), 999999999999 bytes asked for",
		},
		{
			"larger than the host", NewResource(16384, 1024, 4, 0, 0).tooLarge(resourceMemory, 15872),
			"has 16 GiB of memory in all, 1 GiB of it reserved for itself, less than the 15.5 GiB asked for; overcommit makes no machine possible that is larger than its host",
		},
		{
			"cores, more than the host", NewResource(16, 2, 4, 0, 0).tooLarge(resourceCores, 15),
			"has 16 cores in all, 2 of them reserved for itself, less than the 15 asked for; overcommit makes no machine possible that is larger than its host",
		},
		{
			"a NUMA node", Refusal{Host: &Host{Nodes: []Node{{Cores: []int32{0, 1}, MemoryMiB: 32100, FreeHugepagesMiB: 2048}}}, Filter: FilterNUMA, req: &Request{Cores: 2, MemoryMiB: 40960, Hugepages: true}}.Message(),
			"has no NUMA node with 2 cores that nobody is pinned to and 40 GiB of memory; the most on one are 2 cores, 31.3 GiB, 2 GiB in free huge pages",
		},
		{
			"pages of a size", Refusal{Host: &Host{PageMiB: 1024}, Requested: 16385, req: &Request{}}.hugepages(),
			"has huge pages of 1 GiB; 16385 MiB of memory is no multiple of that",
		},
		{
			"a move from what is past its limit", (&Gain{Source: &Host{ID: "a", MemoryMiB: NewResource(65536, 0, 1, 65537, 0)}, Target: &Host{ID: "b"}}).Why(),
			"a has 64.1 GiB of memory in use, past its limit of 64 GiB; load of b 0% → 0%",
		},
	} {
		if tt.got != tt.want {
			t.Errorf("%s:\n%s, want\n%s", tt.name, tt.got, tt.want)
		}
	}
}

var (
	notFreeWords  = regexp.MustCompile(`^has (.+?)(?: of memory| of huge pages)? free of the limit ([^(]+) \(.*\), (.+) asked for$`)
	tooLargeWords = regexp.MustCompile(`^has (.+?)(?: of memory| of huge pages)? in all(?:, (.+) of it reserved for itself)?, less than the (.+) asked for;`)
	inUseWords    = regexp.MustCompile(`: (.+?)(?: of memory| in storage pool p) are in use, past the limit ([^(]+) \(`)
)

// What is read of a refusal is a reason to refuse: more is asked for than is free,
// more than there is, or more is in use than is allowed.
func TestWhatARefusalSaysIsAReason(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		resource := rapid.SampledFrom([]string{resourceMemory, resourceHugepages, resourceStorage}).Draw(t, "resource")
		read := func(text string) int64 {
			t.Helper()
			number, unit, _ := strings.Cut(strings.TrimSpace(text), " ")
			if unit == "byte" || unit == "bytes" {
				unit = "B"
			}
			// Tenths of a unit are no whole bytes: read ten times as much.
			if !strings.Contains(number, ".") {
				number += ".0"
			}
			n, err := units.ParseBytes(strings.Replace(number, ".", "", 1) + unit)
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			return n
		}
		amount := rapid.OneOf(rapid.Int64Range(0, 1<<30), rapid.Int64Range(0, 1<<14), rapid.Map(rapid.Int64Range(0, 1<<10), func(n int64) int64 { return n << 10 }))
		if resource == resourceStorage {
			amount = rapid.OneOf(rapid.Int64Range(0, 1<<50), rapid.Int64Range(0, 1<<34), rapid.Map(rapid.Int64Range(0, 1<<10), func(n int64) int64 { return n << 30 }))
		}
		ratio := rapid.SampledFrom([]float64{0, 0.5, 1, 1.5, 4}).Draw(t, "ratio")
		r := NewResource(amount.Draw(t, "physical"), rapid.SampledFrom([]int64{0, 0, 1024, 2 << 30}).Draw(t, "reserved"), ratio, amount.Draw(t, "committed"), rapid.SampledFrom([]int64{0, 1, amount.Draw(t, "others")}).Draw(t, "foreign"))
		if r.Over() && resource != resourceHugepages {
			h := &Host{MemoryMiB: r}
			if resource == resourceStorage {
				h = &Host{Pools: []Pool{{Name: "p", Resource: r}}}
			}
			over, _ := h.over()
			text := over.refusal(h, &Request{}).Message()
			found := inUseWords.FindStringSubmatch(text)
			if found == nil || read(found[1]) <= read(found[2]) {
				t.Fatalf("%+v is over its limit: %s", r, text)
			}
		}
		requested := rapid.OneOf(amount, rapid.Map(rapid.Int64Range(1, 3), func(n int64) int64 { return r.Free() + n }), rapid.Map(rapid.Int64Range(1, 3), func(n int64) int64 { return r.Most() + n })).Draw(t, "requested")
		if r.fits(requested) {
			return
		}
		text := Refusal{Requested: requested, Resource: r}.amount(resource)
		if found := notFreeWords.FindStringSubmatch(text); found != nil {
			if read(found[3]) <= read(found[1]) || read(found[1]) > read(found[2]) {
				t.Fatalf("%d of %+v: %s", requested, r, text)
			}
			return
		}
		found := tooLargeWords.FindStringSubmatch(text)
		if found == nil {
			t.Fatalf("%d of %+v: %s", requested, r, text)
		}
		reserved := int64(0)
		if found[2] != "" {
			reserved = read(found[2])
		}
		if read(found[3]) <= read(found[1])-reserved {
			t.Fatalf("%d of %+v: %s", requested, r, text)
		}
	})
}
