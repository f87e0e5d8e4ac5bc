package placement

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const gb = 1_000_000_000

func TestLimitIsPhysicalTimesRatioRoundedDown(t *testing.T) {
	for _, tt := range []struct {
		physical int64
		ratio    float64
		want     int64
	}{
		{8, 1, 8},
		{8, 0.5, 4},
		{32, 10, 320},
		{128 * gb, 5.5, 704 * gb},
		{10, 1.1, 11},
		{3, 0.1, 0},
		{8, 0, 0},
		{8, -1, 0},
		{-8, 2, 0},
		{8, math.NaN(), 0},
		{math.MaxInt64, 10, math.MaxInt64},
	} {
		if got := Limit(tt.physical, tt.ratio); got != tt.want {
			t.Errorf("Limit(%d, %v) = %d, want %d", tt.physical, tt.ratio, got, tt.want)
		}
	}
}

func ready(id string, cores int32, memoryMiB int64, coreRatio, memoryRatio float64) *Host {
	return NewHost(
		&storev1.StoredVmHost{Resource: &vmhostv1.VmHost{
			Name: "vmHosts/" + id, Uid: "uid-" + id, ResourcePool: "resourcePools/default", Zone: "zones/default",
			Overcommit: &vmhostv1.OvercommitRatios{Cores: &coreRatio, Memory: &memoryRatio},
		}},
		&storev1.StoredVmHostObservation{
			State: vmhostv1.VmHostState_VM_HOST_STATE_READY,
			Observation: &vmhostv1.VmHostObservation{
				Architectures: []string{"x86_64"}, Cores: cores, MemoryMib: memoryMiB,
				StoragePools: []*vmhostv1.StoragePool{{Name: "default", CapacityBytes: 100 * gb, Active: true}},
				Networks:     []*vmhostv1.HostNetwork{{Name: "default", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK, Active: true}},
			},
		}, nil)
}

func TestFourMachinesFitAtRatiosTwoAndOneAndAHalfAndAFifthDoesNot(t *testing.T) {
	hosts := []*Host{ready("h", 4, 12*1024, 2, 1.5)}
	req := Request{Cores: 2, MemoryMiB: 4 * 1024, ResourcePool: "default", Disks: []Disk{{SizeBytes: 8 * gb}}, Interfaces: []Interface{{}}}
	for i := range 4 {
		plan := Choose(hosts, req)
		if plan.Host == nil {
			t.Fatalf("machine %d was refused: %s", i+1, plan.Summary())
		}
		hosts[0] = plan.Host.Take(req.Cores, req.MemoryMiB, req.Disks, plan.Pools)
	}
	plan := Choose(hosts, req)
	if plan.Host != nil {
		t.Fatal("a fifth machine was placed")
	}
	want := &vmhostv1.Placement{
		Considered: 1,
		Refusals: []*vmhostv1.PlacementRefusal{{
			VmHost: "vmHosts/h", Filter: "cores", Requested: 2, Free: 0, Limit: 8, Ratio: 2,
			Message: "has 0 cores free of the limit 8 (4 physical × ratio 2; 8 committed, 0 used by others), 2 asked for",
		}},
		RefusedCounts: map[string]int32{"cores": 1},
	}
	if diff := cmp.Diff(want, plan.Proto(), protocmp.Transform()); diff != "" {
		t.Errorf("placement (-want +got):\n%s", diff)
	}
}

func TestAMachineLargerThanTheHostIsRefusedWhateverTheRatio(t *testing.T) {
	hosts := []*Host{ready("h", 4, 4096, 10, 10)}
	for _, tt := range []struct {
		name   string
		change func(*Request)
		want   Filter
	}{
		{"cores", func(r *Request) { r.Cores = 5 }, FilterCores},
		{"memory", func(r *Request) { r.MemoryMiB = 4097 }, FilterMemory},
		{"one disk", func(r *Request) { r.Disks = []Disk{{SizeBytes: 100*gb + 1}} }, FilterStorage},
	} {
		req := Request{Cores: 1, MemoryMiB: 1, ResourcePool: "default"}
		tt.change(&req)
		plan := Choose(hosts, req)
		if plan.Host != nil || plan.Refusals[0].Filter != tt.want || !strings.Contains(plan.Summary(), "in all, less than") {
			t.Errorf("%s: %+v: %s", tt.name, plan.Host, plan.Summary())
		}
	}
}

