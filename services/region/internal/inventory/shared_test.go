package inventory

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// detected is a pool as a rack reports it.
func detected(name, shared string) *vmhostv1.StoragePool {
	return &vmhostv1.StoragePool{Name: name, Type: "netfs", CapacityBytes: 1000, Active: true, Shared: shared}
}

func (w *world) pools(pools ...*vmhostv1.StoragePool) {
	w.t.Helper()
	w.must(w.reportPools(pools...))
}

func (w *world) reportPools(pools ...*vmhostv1.StoragePool) error {
	return w.inv.Report(w.t.Context(), "r1", &Report{
		vmHost: "vmHosts/h", epoch: w.epoch, session: w.session, observation: cleanObservation(&vmhostv1.VmHostObservation{Cores: 8, StoragePools: pools}),
	})
}

// insist does it until nobody was faster: whoever does so without a pause may keep
// another from it for longer than that one tries.
func insist(do func() error) error {
	for {
		if err := do(); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// linked is what the ledger says of its pools, and what is held in all that are
// shared.
func (w *world) linked() (map[string]string, map[string]int64) {
	v := w.store.Cached()
	l, _ := store.Ledgers.Get(v, "h")
	return l.Value.GetSharedPools(), ledger.SharedNow(v)
}

func (w *world) declare(pools ...*vmhostv1.SharedStoragePool) error {
	v := w.store.Cached()
	spec, _ := store.VmHosts.Get(v, "h")
	observed, _ := store.Observed.Get(v, "h")
	next := proto.CloneOf(spec.Value)
	next.Resource.SharedStoragePools = pools
	tx := store.NewTxn()
	tx.IfRevision(store.VmHosts.Key("h"), spec.Revision)
	tx.IfRevision(store.Observed.Key("h"), observed.Revision)
	store.Put(tx, store.VmHosts, next, "h")
	ledger.FollowPools(tx, v, "h", next.GetResource(), observed.Value.GetObservation())
	_, err := w.store.Commit(w.t.Context(), tx)
	return err
}

func TestTheLedgerFollowsWhatIsBehindPools_P1(t *testing.T) {
	w := newWorld(t)
	w.put(func(tx *store.Txn) {
		store.Put(tx, store.Ledgers, &storev1.StoredLedger{Machines: 1, Total: &storev1.Commitment{StorageBytes: map[string]int64{"a": 7, "b": 5}}}, "h")
	})
	want := func(word string, pools map[string]string, held map[string]int64) {
		t.Helper()
		p, h := w.linked()
		if diff := cmp.Diff(pools, p); diff != "" {
			t.Errorf("%s: pools:\n%s", word, diff)
		}
		if diff := cmp.Diff(held, h); diff != "" {
			t.Errorf("%s: held:\n%s", word, diff)
		}
	}
	w.pools(detected("a", "nfs://nas/vm"), detected("b", ""))
	want("detected", map[string]string{"a": "nfs://nas/vm"}, map[string]int64{"nfs://nas/vm": 7})
	w.pools(detected("b", ""))
	want("not seen", map[string]string{"a": "nfs://nas/vm"}, map[string]int64{"nfs://nas/vm": 7})
	w.pools(&vmhostv1.StoragePool{Name: "a", Problem: "cannot be read"}, detected("b", ""))
	want("not read", map[string]string{"a": "nfs://nas/vm"}, map[string]int64{"nfs://nas/vm": 7})
	w.pools(detected("a", "nfs://new/vm"), detected("b", "nfs://new/vm"), detected("c", "rbd://m/x"))
	want("two of one", map[string]string{"a": "nfs://new/vm", "b": "nfs://new/vm", "c": "rbd://m/x"}, map[string]int64{"nfs://new/vm": 12})
	w.must(w.declare(&vmhostv1.SharedStoragePool{StoragePool: "a"}, &vmhostv1.SharedStoragePool{StoragePool: "b", Identity: "lab"}))
	want("the operator knows better", map[string]string{"b": "lab", "c": "rbd://m/x"}, map[string]int64{"lab": 5})
	before := w.store.Cached().Revision
	w.pools(detected("a", "nfs://new/vm"), detected("b", "nfs://new/vm"), detected("c", "rbd://m/x"))
	if now := w.store.Cached().Revision; now != before {
		t.Errorf("a report without news was written: %d, then %d", before, now)
	}
	w.pools(detected("a", "has a space"), detected("b", strings.Repeat("x", 300)))
	if p := w.observed().GetObservation().GetStoragePools(); p[0].GetShared() != "" || p[1].GetShared() != "" {
		t.Errorf("taken as it came: %v", p)
	}
	w.must(w.declare())
	want("nothing any more", nil, map[string]int64{})
}

// Whoever of operator and rack comes first, at every revision the ledger says what
// spec and observation say together.
func TestAReportAndAnOperatorAgreeOnWhatIsShared_P1(t *testing.T) {
	w := newWorld(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 60 {
			pools := []*vmhostv1.StoragePool{detected("a", fmt.Sprint("nfs://nas/", i%3))}
			if i%4 == 0 {
				pools = nil
			}
			if err := insist(func() error { return w.reportPools(pools...) }); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range 60 {
		said := []*vmhostv1.SharedStoragePool{{StoragePool: "a", Identity: fmt.Sprint("lab", i%2)}}
		if i%3 == 0 {
			said = nil
		}
		if err := insist(func() error { return w.declare(said...) }); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	spec, observed, led := &storev1.StoredVmHost{}, &storev1.StoredVmHostObservation{}, &storev1.StoredLedger{}
	for _, now := range storetest.History(t, w.store) {
		for key, value := range now.Changed {
			into := map[string]proto.Message{store.VmHosts.Key("h"): spec, store.Observed.Key("h"): observed, store.Ledgers.Key("h"): led}[key]
			if into != nil {
				w.must(proto.Unmarshal(value, into))
			}
		}
		want := ""
		for _, p := range observed.GetObservation().GetStoragePools() {
			want = placement.Identity(spec.GetResource(), p.GetName(), p.GetShared())
		}
		if got := led.GetSharedPools()["a"]; got != want {
			t.Fatalf("revision %d: the ledger says %q, spec and observation %q", now.Number, got, want)
		}
	}
}
