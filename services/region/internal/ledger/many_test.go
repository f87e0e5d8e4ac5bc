package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

const (
	all  = vmhostv1.ComposeManyMode_COMPOSE_MANY_MODE_ALL
	some = vmhostv1.ComposeManyMode_COMPOSE_MANY_MODE_AS_MANY_AS_FIT
)

func manyOf(n int32, mode vmhostv1.ComposeManyMode, one *vmhostv1.ComposeMachineRequest) *vmhostv1.ComposeMachinesRequest {
	return &vmhostv1.ComposeMachinesRequest{Machine: one, Count: n, Mode: mode}
}

// fleetOf is a fleet of hosts with 4 cores each, in zones z0, z1, ….
func fleetOf(t testing.TB, s *store.Store, hosts, zones int) {
	t.Helper()
	tx := store.NewTxn()
	for i := range zones {
		id := fmt.Sprintf("z%d", i)
		store.Put(tx, store.Zones, &storev1.StoredZone{Resource: &vmhostv1.Zone{Name: "zones/" + id}}, id)
	}
	for i := range hosts {
		id := fmt.Sprintf("h%04d", i)
		spec, observed := hostRecord(id, 4, 16384)
		spec.Resource.Zone = fmt.Sprintf("zones/z%d", i%zones)
		store.Put(tx, store.VmHosts, spec, id)
		store.Put(tx, store.Observed, observed, id)
	}
	commit(t, s, tx)
}

func reasonOf(err error) vmhostv1.ErrorReason { return apierror.FromStatus(err).Reason }

func machinesOf(t testing.TB, s *store.Store) (out []*vmhostv1.Machine) {
	t.Helper()
	v, err := s.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range store.Machines.All(v) {
		out = append(out, m.Value.GetResource())
	}
	return out
}

func TestManyAreMadeTogetherEachWithItsOwnNameAndOperation(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	fleetOf(t, s, 3, 1)
	one := small()
	one.Hostname, one.Group = "web", "web"
	if _, err := l.Compose(t.Context(), "alice", &vmhostv1.ComposeMachineRequest{Hostname: "web-2", Cores: 1, MemoryMib: 64}); err != nil {
		t.Fatal(err)
	}
	req := manyOf(5, all, one)
	req.RequestId = uuid.NewString()
	out, err := l.ComposeMany(t.Context(), "alice", req)
	if err != nil {
		t.Fatal(err)
	}
	if len(out.GetOperations()) != 5 || len(out.GetPlacements()) != 5 || out.GetUnplaced() != 0 || out.GetRefusal() != nil {
		t.Fatalf("got %v", out)
	}
	v, err := s.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	revisions, ids := map[int64]bool{}, map[string]bool{}
	for i, want := range []string{"web-1", "web-3", "web-4", "web-5", "web-6"} {
		op, ok := store.Operations.Get(v, strings.TrimPrefix(out.GetOperations()[i].GetName(), "operations/"))
		if !ok {
			t.Fatalf("operation %d is not recorded", i)
		}
		m, _ := store.Machines.Get(v, op.Value.GetMachineUid())
		r := m.Value.GetResource()
		if r.GetHostname() != want || r.GetGroup() != "web" || r.GetVmHost() != out.GetPlacements()[i].GetVmHost() {
			t.Errorf("machine %d is %v", i, r)
		}
		revisions[m.Revision], ids[op.Value.GetResource().GetRequestId()] = true, true
	}
	if len(revisions) != 1 || len(ids) != 5 {
		t.Errorf("written at revisions %v with request ids %v", revisions, ids)
	}
	for i := range 3 {
		checkBooks(t, s, fmt.Sprintf("h%04d", i))
	}

	again, err := l.ComposeMany(t.Context(), "alice", req)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(out.GetOperations(), again.GetOperations(), protocmp.Transform()); diff != "" {
		t.Errorf("repeated (-first +again):\n%s", diff)
	}
	if again.GetPlacements()[4].GetVmHost() != out.GetPlacements()[4].GetVmHost() {
		t.Errorf("repeated: %v", again.GetPlacements()[4])
	}
	other := proto.CloneOf(req)
	other.Count = 6
	if _, err := l.ComposeMany(t.Context(), "alice", other); reasonOf(err) != vmhostv1.ErrorReason_REQUEST_ID_REUSED {
		t.Errorf("another request with the id: %v", err)
	}
	if n := len(machinesOf(t, s)); n != 6 {
		t.Errorf("%d machines are there", n)
	}
}

