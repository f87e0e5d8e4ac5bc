package ledger

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/policy"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// choosy asks for all that says where a machine may be.
func choosy() *vmhostv1.ComposeMachineRequest {
	return &vmhostv1.ComposeMachineRequest{
		Hostname: "web", Cores: 2, MemoryMib: 512, Tags: []string{"mine"}, Start: true, Zone: "zones/default", VmHost: "vmHosts/h",
		RequiredTags: []string{"rack4"}, ForbiddenTags: []string{"old"}, PlacementPolicy: "placementPolicies/roomy", Group: "web",
		Affinity: []*vmhostv1.AffinityRule{rule(away, zone, "db"), soft(rule(near, onHost, "web"))}, MaxPerZone: 3,
		OneNumaNode: true, RequiredCapabilities: []string{"sr-iov"}, CpuModel: "EPYC", Hugepages: true,
		Disks: []*vmhostv1.DiskRequest{{SizeBytes: 1 << 21, Tags: []string{"ssd"}}, {SizeBytes: 1 << 20, StoragePool: "default"}},
		Interfaces: []*vmhostv1.InterfaceRequest{
			{IpAddress: "10.0.0.7"},
			{Space: "dmz", Tags: []string{"fast"}, Vlan: proto.Int32(6), Mac: "52:54:00:00:00:01"},
			{SubnetCidr: "10.0.0.0/24"},
		},
	}
}

// choosyHost is a host that it fits.
func choosyHost(t *testing.T, s *store.Store, id string) {
	t.Helper()
	lxdHost(t, s, id)
	v, err := s.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	spec, _ := store.VmHosts.Get(v, id)
	observed, _ := store.Observed.Get(v, id)
	next, seen := proto.CloneOf(spec.Value), proto.CloneOf(observed.Value)
	next.Resource.Tags, seen.Observation.CpuModel = []string{"rack4"}, "EPYC"
	seen.Observation.NumaNodes[0].MemoryMib = 8192
	tx := store.NewTxn()
	store.Put(tx, store.VmHosts, next, id)
	store.Put(tx, store.Observed, seen, id)
	store.Put(tx, store.Policies, &storev1.StoredPlacementPolicy{Resource: &vmhostv1.PlacementPolicy{
		Name: "placementPolicies/roomy", Weights: &vmhostv1.PlacementWeights{FreeStorage: 1}, Predicate: `"mine" in machine.tags`,
	}}, "roomy")
	commit(t, s, tx)
}

func recordOf(t *testing.T, s *store.Store, op *vmhostv1.Operation) (*store.View, *storev1.StoredMachine) {
	t.Helper()
	v, err := s.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m, ok := store.Machines.Get(v, op.GetTarget()[len("machines/"):])
	if !ok {
		t.Fatalf("%s has no record", op.GetTarget())
	}
	return v, m.Value
}

