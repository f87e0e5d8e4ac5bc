package placement

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

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
		{100, 1.15, 115}, // 114.99999999999999 as it is rounded
		{100, 0.29, 29},
		{3, 0.1, 0},
		{8, 0, 0},
		{8, -1, 0},
		{-8, 2, 0},
		{8, math.NaN(), 0},
		{math.MaxInt64, 10, math.MaxInt64},
		{math.MaxInt64, 1, math.MaxInt64},
		{8, math.Inf(1), math.MaxInt64},
		{1<<53 + 1, 1, 1<<53 + 1},
		{1<<53 + 1, 1.5, 13510798882111489},
		{1<<62 + 3, 0.75, 3458764513820540930},
	} {
		if got := Limit(tt.physical, tt.ratio); got != tt.want {
			t.Errorf("Limit(%d, %v) = %d, want %d", tt.physical, tt.ratio, got, tt.want)
		}
	}
}

func TestAmountsThatOverflowLeaveNothing(t *testing.T) {
	for _, r := range []Resource{
		NewResource(10, 0, 1, math.MaxInt64, 5), NewResource(10, 0, 1, math.MaxInt64-3, math.MaxInt64-3), NewResource(math.MaxInt64, 0, 10, math.MaxInt64, 1),
		NewResource(10, math.MaxInt64, 10, 1, 0), NewResource(math.MinInt64, 0, 1, 1, 0),
	} {
		if r.fits(1) || r.Free() != 0 || r.used() < 1 || !r.Over() {
			t.Errorf("%+v: %d free, %d in use", r, r.Free(), r.used())
		}
	}
}

func TestOfCoresNoMoreAreGivenThanALedgerCounts(t *testing.T) {
	h := ready("a", math.MaxInt32, 1, 10, 1)
	if h.Cores.Limit != math.MaxInt32 || h.withRatios(&vmhostv1.OvercommitRatios{Cores: proto.Float64(20)}).Cores.Limit != math.MaxInt32 {
		t.Errorf("%+v", h.Cores)
	}
	full := h.Take(&storev1.Commitment{Cores: math.MaxInt32})
	if full.Cores.Free() != 0 || full.Cores.Over() {
		t.Errorf("%+v", full.Cores)
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
		hosts[0] = plan.Host.Take(plan.Commitment(&req))
	}
	plan := Choose(hosts, req)
	if plan.Host != nil {
		t.Fatal("a fifth machine was placed")
	}
	want := &vmhostv1.Placement{
		Considered: 1,
		Refusals: []*vmhostv1.PlacementRefusal{{
			VmHost: "vmHosts/h", Filter: "cores", Resource: "cores", Requested: 2, Used: 8, Free: 0, Limit: 8, Ratio: 2,
			Message: "has 0 cores free of the limit 8 (4 physical × ratio 2; 8 committed, 0 used by others), 2 asked for",
		}},
		RefusedCounts: map[string]int32{"cores": 1},
		Hint:          "ask for less, or raise the host's overcommit ratio, free something or add a host",
	}
	if diff := cmp.Diff(want, plan.Proto(), protocmp.Transform()); diff != "" {
		t.Errorf("placement (-want +got):\n%s", diff)
	}
}

// P9: which resource of a host is past its limit can be read without the message.
func TestAnOvercommittedHostShowsTheLimitThatItIsPast_P9(t *testing.T) {
	h := ready("h", 4, 4096, 2, 1)
	h.Pools = append(h.Pools, Pool{Name: "ssd", Active: true, Resource: NewResource(100, 0, 1.5, 150, 1)})
	plan := Choose([]*Host{h}, Request{Cores: 1, MemoryMiB: 1, ResourcePool: "default"})
	want := &vmhostv1.PlacementRefusal{
		VmHost: "vmHosts/h", Filter: "overcommitted", Resource: "storage_bytes", Used: 151, Limit: 150, Ratio: 1.5, StoragePool: "ssd",
		Message: "is overcommitted and takes nothing new: 151 bytes in storage pool ssd are in use, past the limit 150 bytes (100 bytes physical × ratio 1.5; 150 bytes committed, 1 byte used by others)",
	}
	if diff := cmp.Diff(want, plan.Proto().GetRefusals()[0], protocmp.Transform()); diff != "" {
		t.Errorf("refusal (-want +got):\n%s", diff)
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
		{FilterHostname, nil, func(r *Request) { r.HypervisorName = "web"; r.NameTaken = func(string, string) bool { return true } }, "has something named web on its hypervisor already"},
		{FilterVMHost, nil, func(r *Request) { r.From = "h" }, "is the host that the machine is on"},
		{FilterCPUModel, nil, func(r *Request) { r.CPUModel = "EPYC" }, "has not said its CPU model; EPYC is asked for"},
		{FilterCapability, nil, func(r *Request) { r.Capabilities = []string{"kvm"} }, "has not the capability kvm"},
		{FilterPolicy, nil, func(r *Request) {
			r.Policy = Policy{Name: "p", Admits: func(*Host) (bool, string) { return false, "why" }}
		}, "is not what placement policy p admits: why"},
		{FilterAffinity, func(h *Host) { *h = *h.Join("default/web", 1) }, func(r *Request) { r.Affinity = []Rule{{Group: "web"}} }, "has a machine of group web, which it must be away from"},
		{FilterSpread, func(h *Host) { *h = *h.Join("default/web", 2) }, func(r *Request) { r.Group, r.MaxPerZone = "web", 2 }, "is in zone default, which has 2 machines of group web; at most 2 are wanted in one zone"},
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
		hosts[plan.Index] = plan.Host.Take(plan.Commitment(&req))
	}
	if want := []string{"b", "c", "a", "b", "c"}; !slices.Equal(got, want) {
		t.Errorf("chose %v, want %v", got, want)
	}
}
