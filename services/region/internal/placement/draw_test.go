package placement

import (
	"fmt"
	"net/netip"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func drawHost(t *rapid.T, id string) *Host {
	word := rapid.SampledFrom([]string{"a", "b"})
	some := func(label string) []string {
		return rapid.SliceOfNDistinct(word, 0, 2, rapid.ID[string]).Draw(t, label)
	}
	mostly := func(label string) bool { return rapid.IntRange(0, 9).Draw(t, label) != 7 }
	seldom := func(label string) bool { return rapid.IntRange(0, 15).Draw(t, label) == 11 }
	ratio := rapid.SampledFrom([]float64{1, 1.5, 2, 10, 0.5, 1, 2, 0})
	resource := func(label string, top int64) Resource {
		r := NewResource(rapid.Int64Range(top/4, top).Draw(t, label), rapid.Int64Range(0, top/8).Draw(t, label+" reserved"), ratio.Draw(t, label+" ratio"), 0, 0)
		committed, foreign := rapid.Int64Range(0, r.Limit/2).Draw(t, label+" committed"), rapid.Int64Range(-1, r.Limit/3).Draw(t, label+" foreign")
		if seldom(label + " over") {
			foreign += r.Limit
		}
		return NewResource(r.Physical, r.Reserved, r.Ratio, committed, foreign)
	}
	h := &Host{
		ID: id, State: rapid.SampledFrom([]vmhostv1.VmHostState{2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 0}).Draw(t, "state"),
		Type:     rapid.SampledFrom([]vmhostv1.VmHostType{1, 2, 2, 3}).Draw(t, "type"),
		Cordoned: !mostly("ready") && !mostly("cordoned"), ResourcePool: "a", Zone: rapid.SampledFrom([]string{"a", "a", "a", "b"}).Draw(t, "zone"),
		Architectures: rapid.SampledFrom([][]string{{"x86_64"}, {"x86_64", "i686"}}).Draw(t, "architectures"),
		Cores:         resource("cores", 16), MemoryMiB: resource("memory", 64), Hugepages: resource("huge pages", 64), PageMiB: rapid.SampledFrom([]int64{0, 1, 2, 4}).Draw(t, "page"),
		CoreNumbers: []int32{0, 1, 2, 3, 8}, Pinned: rapid.SampledFrom([][]int32{nil, {1}, {0, 8}}).Draw(t, "pinned"),
		Tags:        some("tags"),
		DefaultPool: rapid.SampledFrom([]string{"", "", "", "p0", "gone"}).Draw(t, "default pool"),
		Networks: []Network{
			{Name: "default", Kind: kindNetwork, Active: mostly("network"), DHCP: true, Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}, Own: []netip.Addr{netip.MustParseAddr("10.0.0.1")}},
			{Name: "pxe", Kind: kindNetwork, DHCP: mostly("dhcp"), Active: true, Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("fd00::/64")}, Space: word.Draw(t, "space"), Bridge: "virbr1"},
			{Name: "br0", Kind: kindBridge, Active: mostly("bridge"), VLAN: rapid.SampledFrom([]int32{0, 5}).Draw(t, "vlan"), VLANs: rapid.SampledFrom([][]int32{nil, {6}}).Draw(t, "vlans"), Space: word.Draw(t, "space"), Tags: some("network tags")},
			{Name: "eth5", Kind: kindMacvlan, Active: true, VLAN: 5, Tags: some("network tags")},
			{Name: "f0", Kind: kindSRIOV, Active: true, Tags: some("network tags"), Functions: NewResource(rapid.Int64Range(0, 3).Draw(t, "functions"), 0, 1, rapid.Int64Range(0, 1).Draw(t, "held"), 0)},
			{Name: "f1", Kind: kindSRIOV, Active: true, Tags: some("network tags"), Functions: NewResource(rapid.Int64Range(0, 2).Draw(t, "functions"), 0, 1, 0, 0)},
		},
		FixedAddresses: rapid.SampledFrom([][]string{nil, {"default/10.0.0.7"}, {"default/10.0.0.7", "pxe/10.0.0.7"}}).Draw(t, "addresses"),
		Profiles:       []string{"a"},
		Images:         []*vmhostv1.HostImage{{Fingerprint: "f1", Aliases: []string{"c"}, Type: container, Architecture: "x86_64"}, {Fingerprint: "f2", Aliases: []string{"v"}, Type: 1, Architecture: "i686"}},
	}
	for _, c := range []string{"virtual-machines", "containers", "secure-boot", "hugepages", "sr-iov"} {
		if mostly(c) {
			h.Capabilities = append(h.Capabilities, c)
		}
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "pools") {
		h.Pools = append(h.Pools, Pool{Name: fmt.Sprintf("p%d", i), Active: mostly("active"), Tags: some("pool tags"), Resource: resource("pool", 20)})
	}
	return h
}

