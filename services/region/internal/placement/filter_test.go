package placement

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const (
	kindNetwork = vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK
	kindBridge  = vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE
	kindMacvlan = vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN
	kindSRIOV   = vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV
	container   = vmhostv1.MachineType_MACHINE_TYPE_CONTAINER
)

func TestWhatIsReservedIsNeverCommitted(t *testing.T) {
	for _, tt := range []struct {
		physical, reserved int64
		ratio              float64
		limit, most        int64
	}{
		{8, 2, 1, 6, 6},
		{8, 2, 0.5, 3, 6},
		{8, 3, 1.1, 5, 5},
		{8, 8, 10, 0, 0},
		{8, 9, 10, 0, 0},
		{32, 2, 10, 300, 30},
		{8, -1, 1, 8, 8},
	} {
		r := NewResource(tt.physical, tt.reserved, tt.ratio, 0, 0)
		if r.Limit != tt.limit || r.Most() != tt.most {
			t.Errorf("%d less %d at %v: limit %d, most %d; want %d, %d", tt.physical, tt.reserved, tt.ratio, r.Limit, r.Most(), tt.limit, tt.most)
		}
	}
	h := NewHost(
		&storev1.StoredVmHost{Resource: &vmhostv1.VmHost{Name: "vmHosts/h", ReservedCores: 2, ReservedMemoryMib: 1024, Overcommit: &vmhostv1.OvercommitRatios{Cores: proto.Float64(2)}}},
		&storev1.StoredVmHostObservation{Observation: &vmhostv1.VmHostObservation{Cores: 8, MemoryMib: 4096}}, nil)
	want := &vmhostv1.VmHostUsage{
		Cores:        &vmhostv1.ResourceUsage{Physical: 8, Reserved: 2, Ratio: 2, Limit: 12, Free: 12},
		MemoryMib:    &vmhostv1.ResourceUsage{Physical: 4096, Reserved: 1024, Ratio: 1, Limit: 3072, Free: 3072},
		StorageBytes: map[string]*vmhostv1.ResourceUsage{},
	}
	if diff := cmp.Diff(want, Usage(h), protocmp.Transform()); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
}

// rich has everything that can be asked for.
func rich(change func(*vmhostv1.VmHost, *vmhostv1.VmHostObservation)) *Host {
	spec := &vmhostv1.VmHost{
		Name: "vmHosts/h", Uid: "u", ResourcePool: "resourcePools/default", Zone: "zones/default", Type: vmhostv1.VmHostType_VM_HOST_TYPE_LXD,
		NetworkLabels:     []*vmhostv1.NetworkLabels{{Network: "br0", Space: "dmz", Tags: []string{"fast"}}, {Network: "lan", Space: "dmz"}},
		StoragePoolLabels: []*vmhostv1.StoragePoolLabels{{StoragePool: "ssd", Tags: []string{"fast", "local"}}},
	}
	o := &vmhostv1.VmHostObservation{
		Architectures: []string{"x86_64", "i686"}, Cores: 4, MemoryMib: 4096,
		Capabilities: []string{"virtual-machines", "containers", "secure-boot", "hugepages", "sr-iov"}, Profiles: []string{"default"},
		Images: []*vmhostv1.HostImage{
			{Fingerprint: strings.Repeat("c", 64), Aliases: []string{"alpine"}, Type: container, Architecture: "x86_64"},
			{Fingerprint: strings.Repeat("d", 64), Aliases: []string{"deb"}, Type: vmhostv1.MachineType_MACHINE_TYPE_VIRTUAL_MACHINE, Architecture: "i686"},
			{Fingerprint: strings.Repeat("e", 64), Aliases: []string{"arm"}, Type: vmhostv1.MachineType_MACHINE_TYPE_VIRTUAL_MACHINE, Architecture: "aarch64"},
		},
		NumaNodes:    []*vmhostv1.NumaNode{{Cores: []int32{0, 1, 8, 9}, HugePages: []*vmhostv1.HugePages{{SizeKib: 2048, Total: 512, Free: 256}, {SizeKib: 1 << 20, Total: 4, Free: 4}}}},
		Foreign:      &vmhostv1.ForeignUsage{PinnedCores: []int32{8}},
		SriovDevices: []*vmhostv1.SriovDevice{{Name: "ens1", Functions: 4, Free: 2}},
		StoragePools: []*vmhostv1.StoragePool{{Name: "hdd", CapacityBytes: 200, Active: true}, {Name: "ssd", CapacityBytes: 100, Active: true}},
		Networks: []*vmhostv1.HostNetwork{
			{Name: "default", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK, Active: true, Dhcp: true, Cidrs: []string{"10.0.0.0/24"}, Addresses: []string{"10.0.0.1"}},
			{Name: "lan", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK, Active: true, Cidrs: []string{"10.1.0.0/24"}},
			{Name: "br0", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_BRIDGE, Active: true, Cidrs: []string{"10.2.0.0/24", "10.1.0.0/24"}},
			{Name: "br5", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_BRIDGE, Active: true, Vlan: 5},
			{Name: "trunk", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_BRIDGE, Active: true, Vlans: []int32{7, 8}},
			{Name: "eth1.9", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_DEVICE, Active: true, Vlan: 9},
			{Name: "down", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK, Dhcp: true},
		},
	}
	if change != nil {
		change(spec, o)
	}
	return NewHost(&storev1.StoredVmHost{Resource: spec}, &storev1.StoredVmHostObservation{State: vmhostv1.VmHostState_VM_HOST_STATE_READY, Observation: o}, &storev1.StoredLedger{
		Machines: 1, Total: &storev1.Commitment{Cores: 1, MemoryMib: 64, HugepagesMib: 64, PinnedCores: []int32{1}, SriovFunctions: map[string]int32{"ens1": 1}, FixedAddresses: []string{"default/10.0.0.5"}},
	})
}

