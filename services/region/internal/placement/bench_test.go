package placement

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// benchHost is one of a mixed fleet: sizes, use, tags, zones and states vary.
func benchHost(r *rand.Rand, i int) *Host {
	cores := []int32{16, 32, 64, 96, 128}[r.IntN(5)]
	ratio, memoryRatio := 2.0, 1.0
	spec := &vmhostv1.VmHost{
		Name: fmt.Sprintf("vmHosts/h%05d", i), Uid: fmt.Sprint("u", i), ResourcePool: "resourcePools/default", Zone: fmt.Sprintf("zones/z%d", i%8),
		Tags: []string{fmt.Sprintf("rack-%d", i/40), []string{"ssd", "hdd"}[r.IntN(2)]}, Overcommit: &vmhostv1.OvercommitRatios{Cores: &ratio, Memory: &memoryRatio},
		NetworkLabels: []*vmhostv1.NetworkLabels{{Network: "br0", Space: "prod"}}, ReservedCores: 1, ReservedMemoryMib: 1024,
		Cordoned: r.IntN(50) == 0,
	}
	observed := &storev1.StoredVmHostObservation{State: vmhostv1.VmHostState_VM_HOST_STATE_READY, Observation: &vmhostv1.VmHostObservation{
		Architectures: []string{"x86_64"}, Cores: cores, MemoryMib: int64(cores) * 4096, Kvm: true, CpuModel: []string{"EPYC", "Xeon"}[r.IntN(2)],
		Capabilities: []string{"kvm", "virtual-machines", "hugepages", "secure-boot"},
		StoragePools: []*vmhostv1.StoragePool{{Name: "default", CapacityBytes: 2000 * gb, Active: true}, {Name: "nvme", CapacityBytes: 1000 * gb, Active: true}},
		Networks: []*vmhostv1.HostNetwork{
			{Name: "default", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK, Active: true, Dhcp: true, Cidrs: []string{"192.168.122.0/24"}},
			{Name: "br0", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_BRIDGE, Active: true, Cidrs: []string{"10.0.0.0/16"}, Vlans: []int32{10, 20, 30}},
		},
	}}
	if r.IntN(50) == 0 {
		observed.State = vmhostv1.VmHostState_VM_HOST_STATE_UNREACHABLE
	}
	used := r.Float64() * 0.9
	return NewHost(&storev1.StoredVmHost{Resource: spec}, observed, &storev1.StoredLedger{Machines: 10, Total: &storev1.Commitment{
		Cores: int32(float64(2*cores-2) * used), MemoryMib: int64(float64(int64(cores)*4096-1024) * used * (0.7 + 0.3*r.Float64())),
		StorageBytes: map[string]int64{"default": int64(1500 * gb * used)},
	}})
}

func benchFleet(n int) *Fleet {
	r := rand.New(rand.NewPCG(4, uint64(n)))
	hosts := make([]*Host, n)
	for i := range hosts {
		hosts[i] = benchHost(r, i)
		if i%10 == 0 {
			hosts[i] = hosts[i].Join("default/web", 1+int32(i%3))
		}
	}
	return NewFleet(hosts)
}

// benchRequest has every filter on.
func benchRequest() *Request {
	policy, _ := Preset("spread")
	policy.Admits = func(h *Host) (bool, string) { return !strings.HasPrefix(h.ID, "x"), "" }
	return &Request{
		Cores: 2, MemoryMiB: 4096, ResourcePool: "default", SecureBoot: true, Architecture: "x86_64", CPUModel: "EPYC",
		RequiredTags: []string{"ssd"}, ForbiddenTags: []string{"rack-3"}, Capabilities: []string{"kvm"},
		Disks:      []Disk{{SizeBytes: 20 * gb}, {SizeBytes: 50 * gb, Pool: "nvme"}},
		Interfaces: []Interface{{}, {Subnet: netip.MustParsePrefix("10.0.0.0/16"), VLAN: proto.Int32(20), Space: "prod"}},
		Group:      "web", Affinity: []Rule{{Group: "web"}, {Group: "db", Zone: true, Soft: true}}, MaxPerZone: 1 << 20,
		NameTaken: func(string, string) bool { return false }, HypervisorName: "web-1", Policy: policy,
	}
}

// BenchmarkDecide is one decision over so many hosts with all filters on.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{1000, 10000, 50000} {
		f := benchFleet(n)
		for name, req := range map[string]*Request{"all": benchRequest(), "plain": {Cores: 2, MemoryMiB: 4096, ResourcePool: "default", Disks: []Disk{{SizeBytes: gb}}, Interfaces: []Interface{{}}}} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if f.Choose(req).Host == nil {
						b.Fatal("refused")
					}
				}
			})
		}
	}
}

// BenchmarkRefuse is a decision that finds nothing, with its reasons.
func BenchmarkRefuse(b *testing.B) {
	f, req := benchFleet(10000), benchRequest()
	req.MemoryMiB = 1 << 30
	for b.Loop() {
		if f.Choose(req).Host != nil {
			b.Fatal("placed")
		}
	}
}

// BenchmarkDecideAndTake is what a compose costs a draft.
func BenchmarkDecideAndTake(b *testing.B) {
	d, req := benchFleet(10000).Draft(), benchRequest()
	req.Cores, req.MemoryMiB, req.Affinity, req.Disks = 1, 1, nil, []Disk{{SizeBytes: 1}}
	for b.Loop() {
		p := d.Choose(req)
		if p.Host == nil {
			b.Fatal("refused")
		}
		d.Take(p.Host.ID, p.Commitment(req), req.groupKey())
	}
}

// BenchmarkPut is one changed host in the next snapshot.
func BenchmarkPut(b *testing.B) {
	f := benchFleet(10000)
	h := f.at(at(70, 7))
	b.ReportAllocs()
	for b.Loop() {
		d := f.Draft()
		d.Put(h.Take(&storev1.Commitment{Cores: 1}))
		d.Fleet()
	}
}

func BenchmarkExplain5000(b *testing.B) {
	f, req := benchFleet(5000), benchRequest()
	for b.Loop() {
		if e := f.Explain(req, 10000, 10000); len(e.Plan.Refusals)+len(e.Candidates) != 5000 {
			b.Fatal("not all")
		}
	}
}

func BenchmarkCapacity5000(b *testing.B) {
	f, req := benchFleet(5000), benchRequest()
	req.Affinity = nil
	for b.Loop() {
		if f.Room(req, 20).Machines == 0 {
			b.Fatal("none")
		}
	}
}

func BenchmarkDrainPlan500(b *testing.B) {
	f := benchFleet(1000)
	machines := make([]Machine, 500)
	for i := range machines {
		machines[i] = Machine{Name: fmt.Sprintf("machines/%03d", i), Host: "h00007", Request: *benchRequest()}
		machines[i].Request.MemoryMiB, machines[i].Request.Affinity = int64(256*(1+i%8)), nil
	}
	for b.Loop() {
		if moves, stuck := f.DrainPlan("h00007", machines); len(moves) != 500 || len(stuck) != 0 {
			b.Fatal(len(moves), len(stuck))
		}
	}
}
