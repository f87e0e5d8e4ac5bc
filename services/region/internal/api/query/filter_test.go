package query

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func sampleHost() *vmhostv1.VmHost {
	return &vmhostv1.VmHost{
		Name: "vmHosts/h1", Zone: "zones/a", Tags: []string{"ssd", "fast"}, Cordoned: true,
		State:      vmhostv1.VmHostState_VM_HOST_STATE_READY,
		Overcommit: &vmhostv1.OvercommitRatios{Cores: proto.Float64(2.5)},
		CreateTime: timestamppb.New(time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)),
		Conditions: []*vmhostv1.Condition{{Type: "Reachable", Reason: "NO_RACK"}, {Type: "Other", Status: true}},
		Observation: &vmhostv1.VmHostObservation{
			Cores: 8, MemoryMib: 1024, Kvm: true, StoragePools: []*vmhostv1.StoragePool{{Name: "default", CapacityBytes: 100}},
		},
		Usage: &vmhostv1.VmHostUsage{StorageBytes: map[string]*vmhostv1.ResourceUsage{"default": {Free: 60}}},
	}
}

func TestAFilterLetsThroughWhatItDescribes(t *testing.T) {
	for _, tc := range []struct {
		filter string
		want   bool
	}{
		{`zone = "zones/a"`, true},
		{`zone = "zones/b"`, false},
		{`zone != "zones/b"`, true},
		{`zone = "zones/*"`, true},
		{`zone = "*/a"`, true},
		{`zone = "*one*"`, true},
		{`zone = "*x*"`, false},
		{`zone:"nes"`, true},
		{`zone > "zones/0" AND zone <= "zones/a"`, true},
		{`zone = "zones/a" AND state = VM_HOST_STATE_READY`, true},
		{`state = "VM_HOST_STATE_READY"`, true},
		{`state != VM_HOST_STATE_READY OR cordoned`, true},
		{`NOT cordoned`, false},
		{`-cordoned`, false},
		{`cordoned = true`, true},
		{`cordoned = false`, false},
		{`tags:"ssd"`, true},
		{`tags:ssd tags:fast`, true},
		{`tags:"hdd"`, false},
		{`NOT tags:"hdd"`, true},
		{`tags:*`, true},
		{`tags:"*"`, true},
		{`observation.cores >= 8`, true},
		{`observation.cores > 8`, false},
		{`observation.cores != 8`, false},
		{`observation.memory_mib < 2048 AND observation.kvm`, true},
		{`overcommit.cores = 2.5`, true},
		{`overcommit.cores > 2`, true},
		{`overcommit.memory:"*"`, false},
		{`observation.storage_pools.name:"default"`, true},
		{`observation.storage_pools.name:"other"`, false},
		{`conditions.reason:NO_RACK`, true},
		{`usage.storage_bytes:default`, true},
		{`usage.storage_bytes:other`, false},
		{`usage.storage_bytes.default.free > 50`, true},
		{`usage.storage_bytes.other.free < 50`, false},
		{`usage.cores.free = 0`, false}, // not set, so nothing is known of it
		{`usage.cores.free != 0`, false},
		{`create_time > "2026-01-01T00:00:00Z"`, true},
		{`create_time < timestamp("2026-01-01T00:00:00Z")`, false},
		{`update_time > "2026-01-01T00:00:00Z"`, false},
		{`(zone = "zones/b" OR tags:fast) AND NOT (state = VM_HOST_STATE_PENDING)`, true},
		{``, true},
	} {
		f, err := CompileFilter(sampleHost().ProtoReflect().Descriptor(), tc.filter)
		if err != nil {
			t.Errorf("%s: %v", tc.filter, err)
			continue
		}
		if got := f.Match(sampleHost()); got != tc.want {
			t.Errorf("%s: got %v, want %v", tc.filter, got, tc.want)
		}
	}
}

