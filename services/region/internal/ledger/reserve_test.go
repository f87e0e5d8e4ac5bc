package ledger

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

func reserve(t testing.TB, l *Ledger, n int32, one *vmhostv1.ComposeMachineRequest) *vmhostv1.Reservation {
	t.Helper()
	r, err := l.Reserve(t.Context(), "alice", &vmhostv1.ReserveRequest{Machine: one, Count: n})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func against(r *vmhostv1.Reservation) *vmhostv1.ComposeMachineRequest {
	return &vmhostv1.ComposeMachineRequest{Reservation: r.GetName()}
}

func reservationNow(t testing.TB, s *store.Store, r *vmhostv1.Reservation) store.Record[*storev1.StoredReservation] {
	t.Helper()
	v, err := s.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rec, _ := store.Reservations.Get(v, r.GetUid())
	return rec
}

func TestAReservationHoldsRoomThatComposesTakeOver_P1(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addHost(t, s, "h", 4, 1<<20)
	one := &vmhostv1.ComposeMachineRequest{Cores: 1, MemoryMib: 100, Group: "web", RequiredTags: nil, Tags: []string{"planned"}}
	r := reserve(t, l, 3, one)
	if r.GetState() != vmhostv1.ReservationState_RESERVATION_STATE_ACTIVE || r.GetCount() != 3 || len(r.GetPlaces()) != 1 || r.GetPlaces()[0].GetCount() != 3 ||
		r.GetPlaces()[0].GetVmHost() != "vmHosts/h" || r.GetPlaces()[0].GetStoragePools()[0] != "default" || r.GetPlaces()[0].GetNetworks()[0] != "default" {
		t.Errorf("reserved %v", r)
	}
	if d := r.GetExpireTime().AsTime().Sub(r.GetCreateTime().AsTime()); d != 15*time.Minute {
		t.Errorf("it is good for %s", d)
	}
	led := checkBooks(t, s, "h")
	if led.GetMachines() != 3 || led.GetTotal().GetCores() != 3 || led.GetTotal().GetGroups()["default/web"] != 3 {
		t.Errorf("ledger %v", led)
	}
	// Everybody else sees what is left.
	if _, err := l.Compose(t.Context(), "bob", &vmhostv1.ComposeMachineRequest{Cores: 2}); reasonOf(err) != vmhostv1.ErrorReason_NO_CAPACITY {
		t.Errorf("a compose of what is held: %v", err)
	}
	for i, host := range []string{"web-a", "", "web-c"} {
		req := against(r)
		req.Hostname, req.RequestId = host, uuid.NewString()
		op, err := l.Compose(t.Context(), "bob", req)
		if err != nil {
			t.Fatal(err)
		}
		again, err := l.Compose(t.Context(), "bob", req)
		if err != nil || again.GetName() != op.GetName() { // P2
			t.Errorf("repeated: %v, %v", again, err)
		}
		m, _ := store.Machines.Get(s.Cached(), op.GetTarget()[len("machines/"):])
		got := m.Value.GetResource()
		if got.GetMemoryMib() != 100 || got.GetGroup() != "web" || host != "" && got.GetHostname() != host || !slices.Equal(got.GetTags(), []string{"planned"}) {
			t.Errorf("composed %v", got)
		}
		after := checkBooks(t, s, "h")
		if diff := cmp.Diff(led, after, protocmp.Transform()); diff != "" {
			t.Errorf("compose %d changed the ledger (-before +after):\n%s", i, diff)
		}
	}
	end := reservationNow(t, s, r).Value
	if end.GetResource().GetState() != vmhostv1.ReservationState_RESERVATION_STATE_USED || end.GetResource().GetUsed() != 3 || len(end.GetHolds())+len(end.GetKinds()) != 0 {
		t.Errorf("used up it is %v", end)
	}
	_, err := l.Compose(t.Context(), "bob", against(r))
	if e := apierror.FromStatus(err); e.Reason != vmhostv1.ErrorReason_RESERVATION_USED || e.Metadata["left"] != "0" || e.Metadata["used"] != "3" {
		t.Errorf("a fourth compose: %v %v", err, e.Metadata)
	}
	if refs := slices.Collect(store.References.IDs(s.Cached(), "pools", "default")); len(refs) != 0 {
		t.Errorf("the pool is still referred to by %v", refs)
	}
}

func TestAReservationIsAllOrNothingAndRepeatedOnce_P2(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	fleetOf(t, s, 3, 1) // 12 cores
	_, err := l.Reserve(t.Context(), "alice", &vmhostv1.ReserveRequest{Machine: small(), Count: 13})
	if e := apierror.FromStatus(err); e.Reason != vmhostv1.ErrorReason_NO_CAPACITY || e.Metadata["fit"] != "12" {
		t.Errorf("13 places: %v", err)
	}
	req := &vmhostv1.ReserveRequest{Machine: small(), Count: 12, RequestId: uuid.NewString(), Ttl: durationpb.New(time.Hour)}
	dry := proto.CloneOf(req)
	dry.ValidateOnly = true
	if r, err := l.Reserve(t.Context(), "alice", dry); err != nil || r.GetName() != "" || len(r.GetPlaces()) != 3 {
		t.Errorf("a dry run: %v, %v", r, err)
	}
	first, err := l.Reserve(t.Context(), "alice", req)
	if err != nil {
		t.Fatal(err)
	}
	again, err := l.Reserve(t.Context(), "alice", req)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, again, protocmp.Transform()); diff != "" {
		t.Errorf("repeated (-first +again):\n%s", diff)
	}
	other := proto.CloneOf(req)
	other.Count = 1
	if _, err := l.Reserve(t.Context(), "alice", other); reasonOf(err) != vmhostv1.ErrorReason_REQUEST_ID_REUSED {
		t.Errorf("another request: %v", err)
	}
	for i := range 3 {
		if led := checkBooks(t, s, fmt.Sprintf("h%04d", i)); led.GetMachines() != 4 {
			t.Errorf("host %d holds %v", i, led)
		}
	}
	req = &vmhostv1.ReserveRequest{Machine: small(), Count: 1000}
	if size := proto.Size(reservationNow(t, s, first).Value); size > 400 {
		t.Errorf("12 places on 3 hosts are %d bytes", size)
	}
	if _, err := l.Reserve(t.Context(), "alice", req); reasonOf(err) != vmhostv1.ErrorReason_NO_CAPACITY {
		t.Errorf("of a full fleet: %v", err)
	}
}

