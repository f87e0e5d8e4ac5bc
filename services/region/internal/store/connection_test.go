package store_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// The clients of the other tests have a key space each, which etcd's client sees
// to. This one has a connection, over which transactions and the watch go in our
// own encoding.
func TestAStoreOverAConnectionOfItsOwnDoesTheSame(t *testing.T) {
	client := storetest.At(t, storetest.Endpoint(t))
	here, there := storetest.On(t, client), storetest.On(t, storetest.Again(t, client))
	if !here.ByWire() {
		t.Fatal("the store goes by etcd's client")
	}
	await := func(t *testing.T, revision int64) *store.View {
		t.Helper()
		if err := there.Wait(t.Context(), revision); err != nil {
			t.Fatal(err)
		}
		return there.Cached()
	}
	t.Run("a large transaction is one", func(t *testing.T) {
		tx := store.NewTxn()
		for i := range store.MaxCompares {
			tx.IfAbsent(store.Zones.Key(fmt.Sprint(i)))
		}
		for i := range store.MaxWrites {
			store.Put(tx, store.Zones, zone(fmt.Sprint(i)), fmt.Sprint(i))
		}
		revision, err := here.Commit(t.Context(), tx)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range []*store.View{here.Cached(), await(t, revision)} {
			n := 0
			for id, z := range store.Zones.All(v) {
				if n++; z.Revision != revision || z.CreateRevision != revision || z.Value.GetResource().GetDescription() != id {
					t.Errorf("zone %s is %+v, and was written at %d", id, z, revision)
				}
			}
			if n != store.MaxWrites {
				t.Errorf("%d of %d are there", n, store.MaxWrites)
			}
		}
	})
	t.Run("a compare that fails writes nothing", func(t *testing.T) {
		tx := store.NewTxn()
		tx.IfAbsent(store.Zones.Key("0"))
		tx.DeletePrefix(store.Zones.Prefix())
		if _, err := here.Commit(t.Context(), tx); !errors.Is(err, store.ErrConflict) {
			t.Errorf("got %v, want ErrConflict", err)
		}
		tx = store.NewTxn()
		tx.IfNone(store.Zones.Prefix())
		if _, err := here.Commit(t.Context(), tx); !errors.Is(err, store.ErrConflict) {
			t.Errorf("none: got %v, want ErrConflict", err)
		}
	})
	t.Run("what is deleted goes everywhere", func(t *testing.T) {
		tx := store.NewTxn()
		tx.IfPresent(store.Zones.Key("0"))
		tx.DeletePrefix(store.Zones.Prefix())
		revision, err := here.Commit(t.Context(), tx)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range []*store.View{here.Cached(), await(t, revision)} {
			if n := store.Zones.Count(v, 1); n != 0 {
				t.Errorf("zones are left at revision %d", v.Revision)
			}
		}
	})
	t.Run("a given value is told as it is, and read elsewhere", func(t *testing.T) {
		mine, others := here.Subscribe(t.Context()), there.Subscribe(t.Context())
		value := zone("given")
		tx := store.NewTxn()
		store.Give(tx, store.Zones, value, "z")
		if _, err := here.Commit(t.Context(), tx); err != nil {
			t.Fatal(err)
		}
		if got := told(t, mine); got != proto.Message(value) {
			t.Errorf("told of another message, %v", got)
		}
		if diff := cmp.Diff(zone("given"), told(t, others), protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("what is under a lease goes with it", func(t *testing.T) {
		lease, err := here.Lease(t.Context(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		tx := store.NewTxn()
		tx.WithLease(lease.ID)
		store.Put(tx, store.Zones, zone("leased"), "leased")
		revision, err := here.Commit(t.Context(), tx)
		if err != nil {
			t.Fatal(err)
		}
		if !store.Zones.Has(await(t, revision), "leased") {
			t.Error("it is not there")
		}
		if err := lease.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if v := await(t, revision+1); store.Zones.Has(v, "leased") {
			t.Error("it is there still")
		}
	})
	t.Run("what is cancelled says so", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := here.Submit(ctx, store.NewTxn()); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}