func TestAFilterThatMeansNothingIsRefusedAndSaysWhy(t *testing.T) {
	for _, tc := range []struct{ filter, want string }{
		{`colour = "red"`, `"colour"`},
		{`observation.colour = 1`, `"observation.colour"`},
		{`zone.name = "x"`, "has no fields"},
		{`create_time.seconds = 1`, "has no fields"},
		{`tags = "ssd"`, "use :"},
		{`conditions.reason = "X"`, "use :"},
		{`observation = 1`, "whether it is set"},
		{`state = READY`, "READY"},
		{`state > VM_HOST_STATE_READY`, "no order"},
		{`cordoned > true`, "no order"},
		{`cordoned = maybe`, "neither true nor false"},
		{`observation.cores = "eight"`, "whole number"},
		{`observation.cores = 1.5`, "whole number"},
		{`overcommit.cores = x`, "no number"},
		{`create_time > "yesterday"`, "no time"},
		{`zone`, "compared with nothing"},
		{`"zones/a"`, "compared with nothing"},
		{`zone = `, "too early"},
		{`zone = "a" AND`, ""},
		{`(zone = "a"`, ""},
		{`regex(zone, "a")`, "regex"},
		{`zone = vmHosts/h-1`, "quote"},
		{`zone = 5`, "quote it"},
		{"zone = \"\xff\"", ""},
	} {
		_, err := CompileFilter(sampleHost().ProtoReflect().Descriptor(), tc.filter)
		if err == nil {
			t.Errorf("%s: accepted", tc.filter)
			continue
		}
		if !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %q does not say %q", tc.filter, err, tc.want)
		}
		if len(err.Error()) > 400 {
			t.Errorf("%s: the answer has %d characters", tc.filter, len(err.Error()))
		}
	}
}

func TestDeepFiltersEndSoon(t *testing.T) {
	for _, text := range []string{
		strings.Repeat("(", 2000), strings.Repeat("f(", 1000), strings.Repeat("NOT ", 500) + "cordoned",
		strings.Repeat("(", 900) + "cordoned" + strings.Repeat(")", 900), strings.Repeat("a=(f(", 400), strings.Repeat("-", 2000),
	} {
		begin := time.Now()
		if f, err := CompileFilter(sampleHost().ProtoReflect().Descriptor(), text); err == nil {
			f.Match(sampleHost())
		} else if len(err.Error()) > 1000 {
			t.Errorf("%.10s…: an answer of %d characters", text, len(err.Error()))
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("%.10s…: took %s", text, took)
		}
	}
}

func TestAnyTextIsAFilterOrRefusedNeverAPanic(t *testing.T) {
	words := []string{
		"zone", "tags", "state", "cordoned", "observation", "cores", "usage", "storage_bytes", ".", " ", "=", "!=", "<", ":", "(", ")", ",",
		" AND ", " OR ", "NOT ", "-", "1", "1.5", `"x"`, "'y'", "*", "true", "VM_HOST_STATE_READY", "timestamp", "conditions", "create_time", "\\", "0x", "ÿ",
	}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(
			rapid.StringN(0, 60, 200),
			rapid.Map(rapid.SliceOfN(rapid.SampledFrom(words), 0, 20), func(w []string) string { return strings.Join(w, "") }),
		).Draw(t, "filter")
		f, err := CompileFilter(sampleHost().ProtoReflect().Descriptor(), text)
		if err != nil {
			return
		}
		f.Match(sampleHost())
		f.Match(&vmhostv1.VmHost{})
	})
}

// truth is a filter together with what it should say, computed without it.
type truth struct {
	text string
	says func(m *vmhostv1.Machine) bool
}

