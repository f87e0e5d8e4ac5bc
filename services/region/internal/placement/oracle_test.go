package placement

import (
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"
)

// fitsSomehow is the specification, as dull as it can be: the filters one by
// one, and every way to place the disks and interfaces.
func fitsSomehow(h *Host, r Request) bool {
	within := func(res Resource, want int64) bool {
		limit := max(int64(math.Floor(float64(res.Physical-res.Reserved)*res.Ratio+epsilon)), 0)
		return want <= res.Physical-res.Reserved && res.Committed+res.Foreign+want <= limit
	}
	over := func(res Resource) bool {
		return res.Committed+res.Foreign > max(int64(math.Floor(float64(res.Physical-res.Reserved)*res.Ratio+epsilon)), 0)
	}
	if over(h.Cores) || over(h.MemoryMiB) || slices.ContainsFunc(h.Pools, func(p Pool) bool { return over(p.Resource) }) {
		return false
	}
	if !admitted(h, r) || !within(h.Cores, int64(r.Cores)) || !within(h.MemoryMiB, r.MemoryMiB) {
		return false
	}
	if r.Hugepages && (!within(h.Hugepages, r.MemoryMiB) || (h.PageMiB > 0 && r.MemoryMiB%h.PageMiB != 0)) {
		return false
	}
	for _, c := range r.PinnedCores {
		if !slices.Contains(h.CoreNumbers, c) || slices.Contains(h.Pinned, c) {
			return false
		}
	}
	return ableTo(h, r) && attachable(h, r, 0, map[string]int64{}) && storable(h, r)
}

// admitted is what the operator says of the host, and how it stands.
func admitted(h *Host, r Request) bool {
	if h.State != 2 || h.Cordoned || (r.Zone != "" && r.Zone != h.Zone) || h.ResourcePool != r.ResourcePool {
		return false
	}
	for _, tag := range r.RequiredTags {
		if !slices.Contains(h.Tags, tag) {
			return false
		}
	}
	for _, tag := range r.ForbiddenTags {
		if slices.Contains(h.Tags, tag) {
			return false
		}
	}
	return true
}

// ableTo is what the host must be able to, whatever its room.
func ableTo(h *Host, r Request) bool {
	if r.HostType != 0 && r.HostType != h.Type {
		return false
	}
	needs := []string{}
	if r.Type == container {
		needs = append(needs, "containers")
	} else if h.Type == 2 {
		needs = append(needs, "virtual-machines")
	}
	if r.SecureBoot {
		needs = append(needs, "secure-boot")
	}
	if r.Hugepages {
		needs = append(needs, "hugepages")
	}
	for _, n := range r.Interfaces {
		if n.Kind == kindSRIOV {
			needs = append(needs, "sr-iov")
		}
	}
	for _, n := range needs {
		if !slices.Contains(h.Capabilities, n) {
			return false
		}
	}
	runs := func(a string) bool { return a == "" || slices.Contains(h.Architectures, a) }
	if !runs(r.Architecture) {
		return false
	}
	if (r.Image != "" || len(r.Profiles) > 0) && h.Type == 1 {
		return false
	}
	if slices.Contains(r.Profiles, "b") {
		return false
	}
	switch r.Image {
	case "":
		return true
	case "c":
		return r.Type == container && r.Architecture != "i686"
	case "v", "f2":
		return r.Type != container && r.Architecture != "x86_64" && runs("i686")
	default:
		return false
	}
}

// attachable tries every network for every interface.
func attachable(h *Host, r Request, i int, held map[string]int64) bool {
	if i == len(r.Interfaces) {
		return true
	}
	for _, n := range h.Networks {
		if !serves(h, r.Interfaces[i], n) {
			continue
		}
		if n.Kind != kindSRIOV {
			return attachable(h, r, i+1, held)
		}
		if n.Functions.Committed+n.Functions.Foreign+held[n.Name]+1 > n.Functions.Limit {
			continue
		}
		held[n.Name]++
		if attachable(h, r, i+1, held) {
			return true
		}
		held[n.Name]--
	}
	return false
}

