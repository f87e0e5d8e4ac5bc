package ledger

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// checkOutlook wants the outlook to have every host as its records are, now that
// nothing is under way.
func checkOutlook(t *testing.T, l *Ledger) {
	t.Helper()
	if err := l.WithTurn(t.Context(), func() error {
		v, err := l.store.View(t.Context())
		if err != nil {
			return err
		}
		got, want := l.outlookAt(v), whole(v)
		if got.Len() != want.Len() {
			t.Errorf("the outlook has %d hosts, not %d", got.Len(), want.Len())
		}
		for h := range want.Hosts() {
			if diff := cmp.Diff(h, got.Host(h.ID), cmp.Comparer(proto.Equal), cmpopts.EquateComparable(placement.Shared{})); diff != "" {
				t.Errorf("host %s: %s", h.ID, diff)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestTheOutlookIsWhatTheRecordsSayWhateverHappens_P1(t *testing.T) {
	shared := storetest.Client(t)
	client, meddler := storetest.Meddle(t, shared)
	s, other := storetest.On(t, client), storetest.On(t, shared)
	l := open(t, s)
	laneHosts(t, s, func(int) int32 { return 200 })
	n := 0
	compose := func(req *vmhostv1.ComposeMachineRequest) *vmhostv1.Operation {
		t.Helper()
		op, err := l.Compose(t.Context(), "alice", req)
		if err != nil {
			t.Fatal(err)
		}
		return op
	}
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"one is composed", func() { compose(one()) }},
		{"many are composed", func() {
			n += made(t, crowd(t, l, func(int) *vmhostv1.ComposeMachineRequest { return one() }), 0)
		}},
		{"hosts change under a transaction", func() {
			meddler.Before(func() {
				if err := errors.Join(renew(t.Context(), other, 0), renew(t.Context(), other, 1)); err != nil {
					t.Error(err)
				}
			})
			n += made(t, crowd(t, l, func(int) *vmhostv1.ComposeMachineRequest { return one() }), 0)
			if l.Conflicts() == 0 {
				t.Error("no transaction lost its race")
			}
		}},
		{"a ledger changes under a transaction", func() {
			meddler.Before(func() {
				tx := store.NewTxn()
				led, _ := store.Ledgers.Read(other.Cached(), laneHost(0))
				led.Value.Total.Cores += 7
				store.Put(tx, store.Ledgers, led.Value, laneHost(0))
				if _, err := other.Commit(t.Context(), tx); err != nil {
					t.Error(err)
				}
			})
			compose(&vmhostv1.ComposeMachineRequest{Cores: 1, MemoryMib: 1, Diskless: true, VmHost: "vmHosts/" + laneHost(0)})
		}},
		{"several are composed together", func() {
			if _, err := l.ComposeMany(t.Context(), "alice", manyOf(20, all, one())); err != nil {
				t.Fatal(err)
			}
		}},
		{"a group is on a host", func() {
			for range 3 {
				req := one()
				req.Group = "web"
				compose(req)
			}
		}},
		{"one is given back", func() {
			v := s.Cached()
			for uid := range store.Machines.IDs(v) {
				tx := store.NewTxn()
				Release(tx, v, uid)
				commit(t, s, tx)
				break
			}
		}},
		{"a host goes, and another comes", func() {
			tx := store.NewTxn()
			tx.Delete(store.VmHosts.Key(laneHost(3)))
			commit(t, s, tx)
			addHost(t, s, "another", 10, 1<<20)
		}},
		{"hosts share a storage pool, and one of them takes of it alone", func() {
			for i := range 3 {
				addSharing(t, s, fmt.Sprint("s", i), 3*crowded)
			}
			shares := func(i int) *vmhostv1.ComposeMachineRequest {
				return &vmhostv1.ComposeMachineRequest{Cores: 1, MemoryMib: 1, VmHost: fmt.Sprint("vmHosts/s", i%3)}
			}
			sharing := made(t, crowd(t, l, shares), 0)
			if err := declare(t.Context(), s, "s1", ""); err != nil {
				t.Fatal(err)
			}
			checkOutlook(t, l)
			if sharing += made(t, crowd(t, l, shares), 0); sharing != 2*crowded {
				t.Errorf("%d of %d were made", sharing, 2*crowded)
			}
			if diff := cmp.Diff(RecountShared(s.Cached()), SharedNow(s.Cached())); diff != "" {
				t.Errorf("shared pools (-machines +pools):\n%s", diff)
			}
		}},
		{"more than there is room for are asked for", func() {
			req := one()
			req.Cores = 190
			made(t, crowd(t, l, func(int) *vmhostv1.ComposeMachineRequest { return proto.CloneOf(req) }), vmhostv1.ErrorReason_NO_CAPACITY)
		}},
	} {
		step.do()
		if checkOutlook(t, l); t.Failed() {
			t.Fatalf("after: %s", step.name)
		}
	}
	if n != 2*crowded {
		t.Errorf("%d of %d were made", n, 2*crowded)
	}
}

func TestWhatAMachineTakesOfADraftIsWhatItsLedgerSays_P1(t *testing.T) {
	spec, observed := hostRecord("h", 64, 1<<20)
	w, err := newWant("alice", &vmhostv1.ComposeMachineRequest{Cores: 3, MemoryMib: 5, Group: "g", PinnedCores: []int32{1, 2, 3}, Disks: []*vmhostv1.DiskRequest{{SizeBytes: 1 << 20}, {SizeBytes: 1 << 21}}})
	if err != nil {
		t.Fatal(err)
	}
	led := cloneLedger(nil)
	draft := placement.NewFleet([]*placement.Host{placement.NewHost(spec, observed, led)}).Draft()
	for i := range 4 {
		w.place.PinnedCores = []int32{int32(4 * i), int32(4*i + 1), int32(4*i + 2)}
		req := w.requestAs(fmt.Sprint("m", i))
		plan := draft.Choose(&req)
		if plan.Host == nil {
			t.Fatal(plan.Refusals)
		}
		c := w.commitment(&plan)
		add(led, c)
		draft.Take("h", c, "")
		if diff := cmp.Diff(placement.NewHost(spec, observed, led), draft.Host("h"), cmpopts.EquateComparable(placement.Shared{})); diff != "" {
			t.Fatal(diff)
		}
	}
}

// decideOne decides one compose on what the copy shows now, and commits nothing.
func decideOne(t *testing.T, l *Ledger, s *store.Store) *decision {
	t.Helper()
	d := l.newShared(s.Cached(), placement.AllLanes)
	w, err := newWant("alice", one())
	if err != nil {
		t.Fatal(err)
	}
	l.decide(d, []*pending{newPending(w)})
	if len(d.placed) != 1 {
		t.Fatal(d.refused)
	}
	return d
}

func TestADecisionHoldsWhenTheWatchIsFasterThanTheAnswer(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addHost(t, s, "h", 100, 1<<20)
	first := decideOne(t, l, s)
	if !l.bind(first) {
		t.Fatal("the first is not bound")
	}
	store.Give(first.tx, store.Ledgers, first.ledgers["h"], "h")
	revision, err := s.Commit(t.Context(), first.tx) // until the copy has it
	if err != nil {
		t.Fatal(err)
	}
	second := decideOne(t, l, s) // the first is still under way, as far as is known
	l.settle(first, revision, nil)
	if !l.bind(second) {
		t.Error("what the second was decided on came to be, and it is decided on again")
	}
	if n := second.ledgers["h"].GetMachines(); n != 2 {
		t.Errorf("the ledger will have %d machines", n)
	}
	store.Give(second.tx, store.Ledgers, second.ledgers["h"], "h")
	if revision, err = s.Commit(t.Context(), second.tx); err != nil {
		t.Fatal(err)
	}
	l.settle(second, revision, nil)
	checkBooks(t, s, "h")
	checkOutlook(t, l)
}

// What is under way fails by what somebody else takes, of which the outlook that the
// next decision was made on knows nothing.
func TestADecisionDoesNotHoldWhenWhatItWasMadeOnFailsMeanwhile_P1(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addHost(t, s, "h", 100, 1<<20)
	first := decideOne(t, l, s)
	if !l.bind(first) {
		t.Fatal("the first is not bound")
	}
	tx := store.NewTxn()
	led, _ := store.Ledgers.Read(s.Cached(), "h")
	if led.Value == nil {
		led.Value = cloneLedger(nil)
	}
	add(led.Value, first.placed[0].machine.GetCommitment())
	led.Value.Total.Cores += 98
	store.Put(tx, store.Ledgers, led.Value, "h")
	commit(t, s, tx)
	second := l.newShared(s.Cached(), placement.AllLanes)
	l.settle(first, 0, store.ErrConflict)
	w, err := newWant("bob", &vmhostv1.ComposeMachineRequest{Cores: 50, MemoryMib: 1, Diskless: true})
	if err != nil {
		t.Fatal(err)
	}
	l.decide(second, []*pending{newPending(w)})
	if len(second.placed) == 1 && l.bind(second) {
		t.Error("50 cores were taken where one is free")
	}
}
