package placement

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// site is a host as its records say.
type site struct {
	spec   *storev1.StoredVmHost
	seen   *storev1.StoredVmHostObservation
	ledger *storev1.StoredLedger
}

func (s site) host() *Host { return NewHost(s.spec, s.seen, s.ledger) }

// dice draws what is dangerous. It is not rapid's, which takes a hundred times as
// long: its seed is.
type dice struct{ *rand.Rand }

func (d dice) one(in int) bool { return d.IntN(in) == 0 }

func draw1[T any](d dice, of ...T) T { return of[d.IntN(len(of))] }

func (d dice) words() []string {
	return draw1(d, nil, nil, []string{"a"}, []string{"b"}, []string{"a", "b"})
}

// ratio is 1 mostly, and what rounding is bad at.
func (d dice) ratio() *float64 {
	if d.one(40) {
		return draw1(d, proto.Float64(0), proto.Float64(0.1))
	}
	return draw1(d, nil, nil, proto.Float64(1), proto.Float64(2), proto.Float64(1.1), proto.Float64(0.7), proto.Float64(10))
}

// amount is up to most, and now and then what nobody has.
func (d dice) amount(most int64) int64 {
	if d.one(100) {
		return draw1(d, int64(math.MaxInt64), math.MaxInt64-1, -1, math.MinInt64, 1<<53+1)
	}
	return d.Int64N(most + 1)
}

func (d dice) amount32(most int32) int32 {
	if d.one(100) {
		return draw1(d, int32(math.MaxInt32), -1, math.MinInt32)
	}
	return d.Int32N(most + 1)
}

