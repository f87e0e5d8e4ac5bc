package soak

import (
	"maps"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// The replay is told of faults that the ledger does not make.
func TestTheReplayFindsFaults(t *testing.T) {
	machine := func(tx *store.Txn, uid string, cores int32) {
		store.Put(tx, store.Machines, &storev1.StoredMachine{
			Resource:   &vmhostv1.Machine{VmHost: "vmHosts/" + hostID(0), Operation: "operations/x"},
			Commitment: &storev1.Commitment{Cores: cores},
		}, uid)
		store.Put(tx, store.Names, &storev1.StoredName{Uid: uid}, pool, uid)
	}
	books := func(tx *store.Txn, machines, cores int32) {
		store.Put(tx, store.Ledgers, &storev1.StoredLedger{Machines: machines, Total: &storev1.Commitment{Cores: cores}}, hostID(0))
	}
	spec := func(tx *store.Txn, v *store.View, fn func(*vmhostv1.VmHost)) {
		rec, _ := store.VmHosts.Get(v, hostID(0))
		next := proto.CloneOf(rec.Value)
		fn(next.GetResource())
		store.Put(tx, store.VmHosts, next, hostID(0))
	}
	// 16 cores, of which others have three.
	for name, tt := range map[string]struct {
		fault string
		do    func(commit func(func(tx *store.Txn, v *store.View)))
	}{
		"as it should be": {"", func(commit func(func(*store.Txn, *store.View))) {
			commit(func(tx *store.Txn, _ *store.View) { machine(tx, "a", 13); books(tx, 1, 13) })
			commit(func(tx *store.Txn, v *store.View) { spec(tx, v, func(h *vmhostv1.VmHost) { h.Cordoned = true }) })
		}},
		"one core too many": {"overshoot", func(commit func(func(*store.Txn, *store.View))) {
			commit(func(tx *store.Txn, _ *store.View) { machine(tx, "a", 14); books(tx, 1, 14) })
		}},
		"a machine without books": {"the ledger has", func(commit func(func(*store.Txn, *store.View))) {
			commit(func(tx *store.Txn, _ *store.View) { machine(tx, "a", 1) })
		}},
		"books without a machine": {"the ledger has", func(commit func(func(*store.Txn, *store.View))) {
			commit(func(tx *store.Txn, _ *store.View) { books(tx, 1, 1) })
		}},
		"bytes in the shared pool that it does not say": {"the shared pool says 0", func(commit func(func(*store.Txn, *store.View))) {
			commit(func(tx *store.Txn, _ *store.View) {
				machine(tx, "a", 1)
				store.Put(tx, store.Ledgers, &storev1.StoredLedger{Machines: 1, Total: &storev1.Commitment{Cores: 1, StorageBytes: map[string]int64{nas: 5}}}, hostID(0))
			})
		}},
		"a machine on a cordoned host": {"cordoned", func(commit func(func(*store.Txn, *store.View))) {
			commit(func(tx *store.Txn, v *store.View) { spec(tx, v, func(h *vmhostv1.VmHost) { h.Cordoned = true }) })
			commit(func(tx *store.Txn, _ *store.View) { machine(tx, "a", 1); books(tx, 1, 1) })
		}},
		"a name too few": {"1 names, 2 machines", func(commit func(func(*store.Txn, *store.View))) {
			commit(func(tx *store.Txn, _ *store.View) { machine(tx, "a", 1); books(tx, 1, 1) })
			commit(func(tx *store.Txn, _ *store.View) {
				machine(tx, "b", 1)
				books(tx, 2, 2)
				tx.Delete(store.Names.Key(pool, "a"))
			})
		}},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			client := storetest.Client(t)
			s := storetest.On(t, client)
			furnish(t, s, 1)
			revision := int64(0)
			tt.do(func(fill func(*store.Txn, *store.View)) {
				tx := store.NewTxn()
				fill(tx, s.Cached())
				var err error
				if revision, err = s.Commit(t.Context(), tx); err != nil {
					t.Fatal(err)
				}
			})
			until := make(chan int64, 1)
			until <- revision
			r := newReplay()
			err := storetest.Follow(t.Context(), client, until, r.apply)
			if (err == nil) != (tt.fault == "") || err != nil && !strings.Contains(err.Error(), tt.fault) {
				t.Errorf("%v, want %q; machines %v", err, tt.fault, maps.Collect(maps.All(r.machines)))
			}
			if err == nil && r.worst.String() != "h000, 16 of 16 cores (100.00 %) at revision "+lastWord(r.worst.String()) {
				t.Errorf("worst: %s", r.worst)
			}
		})
	}
}

func lastWord(s string) string { return s[strings.LastIndex(s, " ")+1:] }
