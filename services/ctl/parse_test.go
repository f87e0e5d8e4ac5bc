package ctl

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/vmhost-project/vmhost/pkg/units"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func TestNICs(t *testing.T) {
	vlan := func(n int32) *int32 { return &n }
	tests := []struct {
		in   string
		want *vmhostv1.InterfaceRequest // nil: refused
	}{
		{"network=lab", &vmhostv1.InterfaceRequest{Source: "lab", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK}},
		{"bridge=br0,mac=52:54:00:00:00:01", &vmhostv1.InterfaceRequest{Source: "br0", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE, Mac: "52:54:00:00:00:01"}},
		{"macvlan=eth1,mode=passthru", &vmhostv1.InterfaceRequest{Source: "eth1", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN, MacvlanMode: vmhostv1.MacvlanMode_MACVLAN_MODE_PASSTHRU}},
		{"mode=vepa,macvlan=eth1", &vmhostv1.InterfaceRequest{Source: "eth1", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN, MacvlanMode: vmhostv1.MacvlanMode_MACVLAN_MODE_VEPA}},
		{"sriov=eth2,vlan=12", &vmhostv1.InterfaceRequest{Source: "eth2", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV, Vlan: vlan(12)}},
		{"vlan=0", &vmhostv1.InterfaceRequest{Vlan: vlan(0)}},
		{"boot", &vmhostv1.InterfaceRequest{Boot: true}},
		{"subnet=2001:db8::/64,ip=2001:db8::7,boot", &vmhostv1.InterfaceRequest{SubnetCidr: "2001:db8::/64", IpAddress: "2001:db8::7", Boot: true}},
		{"space=storage,tag=a,tag=b", &vmhostv1.InterfaceRequest{Space: "storage", Tags: []string{"a", "b"}}},
		{"", nil},
		{"lab", nil},
		{"network=", nil},
		{"network=a,", nil},
		{"network=a,bridge=b", nil},
		{"network=a,network=b", nil},
		{"ip=10.0.0.1,ip=10.0.0.2", nil},
		{"vlan=4095", nil},
		{"vlan=-1", nil},
		{"vlan=one", nil},
		{"network=a,mode=vepa", nil},
		{"macvlan=a,mode=odd", nil},
		{"boot=yes", nil},
		{"colour=red", nil},
	}
	for _, tt := range tests {
		got, err := parseNIC(tt.in)
		if (err != nil) != (tt.want == nil) {
			t.Errorf("%q: %v", tt.in, err)
		}
		if d := cmp.Diff(tt.want, got, protocmp.Transform()); tt.want != nil && d != "" {
			t.Errorf("%q (-want +got):\n%s", tt.in, d)
		}
	}
}

func TestDisks(t *testing.T) {
	tests := []struct {
		in   string
		want *vmhostv1.DiskRequest // nil: refused
	}{
		{"20GB", &vmhostv1.DiskRequest{SizeBytes: 20_000_000_000}},
		{"40GiB@fast", &vmhostv1.DiskRequest{SizeBytes: 40 << 30, StoragePool: "fast"}},
		{"20GB,pool=fast,boot", &vmhostv1.DiskRequest{SizeBytes: 20e9, StoragePool: "fast", Boot: true}},
		{"20GB,tag=ssd,tag=local", &vmhostv1.DiskRequest{SizeBytes: 20e9, Tags: []string{"ssd", "local"}}},
		{"1048577", &vmhostv1.DiskRequest{SizeBytes: 1048577}},
		{"", nil},
		{"@fast", nil},
		{"20GB@", nil},
		{"20GB@fast,pool=slow", nil},
		{"20GB,pool=", nil},
		{"20GB,tag=", nil},
		{"20GB,", nil},
		{"-1GB", nil},
		{"0.0000000001GB", nil},
		{"20GB,boot=no", nil},
	}
	for _, tt := range tests {
		got, err := parseDisk(tt.in)
		if (err != nil) != (tt.want == nil) {
			t.Errorf("%q: %v", tt.in, err)
		}
		if d := cmp.Diff(tt.want, got, protocmp.Transform()); tt.want != nil && d != "" {
			t.Errorf("%q (-want +got):\n%s", tt.in, d)
		}
	}
}