func TestForeignMachinesCountAgainstTheLimit(t *testing.T) {
	h := NewHost(
		&storev1.StoredVmHost{Resource: &vmhostv1.VmHost{Name: "vmHosts/h"}},
		&storev1.StoredVmHostObservation{Observation: &vmhostv1.VmHostObservation{
			Cores: 8, MemoryMib: 1000, Foreign: &vmhostv1.ForeignUsage{Cores: 3, MemoryMib: 1200},
			StoragePools: []*vmhostv1.StoragePool{{Name: "p", CapacityBytes: 100, AllocationBytes: 70, OursBytes: 20, Active: true}},
		}},
		&storev1.StoredLedger{Machines: 2, Total: &storev1.Commitment{Cores: 1, MemoryMib: 7, StorageBytes: map[string]int64{"p": 30, "lost": 5}}})
	want := &vmhostv1.VmHostUsage{
		Cores:     &vmhostv1.ResourceUsage{Physical: 8, Ratio: 1, Limit: 8, Committed: 1, Foreign: 3, Free: 4},
		MemoryMib: &vmhostv1.ResourceUsage{Physical: 1000, Ratio: 1, Limit: 1000, Committed: 7, Foreign: 1200, Free: 0},
		StorageBytes: map[string]*vmhostv1.ResourceUsage{
			"p":    {Physical: 100, Ratio: 1, Limit: 100, Committed: 30, Foreign: 50, Free: 20},
			"lost": {Ratio: 1, Committed: 5},
		},
		Machines: 2,
	}
	if diff := cmp.Diff(want, Usage(h), protocmp.Transform()); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
}

func TestEachFilterRefusesWithItsReason(t *testing.T) {
	base := func() *Host { h := ready("h", 4, 4096, 1, 1); h.Tags = []string{"ssd"}; return h }
	for _, tt := range []struct {
		filter  Filter
		host    func(*Host)
		req     func(*Request)
		message string
	}{
		{FilterVMHost, nil, func(r *Request) { r.VMHost = "other" }, "is not the host that was asked for, other"},
		{FilterResourcePool, nil, func(r *Request) { r.ResourcePool = "lab" }, "belongs to resource pool default, not lab"},
		{FilterZone, nil, func(r *Request) { r.Zone = "b" }, "is in zone default, not b"},
		{FilterTags, nil, func(r *Request) { r.RequiredTags = []string{"ssd", "gpu"} }, "has no tag gpu"},
		{FilterTags, nil, func(r *Request) { r.ForbiddenTags = []string{"ssd"} }, "has the forbidden tag ssd"},
		{FilterCordon, func(h *Host) { h.Cordoned = true }, nil, "is cordoned"},
		{FilterState, func(h *Host) {
			h.State, h.Trouble = vmhostv1.VmHostState_VM_HOST_STATE_UNREACHABLE, "no route to host"
		}, nil, "is unreachable: no route to host"},
		{FilterState, func(h *Host) { h.State = 0 }, nil, "is pending"},
		{FilterArchitecture, nil, func(r *Request) { r.Architecture = "s390x" }, "runs x86_64, not s390x"},
		{FilterNetwork, nil, func(r *Request) { r.Interfaces = []Interface{{}, {Source: "pxe"}} }, "has no running network named pxe"},
		{FilterNetwork, func(h *Host) { h.Networks = nil }, func(r *Request) { r.Interfaces = []Interface{{}} }, "has neither a running network named default nor one with DHCP"},
		{FilterHostname, nil, func(r *Request) { r.HypervisorName = "web"; r.NameTaken = func(string) bool { return true } }, "has something named web on its hypervisor already"},
		{FilterStorage, nil, func(r *Request) { r.Disks = []Disk{{SizeBytes: 1, Pool: "fast"}} }, "has no running storage pool named fast"},
		{FilterStorage, func(h *Host) { h.Pools[0].Active = false }, func(r *Request) { r.Disks = []Disk{{SizeBytes: 1}} }, "has 0 bytes free of the limit"},
		{FilterStorage, func(h *Host) { h.Pools = nil }, func(r *Request) { r.Disks = []Disk{{SizeBytes: 1}} }, "has no storage pool that is running"},
	} {
		h, req := base(), Request{Cores: 1, MemoryMiB: 1, ResourcePool: "default"}
		if tt.host != nil {
			tt.host(h)
		}
		if tt.req != nil {
			tt.req(&req)
		}
		plan := Choose([]*Host{h}, req)
		if plan.Host != nil {
			t.Errorf("%s: placed", tt.filter)
			continue
		}
		got := plan.Proto().GetRefusals()[0]
		if got.GetFilter() != string(tt.filter) || (tt.message != got.GetMessage() && tt.filter != FilterStorage) {
			t.Errorf("%s: refused by %s: %q, want %q", tt.filter, got.GetFilter(), got.GetMessage(), tt.message)
		}
	}
}