func genComparison(t *rapid.T) truth {
	switch rapid.IntRange(0, 4).Draw(t, "field") {
	case 0:
		n := rapid.Int32Range(0, 4).Draw(t, "n")
		ops := map[string]func(a, b int32) bool{
			"=": func(a, b int32) bool { return a == b }, "!=": func(a, b int32) bool { return a != b }, "<": func(a, b int32) bool { return a < b },
			"<=": func(a, b int32) bool { return a <= b }, ">": func(a, b int32) bool { return a > b }, ">=": func(a, b int32) bool { return a >= b },
		}
		op := rapid.SampledFrom([]string{"=", "!=", "<", "<=", ">", ">="}).Draw(t, "op")
		return truth{"cores " + op + " " + strconv.Itoa(int(n)), func(m *vmhostv1.Machine) bool { return ops[op](m.GetCores(), n) }}
	case 1:
		s := genWord(t)
		return truth{fmt.Sprintf("hostname = %q", s), func(m *vmhostv1.Machine) bool { return m.GetHostname() == s }}
	case 2:
		s := genWord(t)
		return truth{fmt.Sprintf("tags:%q", s), func(m *vmhostv1.Machine) bool {
			for _, tag := range m.GetTags() {
				if strings.Contains(tag, s) {
					return true
				}
			}
			return false
		}}
	case 3:
		p := rapid.SampledFrom([]vmhostv1.PowerState{vmhostv1.PowerState_POWER_STATE_ON, vmhostv1.PowerState_POWER_STATE_OFF}).Draw(t, "power")
		return truth{"power_state != " + p.String(), func(m *vmhostv1.Machine) bool { return m.GetPowerState() != p }}
	default:
		n := rapid.Int64Range(0, 3).Draw(t, "size")
		return truth{fmt.Sprintf("disks.size_bytes:%d", n), func(m *vmhostv1.Machine) bool {
			for _, d := range m.GetDisks() {
				if d.GetSizeBytes() == n {
					return true
				}
			}
			return false
		}}
	}
}

func genWord(t *rapid.T) string {
	return rapid.SampledFrom([]string{"a", "b", "ab", "ba", "aab"}).Draw(t, "word")
}

func genTruth(t *rapid.T, depth int) truth {
	if depth == 0 {
		return genComparison(t)
	}
	a := genTruth(t, depth-1)
	switch rapid.IntRange(0, 3).Draw(t, "shape") {
	case 0:
		b := genTruth(t, depth-1)
		return truth{"(" + a.text + ") AND (" + b.text + ")", func(m *vmhostv1.Machine) bool { return a.says(m) && b.says(m) }}
	case 1:
		b := genTruth(t, depth-1)
		return truth{"(" + a.text + ") OR (" + b.text + ")", func(m *vmhostv1.Machine) bool { return a.says(m) || b.says(m) }}
	case 2:
		return truth{"NOT (" + a.text + ")", func(m *vmhostv1.Machine) bool { return !a.says(m) }}
	}
	return a
}

func genMachine(t *rapid.T) *vmhostv1.Machine {
	m := &vmhostv1.Machine{
		Name: "machines/" + rapid.StringMatching(`[a-f]{4}`).Draw(t, "uid"), Hostname: genWord(t), Cores: rapid.Int32Range(0, 4).Draw(t, "cores"),
		PowerState: vmhostv1.PowerState(rapid.IntRange(0, 3).Draw(t, "power")),
	}
	for range rapid.IntRange(0, 2).Draw(t, "tags") {
		m.Tags = append(m.Tags, genWord(t))
	}
	for range rapid.IntRange(0, 2).Draw(t, "disks") {
		m.Disks = append(m.Disks, &vmhostv1.MachineDisk{SizeBytes: rapid.Int64Range(0, 3).Draw(t, "size")})
	}
	return m
}

func TestAFilterAgreesWithItsMeaning(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := genTruth(t, rapid.IntRange(0, 3).Draw(t, "depth"))
		f, err := CompileFilter((&vmhostv1.Machine{}).ProtoReflect().Descriptor(), want.text)
		if err != nil {
			t.Fatalf("%s: %v", want.text, err)
		}
		for range 5 {
			if m := genMachine(t); f.Match(m) != want.says(m) {
				t.Fatalf("%s of %v: got %v", want.text, m, f.Match(m))
			}
		}
	})
}