func TestEachNewFilterRefusesWithItsReason(t *testing.T) {
	type host = func(*vmhostv1.VmHost, *vmhostv1.VmHostObservation)
	libvirt := func(s *vmhostv1.VmHost, o *vmhostv1.VmHostObservation) {
		s.Type, o.Capabilities = vmhostv1.VmHostType_VM_HOST_TYPE_LIBVIRT, nil
	}
	without := func(word string) host {
		return func(_ *vmhostv1.VmHost, o *vmhostv1.VmHostObservation) {
			var left []string
			for _, c := range o.GetCapabilities() {
				if c != word {
					left = append(left, c)
				}
			}
			o.Capabilities = left
		}
	}
	iface := func(i ...Interface) func(*Request) { return func(r *Request) { r.Interfaces = i } }
	disk := func(d ...Disk) func(*Request) { return func(r *Request) { r.Disks = d } }
	for _, tt := range []struct {
		filter  Filter
		host    host
		req     func(*Request)
		message string
	}{
		{FilterOvercommitted, func(_ *vmhostv1.VmHost, o *vmhostv1.VmHostObservation) { o.Cores, o.Foreign.Cores = 2, 2 }, nil, "is overcommitted and takes nothing new: 3 cores are in use, past the limit 2 (2 physical × ratio 1; 1 committed, 2 used by others)"},
		{FilterOvercommitted, func(_ *vmhostv1.VmHost, o *vmhostv1.VmHostObservation) { o.StoragePools[0].AllocationBytes = 201 }, nil, "is overcommitted and takes nothing new: 201 bytes in storage pool hdd are in use, past the limit 200 bytes (200 bytes physical × ratio 1; 0 bytes committed, 201 bytes used by others)"},
		{FilterType, libvirt, func(r *Request) { r.Type = container }, "runs virtual machines only, as every libvirt host does, and no containers"},
		{FilterType, without("containers"), func(r *Request) { r.Type = container }, "runs no containers"},
		{FilterType, without("virtual-machines"), nil, "runs containers only: its LXD server cannot run virtual machines"},
		{FilterCapability, without("secure-boot"), func(r *Request) { r.SecureBoot = true }, "cannot start machines with secure boot"},
		{FilterCapability, without("hugepages"), func(r *Request) { r.Hugepages = true }, "has no huge pages"},
		{FilterCapability, without("sr-iov"), iface(Interface{Kind: kindSRIOV}), "has no device with virtual functions (SR-IOV)"},
		{FilterImage, libvirt, func(r *Request) { r.Image = "deb" }, "is a libvirt host, which has no images and no profiles"},
		{FilterImage, nil, func(r *Request) { r.Profiles = []string{"default", "big"} }, "has no profile named big"},
		{FilterImage, nil, func(r *Request) { r.Image = "suse" }, "has no image suse"},
		{FilterImage, nil, func(r *Request) { r.Image = "alpine" }, "has image alpine for containers, not for virtual machines"},
		{FilterImage, nil, func(r *Request) { r.Image, r.Type = "deb", container }, "has image deb for virtual machines, not for containers"},
		{FilterImage, nil, func(r *Request) { r.Image, r.Architecture = "deb", "x86_64" }, "has image deb for i686, not for x86_64"},
		{FilterImage, nil, func(r *Request) { r.Image = "arm" }, "has image arm for aarch64, which it does not run"},
		{FilterNetwork, nil, iface(Interface{Source: "down"}), "has no running network named down"},
		{FilterNetwork, nil, iface(Interface{Source: "br0"}), "has no running network named br0; br0 is a bridge"},
		{FilterNetwork, nil, iface(Interface{Subnet: netip.MustParsePrefix("10.9.0.0/24")}), "has no running network, bridge or device with subnet 10.9.0.0/24; nearest is default, which serves 10.0.0.0/24"},
		{FilterNetwork, nil, iface(Interface{Source: "br5", Kind: kindBridge, VLAN: proto.Int32(6)}), "has no running bridge named br5 with VLAN 6; nearest is br5, which is in VLAN 5"},
		{FilterNetwork, nil, iface(Interface{Space: "lab"}), "has no running network, bridge or device with space lab; nearest is default, which is in no space"},
		{FilterNetwork, nil, iface(Interface{Space: "dmz", Tags: []string{"fast", "far"}}), "has no running network, bridge or device with space dmz, tags fast, far; nearest is lan, which has no tag fast"},
		{FilterNetwork, nil, iface(Interface{Address: netip.MustParseAddr("10.2.0.9")}), "runs no DHCP of its own on br0, which could give address 10.2.0.9"},
		{FilterNetwork, nil, iface(Interface{Address: netip.MustParseAddr("10.0.0.1")}), "cannot give address 10.0.0.1 on default: it is the host's own, or that of the subnet itself"},
		{FilterNetwork, nil, iface(Interface{Address: netip.MustParseAddr("10.0.0.255")}), "cannot give address 10.0.0.255 on default: it is the host's own, or that of the subnet itself"},
		{FilterNetwork, nil, iface(Interface{Address: netip.MustParseAddr("10.0.0.5")}), "has given address 10.0.0.5 on default to another machine"},
		{FilterNetwork, nil, iface(Interface{Kind: kindSRIOV}, Interface{Kind: kindSRIOV}), "has too few free virtual functions for 2 interfaces"},
		{FilterNetwork, func(_ *vmhostv1.VmHost, o *vmhostv1.VmHostObservation) { o.SriovDevices[0].Free = 1 }, iface(Interface{Kind: kindSRIOV}), "has no free virtual function on ens1"},
		{FilterCores, func(s *vmhostv1.VmHost, _ *vmhostv1.VmHostObservation) { s.ReservedCores = 2 }, func(r *Request) { r.Cores = 3 }, "has 4 cores in all, 2 of them reserved for itself, less than the 3 asked for; overcommit makes no machine possible that is larger than its host"},
		{FilterCores, func(s *vmhostv1.VmHost, _ *vmhostv1.VmHostObservation) { s.ReservedCores = 2 }, func(r *Request) { r.Cores = 2 }, "has 1 core free of the limit 2 ((4 physical − 2 reserved) × ratio 1; 1 committed, 0 used by others), 2 asked for"},
		{FilterHugepages, nil, func(r *Request) { r.Hugepages, r.MemoryMiB = true, 500 }, "has 448 MiB of huge pages free of the limit 1 GiB (1 GiB physical × ratio 1; 64 MiB committed, 512 MiB used by others), 500 MiB asked for"},
		{FilterHugepages, nil, func(r *Request) { r.Hugepages, r.MemoryMiB = true, 3 }, "has huge pages of 2 MiB; 3 MiB of memory is no multiple of that"},
		{FilterPinnedCores, nil, func(r *Request) { r.Cores, r.PinnedCores = 2, []int32{0, 2} }, "has no core 2; it has 4 cores"},
		{FilterPinnedCores, nil, func(r *Request) { r.Cores, r.PinnedCores = 2, []int32{0, 1} }, "has another machine pinned to core 1"},
		{FilterPinnedCores, nil, func(r *Request) { r.Cores, r.PinnedCores = 2, []int32{9, 8} }, "has another machine pinned to core 8"},
		{FilterStorage, nil, disk(Disk{SizeBytes: 1, Pool: "hdd", Tags: []string{"fast"}}), "has storage pool hdd, but not with tags fast"},
		{FilterStorage, nil, disk(Disk{SizeBytes: 1, Tags: []string{"slow"}}), "has no running storage pool with tags slow"},
		{
			FilterStorage, func(_ *vmhostv1.VmHost, o *vmhostv1.VmHostObservation) { o.StoragePools[1].AllocationBytes = 99 },
			disk(Disk{SizeBytes: 60, Pool: "ssd"}, Disk{SizeBytes: 10, Pool: "hdd"}), "storage pool ssd has 1 byte free of the limit 100 bytes (100 bytes physical × ratio 1; 0 bytes committed, 99 bytes used by others), 60 bytes asked for",
		},
		{
			FilterStorage, func(_ *vmhostv1.VmHost, o *vmhostv1.VmHostObservation) { o.StoragePools[1].AllocationBytes = 50 },
			disk(Disk{SizeBytes: 60, Tags: []string{"fast"}}, Disk{SizeBytes: 10, Pool: "hdd"}), "storage pool ssd has 50 bytes free of the limit 100 bytes (100 bytes physical × ratio 1; 0 bytes committed, 50 bytes used by others), 60 bytes asked for",
		},
		{FilterStorage, nil, disk(Disk{SizeBytes: 60, Tags: []string{"fast"}}, Disk{SizeBytes: 60, Tags: []string{"local"}}), "storage pool ssd has 100 bytes free of the limit 100 bytes (100 bytes physical × ratio 1; 0 bytes committed, 0 bytes used by others), 120 bytes asked for in 2 disks"},
	} {
		h, req := rich(tt.host), Request{Cores: 1, MemoryMiB: 1, ResourcePool: "default"}
		if tt.req != nil {
			tt.req(&req)
		}
		plan := Choose([]*Host{h}, req)
		if plan.Host != nil {
			t.Errorf("%s: placed, want %q", tt.filter, tt.message)
			continue
		}
		got := plan.Proto().GetRefusals()[0]
		if got.GetFilter() != string(tt.filter) || !strings.HasPrefix(got.GetMessage(), tt.message) {
			t.Errorf("refused by %s: %q, want %s: %q", got.GetFilter(), got.GetMessage(), tt.filter, tt.message)
		}
	}
}