func drawRequest(t *rapid.T) Request {
	word := rapid.SampledFrom([]string{"a", "b"})
	hard := rapid.Bool().Draw(t, "hard")
	seldom := func(label string) bool { return hard && rapid.IntRange(0, 5).Draw(t, label) == 3 }
	few := func(label string) []string {
		if !seldom(label) {
			return nil
		}
		return []string{word.Draw(t, label)}
	}
	r := Request{
		Cores: rapid.Int32Range(1, 4).Draw(t, "cores"), MemoryMiB: rapid.Int64Range(1, 16).Draw(t, "memory"), ResourcePool: "a",
		Zone:         rapid.SampledFrom([]string{"", "", "a"}).Draw(t, "zone"),
		RequiredTags: few("required"), ForbiddenTags: few("forbidden"),
		Hugepages: seldom("huge pages"), SecureBoot: seldom("secure boot"), Architecture: rapid.SampledFrom([]string{"", "", "", "x86_64", "i686"}).Draw(t, "architecture"),
		Image: rapid.SampledFrom([]string{"", "", "", "", "", "", "v", "f2", "none"}).Draw(t, "image"),
	}
	if seldom("container") {
		r.Type, r.Image = container, "c"
	}
	if seldom("profile") {
		r.Profiles = few("profiles")
	}
	if seldom("pin") {
		r.PinnedCores = rapid.SliceOfNDistinct(rapid.SampledFrom([]int32{0, 1, 2, 3, 8, 9}), int(r.Cores), int(r.Cores), rapid.ID[int32]).Draw(t, "pins")
	}
	for range rapid.IntRange(0, 3).Draw(t, "interfaces") {
		n := Interface{
			Source: rapid.SampledFrom([]string{"", "", "", "", "", "", "default", "pxe", "br0", "f0", "virbr1", "none"}).Draw(t, "source"),
			Kind:   rapid.SampledFrom([]vmhostv1.InterfaceKind{0, 0, 0, kindNetwork, kindBridge, kindMacvlan, kindSRIOV, kindSRIOV}).Draw(t, "kind"),
			Space:  rapid.SampledFrom([]string{"", "", "", "a"}).Draw(t, "space"), Tags: few("network tags"),
		}
		if seldom("vlan") {
			n.VLAN = proto.Int32(rapid.SampledFrom([]int32{0, 5, 6, 7}).Draw(t, "vlan"))
		}
		if seldom("subnet") {
			n.Subnet = netip.MustParsePrefix(rapid.SampledFrom([]string{"10.0.0.0/24", "fd00::/64"}).Draw(t, "subnet"))
		}
		if seldom("address") {
			n.Address = netip.MustParseAddr(rapid.SampledFrom([]string{"10.0.0.7", "10.0.0.8", "10.0.0.1", "10.0.0.0", "10.0.0.255", "fd00::9", "10.9.0.1"}).Draw(t, "address"))
		}
		r.Interfaces = append(r.Interfaces, n)
	}
	for range rapid.IntRange(0, 4).Draw(t, "disks") {
		r.Disks = append(r.Disks, Disk{SizeBytes: rapid.Int64Range(1, 8).Draw(t, "size"), Pool: rapid.SampledFrom([]string{"", "", "", "p0", "p1"}).Draw(t, "pool"), Tags: few("disk tags")})
	}
	return r
}