func TestOfManyAllAreMadeOrNoneOrAsManyAsFit(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	fleetOf(t, s, 2, 1) // room for 8
	_, err := l.ComposeMany(t.Context(), "alice", manyOf(9, all, small()))
	if e := apierror.FromStatus(err); e.Reason != vmhostv1.ErrorReason_NO_CAPACITY || e.Metadata["fit"] != "8" || e.Metadata["refused_cores"] != "2" {
		t.Errorf("got %v, %v", err, e.Metadata)
	}
	dry := manyOf(9, all, small())
	dry.ValidateOnly = true
	if out, err := l.ComposeMany(t.Context(), "alice", dry); err != nil || len(out.GetPlacements()) != 8 || len(out.GetOperations()) != 0 || out.GetUnplaced() != 1 || out.GetRefusal().GetRefusedCounts()["cores"] != 2 {
		t.Errorf("dry run: %v, %v", out, err)
	}
	if n := len(machinesOf(t, s)); n != 0 {
		t.Fatalf("%d machines were made", n)
	}
	out, err := l.ComposeMany(t.Context(), "alice", manyOf(1000, some, small()))
	if err != nil || len(out.GetOperations()) != 8 || out.GetUnplaced() != 992 || out.GetRefusal().GetRefusedCounts()["cores"] != 2 {
		t.Errorf("as many as fit: %d, %d, %v, %v", len(out.GetOperations()), out.GetUnplaced(), out.GetRefusal(), err)
	}
	out, err = l.ComposeMany(t.Context(), "alice", manyOf(3, some, small()))
	if err != nil || len(out.GetOperations()) != 0 || out.GetUnplaced() != 3 {
		t.Errorf("nothing fits: %v, %v", out, err)
	}
	for _, h := range []string{"h0000", "h0001"} {
		if led := checkBooks(t, s, h); led.GetTotal().GetCores() != 4 {
			t.Errorf("%s has %v", h, led)
		}
	}
}

func TestTheQuotaIsCountedForAllOfMany(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	fleetOf(t, s, 4, 1)
	setQuota(t, t, s, "default", &vmhostv1.ResourceQuota{Machines: proto.Int32(5)})
	_, err := l.ComposeMany(t.Context(), "alice", manyOf(6, all, small()))
	if e := apierror.FromStatus(err); e.Reason != vmhostv1.ErrorReason_QUOTA_EXCEEDED || e.Metadata["used"] != "0" || e.Metadata["requested"] != "6" {
		t.Errorf("got %v, %v", err, e.Metadata)
	}
	out, err := l.ComposeMany(t.Context(), "alice", manyOf(6, some, small()))
	if err != nil || len(out.GetOperations()) != 5 || out.GetUnplaced() != 1 || out.GetRefusal().GetRefusals()[0].GetFilter() != "quota" {
		t.Errorf("got %v, %v", out, err)
	}
	if used := Used(s.Cached(), "default"); used.GetMachines() != 5 || used.GetCores() != 5 {
		t.Errorf("used is %v", used)
	}
	if _, err := l.Compose(t.Context(), "alice", small()); reasonOf(err) != vmhostv1.ErrorReason_QUOTA_EXCEEDED {
		t.Errorf("one more: %v", err)
	}
}