func TestAComposeMustBeWhatWasReserved(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	fleetOf(t, s, 2, 2)
	what := &vmhostv1.ComposeMachineRequest{
		Cores: 2, Disks: []*vmhostv1.DiskRequest{{SizeBytes: 10*gb + 1}}, RequiredCapabilities: nil, Start: true,
		Interfaces: []*vmhostv1.InterfaceRequest{{Source: "default"}},
	}
	r := reserve(t, l, 2, what)
	for name, tt := range map[string]struct {
		change  func(*vmhostv1.ComposeMachineRequest)
		differs string // of the error; empty: allowed
		field   string
	}{
		"more cores":     {func(r *vmhostv1.ComposeMachineRequest) { r.Cores = 3 }, "cores", "reservation"},
		"fewer cores":    {func(r *vmhostv1.ComposeMachineRequest) { r.Cores = 1 }, "cores", "reservation"},
		"other memory":   {func(r *vmhostv1.ComposeMachineRequest) { r.MemoryMib = 1 }, "memory_mib", "reservation"},
		"a larger disk":  {func(r *vmhostv1.ComposeMachineRequest) { r.Disks = []*vmhostv1.DiskRequest{{SizeBytes: 11 * gb}} }, "disks", "reservation"},
		"no disk":        {func(r *vmhostv1.ComposeMachineRequest) { r.Diskless = true }, "diskless", "reservation"},
		"another bridge": {func(r *vmhostv1.ComposeMachineRequest) { r.Interfaces = []*vmhostv1.InterfaceRequest{{Source: "br1"}} }, "interfaces", "reservation"},
		"a policy and a group": {func(r *vmhostv1.ComposeMachineRequest) {
			r.PlacementPolicy, r.Group = "placementPolicies/pack", "web"
		}, "group,placement_policy", "reservation"},
		"another pool":   {func(r *vmhostv1.ComposeMachineRequest) { r.ResourcePool = "resourcePools/other" }, "resource_pool", "reservation"},
		"a host without": {func(r *vmhostv1.ComposeMachineRequest) { r.VmHost = "vmHosts/h9" }, "", "vm_host"},
		"a zone without": {func(r *vmhostv1.ComposeMachineRequest) { r.Zone = "zones/z9" }, "", "zone"},
		"what was reserved": {func(r *vmhostv1.ComposeMachineRequest) {
			r.Cores, r.MemoryMib, r.ResourcePool, r.PlacementPolicy = 2, 2048, "resourcePools/default", "placementPolicies/spread"
			r.Disks = []*vmhostv1.DiskRequest{{SizeBytes: 10*gb + 1}}
			r.Interfaces = []*vmhostv1.InterfaceRequest{{Source: "default", Mac: "52:54:00:00:00:01"}}
			r.Hostname, r.Tags, r.Autostart, r.Zone, r.VmHost = "db", []string{"x"}, true, "zones/z1", "vmHosts/h0001"
		}, "", ""},
	} {
		req := against(r)
		tt.change(req)
		_, err := l.Compose(t.Context(), "bob", req)
		if tt.field == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		e := apierror.FromStatus(err)
		if e.Reason != vmhostv1.ErrorReason_INVALID_FIELD || e.Metadata["differs"] != tt.differs || len(e.Fields) != 1 || e.Fields[0].GetField() != tt.field {
			t.Errorf("%s: %v %v %v", name, err, e.Metadata, e.Fields)
		}
		if tt.differs == "memory_mib" && !strings.Contains(err.Error(), "memory_mib (2 GiB reserved, 1 MiB asked for)") {
			t.Errorf("%s: %v", name, err)
		}
	}
	ms := machinesOf(t, s)
	if len(ms) != 1 || ms[0].GetHostname() != "db" || ms[0].GetVmHost() != "vmHosts/h0001" || ms[0].GetInterfaces()[0].GetMac() != "52:54:00:00:00:01" ||
		ms[0].GetDisks()[0].GetSizeBytes() != 10_000_000_512 || !ms[0].GetAutostart() {
		t.Errorf("composed %v", ms)
	}
	if left := reservationNow(t, s, r).Value; left.GetResource().GetUsed() != 1 || len(left.GetHolds()) != 1 || left.GetHolds()[0].GetVmHost() != "h0000" {
		t.Errorf("left is %v", left)
	}
	// What cannot be reserved, and where a reservation is no answer.
	for name, err := range map[string]error{
		"machine.hostname": second(l.Reserve(t.Context(), "a", &vmhostv1.ReserveRequest{Machine: &vmhostv1.ComposeMachineRequest{Hostname: "x"}})),
		"machine.interfaces[0].mac": second(l.Reserve(t.Context(), "a", &vmhostv1.ReserveRequest{Machine: &vmhostv1.ComposeMachineRequest{
			Interfaces: []*vmhostv1.InterfaceRequest{{Mac: "52:54:00:00:00:02"}},
		}})),
		"machine.pinned_cores": second(l.Reserve(t.Context(), "a", &vmhostv1.ReserveRequest{Count: 2, Machine: &vmhostv1.ComposeMachineRequest{PinnedCores: []int32{1}}})),
		"machine.reservation":  second(l.Capacity(t.Context(), &vmhostv1.CapacityRequest{Machine: against(r)})),
	} {
		if e := apierror.FromStatus(err); e.Reason != vmhostv1.ErrorReason_INVALID_FIELD || len(e.Fields) != 1 || e.Fields[0].GetField() != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	gone := &vmhostv1.Reservation{Name: "reservations/gone"}
	if _, err := l.Compose(t.Context(), "bob", against(gone)); reasonOf(err) != vmhostv1.ErrorReason_NOT_FOUND {
		t.Errorf("against none: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestManyAreComposedAgainstAReservationTogether(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	fleetOf(t, s, 3, 1)
	r := reserve(t, l, 5, small())
	ask := func(n int32, mode vmhostv1.ComposeManyMode) *vmhostv1.ComposeMachinesRequest {
		one := against(r)
		one.Hostname = "web"
		return manyOf(n, mode, one)
	}
	_, err := l.ComposeMany(t.Context(), "bob", ask(6, all))
	if e := apierror.FromStatus(err); e.Reason != vmhostv1.ErrorReason_RESERVATION_USED || e.Metadata["left"] != "5" {
		t.Errorf("six of five: %v", err)
	}
	dry := ask(3, all)
	dry.ValidateOnly = true
	if out, err := l.ComposeMany(t.Context(), "bob", dry); err != nil || len(out.GetPlacements()) != 3 || len(out.GetOperations()) != 0 {
		t.Errorf("a dry run: %v, %v", out, err)
	}
	req := ask(3, all)
	req.RequestId = uuid.NewString()
	out, err := l.ComposeMany(t.Context(), "bob", req)
	if err != nil || len(out.GetOperations()) != 3 {
		t.Fatalf("three of five: %v, %v", out, err)
	}
	again, err := l.ComposeMany(t.Context(), "bob", req)
	if err != nil || len(again.GetOperations()) != 3 || again.GetOperations()[0].GetName() != out.GetOperations()[0].GetName() {
		t.Errorf("repeated: %v, %v", again, err)
	}
	out, err = l.ComposeMany(t.Context(), "bob", ask(4, some))
	if err != nil || len(out.GetOperations()) != 2 || out.GetUnplaced() != 2 || out.GetRefusal().GetRefusals()[0].GetReason() != vmhostv1.ErrorReason_RESERVATION_USED {
		t.Errorf("as many as are left: %v, %v", out, err)
	}
	var names []string
	for _, m := range machinesOf(t, s) {
		names = append(names, m.GetHostname())
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"web-1", "web-2", "web-3", "web-4", "web-5"}) {
		t.Errorf("composed %v", names)
	}
	for i := range 3 {
		checkBooks(t, s, fmt.Sprintf("h%04d", i))
	}
}

func TestADryRunAgainstAReservationTakesNothing(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addHost(t, s, "h", 4, 1<<20)
	r := reserve(t, l, 1, small())
	req := against(r)
	req.Hostname = "web"
	plan, err := l.Plan(t.Context(), req)
	if err != nil || plan.GetPlacement().GetVmHost() != "vmHosts/h" || plan.GetMachine().GetHostname() != "web" || plan.GetMachine().GetMemoryMib() != 64 {
		t.Errorf("plan %v, %v", plan, err)
	}
	if now := reservationNow(t, s, r); left(now.Value) != 1 || now.Value.GetResource().GetUsed() != 0 {
		t.Errorf("after it: %v", now.Value)
	}
}

func TestAPlaceOnAHostThatWasCordonedSinceCanBeUsedAfterAllOthers(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	fleetOf(t, s, 2, 1)
	r := reserve(t, l, 2, small())
	spec, _ := store.VmHosts.Get(s.Cached(), "h0000")
	cordoned := proto.CloneOf(spec.Value)
	cordoned.Resource.Cordoned = true
	tx := store.NewTxn()
	store.Put(tx, store.VmHosts, cordoned, "h0000")
	commit(t, s, tx)
	for _, want := range []string{"vmHosts/h0001", "vmHosts/h0000"} {
		op, err := l.Compose(t.Context(), "bob", against(r))
		if err != nil || op.GetVmHost() != want {
			t.Errorf("composed on %s, want %s: %v", op.GetVmHost(), want, err)
		}
	}
}

func TestAReservationChargesTheQuotaOnce(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addHost(t, s, "h", 100, 1<<20)
	before := reserve(t, l, 2, small()) // counted when the quota comes
	setQuota(t, t, s, "default", &vmhostv1.ResourceQuota{Machines: proto.Int32(5)})
	used := func() int32 { return Used(s.Cached(), "default").GetMachines() }
	r := reserve(t, l, 2, small())
	if used() != 4 {
		t.Errorf("%d machines are charged for 4 places", used())
	}
	_, err := l.Reserve(t.Context(), "alice", &vmhostv1.ReserveRequest{Machine: small(), Count: 2})
	if e := apierror.FromStatus(err); e.Reason != vmhostv1.ErrorReason_QUOTA_EXCEEDED || e.Metadata["requested"] != "2" {
		t.Errorf("two more: %v", err)
	}
	for _, from := range []*vmhostv1.Reservation{r, r, before} {
		if _, err := l.Compose(t.Context(), "bob", against(from)); err != nil || used() != 4 {
			t.Errorf("after a compose %d are charged: %v", used(), err)
		}
	}
	if _, err := l.DeleteReservation(t.Context(), "alice", &vmhostv1.DeleteReservationRequest{Name: before.GetName()}); err != nil || used() != 3 {
		t.Errorf("after the other place was given back %d are charged: %v", used(), err)
	}
	checkBooks(t, s, "h")
}
