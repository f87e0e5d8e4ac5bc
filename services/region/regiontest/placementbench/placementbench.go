// Package placementbench makes fleets for measuring placement, from outside the
// region. Everything is seeded. It owns no goroutine.
package placementbench

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
)

const (
	gb = 1_000_000_000
	// requests is how many different requests take turns.
	requests = 64
)

var errUnexpected = errors.New("placement answered something else than it must")

// Fleet is a mixed fleet: sizes, use, tags, zones, processors and states vary.
type Fleet struct {
	fleet *placement.Fleet
	reqs  []*placement.Request
	next  int

	cores, memory []float64 // what Scan reads
}

// New makes a fleet of so many hosts.
func New(hosts int) *Fleet {
	r := rand.New(rand.NewPCG(4, uint64(hosts)))
	f := &Fleet{cores: make([]float64, hosts), memory: make([]float64, hosts)}
	list := make([]*placement.Host, hosts)
	for i := range list {
		h := host(r, i)
		if i%10 == 0 {
			h = h.Join(placement.GroupKey("default", "web"), int32(1+i%3))
		}
		list[i], f.cores[i], f.memory[i] = h, float64(h.Cores.Free()), float64(h.MemoryMiB.Free())
	}
	f.fleet = placement.NewFleet(list)
	for range requests {
		f.reqs = append(f.reqs, request(r))
	}
	return f
}