func TestAThousandOverAThousandHostsAreOneTransaction(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	fleetOf(t, s, 1000, 4)
	one := small()
	one.Hostname, one.Group = "node", "node"
	one.Affinity = []*vmhostv1.AffinityRule{{
		Kind: vmhostv1.AffinityKind_AFFINITY_KIND_AWAY, Scope: vmhostv1.AffinityScope_AFFINITY_SCOPE_VM_HOST, Group: "node",
	}}
	before := s.Cached().Revision
	out, err := l.ComposeMany(t.Context(), "alice", manyOf(1000, all, one))
	if err != nil || len(out.GetOperations()) != 1000 {
		t.Fatalf("%d, %v", len(out.GetOperations()), err)
	}
	hosts := map[string]bool{}
	for _, m := range machinesOf(t, s) {
		hosts[m.GetVmHost()] = true
	}
	if rev := s.Cached().Revision; len(hosts) != 1000 || rev != before+1 {
		t.Errorf("on %d hosts, in %d transactions", len(hosts), rev-before)
	}
	if _, err := l.ComposeMany(t.Context(), "alice", manyOf(1, all, one)); reasonOf(err) != vmhostv1.ErrorReason_NO_CAPACITY || !strings.Contains(err.Error(), "affinity") {
		t.Errorf("one more: %v", err)
	}
}

func TestMoreRecordsThanATransactionTakesAreRefusedWithHowManyWouldDo(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	spec, observed := hostRecord("big", 4096, 1<<20)
	tx := store.NewTxn()
	store.Put(tx, store.VmHosts, spec, "big")
	store.Put(tx, store.Observed, observed, "big")
	commit(t, s, tx)
	one := small()
	for range 16 {
		one.Disks = append(one.Disks, &vmhostv1.DiskRequest{SizeBytes: 1 << 20})
	}
	_, err := l.ComposeMany(t.Context(), "alice", manyOf(1000, all, one))
	e := apierror.FromStatus(err)
	if e.Reason != vmhostv1.ErrorReason_INVALID_FIELD || len(e.Fields) == 0 || e.Fields[0].GetField() != "count" {
		t.Fatalf("got %v", err)
	}
	var n int32
	if _, err := fmt.Sscanf(e.Hint, "ask for about %d at a time", &n); err != nil {
		t.Fatalf("the hint is %q", e.Hint)
	}
	if out, err := l.ComposeMany(t.Context(), "alice", manyOf(n, all, one)); err != nil || len(out.GetOperations()) != int(n) {
		t.Errorf("%d, as the hint says: %v", n, err)
	}
}

