package ledger

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// lxdHost has 8 cores, 4 GiB in huge pages, a device with two virtual functions,
// two storage pools and a network that serves 10.0.0.0/24.
func lxdHost(t *testing.T, s *store.Store, id string) {
	t.Helper()
	spec, observed := hostRecord(id, 8, 8192)
	spec.Resource.Type, spec.Resource.Project = vmhostv1.VmHostType_VM_HOST_TYPE_LXD, "lab"
	spec.Resource.DefaultMacvlanMode = vmhostv1.MacvlanMode_MACVLAN_MODE_VEPA
	spec.Resource.NetworkLabels = []*vmhostv1.NetworkLabels{{Network: "br5", Space: "dmz", Tags: []string{"fast"}}}
	spec.Resource.StoragePoolLabels = []*vmhostv1.StoragePoolLabels{{StoragePool: "nvme", Tags: []string{"ssd"}}}
	o := observed.GetObservation()
	o.Capabilities = []string{"virtual-machines", "containers", "hugepages", "sr-iov", "secure-boot"}
	o.Profiles = []string{"default", "small"}
	o.Images = []*vmhostv1.HostImage{{Fingerprint: strings.Repeat("ab", 32), Aliases: []string{"debian"}, Type: vmhostv1.MachineType_MACHINE_TYPE_VIRTUAL_MACHINE, Architecture: "x86_64"}}
	o.NumaNodes = []*vmhostv1.NumaNode{{Cores: []int32{0, 1, 2, 3, 4, 5, 6, 7}, HugePages: []*vmhostv1.HugePages{{SizeKib: 2048, Total: 2048, Free: 2048}}}}
	o.SriovDevices = []*vmhostv1.SriovDevice{{Name: "ens1", Functions: 2, Free: 2}}
	o.StoragePools = append(o.StoragePools, &vmhostv1.StoragePool{Name: "nvme", CapacityBytes: 100 * gb, Active: true})
	o.Networks[0].Cidrs, o.Networks[0].Addresses = []string{"10.0.0.0/24"}, []string{"10.0.0.1"}
	o.Networks = append(o.Networks,
		&vmhostv1.HostNetwork{Name: "br5", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_BRIDGE, Active: true, Vlans: []int32{5, 6}},
		&vmhostv1.HostNetwork{Name: "eth1", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_DEVICE, Active: true})
	tx := store.NewTxn()
	store.Put(tx, store.VmHosts, spec, id)
	store.Put(tx, store.Observed, observed, id)
	commit(t, s, tx)
}

func everything() *vmhostv1.ComposeMachineRequest {
	return &vmhostv1.ComposeMachineRequest{
		Hostname: "web", PinnedCores: []int32{5, 2}, MemoryMib: 512, Hugepages: true, SecureBoot: true, Profiles: []string{"small"}, Image: "debian",
		Autostart: true,
		Disks: []*vmhostv1.DiskRequest{
			{SizeBytes: 1 << 20, StoragePool: "default"}, {SizeBytes: 1 << 21, Tags: []string{"ssd"}, Boot: true},
		},
		Interfaces: []*vmhostv1.InterfaceRequest{
			{IpAddress: "10.0.0.7", SubnetCidr: "10.0.0.0/24"},
			{Space: "dmz", Tags: []string{"fast"}, Vlan: proto.Int32(6), Boot: true},
			{Source: "eth1", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN},
			{Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV, Vlan: proto.Int32(9)},
		},
	}
}

// wholeMachine is what everything asks for on an lxdHost.
func wholeMachine() *vmhostv1.Machine {
	return &vmhostv1.Machine{
		Hostname: "web", VmHost: "vmHosts/h", Zone: "zones/default", ResourcePool: "resourcePools/default", HypervisorName: "web", Architecture: "x86_64",
		Cores: 2, MemoryMib: 512, Type: vmhostv1.MachineType_MACHINE_TYPE_VIRTUAL_MACHINE, PinnedCores: []int32{5, 2}, Hugepages: true,
		Firmware: vmhostv1.Firmware_FIRMWARE_UEFI, SecureBoot: true, Profiles: []string{"small"}, Image: "debian", Project: "lab", Autostart: true,
		Disks: []*vmhostv1.MachineDisk{
			{StoragePool: "default", SizeBytes: 1 << 20}, {StoragePool: "nvme", SizeBytes: 1 << 21, Boot: true, Tags: []string{"ssd"}},
		},
		Interfaces: []*vmhostv1.MachineInterface{
			{Source: "default", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK, FixedAddress: "10.0.0.7"},
			{Source: "br5", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE, Vlan: 6, Boot: true},
			{Source: "eth1", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN, MacvlanMode: vmhostv1.MacvlanMode_MACVLAN_MODE_VEPA},
			{Source: "ens1", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV, Vlan: 9},
		},
	}
}