func TestTheLeastLoadedHostIsChosen(t *testing.T) {
	hosts := []*Host{ready("a", 4, 4096, 1, 1), ready("b", 8, 8192, 1, 1), ready("c", 8, 8192, 1, 1)}
	req := Request{Cores: 1, MemoryMiB: 512, ResourcePool: "default", Explain: true}
	var got []string
	for range 5 {
		plan := Choose(hosts, req)
		got = append(got, plan.Host.ID)
		hosts[plan.Index] = plan.Host.Take(1, 512, nil, nil)
	}
	if want := []string{"b", "c", "a", "b", "c"}; !slices.Equal(got, want) {
		t.Errorf("chose %v, want %v", got, want)
	}
}

func drawHost(t *rapid.T, id string) *Host {
	word := rapid.SampledFrom([]string{"a", "b"})
	ratio := rapid.SampledFrom([]float64{0, 0.5, 1, 1.5, 2, 10})
	resource := func(label string, top int64) Resource {
		return NewResource(rapid.Int64Range(0, top).Draw(t, label), ratio.Draw(t, label+" ratio"),
			rapid.Int64Range(0, top).Draw(t, label+" committed"), rapid.Int64Range(-2, top).Draw(t, label+" foreign"))
	}
	h := &Host{
		ID: id, State: rapid.SampledFrom([]vmhostv1.VmHostState{2, 2, 2, 2, 3, 0}).Draw(t, "state"),
		Cordoned:     rapid.SampledFrom([]bool{false, false, false, true}).Draw(t, "cordoned"),
		ResourcePool: "a", Zone: word.Draw(t, "zone"), Architectures: []string{"x86_64"},
		Cores: resource("cores", 16), MemoryMiB: resource("memory", 64),
		Tags:        rapid.SliceOfNDistinct(word, 0, 2, rapid.ID[string]).Draw(t, "tags"),
		DefaultPool: rapid.SampledFrom([]string{"", "", "", "p0", "gone"}).Draw(t, "default pool"),
		Networks:    []Network{{Name: "default", Kind: 1, Active: rapid.Bool().Draw(t, "network")}, {Name: "pxe", Kind: 1, DHCP: true, Active: true}},
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "pools") {
		h.Pools = append(h.Pools, Pool{Name: fmt.Sprintf("p%d", i), Active: rapid.SampledFrom([]bool{true, true, true, false}).Draw(t, "active"), Resource: resource("pool", 20)})
	}
	return h
}

func drawRequest(t *rapid.T) Request {
	word := rapid.SampledFrom([]string{"a", "b"})
	r := Request{
		Cores: rapid.Int32Range(1, 8).Draw(t, "cores"), MemoryMiB: rapid.Int64Range(1, 24).Draw(t, "memory"), ResourcePool: "a",
		Zone:         rapid.SampledFrom([]string{"", "", "a"}).Draw(t, "zone"),
		RequiredTags: rapid.SliceOfN(word, 0, 1).Draw(t, "required"), ForbiddenTags: rapid.SliceOfN(rapid.SampledFrom([]string{"b", "c"}), 0, 1).Draw(t, "forbidden"),
		Interfaces: []Interface{{Source: rapid.SampledFrom([]string{"", "default", "pxe"}).Draw(t, "source")}},
	}
	for range rapid.IntRange(0, 4).Draw(t, "disks") {
		r.Disks = append(r.Disks, Disk{SizeBytes: rapid.Int64Range(1, 15).Draw(t, "size"), Pool: rapid.SampledFrom([]string{"", "", "p0", "p1"}).Draw(t, "pool")})
	}
	return r
}

