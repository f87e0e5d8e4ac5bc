package store_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// told is what a subscriber is told of next.
func told(t *testing.T, sub *store.Subscription) proto.Message {
	t.Helper()
	select {
	case b := <-sub.C:
		if len(b.Changes) != 1 {
			t.Fatalf("changes %v", b.Changes)
		}
		return b.Changes[0].New
	case <-t.Context().Done():
		t.Fatal("nothing was told")
		return nil
	}
}

func TestAGivenValueIsToldAsItIsHereAndDecodedElsewhere(t *testing.T) {
	client := storetest.Client(t)
	here, there := storetest.On(t, client), storetest.On(t, client)
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
	if got, _ := store.Zones.Get(here.Cached(), "z"); got.Value != value {
		t.Errorf("the copy has another message, %v", got.Value)
	}
	if n := here.Gifts(); n != 0 {
		t.Errorf("%d gifts are kept", n)
	}
}

func TestAGiftThatWasNotTakenIsForgotten(t *testing.T) {
	client := storetest.Client(t)
	here, there := storetest.On(t, client), storetest.On(t, client)
	tx := store.NewTxn()
	tx.IfPresent(store.Zones.Key("nowhere"))
	store.Give(tx, store.Zones, zone("mine"), "z")
	if _, err := here.Commit(t.Context(), tx); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("commit: %v", err)
	}
	if n := here.Gifts(); n != 0 {
		t.Errorf("%d gifts are kept", n)
	}
	sub := here.Subscribe(t.Context())
	put(t, there, "z", "theirs")
	if diff := cmp.Diff(zone("theirs"), told(t, sub), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestOfTwoWhoWriteAKeyEachIsToldOfWhatIsThere(t *testing.T) {
	client := storetest.Client(t)
	here, there := storetest.On(t, client), storetest.On(t, client)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 200 {
			tx := store.NewTxn()
			store.Give(tx, store.Zones, zone("theirs"), "z")
			_, _ = there.Commit(t.Context(), tx)
		}
	}()
	for range 200 {
		tx := store.NewTxn()
		store.Give(tx, store.Zones, zone("mine"), "z")
		if _, err := here.Commit(t.Context(), tx); err != nil {
			t.Fatal(err)
		}
	}
	<-done
	for _, s := range []*store.Store{here, there} {
		v, err := s.View(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, _ := store.Zones.Get(v, "z")
		resp, err := client.Get(t.Context(), store.Zones.Key("z"))
		if err != nil {
			t.Fatal(err)
		}
		want := zone("")
		if err := proto.Unmarshal(resp.Kvs[0].Value, want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got.Value, protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
		if n := s.Gifts(); n != 0 {
			t.Errorf("%d gifts are kept", n)
		}
	}
}