func TestANetworkIsChosenByWhatIsAskedFor(t *testing.T) {
	h := rich(nil)
	for _, tt := range []struct {
		want Interface
		got  Attachment
	}{
		{Interface{}, Attachment{"default", kindNetwork, 0, "named default"}},
		{Interface{Source: "lan"}, Attachment{"lan", kindNetwork, 0, "asked for by name"}},
		{Interface{Kind: kindBridge}, Attachment{"br0", kindBridge, 0, "the first bridge of the 3 that fit"}},
		{Interface{Kind: kindMacvlan}, Attachment{"eth1.9", kindMacvlan, 0, "the only device"}},
		{Interface{Kind: kindSRIOV}, Attachment{"ens1", kindSRIOV, 0, "the only device with virtual functions"}},
		{Interface{Kind: kindSRIOV, VLAN: proto.Int32(12)}, Attachment{"ens1", kindSRIOV, 12, "VLAN 12 (tagged) of ens1"}},
		{Interface{Address: netip.MustParseAddr("10.0.0.6")}, Attachment{"default", kindNetwork, 0, "address 10.0.0.6 in subnet 10.0.0.0/24 of default"}},
		{Interface{Subnet: netip.MustParsePrefix("10.1.0.0/24")}, Attachment{"br0", kindBridge, 0, "subnet 10.1.0.0/24 of br0; the first bridge of the 2 that fit"}},
		{Interface{Subnet: netip.MustParsePrefix("10.1.0.0/24"), Kind: kindNetwork}, Attachment{"lan", kindNetwork, 0, "subnet 10.1.0.0/24 of lan"}},
		{Interface{VLAN: proto.Int32(5)}, Attachment{"br5", kindBridge, 0, "VLAN 5 of br5"}},
		{Interface{VLAN: proto.Int32(8)}, Attachment{"trunk", kindBridge, 8, "VLAN 8 (tagged) of trunk"}},
		{Interface{VLAN: proto.Int32(9)}, Attachment{"eth1.9", kindMacvlan, 0, "VLAN 9 of eth1.9"}},
		{Interface{VLAN: proto.Int32(0), Space: "dmz"}, Attachment{"br0", kindBridge, 0, "no VLAN, space dmz of br0; the first bridge of the 2 that fit"}},
		{Interface{Source: "br0", Kind: kindBridge, VLAN: proto.Int32(77)}, Attachment{"br0", kindBridge, 77, "asked for by name; VLAN 77 (tagged) of br0"}},
		{Interface{Tags: []string{"fast"}}, Attachment{"br0", kindBridge, 0, "tags fast of br0"}},
	} {
		plan := Choose([]*Host{h}, Request{Cores: 1, MemoryMiB: 1, ResourcePool: "default", Interfaces: []Interface{tt.want}})
		if plan.Host == nil {
			t.Errorf("%+v: %s", tt.want, plan.Summary())
		} else if plan.Networks[0] != tt.got {
			t.Errorf("%+v: got %+v, want %+v", tt.want, plan.Networks[0], tt.got)
		}
	}
}