// site draws a host: mostly one that could take something.
func (d dice) site(id string) site {
	spec := &vmhostv1.VmHost{
		Name: "vmHosts/" + id, Uid: "u-" + id, Type: draw1(d, vmhostv1.VmHostType(1), 2, 2), ResourcePool: "resourcePools/" + draw1(d, "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "b"),
		Zone: "zones/" + draw1(d, "a", "a", "b", "c"), Tags: d.words(), Cordoned: d.one(25),
		Overcommit:         &vmhostv1.OvercommitRatios{Cores: d.ratio(), Memory: d.ratio(), Storage: d.ratio()},
		DefaultStoragePool: draw1(d, "", "", "", "p0", "gone"),
	}
	if d.one(3) {
		spec.ReservedCores, spec.ReservedMemoryMib = d.amount32(4), d.amount(16)
	}
	for i := range 3 {
		spec.StoragePoolLabels = append(spec.StoragePoolLabels, &vmhostv1.StoragePoolLabels{StoragePool: fmt.Sprint("p", i), Tags: d.words()})
	}
	for _, n := range []string{"br0", "eth5", "f0", "f1"} {
		spec.NetworkLabels = append(spec.NetworkLabels, &vmhostv1.NetworkLabels{Network: n, Space: draw1(d, "a", "b"), Tags: d.words()})
	}
	total := &storev1.Commitment{StorageBytes: map[string]int64{}, SriovFunctions: map[string]int32{}, Groups: map[string]int32{}}
	seen := d.observation(total)
	// Of most hosts less than all is taken; of some more than there is.
	most := draw1(d, int32(2), 4, 4, 8, 60)
	total.Cores, total.MemoryMib = max(d.amount32(most), 0), max(d.amount(2*int64(most)), 0)
	for _, g := range []string{"a/web", "a/db", "b/web"} {
		if d.one(6) {
			total.Groups[g] = 1 + d.Int32N(2)
		}
	}
	if d.one(4) {
		total.FixedAddresses = draw1(d, []string{"default/10.0.0.7"}, []string{"default/10.0.0.7", "pxe/10.0.0.7"})
	}
	return site{
		&storev1.StoredVmHost{Resource: spec},
		&storev1.StoredVmHostObservation{VmHostUid: draw1(d, "", "u-"+id, "u-"+id), State: draw1(d, vmhostv1.VmHostState(2), 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3), Observation: seen},
		&storev1.StoredLedger{Machines: 1, Total: total},
	}
}

// observation draws what is seen of a host, and what is taken of that.
func (d dice) observation(total *storev1.Commitment) *vmhostv1.VmHostObservation {
	o := &vmhostv1.VmHostObservation{
		Architectures: draw1(d, []string{"x86_64"}, []string{"x86_64", "i686"}), Cores: d.amount32(40), MemoryMib: d.amount(160),
		Kvm: d.one(2), CpuModel: draw1(d, "", "m", "n"), Profiles: []string{"a"},
		Images:  []*vmhostv1.HostImage{{Fingerprint: "f1", Aliases: []string{"c"}, Type: container, Architecture: "x86_64"}, {Fingerprint: "f2", Aliases: []string{"v"}, Type: 1, Architecture: "i686"}},
		Foreign: &vmhostv1.ForeignUsage{},
		Networks: []*vmhostv1.HostNetwork{
			{Name: "default", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK, Active: !d.one(20), Dhcp: true, Cidrs: []string{"10.0.0.0/24"}, Addresses: []string{"10.0.0.1"}},
			{Name: "pxe", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK, Active: true, Dhcp: !d.one(4), Cidrs: []string{"10.0.0.0/24", "fd00::/64"}, Bridge: "virbr1"},
			{Name: "br0", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_BRIDGE, Active: !d.one(8), Vlan: draw1(d, int32(0), 5), Vlans: draw1(d, nil, []int32{6})},
			{Name: "eth5", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_DEVICE, Active: true, Vlan: 5},
		},
	}
	for _, c := range []string{"virtual-machines", "containers", "secure-boot", "hugepages", "sr-iov"} {
		if !d.one(12) {
			o.Capabilities = append(o.Capabilities, c)
		}
	}
	if d.one(3) {
		o.Foreign.Cores, o.Foreign.MemoryMib = d.amount32(4), d.amount(10)
	}
	for i := range d.IntN(4) {
		p := &vmhostv1.StoragePool{Name: fmt.Sprint("p", i), Active: !d.one(8), CapacityBytes: d.amount(24)}
		if d.one(3) {
			p.AllocationBytes, p.OursBytes = d.amount(5), d.amount(4)
		}
		o.StoragePools = append(o.StoragePools, p)
		if d.one(2) {
			total.StorageBytes[p.GetName()] = max(d.amount(4), 0)
		}
	}
	if d.one(20) {
		total.StorageBytes["p2"] = d.Int64N(3) // of a pool that may be gone
	}
	for _, name := range []string{"f0", "f1"} {
		n := d.Int32N(4)
		o.SriovDevices = append(o.SriovDevices, &vmhostv1.SriovDevice{Name: name, Functions: n, Free: d.Int32N(n + 1)})
		if d.one(3) {
			total.SriovFunctions[name] = d.Int32N(2)
		}
		if d.one(2) {
			o.Foreign.SriovFunctions = map[string]int32{name: d.Int32N(2)}
		}
	}
	d.nodes(o, total)
	return o
}

// nodes draws NUMA nodes with huge pages, and who is pinned to their cores.
func (d dice) nodes(o *vmhostv1.VmHostObservation, total *storev1.Commitment) {
	if d.one(4) {
		return
	}
	size := draw1(d, int64(1024), 2048, 4096)
	next := int32(0)
	for i := range 1 + d.Int32N(3) {
		n := &vmhostv1.NumaNode{Id: i, MemoryMib: d.amount(40)}
		for range 1 + d.IntN(6) {
			if next += d.Int32N(3); d.one(6) {
				total.PinnedCores = append(total.PinnedCores, next)
			} else if d.one(12) {
				o.Foreign.PinnedCores = append(o.Foreign.PinnedCores, next)
			}
			n.Cores = append(n.Cores, next)
			next++
		}
		for range d.IntN(3) {
			pages := d.Int64N(16)
			n.HugePages = append(n.HugePages, &vmhostv1.HugePages{SizeKib: size, Total: pages, Free: d.Int64N(pages + 1)})
			size *= 4
		}
		size = size / 4 * draw1(d, int64(1), 1, 4)
		size = max(size, 1024)
		o.NumaNodes = append(o.NumaNodes, n)
	}
	if d.one(2) {
		o.Foreign.HugepagesMib = proto.Int64(d.Int64N(8))
		total.HugepagesMib = d.Int64N(8)
	}
}

// wish draws a request: mostly one that some host could take.
func (d dice) wish() *Request {
	r := &Request{Cores: 1 + d.Int32N(3), MemoryMiB: 1 + d.Int64N(8), ResourcePool: "a", Seed: uint64(d.IntN(2))}
	if d.one(80) {
		r.Cores = 4096 // the most that can be asked for, as those below
	}
	if d.one(80) {
		r.MemoryMiB = 64 << 20
	}
	switch d.IntN(8) {
	case 0:
		r.Hugepages, r.MemoryMiB = true, 4*(1+d.Int64N(3))
	case 1:
		for c := d.Int32N(6); len(r.PinnedCores) < int(min(r.Cores, 3)); c += 1 + d.Int32N(2) {
			r.PinnedCores = append(r.PinnedCores, c)
		}
		r.Cores = int32(len(r.PinnedCores))
	}
	r.OneNUMANode = d.one(5)
	if d.one(6) { // those that fit in one way or none
		for _, size := range [][]int64{{5, 4, 3}, {3, 3, 2, 2, 2}, {7, 5, 4}, {6, 6, 5}}[d.IntN(4)] {
			r.Disks = append(r.Disks, Disk{SizeBytes: size + d.Int64N(2)})
		}
	}
	for range d.IntN(max(5-len(r.Disks), 1)) {
		disk := Disk{SizeBytes: 1 + d.Int64N(7), Pool: draw1(d, "", "", "", "p0", "p1")}
		if d.one(5) {
			disk.Tags = []string{draw1(d, "a", "b")}
		}
		if d.one(100) {
			disk.SizeBytes = 64 << 40
		}
		r.Disks = append(r.Disks, disk)
	}
	for range d.IntN(3) {
		r.Interfaces = append(r.Interfaces, d.interf())
		if !distinct(*r) { // the ledger refuses those
			r.Interfaces = r.Interfaces[:len(r.Interfaces)-1]
		}
	}
	if d.one(3) {
		r.Group = "web"
		r.MaxPerZone = d.Int32N(5)
	}
	for range max(d.IntN(6)-3, 0) {
		rule := Rule{Near: d.one(3), Zone: d.one(2), Soft: d.one(2), Group: draw1(d, "web", "db", "none", "")}
		if rule.Group == "" {
			rule.Hosts = []string{fmt.Sprint("h", d.IntN(6)), fmt.Sprint("h", d.IntN(6))}
		}
		r.Affinity = append(r.Affinity, rule)
	}
	if d.one(8) {
		r.From = fmt.Sprint("h", d.IntN(6))
	}
	if d.one(8) {
		r.Zone = draw1(d, "a", "b")
	}
	if d.one(8) {
		r.RequiredTags, r.ForbiddenTags = d.words(), draw1(d, nil, []string{"b"})
	}
	if d.one(10) {
		r.CPUModel = "m"
	}
	if d.one(10) {
		r.Type, r.Image = container, draw1(d, "", "c")
	}
	r.SecureBoot, r.Architecture = d.one(10), draw1(d, "", "", "", "", "x86_64", "i686")
	if d.one(2) {
		w := func() float64 { return draw1(d, 0, 0, 0.25, 1, 3) }
		r.Policy.Weights = Weights{w(), w(), w(), w(), w(), w(), w(), w()}
	} else {
		r.Policy, _ = Preset(draw1(d, "spread", "pack", "balanced"))
	}
	return r
}

func (d dice) interf() Interface {
	n := Interface{Kind: draw1(d, vmhostv1.InterfaceKind(0), 0, 0, 0, kindBridge, kindSRIOV)}
	switch d.IntN(9) {
	case 0:
		n.Source = draw1(d, "default", "pxe", "br0", "f0")
	case 1:
		n.VLAN = proto.Int32(draw1(d, int32(0), 5, 6))
	case 2:
		n.Space = "a"
	case 3:
		n.Tags = []string{draw1(d, "a", "b")}
	case 4:
		n.Kind, n.Address = 0, netip.MustParseAddr(draw1(d, "10.0.0.7", "10.0.0.8", "10.0.0.1", "fd00::9"))
	}
	return n
}

// grown is a site with more room, and nothing else.
func (d dice) grown(s site) site {
	spec, seen := proto.CloneOf(s.spec), proto.CloneOf(s.seen)
	r, o := spec.GetResource(), seen.GetObservation()
	up := func(n int64) int64 { return plus(max(n, 0), d.Int64N(5)) }
	o.Cores = int32(min(up(int64(o.GetCores())), math.MaxInt32))
	o.MemoryMib = up(o.GetMemoryMib())
	for _, p := range o.GetStoragePools() {
		p.CapacityBytes = up(p.GetCapacityBytes())
	}
	for _, n := range o.GetNumaNodes() {
		n.MemoryMib = up(n.GetMemoryMib())
	}
	if d.one(2) {
		r.ReservedCores, r.ReservedMemoryMib = 0, 0
	}
	ratio := ratiosOf(r.GetOvercommit())
	more := func(ratio float64) *float64 { return proto.Float64(ratio + float64(d.IntN(2))) }
	r.Overcommit = &vmhostv1.OvercommitRatios{Cores: more(ratio.cores), Memory: more(ratio.memory), Storage: more(ratio.storage)}
	if d.one(2) {
		o.Foreign.Cores, o.Foreign.MemoryMib = 0, 0
	}
	return site{spec, seen, s.ledger}
}