func TestADryRunShowsAllThatIsChosenAndWhy(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	lxdHost(t, s, "h")
	addHost(t, s, "a", 1, 8192)
	setQuota(t, t, s, "default", &vmhostv1.ResourceQuota{Cores: proto.Int64(9)})
	before := s.Cached().Revision
	got, err := l.Plan(t.Context(), everything())
	if err != nil {
		t.Fatal(err)
	}
	want := &vmhostv1.ComposePlan{
		Machine: wholeMachine(), Quota: &vmhostv1.ResourceQuota{Cores: proto.Int64(9)}, Used: &vmhostv1.ResourceAmount{},
		Placement: &vmhostv1.Placement{
			VmHost: "vmHosts/h", Considered: 2, Load: 0.25, RefusedCounts: map[string]int32{"capability": 1},
			Refusals:     []*vmhostv1.PlacementRefusal{{VmHost: "vmHosts/a", Filter: "capability", Message: "cannot start machines with secure boot"}},
			StoragePools: []string{"default", "nvme"}, StoragePoolReasons: []string{"asked for by name", "the only running pool with tags ssd"},
			Networks: []string{"default", "br5", "eth1", "ens1"},
			NetworkChoices: []*vmhostv1.NetworkChoice{
				{Source: "default", Kind: "network", Why: "address 10.0.0.7 in subnet 10.0.0.0/24 of default"},
				{Source: "br5", Kind: "bridge", Why: "VLAN 6 (tagged), space dmz, tags fast of br5"},
				{Source: "eth1", Kind: "macvlan", Why: "asked for by name"},
				{Source: "ens1", Kind: "sr-iov", Why: "VLAN 9 (tagged) of ens1"},
			},
		},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
	if v, _ := s.View(t.Context()); v.Revision != before {
		t.Errorf("revision went from %d to %d", before, v.Revision)
	}
}

func TestAllThatWasDecidedIsInTheMachineTheStepAndTheLedger(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	lxdHost(t, s, "h")
	op, err := l.Compose(t.Context(), "alice", everything())
	if err != nil {
		t.Fatal(err)
	}
	v, _ := s.View(t.Context())
	uid := strings.TrimPrefix(op.GetTarget(), "machines/")
	m, _ := store.Machines.Get(v, uid)
	stored, _ := store.Operations.Get(v, strings.TrimPrefix(op.GetName(), "operations/"))
	wire := stored.Value.GetPlan()[0].GetCreateMachine().GetMachine()
	drawn := cmp.Options{
		protocmp.Transform(), protocmp.IgnoreFields(&vmhostv1.Machine{}, "name", "uid", "hypervisor_uuid", "operation", "create_time", "update_time"),
		protocmp.IgnoreFields(&vmhostv1.MachineDisk{}, "volume"), protocmp.IgnoreFields(&vmhostv1.MachineInterface{}, "mac"),
	}
	want := wholeMachine()
	want.Origin, want.Phase = vmhostv1.MachineOrigin_MACHINE_ORIGIN_COMPOSED, vmhostv1.MachinePhase_MACHINE_PHASE_COMPOSING
	if diff := cmp.Diff(want, m.Value.GetResource(), drawn); diff != "" {
		t.Errorf("machine (-want +got):\n%s", diff)
	}
	want.Origin, want.Phase, want.Zone, want.ResourcePool = 0, 0, "", ""
	if diff := cmp.Diff(want, wire, drawn); diff != "" {
		t.Errorf("what the rack is told (-want +got):\n%s", diff)
	}
	held := &storev1.Commitment{
		Cores: 2, MemoryMib: 512, HugepagesMib: 512, PinnedCores: []int32{2, 5}, StorageBytes: map[string]int64{"default": 1 << 20, "nvme": 1 << 21},
		SriovFunctions: map[string]int32{"ens1": 1}, FixedAddresses: []string{"default/10.0.0.7"},
	}
	if diff := cmp.Diff(held, m.Value.GetCommitment(), protocmp.Transform()); diff != "" {
		t.Errorf("commitment (-want +got):\n%s", diff)
	}
	if led := checkBooks(t, s, "h"); !proto.Equal(led.GetTotal(), held) {
		t.Errorf("ledger %v, want %v", led.GetTotal(), held)
	}
	tx := store.NewTxn()
	Release(tx, v, uid)
	commit(t, s, tx)
	if led := checkBooks(t, s, "h"); proto.Size(led.GetTotal()) != 0 {
		t.Errorf("left in the ledger: %v", led.GetTotal())
	}
}

// TestWhatOnlyOneMachineCanHoldIsHeldByOne_P1 races for cores, addresses, pages
// and functions in two regions.
func TestWhatOnlyOneMachineCanHoldIsHeldByOne_P1(t *testing.T) {
	ledgers, stores := regions(t, 2)
	s := stores[0]
	lxdHost(t, s, "h")
	for _, tt := range []struct {
		name   string
		req    *vmhostv1.ComposeMachineRequest
		room   int
		reason vmhostv1.ErrorReason
		says   string
	}{
		{"a pinned core", &vmhostv1.ComposeMachineRequest{PinnedCores: []int32{3}, MemoryMib: 1}, 1, vmhostv1.ErrorReason_NO_CAPACITY, "pinned to core 3"},
		{"a fixed address", nic(&vmhostv1.InterfaceRequest{IpAddress: "10.0.0.9"}), 1, vmhostv1.ErrorReason_INVALID_FIELD, "10.0.0.9"},
		{"virtual functions", nic(&vmhostv1.InterfaceRequest{Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV}), 2, vmhostv1.ErrorReason_NO_CAPACITY, "no free virtual function on ens1"},
		{"huge pages", &vmhostv1.ComposeMachineRequest{Hugepages: true, MemoryMib: 1366}, 2, vmhostv1.ErrorReason_NO_CAPACITY, "MiB of huge pages free"},
	} {
		var mu sync.Mutex
		var wg sync.WaitGroup
		var made []string
		for i := range 8 {
			wg.Go(func() {
				req := proto.CloneOf(tt.req)
				if req.GetMemoryMib() == 0 {
					req.MemoryMib = 1
				}
				op, err := ledgers[i%2].Compose(t.Context(), "alice", req)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					made = append(made, strings.TrimPrefix(op.GetTarget(), "machines/"))
				} else if apierror.Reason(err) != tt.reason || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("%s: %v", tt.name, err)
				}
			})
		}
		wg.Wait()
		if len(made) != tt.room {
			t.Errorf("%s: %d machines have it, want %d", tt.name, len(made), tt.room)
		}
		checkBooks(t, s, "h")
		for _, uid := range made {
			release(t, ledgers[0], ledgers[0].store, uid)
		}
	}
}