func TestAPoolIsChosenByWhatIsAskedFor(t *testing.T) {
	for _, tt := range []struct {
		name    string
		def     string
		disks   []Disk
		pools   string
		reasons string
	}{
		{"by room", "", []Disk{{SizeBytes: 1}}, "[hdd]", "[the pool that had the most room]"},
		{"by name", "hdd", []Disk{{SizeBytes: 1, Pool: "ssd", Tags: []string{"fast"}}}, "[ssd]", "[asked for by name; it has tags fast]"},
		{"the default", "ssd", []Disk{{SizeBytes: 1}, {SizeBytes: 1, Tags: []string{"fast"}}}, "[ssd ssd]", "[the host's default pool the host's default pool; it has tags fast]"},
		{"tags that the default lacks", "hdd", []Disk{{SizeBytes: 1, Tags: []string{"local"}}}, "[ssd]", "[the only running pool with tags local]"},
		{"the only way", "", []Disk{{SizeBytes: 100}, {SizeBytes: 200}}, "[ssd hdd]", "[where all disks fit together where all disks fit together]"},
	} {
		h := rich(nil)
		h.DefaultPool = tt.def
		plan := Choose([]*Host{h}, Request{Cores: 1, MemoryMiB: 1, ResourcePool: "default", Disks: tt.disks})
		if plan.Host == nil {
			t.Errorf("%s: %s", tt.name, plan.Summary())
			continue
		}
		if fmt.Sprint(plan.Pools) != tt.pools || fmt.Sprint(plan.PoolReasons) != tt.reasons {
			t.Errorf("%s: %v %v, want %s %s", tt.name, plan.Pools, plan.PoolReasons, tt.pools, tt.reasons)
		}
	}
}