func TestARecordKeepsWhatItsPlaceWasAskedForWithAndNothingElse(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	choosyHost(t, s, "h")
	for _, tc := range []struct {
		name string
		in   *vmhostv1.ComposeMachineRequest
		want *vmhostv1.ComposeMachineRequest
	}{
		{"an ordinary machine", small(), nil},
		{"one whose resource has all", plain(), nil},
		{"the default policy by its name", &vmhostv1.ComposeMachineRequest{MemoryMib: 64, PlacementPolicy: "placementPolicies/spread"}, nil},
		{"only cores on one node", &vmhostv1.ComposeMachineRequest{MemoryMib: 64, OneNumaNode: true, PinnedCores: []int32{6}}, &vmhostv1.ComposeMachineRequest{OneNumaNode: true, PinnedCores: []int32{6}}},
		{"all there is", choosy(), &vmhostv1.ComposeMachineRequest{
			Zone: "zones/default", RequiredTags: []string{"rack4"}, ForbiddenTags: []string{"old"}, PlacementPolicy: "placementPolicies/roomy",
			Affinity: []*vmhostv1.AffinityRule{rule(away, zone, "db"), soft(rule(near, onHost, "web"))}, MaxPerZone: 3, OneNumaNode: true,
			RequiredCapabilities: []string{"sr-iov"}, CpuModel: "EPYC",
			Disks:      []*vmhostv1.DiskRequest{{}, {StoragePool: "default"}},
			Interfaces: []*vmhostv1.InterfaceRequest{{}, {Space: "dmz", Tags: []string{"fast"}, Vlan: proto.Int32(6)}, {SubnetCidr: "10.0.0.0/24"}},
		}},
	} {
		op, err := l.Compose(t.Context(), "alice", tc.in)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		_, m := recordOf(t, s, op)
		if diff := cmp.Diff(tc.want, m.GetPlacement(), protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

// plain is what a resource has all by itself.
func plain() *vmhostv1.ComposeMachineRequest {
	return &vmhostv1.ComposeMachineRequest{
		Hostname: "db", PinnedCores: []int32{5, 2}, MemoryMib: 64, Hugepages: true, Profiles: []string{"small"}, Image: "debian", VmHost: "vmHosts/h", Group: "db2",
		Disks: []*vmhostv1.DiskRequest{{SizeBytes: 1 << 21, Tags: []string{"ssd"}, Boot: true}},
		Interfaces: []*vmhostv1.InterfaceRequest{
			{IpAddress: "10.0.0.8"}, {Source: "eth1", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN}, {Source: "default", Boot: true},
		},
	}
}

func TestAMachineAsksOfAnotherHostWhatItWasComposedWith(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	choosyHost(t, s, "h")
	op, err := l.Compose(t.Context(), "alice", choosy())
	if err != nil {
		t.Fatal(err)
	}
	v, m := recordOf(t, s, op)
	got := l.MachineOf(v, m)
	roomy, err := l.policies.At(v, "", "placementPolicies/roomy")
	if err != nil {
		t.Fatal(err)
	}
	want := placement.Request{
		From: "h", HostType: vmhostv1.VmHostType_VM_HOST_TYPE_LXD, Type: vmhostv1.MachineType_MACHINE_TYPE_VIRTUAL_MACHINE, Cores: 2, MemoryMiB: 512,
		Hugepages: true, Architecture: "x86_64", ResourcePool: "default", Zone: "default", RequiredTags: []string{"rack4"}, ForbiddenTags: []string{"old"},
		HypervisorName: "web", InstanceName: "web", CPUModel: "EPYC", Capabilities: []string{"sr-iov"}, OneNUMANode: true, Group: "web", MaxPerZone: 3,
		Affinity: []placement.Rule{{Zone: true, Group: "db"}, {Near: true, Group: "web", Soft: true}},
		Policy:   placement.Policy{Name: "roomy", Weights: placement.WeightsOf(roomy.Weights)},
		Disks:    []placement.Disk{{SizeBytes: 1 << 21, Tags: []string{"ssd"}}, {SizeBytes: 1 << 20, Pool: "default"}},
		Interfaces: []placement.Interface{
			{Source: "default", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK, Address: netip.MustParseAddr("10.0.0.7")},
			{Space: "dmz", Tags: []string{"fast"}, VLAN: proto.Int32(6)},
			{Subnet: netip.MustParsePrefix("10.0.0.0/24")},
		},
	}
	if diff := cmp.Diff(want, got.Request, cmpopts.IgnoreFields(placement.Request{}, "NameTaken"), cmpopts.IgnoreFields(placement.Policy{}, "Admits"),
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("got (-want +got):\n%s", diff)
	}
	if got.Name != op.GetTarget() || got.Host != "h" || got.Held.GetCores() != 2 {
		t.Errorf("got %+v", got)
	}
	// Only another host like it will do; alone, the host it is on is none.
	if plan := l.Fleet(v).Choose(&got.Request); plan.Host != nil || plan.Summary() != "the only host does not fit: h is the host that the machine is on" {
		t.Errorf("alone: %v, %s", plan.Host, plan.Summary())
	}
	lxdHost(t, s, "plain")
	choosyHost(t, s, "other")
	v, _ = recordOf(t, s, op)
	if plan := l.Fleet(v).Choose(&got.Request); plan.Host == nil || plan.Host.ID != "other" {
		t.Errorf("with others: %v, %s", plan.Host, plan.Summary())
	}
}

func TestWhatIsGoneBindsNoMachineThatMoves(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	choosyHost(t, s, "h")
	one, err := l.Compose(t.Context(), "alice", small())
	if err != nil {
		t.Fatal(err)
	}
	two, err := l.Compose(t.Context(), "alice", small())
	if err != nil {
		t.Fatal(err)
	}
	req := &vmhostv1.ComposeMachineRequest{
		MemoryMib: 64, PlacementPolicy: "placementPolicies/roomy", Tags: []string{"mine"},
		Affinity: []*vmhostv1.AffinityRule{rule(near, onHost, one.GetTarget(), two.GetTarget()), rule(near, zone, one.GetTarget())},
	}
	op, err := l.Compose(t.Context(), "alice", req)
	if err != nil {
		t.Fatal(err)
	}
	v, m := recordOf(t, s, op)
	if got := l.MachineOf(v, m).Request.Affinity; len(got) != 2 || len(got[0].Hosts) != 2 || len(got[1].Hosts) != 1 {
		t.Errorf("rules %+v", got)
	}
	tx := store.NewTxn()
	Release(tx, v, one.GetTarget()[len("machines/"):])
	tx.Delete(store.Policies.Key("roomy"))
	commit(t, s, tx)
	v, m = recordOf(t, s, op)
	got := l.MachineOf(v, m).Request
	if len(got.Affinity) != 1 || len(got.Affinity[0].Hosts) != 1 || got.Policy.Name != policy.Default || got.Policy.Weights.LeastLoaded != 1 {
		t.Errorf("got %+v, policy %+v", got.Affinity, got.Policy)
	}
}

func TestADrainPlanKeepsWhatMachinesWereComposedWith(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	fleetOf(t, s, 4, 2) // h0000 and h0002 in z0
	compose := func(req *vmhostv1.ComposeMachineRequest) string {
		req.VmHost = "vmHosts/h0000"
		op, err := l.Compose(t.Context(), "alice", req)
		if err != nil {
			t.Fatal(err)
		}
		return op.GetTarget()
	}
	inZone := small()
	inZone.Zone = "zones/z0"
	apart := func() *vmhostv1.ComposeMachineRequest {
		r := small()
		r.Group, r.MaxPerZone = "web", 1
		return r
	}
	bound, web := compose(inZone), compose(apart())
	out, err := l.WhatIf(t.Context(), &vmhostv1.WhatIfRequest{LostVmHosts: []string{"vmHosts/h0000", "vmHosts/h0002"}})
	if err != nil || out.GetPlaced() != 1 || out.GetStrandedTotal() != 1 || out.GetStranded()[0].GetMachine() != bound || out.GetStranded()[0].GetRefusedCounts()["zone"] != 2 {
		t.Errorf("got %v, %v", out, err)
	}
	// One that has its zone's only place moves within the zone: it does not count itself.
	v, err := s.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	moves, stranded := l.Fleet(v).DrainPlan("h0000", l.machinesOn(v, map[string]bool{"h0000": true}))
	if len(moves) != 2 || len(stranded) != 0 {
		t.Fatalf("%d moves, %d stranded", len(moves), len(stranded))
	}
	for _, m := range moves {
		if m.Machine.Name == bound && m.Plan.Host.ID != "h0002" || m.Machine.Name == web && m.Plan.Host.ID == "h0000" {
			t.Errorf("%s goes to %s", m.Machine.Name, m.Plan.Host.ID)
		}
	}
}

// seen records what is seen of machines on a host, as an inventory would.
func seen(t *testing.T, s *store.Store, host string, ours ...*storev1.StoredMachine) {
	t.Helper()
	tx := store.NewTxn()
	for _, m := range ours {
		uuid := m.GetResource().GetHypervisorUuid()
		store.Put(tx, store.Seen, &storev1.StoredSeenMachine{Observation: &rackv1.MachineObservation{Uuid: uuid, Name: m.GetResource().GetHypervisorName()}}, host, uuid)
	}
	commit(t, s, tx)
}

func TestTheMachinesOfHostsAreAllThatAreRecordedThereSeenOrNot(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	fleetOf(t, s, 4, 1)
	if _, err := l.ComposeMany(t.Context(), "alice", manyOf(12, all, small())); err != nil { // 3 on each
		t.Fatal(err)
	}
	v, err := s.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	byHost := map[string][]*storev1.StoredMachine{}
	for _, m := range store.Machines.All(v) {
		byHost[hostOf(m.Value)] = append(byHost[hostOf(m.Value)], m.Value)
	}
	seen(t, s, "h0000", byHost["h0000"]...)
	seen(t, s, "h0001", byHost["h0001"][1:]...)
	seen(t, s, "h0001", byHost["h0002"][0]) // a clone, under the uuid of another's
	if v, err = s.View(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, complete := seenOn(v, "h0000"); !complete {
		t.Error("all of h0000 are seen, and more was looked for")
	}
	for _, hosts := range [][]string{{"h0000"}, {"h0001"}, {"h0000", "h0001", "h0003"}, {"none"}, nil} {
		got, want := map[string]bool{}, map[string]bool{}
		for uid, m := range MachinesOn(v, hosts) {
			if got[uid] || m.GetResource().GetUid() != uid {
				t.Errorf("%s twice, or %v", uid, m)
			}
			got[uid] = true
		}
		for _, host := range hosts {
			for _, m := range byHost[host] {
				want[m.GetResource().GetUid()] = true
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v: %s", hosts, diff)
		}
	}
}

func TestARebalanceIsOfMachinesThatNothingIsDoneTo(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	fleetOf(t, s, 2, 2)
	var uids []string
	for range 3 {
		req := small()
		req.VmHost = "vmHosts/h0000"
		op, err := l.Compose(t.Context(), "alice", req)
		if err != nil {
			t.Fatal(err)
		}
		uids = append(uids, op.GetTarget()[len("machines/"):])
	}
	ask := func(r *vmhostv1.RebalanceRequest) *vmhostv1.RebalanceResponse {
		t.Helper()
		out, err := l.Rebalance(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if out := ask(&vmhostv1.RebalanceRequest{}); len(out.GetMoves()) != 0 || out.GetConsidered() != 2 || out.GetImbalanceBefore() != 0.375 || out.GetImbalanceAfter() != 0.375 {
		t.Errorf("of machines that are being made: %v", out)
	}
	v, err := s.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tx := store.NewTxn()
	for i, uid := range uids[1:] {
		m, _ := store.Machines.Get(v, uid)
		next := proto.CloneOf(m.Value)
		next.Resource.Phase = vmhostv1.MachinePhase_MACHINE_PHASE_READY
		next.Resource.Operation = []string{"", "operations/1"}[i]
		store.Put(tx, store.Machines, next, uid)
	}
	commit(t, s, tx)
	if out := ask(&vmhostv1.RebalanceRequest{}); len(out.GetMoves()) != 0 {
		t.Errorf("of machines that are not seen: %v", out)
	}
	for _, uid := range uids {
		m, _ := store.Machines.Get(s.Cached(), uid)
		seen(t, s, "h0000", m.Value)
	}
	out := ask(&vmhostv1.RebalanceRequest{})
	want := &vmhostv1.RebalanceResponse{
		Considered: 2, ImbalanceBefore: 0.375, ImbalanceAfter: 0.125,
		Moves: []*vmhostv1.RebalanceMove{{
			Machine: "machines/" + uids[1], From: "vmHosts/h0000", To: "vmHosts/h0001", Gain: 0.25, Why: "load of h0000 75% → 50%, of h0001 0% → 25%",
			CopiedDisks: 1,
		}},
	}
	if diff := cmp.Diff(want, out, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if out := ask(&vmhostv1.RebalanceRequest{MinGain: 0.3}); len(out.GetMoves()) != 0 {
		t.Errorf("for less than is asked: %v", out)
	}
	if out := ask(&vmhostv1.RebalanceRequest{Zone: "zones/z0"}); len(out.GetMoves()) != 0 || out.GetConsidered() != 1 {
		t.Errorf("of one zone: %v", out)
	}
	for field, r := range map[string]*vmhostv1.RebalanceRequest{
		"zone": {Zone: "zones/none"}, "resource_pool": {ResourcePool: "resourcePools/none"},
	} {
		if _, err := l.Rebalance(t.Context(), r); reasonOf(err) != vmhostv1.ErrorReason_NOT_FOUND || apierror.FromStatus(err).Fields[0].GetField() != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := l.Rebalance(t.Context(), &vmhostv1.RebalanceRequest{Zone: "z0"}); reasonOf(err) != vmhostv1.ErrorReason_INVALID_FIELD {
		t.Errorf("a zone of no form: %v", err)
	}
}