// fitsSomehow is the specification, as dull as it can be: the filters one by
// one, and every way to spread the disks.
func fitsSomehow(h *Host, r Request) bool {
	within := func(res Resource, want int64) bool {
		return want <= res.Physical && res.Committed+res.Foreign+want <= int64(math.Floor(float64(res.Physical)*res.Ratio+epsilon))
	}
	if h.State != 2 || h.Cordoned || (r.Zone != "" && r.Zone != h.Zone) || h.ResourcePool != r.ResourcePool ||
		!within(h.Cores, int64(r.Cores)) || !within(h.MemoryMiB, r.MemoryMiB) {
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
	for _, n := range r.Interfaces {
		if n.Source == "default" && !h.Networks[0].Active {
			return false
		}
	}
	taken := make([]int64, len(h.Pools))
	var try func(i int) bool
	try = func(i int) bool {
		if i == len(r.Disks) {
			return true
		}
		d := r.Disks[i]
		name := d.Pool
		if name == "" {
			name = h.DefaultPool
		}
		for j, p := range h.Pools {
			if !p.Active || (name != "" && name != p.Name) || d.SizeBytes > p.Physical {
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

func TestAPlanKeepsTheLimitsAndARefusalIsTrueOfEveryHost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var hosts []*Host
		for i := range rapid.IntRange(0, 5).Draw(t, "hosts") {
			hosts = append(hosts, drawHost(t, fmt.Sprintf("h%d", i)))
		}
		req := drawRequest(t)
		plan := Choose(hosts, req)
		if plan.Host == nil {
			for _, h := range hosts {
				if fitsSomehow(h, req) {
					t.Fatalf("refused, but %+v fits", h)
				}
			}
			if len(plan.Refusals) != len(hosts) {
				t.Fatalf("%d refusals for %d hosts", len(plan.Refusals), len(hosts))
			}
			for _, r := range plan.Refusals {
				checkReason(t, r, req)
			}
			return
		}
		if !fitsSomehow(plan.Host, req) {
			t.Fatalf("placed on %+v, which does not fit", plan.Host)
		}
		after := plan.Host.Take(req.Cores, req.MemoryMiB, req.Disks, plan.Pools)
		for _, res := range append([]Resource{after.Cores, after.MemoryMiB}, resources(after, plan.Pools)...) {
			if res.Committed+res.Foreign > Limit(res.Physical, res.Ratio) {
				t.Fatalf("past the limit: %+v", res)
			}
		}
		for i, d := range req.Disks {
			if d.Pool != "" && plan.Pools[i] != d.Pool {
				t.Fatalf("disk %d is in %s, not in %s", i, plan.Pools[i], d.Pool)
			}
		}
		for _, h := range hosts {
			if fitsSomehow(h, req) && h.loadWith(req.Cores, req.MemoryMiB) < plan.Load {
				t.Fatalf("%s is loaded less than %s", h.ID, plan.Host.ID)
			}
		}
	})
}

func resources(h *Host, pools []string) []Resource {
	var out []Resource
	for _, name := range pools {
		out = append(out, h.Pools[h.pool(name)].Resource)
	}
	return out
}

func checkReason(t *rapid.T, r Refusal, req Request) {
	var ok bool
	switch r.Filter {
	case FilterState:
		ok = r.Host.State != 2
	case FilterCordon:
		ok = r.Host.Cordoned
	case FilterZone:
		ok = r.Host.Zone != req.Zone
	case FilterTags:
		ok = strings.HasPrefix(r.Message(), "has no tag") || strings.HasPrefix(r.Message(), "has the forbidden tag")
	case FilterNetwork:
		ok = !r.Host.Networks[0].Active && req.Interfaces[r.Item].Source == "default"
	case FilterCores, FilterMemory:
		ok = r.Requested > r.Resource.Physical || r.Requested > r.Resource.Free()
	case FilterStorage:
		ok = r.Largest > r.Resource.Physical || r.Requested > r.Resource.Free()
		if r.NoPool {
			i := r.Host.pool(r.Pool)
			ok = i < 0 || !r.Host.Pools[i].Active
		}
	default:
	}
	if !ok {
		t.Fatalf("the reason is not true: %s of %+v for %+v", r.Message(), r.Host, req)
	}
}