func host(r *rand.Rand, i int) *placement.Host {
	cores := []int32{16, 32, 64, 96, 128}[r.IntN(5)]
	physical := int64(cores) * 4096
	spec := &vmhostv1.VmHost{
		Name: fmt.Sprintf("vmHosts/h%05d", i), Uid: fmt.Sprint("u", i), ResourcePool: "resourcePools/default", Zone: fmt.Sprintf("zones/z%d", i%8),
		Tags:          []string{fmt.Sprintf("rack-%d", i/40), []string{"ssd", "hdd"}[r.IntN(2)]},
		Overcommit:    &vmhostv1.OvercommitRatios{Cores: proto.Float64(2), Memory: proto.Float64(1)},
		NetworkLabels: []*vmhostv1.NetworkLabels{{Network: "br0", Space: "prod"}}, ReservedCores: 1, ReservedMemoryMib: 1024,
		Cordoned: r.IntN(50) == 0,
	}
	observed := &storev1.StoredVmHostObservation{State: vmhostv1.VmHostState_VM_HOST_STATE_READY, Observation: &vmhostv1.VmHostObservation{
		Architectures: []string{"x86_64"}, Cores: cores, MemoryMib: physical, Kvm: true, CpuModel: []string{"EPYC", "Xeon"}[r.IntN(2)],
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
	return placement.NewHost(&storev1.StoredVmHost{Resource: spec}, observed, &storev1.StoredLedger{Machines: 10, Total: &storev1.Commitment{
		Cores: int32(float64(2*cores-2) * used), MemoryMib: int64(float64(physical-1024) * used * (0.7 + 0.3*r.Float64())),
		StorageBytes: map[string]int64{"default": int64(1500 * gb * used)},
	}})
}

// request has every filter on.
func request(r *rand.Rand) *placement.Request {
	policy, _ := placement.Preset([]string{"spread", "pack", "balanced"}[r.IntN(3)])
	policy.Admits = func(h *placement.Host) (bool, string) { return h.ID != "", "" }
	cores := []int32{1, 2, 4, 8}[r.IntN(4)]
	return &placement.Request{
		Cores: cores, MemoryMiB: int64(cores) * 2048, ResourcePool: "default", SecureBoot: true, Architecture: "x86_64",
		CPUModel: []string{"EPYC", "Xeon"}[r.IntN(2)], RequiredTags: []string{[]string{"ssd", "hdd"}[r.IntN(2)]},
		ForbiddenTags: []string{fmt.Sprint("rack-", r.IntN(20))}, Capabilities: []string{"kvm"},
		Disks:      []placement.Disk{{SizeBytes: 20 * gb}, {SizeBytes: 50 * gb, Pool: "nvme"}},
		Interfaces: []placement.Interface{{}, {Subnet: netip.MustParsePrefix("10.0.0.0/16"), VLAN: proto.Int32(20), Space: "prod"}},
		Group:      "web", Affinity: []placement.Rule{{Group: "web"}, {Group: "db", Zone: true, Soft: true}}, MaxPerZone: 1 << 20,
		NameTaken: func(string, string) bool { return false }, HypervisorName: "web-1", Policy: policy,
	}
}

func (f *Fleet) turn() *placement.Request {
	f.next++
	return f.reqs[f.next%len(f.reqs)]
}

// Decide is one decision over all hosts.
func (f *Fleet) Decide() error {
	if f.fleet.Choose(f.turn()).Host == nil {
		return errUnexpected
	}
	return nil
}

// Refuse is one decision that finds nothing, with its reasons.
func (f *Fleet) Refuse() error {
	req := *f.turn()
	req.MemoryMiB = 1 << 40
	if f.fleet.Choose(&req).Host != nil {
		return errUnexpected
	}
	return nil
}

// Explain is the reasons of all hosts that are refused, and the scores of those
// that are not.
func (f *Fleet) Explain() error {
	e := f.fleet.Explain(f.turn(), f.fleet.Len(), f.fleet.Len())
	if len(e.Plan.Refusals)+len(e.Candidates) != f.fleet.Len() {
		return errUnexpected
	}
	return nil
}

// Capacity is how many more machines of one disk and one interface fit.
func (f *Fleet) Capacity() error {
	req := *f.turn()
	req.Disks, req.Interfaces, req.Affinity = req.Disks[:1], req.Interfaces[1:], nil
	if f.fleet.Room(&req, 20).Machines == 0 {
		return errUnexpected
	}
	return nil
}

// Drain is the plan for a host of so many machines, each with two disks and two
// interfaces.
func (f *Fleet) Drain(machines int) error {
	const from = "h00007"
	list := make([]placement.Machine, machines)
	for i := range list {
		list[i] = placement.Machine{Name: fmt.Sprintf("machines/%03d", i), Host: from, Request: *f.reqs[i%len(f.reqs)]}
		list[i].Request.Affinity = nil
	}
	if moves, stranded := f.fleet.DrainPlan(from, list); len(moves) != machines || len(stranded) != 0 {
		return errUnexpected
	}
	return nil
}

// Take is one decision and what it makes of a draft.
func (f *Fleet) Take() error {
	req := *f.turn()
	req.Affinity = nil
	d := f.fleet.Draft()
	p := d.Choose(&req)
	if p.Host == nil {
		return errUnexpected
	}
	d.Take(p.Host.ID, p.Commitment(&req), placement.GroupKey("default", "web"))
	d.Fleet()
	return nil
}

// batch is how many composes share a transaction at most.
const batch = 32

// Batch is what a transaction of composes is decided on: a draft, and one decision
// after the other on what those before it left.
func (f *Fleet) Batch() error {
	d := f.fleet.Draft()
	for range batch {
		req := *f.turn()
		req.Affinity = nil
		p := d.Choose(&req)
		if p.Host == nil {
			return errUnexpected
		}
		d.Take(p.Host.ID, p.Commitment(&req), placement.GroupKey("default", "web"))
	}
	d.Fleet()
	return nil
}

// Scan is the least that looking at every host can cost: the two numbers of each
// are read, and the best is kept.
func (f *Fleet) Scan() error {
	best, at := 0.0, -1
	for i, c := range f.cores {
		if score := min(c, f.memory[i]); score > best {
			best, at = score, i
		}
	}
	if at < 0 {
		return errUnexpected
	}
	return nil
}
