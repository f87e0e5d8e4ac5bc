package ledger

import (
	"testing"

	"github.com/google/uuid"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// A machine that is let go stays on its host, and so does its MAC.
func TestTheMACOfAMachineThatWasLetGoIsStillTaken(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	const mac = "52:54:00:00:00:01"
	uid := uuid.NewString()
	interfaces := []*vmhostv1.MachineInterface{{Mac: mac}}
	tx := store.NewTxn()
	store.Put(tx, store.Machines, &storev1.StoredMachine{Resource: &vmhostv1.Machine{Uid: uid, Interfaces: interfaces}}, uid)
	store.Put(tx, store.Seen, &storev1.StoredSeenMachine{Observation: &rackv1.MachineObservation{Uuid: uid, Name: "m", Interfaces: interfaces}}, "h", uid)
	commit(t, s, tx)
	eventually(t, func() bool { return l.index.macOwner(s.Cached(), mac) == store.Machines.Key(uid) })
	tx = store.NewTxn()
	tx.Delete(store.Machines.Key(uid))
	commit(t, s, tx)
	eventually(t, func() bool {
		l.index.mu.Lock()
		defer l.index.mu.Unlock()
		return l.index.applied >= s.Cached().Revision
	})
	if owner := l.index.macOwner(s.Cached(), mac); owner != store.Seen.Key("h", uid) {
		t.Errorf("the MAC is of %q", owner)
	}
	if !l.index.nameTaken(s.Cached(), "h", "m") || l.index.nameTaken(s.Cached(), "h", "n") || l.index.nameTaken(s.Cached(), "i", "m") {
		t.Error("the name m is taken on the host h, and nothing else is")
	}
}

func TestClaimsOfMACsGoWhenTheIndexHasThem(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addHost(t, s, "h", 1000, 1<<20)
	claims := func() int {
		l.index.mu.Lock()
		defer l.index.mu.Unlock()
		return len(l.index.claimed)
	}
	for range 20 {
		if _, err := l.Compose(t.Context(), "alice", small()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() bool {
		l.index.prune(s.Cached())
		return claims() == 0
	})
	// With an older view they are needed.
	before := s.Cached()
	if _, err := l.Compose(t.Context(), "alice", small()); err != nil {
		t.Fatal(err)
	}
	if l.index.prune(before); claims() != 1 {
		t.Errorf("%d claims", claims())
	}
}