func TestCores(t *testing.T) {
	for in, want := range map[string][]int32{
		"": nil, "0": {0}, "0-3,8": {0, 1, 2, 3, 8}, "8,0-1": {8, 0, 1}, "65535": {65535}, "3-3": {3},
	} {
		if got, err := parseCores(in); err != nil || !cmp.Equal(got, want) {
			t.Errorf("%q: %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"a", "-1", "3-1", "1-", "-", ",", "1,", "0,0", "0-3,2", "+1", "0-65536", "0-4096", "1-2-3", " 1"} {
		if got, err := parseCores(in); err == nil {
			t.Errorf("%q is taken for %v", in, got)
		}
	}
}

var (
	word = rapid.StringMatching(`[a-z0-9]([-a-z0-9_.]{0,8}[a-z0-9])?`)
	name = rapid.StringMatching(`[a-zA-Z0-9][-a-zA-Z0-9_.]{0,12}`)
)

// What is written of a request is read as that request.
func TestRequestsAreReadAsTheyAreWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nic := &vmhostv1.InterfaceRequest{
			Space: rapid.OneOf(rapid.Just(""), word).Draw(t, "space"), Tags: rapid.SliceOfN(word, 0, 3).Draw(t, "tags"), Boot: rapid.Bool().Draw(t, "boot"),
		}
		var parts []string
		kind := rapid.SampledFrom([]string{"", "network", "bridge", "macvlan", "sriov"}).Draw(t, "kind")
		if kind != "" {
			nic.Kind, _ = nicKind(kind)
			nic.Source = name.Draw(t, "source")
			parts = append(parts, kind+"="+nic.GetSource())
		}
		if kind == "macvlan" {
			nic.MacvlanMode = vmhostv1.MacvlanMode(rapid.Int32Range(0, 4).Draw(t, "mode"))
			if mode := macvlanWord(nic.GetMacvlanMode()); mode != "" {
				parts = append(parts, "mode="+mode)
			}
		}
		if rapid.Bool().Draw(t, "tagged") {
			nic.Vlan = proto.Int32(rapid.Int32Range(0, 4094).Draw(t, "vlan"))
			parts = append(parts, fmt.Sprintf("vlan=%d", nic.GetVlan()))
		}
		if nic.GetSpace() != "" {
			parts = append(parts, "space="+nic.GetSpace())
		}
		for _, tag := range nic.GetTags() {
			parts = append(parts, "tag="+tag)
		}
		if nic.GetBoot() || len(parts) == 0 {
			nic.Boot = true
			parts = append(parts, "boot")
		}
		text := strings.Join(rapid.Permutation(parts).Draw(t, "order"), ",")
		got, err := parseNIC(text)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		byTag := protocmp.SortRepeated(func(a, b string) bool { return a < b })
		if d := cmp.Diff(nic, got, protocmp.Transform(), byTag); d != "" {
			t.Fatalf("%q (-want +got):\n%s", text, d)
		}
	})
}

func TestDisksAreReadAsTheyAreWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := &vmhostv1.DiskRequest{
			SizeBytes: rapid.Int64Range(0, 70368744177664).Draw(t, "size"), StoragePool: rapid.OneOf(rapid.Just(""), name).Draw(t, "pool"),
			Tags: rapid.SliceOfN(word, 0, 3).Draw(t, "tags"), Boot: rapid.Bool().Draw(t, "boot"),
		}
		text := units.FormatBytes(want.GetSizeBytes())
		if want.GetStoragePool() != "" {
			text += "@" + want.GetStoragePool()
		}
		for _, tag := range want.GetTags() {
			text += ",tag=" + tag
		}
		if want.GetBoot() {
			text += ",boot"
		}
		got, err := parseDisk(text)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if d := cmp.Diff(want, got, protocmp.Transform(), protocmp.IgnoreEmptyMessages()); d != "" {
			t.Fatalf("%q (-want +got):\n%s", text, d)
		}
	})
}

// What views show of cores, quotas and ratios can be given again.
func TestWhatViewsShowIsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cores := rapid.SliceOfNDistinct(rapid.Int32Range(0, 300), 0, 64, rapid.ID).Draw(t, "cores")
		if got, err := parseCores(ranges(cores)); err != nil || fmt.Sprint(got) != fmt.Sprint(cores) {
			t.Fatalf("%v is shown as %q and read as %v (%v)", cores, ranges(cores), got, err)
		}

		quota := &vmhostv1.ResourceQuota{}
		if rapid.Bool().Draw(t, "has machines") {
			quota.Machines = proto.Int32(rapid.Int32Range(0, 1e9).Draw(t, "machines"))
		}
		for key, field := range map[string]**int64{"cores": &quota.Cores, "memory": &quota.MemoryMib, "storage": &quota.StorageBytes} {
			if rapid.Bool().Draw(t, "has "+key) {
				*field = proto.Int64(rapid.Int64Range(0, 1e12).Draw(t, key))
			}
		}
		want := quota
		if quotaText(quota) == "" {
			want = nil
		}
		got, err := parseQuota(quotaText(quota))
		if d := cmp.Diff(want, got, protocmp.Transform()); err != nil || d != "" {
			t.Fatalf("%q: %v (-want +got):\n%s", quotaText(quota), err, d)
		}

		ratio := rapid.Map(rapid.IntRange(0, 1000), func(n int) *float64 { return proto.Float64(float64(n) / 100) })
		o := &vmhostv1.OvercommitRatios{Cores: ratio.Draw(t, "cores"), Memory: ratio.Draw(t, "memory"), Storage: ratio.Draw(t, "storage")}
		shown := ratios(&vmhostv1.VmHost{Overcommit: o})
		back, _, err := parseOvercommit(shown)
		if d := cmp.Diff(o, back, protocmp.Transform()); err != nil || d != "" {
			t.Fatalf("%q: %v (-want +got):\n%s", shown, err, d)
		}
	})
}

func TestLabelsAreReadAsTheyAreWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		network := rapid.StringMatching(`[a-z][-a-z0-9:.]{0,9}[a-z0-9]`).Draw(t, "network")
		space, tags := word.Draw(t, "space"), rapid.SliceOfN(word, 0, 3).Draw(t, "tags")
		text := network + ":space=" + space
		pool := ""
		for _, tag := range tags {
			text += ",tag=" + tag
			pool += ",tag=" + tag
		}
		got, err := parseNetworkLabels([]string{text, ""})
		want := []*vmhostv1.NetworkLabels{{Network: network, Space: space, Tags: tags}}
		if d := cmp.Diff(want, got, protocmp.Transform()); err != nil || d != "" {
			t.Fatalf("%q: %v (-want +got):\n%s", text, err, d)
		}
		if pool == "" {
			return
		}
		pools, err := parsePoolLabels([]string{network + ":" + pool[1:]})
		wantPools := []*vmhostv1.StoragePoolLabels{{StoragePool: network, Tags: tags}}
		if d := cmp.Diff(wantPools, pools, protocmp.Transform()); err != nil || d != "" {
			t.Fatalf("%q: %v (-want +got):\n%s", pool, err, d)
		}
	})
}

// Every text is either read or refused by an error of three lines.
func TestNoTextBreaksAParser(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z0-9=,:@.\-]{0,24}`),
		rapid.StringMatching(`(network|macvlan|vlan|tag|mode|boot|cores|memory|storage|machines|space)=[0-9a-zA-Z]{0,8}(,[a-z]+=?[0-9A-Z]*){0,2}`))
	rapid.Check(t, func(t *rapid.T) {
		s := text.Draw(t, "text")
		parsers := map[string]func() error{
			"nic":        func() error { _, err := parseNIC(s); return err },
			"disk":       func() error { _, err := parseDisk(s); return err },
			"cores":      func() error { _, err := parseCores(s); return err },
			"quota":      func() error { _, err := parseQuota(s); return err },
			"overcommit": func() error { _, _, err := parseOvercommit(s); return err },
			"network":    func() error { _, err := parseNetworkLabels([]string{s}); return err },
			"pool":       func() error { _, err := parsePoolLabels([]string{s}); return err },
			"shared":     func() error { _, err := parseSharedPools([]string{s}); return err },
			"tail":       func() error { _, err := parseTail(s); return err },
			"rule":       func() error { _, err := parseRule("--near", s); return err },
			"weights":    func() error { _, err := parseWeights(s); return err },
		}
		for which, parse := range parsers {
			err := parse()
			if err == nil {
				continue
			}
			if f, ok := err.(*failure); !ok || f.code != exitUsage || f.err.Hint == "" { //nolint:errorlint // it is the very type
				t.Fatalf("%s of %q: %v", which, s, err)
			}
		}
		_ = nicWords(&vmhostv1.VmHost{}, s)
		_ = diskWords(&vmhostv1.VmHost{}, s)
		_ = lastWord(s)
		_ = onlyCertificates(s)
	})
}

// What is shown of weights can be typed again.
func TestWeightsAreReadAsTheyAreShown(t *testing.T) {
	weight := rapid.Float64Range(0, 100)
	rapid.Check(t, func(t *rapid.T) {
		w := &vmhostv1.PlacementWeights{LeastLoaded: weight.Draw(t, "least_loaded"), Balance: weight.Draw(t, "balance"), AvoidRefusing: 0.25}
		shown := weightsText(w)
		back, err := parseWeights(shown)
		if d := cmp.Diff(w, back, protocmp.Transform()); err != nil || d != "" {
			t.Fatalf("%q: %v (-want +got):\n%s", shown, err, d)
		}
	})
}