func TestANameOnLXDIsOneThatLXDTakes(t *testing.T) {
	long, number := strings.Repeat("a", 63), "12345"
	seen := map[string]string{}
	for _, tt := range []struct{ hostname, pool, want string }{
		{"web", "default", "web"},
		{"web", "lab", "web--lab"},
		{number, "default", "12345--default"},
		{long, "default", long},
		{long, "lab", ""},
		{long, long, ""},
		{"a--b", "c", ""},
		{"a", "b--c", ""},
		{strings.Repeat("a", 52) + "-b", "lab-long", ""},
	} {
		got := instanceName(tt.hostname, tt.pool)
		if tt.want != "" && got != tt.want {
			t.Errorf("%s in %s is %s, want %s", tt.hostname, tt.pool, got, tt.want)
		}
		if len(got) > 63 || strings.Trim(got, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || strings.HasSuffix(got, "-") || strings.Trim(got, "0123456789") == "" {
			t.Errorf("%s in %s is %s, which LXD refuses", tt.hostname, tt.pool, got)
		}
		if other, taken := seen[got]; taken {
			t.Errorf("%s is the name of %s and of %s", got, other, tt.hostname+"/"+tt.pool)
		}
		seen[got] = fmt.Sprint(tt.hostname, "/", tt.pool)
	}
}

func TestAMoveTakesLedgerOnBothSides(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addHost(t, s, "a", 4, 4096)
	op, err := l.Compose(t.Context(), "alice", small())
	if err != nil {
		t.Fatal(err)
	}
	uid := strings.TrimPrefix(op.GetTarget(), "machines/")
	addHost(t, s, "b", 0, 0) // it has no room, but the machine is there
	m, _ := store.Machines.Get(s.Cached(), uid)
	tx := store.NewTxn()
	b := Open(tx, s.Cached())
	b.Move(m.Value, "b")
	b.Close()
	moved := proto.CloneOf(m.Value)
	moved.Resource.VmHost = "vmHosts/b"
	store.Put(tx, store.Machines, moved, uid)
	commit(t, s, tx)
	if from, to := checkBooks(t, s, "a"), checkBooks(t, s, "b"); from.GetMachines() != 0 || to.GetMachines() != 1 || to.GetTotal().GetMemoryMib() != 64 {
		t.Errorf("ledgers %v and %v", from, to)
	}
}