func serves(h *Host, w Interface, n Network) bool {
	if !n.Active {
		return false
	}
	asBridge := w.Kind == kindBridge && w.Source != "" && w.Source == n.Bridge
	nothing := w.Source == "" && !w.Address.IsValid() && !w.Subnet.IsValid() && w.VLAN == nil && w.Space == "" && len(w.Tags) == 0
	switch {
	case asBridge:
	case w.Source != "" && w.Source != n.Name:
		return false
	case w.Kind != 0 && w.Kind != n.Kind:
		return false
	case w.Kind == 0 && (nothing || w.Source != "") && n.Kind != kindNetwork:
		return false
	case w.Kind == 0 && n.Kind == kindSRIOV:
		return false
	}
	if nothing && n.Kind == kindNetwork && n.Name != "default" && !n.DHCP {
		return false
	}
	if w.Space != "" && w.Space != n.Space {
		return false
	}
	for _, tag := range w.Tags {
		if !slices.Contains(n.Tags, tag) {
			return false
		}
	}
	if w.Subnet.IsValid() && !slices.Contains(n.Subnets, w.Subnet) {
		return false
	}
	if w.VLAN != nil && n.Kind != kindSRIOV && *w.VLAN != n.VLAN {
		known := n.Kind != kindMacvlan && n.VLAN == 0 && *w.VLAN != 0 && slices.Contains(n.VLANs, *w.VLAN)
		trusted := n.Kind == kindBridge && n.VLAN == 0 && *w.VLAN != 0 && len(n.VLANs) == 0 && w.Source != ""
		if !known && !trusted {
			return false
		}
	}
	if w.Address.IsValid() {
		text := w.Address.String()
		inside := (strings.HasPrefix(text, "10.0.0.") && (n.Name == "default" || n.Name == "pxe")) || (strings.HasPrefix(text, "fd00::") && n.Name == "pxe")
		reserved := text == "10.0.0.0" || text == "10.0.0.255" || (text == "10.0.0.1" && n.Name == "default")
		if !inside || reserved || asBridge || !n.DHCP || slices.Contains(h.FixedAddresses, n.Name+"/"+text) {
			return false
		}
	}
	return true
}

// storable tries every way to spread the disks.
func storable(h *Host, r Request) bool {
	taken := make([]int64, len(h.Pools))
	var try func(i int) bool
	try = func(i int) bool {
		if i == len(r.Disks) {
			return true
		}
		d := r.Disks[i]
		name := d.Pool
		if name == "" && h.DefaultPool != "" {
			name = h.DefaultPool
			if len(d.Tags) > 0 && !slices.ContainsFunc(h.Pools, func(p Pool) bool { return p.Name == name && slices.Contains(p.Tags, d.Tags[0]) }) {
				name = "" // the default has not the tags
			}
		}
		for j, p := range h.Pools {
			if !p.Active || (name != "" && name != p.Name) || d.SizeBytes > p.Physical-p.Reserved || (len(d.Tags) > 0 && !slices.Contains(p.Tags, d.Tags[0])) {
				continue
			}
			if p.Committed+p.Foreign+taken[j]+d.SizeBytes > p.Limit {
				continue
			}
			taken[j] += d.SizeBytes
			if try(i + 1) {
				return true
			}
			taken[j] -= d.SizeBytes
		}
		return false
	}
	return try(0)
}

func TestAPlanKeepsTheLimitsAndARefusalIsTrueOfEveryHost_P1(t *testing.T) {
	placed, refused := 0, map[Filter]int{}
	rapid.Check(t, func(t *rapid.T) {
		var hosts []*Host
		for i := range rapid.IntRange(0, 4).Draw(t, "hosts") {
			hosts = append(hosts, drawHost(t, fmt.Sprintf("h%d", i)))
		}
		for range 10 {
			req := drawRequest(t)
			plan := Choose(hosts, req)
			again := Choose(hosts, req)
			if diff := cmp.Diff(plan.Proto(), again.Proto(), protocmp.Transform()); diff != "" {
				t.Fatalf("twice the same gave two plans:\n%s", diff)
			}
			if plan.Host == nil {
				for _, h := range hosts {
					if fitsSomehow(h, req) {
						t.Fatalf("refused: %s\nbut it fits: %+v\nfor %+v", plan.Summary(), h, req)
					}
				}
				if len(plan.Refusals) != len(hosts) {
					t.Fatalf("%d refusals for %d hosts", len(plan.Refusals), len(hosts))
				}
				for _, r := range plan.Refusals {
					refused[r.Filter]++
					checkReason(t, r, req)
				}
				continue
			}
			placed++
			if !fitsSomehow(plan.Host, req) {
				t.Fatalf("placed on %+v, which does not fit %+v", plan.Host, req)
			}
			checkPlan(t, plan, req)
			for _, h := range hosts {
				if fitsSomehow(h, req) && h.loadWith(req.Cores, req.MemoryMiB) < plan.Load {
					t.Fatalf("%s is loaded less than %s", h.ID, plan.Host.ID)
				}
			}
		}
	})
	t.Logf("placed %d, refused by %v", placed, refused)
}