func TestAnImageDecidesTheArchitecture(t *testing.T) {
	for image, want := range map[string]string{"deb": "i686", strings.Repeat("d", 12): "i686", "": "x86_64"} {
		plan := Choose([]*Host{rich(nil)}, Request{Cores: 1, MemoryMiB: 1, ResourcePool: "default", Image: image})
		if plan.Architecture != want {
			t.Errorf("image %q: %q, want %q; %s", image, plan.Architecture, want, plan.Summary())
		}
	}
}

func TestWhatOthersUseOfPagesAndFunctionsIsNotCountedTwice(t *testing.T) {
	for _, tt := range []struct {
		name             string
		used, ours, told int64
		free             int64
	}{
		{"nothing is told: all that is in use is of others", 512, 64, -1, 448},
		{"ours run", 64, 64, 0, 960},
		{"ours are off", 0, 64, 0, 960},
		{"machines of others that are off have theirs as well", 64, 64, 100, 860},
		{"something that is no machine has some", 512, 64, 100, 512},
	} {
		o := &vmhostv1.VmHostObservation{
			Foreign:      &vmhostv1.ForeignUsage{},
			NumaNodes:    []*vmhostv1.NumaNode{{HugePages: []*vmhostv1.HugePages{{SizeKib: 1024, Total: 1024, Free: 1024 - tt.used}}}},
			SriovDevices: []*vmhostv1.SriovDevice{{Name: "f0", Functions: 1024, Free: int32(1024 - tt.used)}},
		}
		if tt.told >= 0 {
			o.Foreign.HugepagesMib, o.Foreign.SriovFunctions = proto.Int64(tt.told), map[string]int32{"f0": int32(tt.told)}
		}
		h := NewHost(&storev1.StoredVmHost{}, &storev1.StoredVmHostObservation{Observation: o}, &storev1.StoredLedger{
			Total: &storev1.Commitment{HugepagesMib: tt.ours, SriovFunctions: map[string]int32{"f0": int32(tt.ours)}},
		})
		if pages, functions := h.Hugepages.Free(), h.Networks[0].Functions.Free(); pages != tt.free || functions != tt.free {
			t.Errorf("%s: %d MiB and %d functions are free, want %d", tt.name, pages, functions, tt.free)
		}
	}
}