func TestGangsOfTwoRegionsAreAllOrNone_P1(t *testing.T) {
	s := storetest.New(t)
	other := storetest.On(t, s.Client())
	ledgers := []*Ledger{open(t, s), New(other, slog.New(slog.DiscardHandler))}
	fleetOf(t, s, 40, 2) // room for 160; more hosts than are compared one by one
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := 0
	for i := range 8 {
		wg.Go(func() {
			for j := range 4 {
				one := small()
				one.Hostname = fmt.Sprintf("gang-%d-%d", i, j)
				out, err := ledgers[i%2].ComposeMany(t.Context(), "alice", manyOf(10, all, one))
				switch {
				case err == nil && len(out.GetOperations()) == 10:
					mu.Lock()
					made += 10
					mu.Unlock()
				case reasonOf(err) == vmhostv1.ErrorReason_NO_CAPACITY, reasonOf(err) == vmhostv1.ErrorReason_CONFLICT:
				default:
					t.Errorf("gang %d-%d: %v, %v", i, j, out, err)
				}
				if _, err := ledgers[(i+1)%2].Compose(context.Background(), "bob", small()); err != nil && reasonOf(err) != vmhostv1.ErrorReason_NO_CAPACITY {
					t.Error(err)
				} else if err == nil {
					mu.Lock()
					made++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	gangs := map[string]int{}
	machines := machinesOf(t, s)
	for _, m := range machines {
		if rest, ok := strings.CutPrefix(m.GetHostname(), "gang-"); ok {
			gangs[rest[:strings.LastIndex(rest, "-")]]++
		}
	}
	for gang, n := range gangs {
		if n != 10 {
			t.Errorf("gang %s has %d machines", gang, n)
		}
	}
	if len(machines) != made || made > 160 || made < 150 {
		t.Errorf("%d machines are there, %d were answered for, and there is room for 160", len(machines), made)
	}
	for i := range 40 {
		if led := checkBooks(t, s, fmt.Sprintf("h%04d", i)); led.GetTotal().GetCores() > 4 {
			t.Errorf("host %d has %v", i, led)
		}
	}
}

func TestAHostThatGoesOrChangesMeanwhileFailsAllOfThem(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	for _, hosts := range []int{3, 200} { // compared one by one, and as ranges
		fleetOf(t, s, hosts, 1)
		for name, meanwhile := range map[string]func(tx *store.Txn){
			"a host goes": func(tx *store.Txn) {
				tx.Delete(store.VmHosts.Key("h0001"))
				store.Put(tx, store.HostRemoval, &storev1.StoredHostRemoval{VmHostUid: "x"})
			},
			"a host is cordoned": func(tx *store.Txn) {
				spec, _ := hostRecord("h0002", 4, 16384)
				spec.Resource.Cordoned = true
				store.Put(tx, store.VmHosts, spec, "h0002")
			},
			"somebody takes room": func(tx *store.Txn) { store.Put(tx, store.Ledgers, &storev1.StoredLedger{Machines: 1}, "h0000") },
			"somebody takes a name": func(tx *store.Txn) {
				store.Put(tx, store.Names, &storev1.StoredName{Uid: "x"}, "default", "gang-2")
			},
			"the pool changes": func(tx *store.Txn) {
				store.Put(tx, store.ResourcePools, &storev1.StoredResourcePool{Resource: &vmhostv1.ResourcePool{Name: "resourcePools/default", Description: "other"}}, "default")
			},
		} {
			one := small()
			one.Hostname = "gang"
			m, err := newMany("alice", manyOf(int32(hosts), all, one))
			if err != nil {
				t.Fatal(err)
			}
			d, err := l.decideMany(s.Cached(), m)
			if err != nil || d.stopped != nil {
				t.Fatal(err, d.stopped)
			}
			if err := l.bindMany(d, m, d.response(m, false)); err != nil {
				t.Fatal(err)
			}
			tx := store.NewTxn()
			meanwhile(tx)
			commit(t, s, tx)
			revision, err := s.Submit(t.Context(), d.tx)
			l.settle(d.decision, revision, err)
			if !errors.Is(err, store.ErrConflict) {
				t.Errorf("%d hosts, %s: got %v", hosts, name, err)
			}
			tx = store.NewTxn()
			tx.Delete(store.Ledgers.Key("h0000"))
			tx.Delete(store.Names.Key("default", "gang-2"))
			commit(t, s, tx)
			fleetOf(t, s, hosts, 1)
		}
	}
	if n := len(machinesOf(t, s)); n != 0 {
		t.Errorf("%d machines were made", n)
	}
}

func TestNoZoneGetsMoreOfAGroupThanItMayFromTwoRegions(t *testing.T) {
	s := storetest.New(t)
	other := storetest.On(t, s.Client())
	ledgers := []*Ledger{open(t, s), New(other, slog.New(slog.DiscardHandler))}
	fleetOf(t, s, 12, 3)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			one := small()
			one.Group, one.MaxPerZone = "db", 2
			if _, err := ledgers[i%2].Compose(t.Context(), "alice", one); err != nil && reasonOf(err) != vmhostv1.ErrorReason_NO_CAPACITY {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	zones := map[string]int{}
	for _, m := range machinesOf(t, s) {
		zones[m.GetZone()]++
	}
	if diff := cmp.Diff(map[string]int{"zones/z0": 2, "zones/z1": 2, "zones/z2": 2}, zones); diff != "" {
		t.Error(diff)
	}
}

// Of a thousand machines two draw the same MAC in one call of thirty. The later
// one draws again.
func TestAMACThatTheSameDecisionTakesIsDrawnAgain(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	v, err := s.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	req := small()
	req.Interfaces = []*vmhostv1.InterfaceRequest{{}, {}}
	w, err := newWant("alice", req)
	if err != nil {
		t.Fatal(err)
	}
	const drawn = "52:54:00:00:00:01"
	w.macs = []string{drawn, drawn}
	if err := w.chooseMACs(v, &l.index, map[string]bool{drawn: true}); err != nil {
		t.Fatal(err)
	}
	if w.macs[0] == drawn || w.macs[1] == drawn || w.macs[0] == w.macs[1] {
		t.Errorf("the machine has %v", w.macs)
	}
}
