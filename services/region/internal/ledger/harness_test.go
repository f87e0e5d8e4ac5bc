package ledger

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/testing/protocmp"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const gb = 1_000_000_000

func hostRecord(id string, cores int32, memoryMiB int64) (*storev1.StoredVmHost, *storev1.StoredVmHostObservation) {
	uid := "uid-" + id
	spec := &storev1.StoredVmHost{Resource: &vmhostv1.VmHost{
		Name: "vmHosts/" + id, Uid: uid, ResourcePool: "resourcePools/default", Zone: "zones/default", Address: "fake://" + id,
	}}
	observed := &storev1.StoredVmHostObservation{
		State: vmhostv1.VmHostState_VM_HOST_STATE_READY, VmHostUid: uid,
		Observation: &vmhostv1.VmHostObservation{
			Architectures: []string{"x86_64"}, Cores: cores, MemoryMib: memoryMiB,
			StoragePools: []*vmhostv1.StoragePool{{Name: "default", CapacityBytes: 10_000 * gb, Active: true}},
			Networks:     []*vmhostv1.HostNetwork{{Name: "default", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK, Active: true, Dhcp: true}},
		},
	}
	return spec, observed
}

func addHost(t testing.TB, s *store.Store, id string, cores int32, memoryMiB int64) {
	t.Helper()
	spec, observed := hostRecord(id, cores, memoryMiB)
	tx := store.NewTxn()
	store.Put(tx, store.VmHosts, spec, id)
	store.Put(tx, store.Observed, observed, id)
	commit(t, s, tx)
}

func commit(t testing.TB, s *store.Store, tx *store.Txn) {
	t.Helper()
	if _, err := s.Commit(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
}

// open is a running ledger over a store that has the default zone and pool.
func open(t testing.TB, s *store.Store) *Ledger {
	t.Helper()
	tx := store.NewTxn()
	store.Put(tx, store.Zones, &storev1.StoredZone{Resource: &vmhostv1.Zone{Name: "zones/default"}}, "default")
	store.Put(tx, store.ResourcePools, &storev1.StoredResourcePool{Resource: &vmhostv1.ResourcePool{Name: "resourcePools/default"}}, "default")
	commit(t, s, tx)
	l := New(s, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l
}

// regions are ledgers that run on one etcd, each over a copy of its own.
func regions(t testing.TB, n int) ([]*Ledger, []*store.Store) {
	t.Helper()
	client := storetest.Client(t)
	var ledgers []*Ledger
	var stores []*store.Store
	for range n {
		s := storetest.On(t, client)
		stores, ledgers = append(stores, s), append(ledgers, open(t, s))
	}
	return ledgers, stores
}

func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	if err := waitFor(ok); err != nil {
		t.Fatal(err)
	}
}

// waitFor is eventually for what runs beside the test, which must not end it.
func waitFor(ok func() bool) error {
	tick, late := time.NewTicker(time.Millisecond), time.After(20*time.Second)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			return errors.New("it did not happen in 20 s")
		}
	}
	return nil
}

func small() *vmhostv1.ComposeMachineRequest {
	return &vmhostv1.ComposeMachineRequest{Cores: 1, MemoryMib: 64}
}

func nic(n ...*vmhostv1.InterfaceRequest) *vmhostv1.ComposeMachineRequest {
	return &vmhostv1.ComposeMachineRequest{Interfaces: n}
}

// checkBooks compares the ledger of a host with what its machines hold.
func checkBooks(t *testing.T, s *store.Store, host string) *storev1.StoredLedger {
	t.Helper()
	v, err := s.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	led, _ := store.Ledgers.Get(v, host)
	if diff := cmp.Diff(Recount(v, host), led.Value, protocmp.Transform()); diff != "" && led.Value != nil {
		t.Errorf("ledger of %s differs from its machines (-machines +ledger):\n%s", host, diff)
	}
	return led.Value
}