// checkPlan checks what is taken, and that every choice is one that was allowed.
func checkPlan(t *rapid.T, plan Plan, req Request) {
	before, after := plan.Host, plan.Host.Take(plan.Commitment(&req))
	all := []Resource{after.Cores, after.MemoryMiB}
	if req.Hugepages {
		all = append(all, after.Hugepages)
	}
	for _, p := range after.Pools {
		all = append(all, p.Resource)
	}
	for i, n := range after.Networks {
		if n.Functions.Committed != before.Networks[i].Functions.Committed {
			all = append(all, n.Functions)
		}
	}
	for _, res := range all {
		if res.Committed+res.Foreign > Limit(res.Physical-res.Reserved, res.Ratio) {
			t.Fatalf("past the limit: %+v", res)
		}
	}
	if len(after.Pinned) != len(before.Pinned)+len(req.PinnedCores) {
		t.Fatalf("pinned %v, then %v", before.Pinned, after.Pinned)
	}
	if len(slices.Compact(slices.Clone(after.FixedAddresses))) != len(after.FixedAddresses) && distinct(req) {
		t.Fatalf("an address twice: %v", after.FixedAddresses)
	}
	for i, d := range req.Disks {
		if d.Pool != "" && plan.Pools[i] != d.Pool {
			t.Fatalf("disk %d is in %s, not in %s", i, plan.Pools[i], d.Pool)
		}
		if p := before.Pools[before.pool(plan.Pools[i])]; len(d.Tags) > 0 && !slices.Contains(p.Tags, d.Tags[0]) {
			t.Fatalf("disk %d is in %s, which has no tag %s", i, p.Name, d.Tags[0])
		}
	}
	for i, n := range plan.Networks {
		at := slices.IndexFunc(before.Networks, func(x Network) bool {
			return (x.Name == n.Source || x.Bridge == n.Source) && serves(before, req.Interfaces[i], x)
		})
		if at < 0 {
			t.Fatalf("interface %d %+v is attached to %+v", i, req.Interfaces[i], n)
		}
		for _, x := range before.Networks {
			if n.Kind != kindSRIOV && serves(before, req.Interfaces[i], x) && x.Name == "default" && n.Source != "default" {
				t.Fatalf("interface %d %+v is attached to %+v, not to default", i, req.Interfaces[i], n)
			}
		}
		if n.Why == "" {
			t.Fatalf("interface %d is attached to %s for no reason", i, n.Source)
		}
	}
}

// distinct says whether no address is asked for twice; the ledger refuses those.
func distinct(req Request) bool {
	seen := map[netip.Addr]bool{}
	for _, n := range req.Interfaces {
		if n.Address.IsValid() && seen[n.Address] {
			return false
		}
		seen[n.Address] = true
	}
	return true
}

// checkReason says whether the filter that is named refuses the host, and every
// one before it does not.
func checkReason(t *rapid.T, r Refusal, req Request) {
	ok, h := false, r.Host
	switch r.Filter {
	case FilterState:
		ok = h.State != 2
	case FilterCordon:
		ok = h.Cordoned
	case FilterZone:
		ok = h.Zone != req.Zone
	case FilterTags:
		ok = strings.HasPrefix(r.Message(), "has no tag") || strings.HasPrefix(r.Message(), "has the forbidden tag")
	case FilterOvercommitted:
		ok = sum(r.Resource.Committed, r.Resource.Foreign).Cmp(big.NewInt(r.Resource.Limit)) > 0
	case FilterVMHost:
		ok = h.ID == req.From
	case FilterType, FilterArchitecture, FilterCapability, FilterImage:
		ok = !ableTo(h, req)
	case FilterNetwork:
		ok = !attachable(h, Request{Interfaces: req.Interfaces[:r.Item+1]}, 0, map[string]int64{})
	case FilterCores, FilterMemory:
		ok = r.Requested > r.Resource.Most() || r.Requested > r.Resource.Free()
	case FilterHugepages:
		ok = r.Requested > r.Resource.Most() || r.Requested > r.Resource.Free() || r.Requested%max(h.PageMiB, 1) != 0
	case FilterPinnedCores:
		c := req.PinnedCores[r.Item]
		there := slices.Contains(h.CoreNumbers, c) || (len(h.CoreNumbers) == 0 && int64(c) < h.Cores.Physical)
		ok = r.Missing != there && (r.Missing || slices.Contains(h.Pinned, c))
	case FilterStorage:
		i := h.pool(r.Pool)
		switch {
		case r.Missing && r.Pool == "":
			ok = !slices.ContainsFunc(h.Pools, func(p Pool) bool { return p.Active && all(req.Disks[r.Item].Tags, p.Tags) })
		case r.Missing:
			ok = i < 0 || !h.Pools[i].Active
		case r.Tagless:
			ok = !slices.Contains(h.Pools[i].Tags, req.Disks[r.Item].Tags[0])
		default:
			ok = r.Largest > r.Resource.Most() || r.Requested > r.Resource.Free()
		}
	default:
	}
	if !ok || r.Message() == "" {
		t.Fatalf("the reason is not true: %s: %s of %+v for %+v", r.Filter, r.Message(), r.Host, req)
	}
}
