package ledger

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

var errNoPlace = errors.New("no host fits")

// takeMove records a move as the operation that moves the machine does.
func takeMove(ctx context.Context, l *Ledger, s *store.Store, uid, to string) error {
	return l.WithTurn(ctx, func() error {
		v, err := s.View(ctx)
		if err != nil {
			return err
		}
		m, ok := store.Machines.Get(v, uid)
		if !ok || m.Value.GetMove() != nil {
			return store.ErrConflict
		}
		choice := l.ChooseMove(v, m.Value, MoveQuery{To: to})
		if choice.Move == nil {
			return errNoPlace
		}
		tx := store.NewTxn()
		if err := l.TakeMove(tx, v, m.Value, choice); err != nil {
			return err
		}
		next := proto.CloneOf(m.Value)
		next.Move = choice.Move
		tx.IfRevision(store.Machines.Key(uid), m.Revision)
		store.Put(tx, store.Machines, next, uid)
		_, err = s.Commit(ctx, tx)
		return err
	})
}

// settleMove ends a move in one of the three ways.
func settleMove(ctx context.Context, l *Ledger, s *store.Store, uid string, end func(tx *store.Txn, v *store.View)) error {
	return l.WithTurn(ctx, func() error {
		v, err := s.View(ctx)
		if err != nil {
			return err
		}
		tx := store.NewTxn()
		end(tx, v)
		if tx.Writes() == 0 {
			return nil
		}
		_, err = s.Commit(ctx, tx)
		return err
	})
}

// Many compose, move, finish, give up and delete at once in two regions. At no
// revision is a host past its limit, or its ledger other than what its machines
// hold, each on the host that it is on and on the one that it is moved to.
func TestMovesNeverTakeAHostPastItsLimit_P1_P4(t *testing.T) {
	const hosts, cores, clients, rounds = 3, 6, 6, 25
	ledgers, stores := regions(t, 2)
	for i := range hosts {
		addHost(t, stores[0], fmt.Sprintf("h%d", i), cores, 1<<20)
	}
	revisions := collect(t, stores[0])
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			l, s := ledgers[c%2], stores[c%2]
			random := rand.New(rand.NewPCG(7, uint64(c)))
			for range rounds {
				if err := anything(t.Context(), l, s, random); err != nil && !errors.Is(err, store.ErrConflict) && !errors.Is(err, errNoPlace) &&
					apierror.Reason(err) != vmhostv1.ErrorReason_NO_CAPACITY {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	v, err := stores[0].View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Every batch of the watch is a revision: all are looked at.
	moved, most := 0, int32(0)
	machines, ledger := map[string]*storev1.StoredMachine{}, map[string]*storev1.StoredLedger{}
	for _, batch := range revisions(v.Revision) {
		for _, c := range batch.Changes {
			switch m := c.New.(type) {
			case *storev1.StoredMachine:
				machines[c.Key] = m
				if m.GetMove() != nil {
					moved++
				}
			case *storev1.StoredLedger:
				ledger[store.Ledgers.ID(c.Key)] = m
				most = max(most, m.GetTotal().GetCores())
				if m.GetTotal().GetCores() > cores {
					t.Errorf("revision %d: %d cores of %d are committed on %s", batch.Revision, m.GetTotal().GetCores(), cores, c.Key)
				}
			case nil:
				delete(machines, c.Key)
			}
		}
		held := map[string]int32{}
		for _, m := range machines {
			held[hostOf(m)] += m.GetCommitment().GetCores()
			if to := m.GetMove(); to != nil {
				held[to.GetVmHost()] += to.GetCommitment().GetCores()
			}
		}
		for host, led := range ledger {
			if led.GetTotal().GetCores() != held[host] {
				t.Errorf("revision %d: %s has %d cores committed, its machines hold %d", batch.Revision, host, led.GetTotal().GetCores(), held[host])
			}
		}
	}
	if moved == 0 || most < cores {
		t.Errorf("%d moves, at most %d cores committed: that proves nothing", moved, most)
	}
	for i := range hosts {
		checkBooks(t, stores[0], fmt.Sprintf("h%d", i))
	}
}

// collect follows a store; what it answers with ends that at a revision, and gives
// all that came before.
func collect(t *testing.T, s *store.Store) func(until int64) []store.Batch {
	t.Helper()
	sub := s.Subscribe(t.Context())
	var all []store.Batch
	until, done := make(chan int64, 1), make(chan struct{})
	go func() { // ends with the test at the latest
		defer close(done)
		last := int64(-1)
		for last < 0 || len(all) == 0 || all[len(all)-1].Revision < last {
			select {
			case batch, ok := <-sub.C:
				if !ok {
					return
				}
				all = append(all, batch)
			case last = <-until:
			}
		}
	}()
	return func(revision int64) []store.Batch {
		until <- revision
		<-done
		if len(all) == 0 || all[len(all)-1].Revision < revision {
			t.Fatalf("the watch ended early: %v", sub.Err())
		}
		return all
	}
}

// anything does one thing to a fleet.
func anything(ctx context.Context, l *Ledger, s *store.Store, random *rand.Rand) error {
	var uids []string
	for uid := range store.Machines.All(s.Cached()) {
		uids = append(uids, uid)
	}
	if len(uids) == 0 || random.IntN(4) == 0 {
		_, err := l.Compose(ctx, "alice", &vmhostv1.ComposeMachineRequest{Cores: 1 + random.Int32N(3), MemoryMib: 64})
		return err
	}
	uid := uids[random.IntN(len(uids))]
	switch random.IntN(6) {
	case 0, 1, 2:
		return takeMove(ctx, l, s, uid, "")
	case 3:
		return settleMove(ctx, l, s, uid, func(tx *store.Txn, v *store.View) { EndMove(tx, v, uid) })
	case 4:
		return settleMove(ctx, l, s, uid, func(tx *store.Txn, v *store.View) {
			if m, ok := store.Machines.Get(v, uid); ok && m.Value.GetMove() != nil {
				UndoMove(tx, v, uid)
			}
		})
	default:
		return settleMove(ctx, l, s, uid, func(tx *store.Txn, v *store.View) { Release(tx, v, uid) })
	}
}

// Everything about the machine's new place is decided when the move is recorded.
func TestAMoveDecidesEverythingAboutTheNewPlace(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addHost(t, s, "a", 8, 8192)
	op, err := l.Compose(t.Context(), "alice", &vmhostv1.ComposeMachineRequest{
		Cores: 2, Group: "web", PinnedCores: []int32{2, 3}, Disks: []*vmhostv1.DiskRequest{{SizeBytes: gb}, {SizeBytes: 2 * gb}},
	})
	if err != nil {
		t.Fatal(err)
	}
	uid := op.GetTarget()[len("machines/"):]
	spec, observed := hostRecord("b", 8, 8192)
	observed.Observation.StoragePools[0].Name = "fast"
	tx := store.NewTxn()
	store.Put(tx, store.VmHosts, spec, "b")
	store.Put(tx, store.Observed, observed, "b")
	commit(t, s, tx)
	if err := takeMove(t.Context(), l, s, uid, ""); err != nil {
		t.Fatal(err)
	}
	m, _ := store.Machines.Get(s.Cached(), uid)
	to, r := m.Value.GetMove(), m.Value.GetResource()
	if r.GetVmHost() != "vmHosts/a" || to.GetVmHost() != "b" || to.GetVmHostUid() != "uid-b" || to.GetMoved().GetVmHost() != "vmHosts/b" {
		t.Errorf("machine %v", m.Value)
	}
	for i, d := range to.GetMoved().GetDisks() {
		if d.GetStoragePool() != "fast" || d.GetVolume() != r.GetDisks()[i].GetVolume() || d.GetSizeBytes() != r.GetDisks()[i].GetSizeBytes() {
			t.Errorf("disk %v", d)
		}
	}
	c := to.GetCommitment()
	if c.GetCores() != 2 || c.GetStorageBytes()["fast"] != 3*gb || len(c.GetPinnedCores()) != 2 || c.GetGroups()["default/web"] != 1 {
		t.Errorf("commitment %v", c)
	}
	if err := settleMove(t.Context(), l, s, uid, func(tx *store.Txn, v *store.View) { EndMove(tx, v, uid) }); err != nil {
		t.Fatal(err)
	}
	m, _ = store.Machines.Get(s.Cached(), uid)
	if r := m.Value.GetResource(); r.GetVmHost() != "vmHosts/b" || r.GetDisks()[0].GetStoragePool() != "fast" || m.Value.GetMove() != nil || !proto.Equal(m.Value.GetCommitment(), c) {
		t.Errorf("after the move %v", m.Value)
	}
	if left := checkBooks(t, s, "a"); left.GetMachines() != 0 || left.GetTotal().GetCores() != 0 || len(left.GetTotal().GetPinnedCores()) != 0 || len(left.GetTotal().GetGroups()) != 0 {
		t.Errorf("left on the source: %v", left)
	}
	checkBooks(t, s, "b")
}

// The quota is of the machine: a move does not take it twice, however it ends.
func TestAMoveDoesNotTakeTheQuotaTwice(t *testing.T) {
	for word, end := range map[string]func(tx *store.Txn, v *store.View, uid string){
		"moved":    func(tx *store.Txn, v *store.View, uid string) { EndMove(tx, v, uid) },
		"undone":   func(tx *store.Txn, v *store.View, uid string) { UndoMove(tx, v, uid) },
		"released": func(tx *store.Txn, v *store.View, uid string) { Release(tx, v, uid) },
	} {
		t.Run(word, func(t *testing.T) {
			s := storetest.New(t)
			l := open(t, s)
			addHost(t, s, "a", 8, 8192)
			addHost(t, s, "b", 8, 8192)
			setQuota(t, t, s, "default", &vmhostv1.ResourceQuota{Machines: proto.Int32(1), Cores: proto.Int64(2)})
			op, err := l.Compose(t.Context(), "alice", &vmhostv1.ComposeMachineRequest{Cores: 2})
			if err != nil {
				t.Fatal(err)
			}
			uid := op.GetTarget()[len("machines/"):]
			if err := takeMove(t.Context(), l, s, uid, ""); err != nil {
				t.Fatal(err)
			}
			checkQuotas(t, t, s)
			if used := Used(s.Cached(), "default"); used.GetMachines() != 1 || used.GetCores() != 2 {
				t.Errorf("while it is moved %v is used", used)
			}
			if err := settleMove(t.Context(), l, s, uid, func(tx *store.Txn, v *store.View) { end(tx, v, uid) }); err != nil {
				t.Fatal(err)
			}
			checkQuotas(t, t, s)
			want := int32(1)
			if word == "released" {
				want = 0
			}
			if used := Used(s.Cached(), "default"); used.GetMachines() != want {
				t.Errorf("after it was %s %v is used", word, used)
			}
		})
	}
}

// The volumes of a machine that was found are not committed; those of its copy are,
// and take of the quota, which may refuse that.
func TestTheCopyOfAnAdoptedMachineTakesStorage(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addHost(t, s, "a", 8, 8192)
	addHost(t, s, "b", 8, 8192)
	setQuota(t, t, s, "default", &vmhostv1.ResourceQuota{StorageBytes: proto.Int64(gb)})
	m := &storev1.StoredMachine{
		Resource: &vmhostv1.Machine{
			Name: "machines/m", Uid: "m", Hostname: "old", HypervisorName: "Old", HypervisorUuid: "u", VmHost: "vmHosts/a", Zone: "zones/default", ResourcePool: "resourcePools/default",
			Origin: vmhostv1.MachineOrigin_MACHINE_ORIGIN_ADOPTED, Phase: vmhostv1.MachinePhase_MACHINE_PHASE_READY, Cores: 1, MemoryMib: 64,
			Disks: []*vmhostv1.MachineDisk{{StoragePool: "default", Volume: "old.qcow2", SizeBytes: 2 * gb}},
		},
		Commitment: &storev1.Commitment{Cores: 1, MemoryMib: 64},
	}
	tx := store.NewTxn()
	if err := Adopt(tx, s.Cached(), m); err != nil {
		t.Fatal(err)
	}
	commit(t, s, tx)
	if err := takeMove(t.Context(), l, s, "m", ""); apierror.Reason(err) != vmhostv1.ErrorReason_QUOTA_EXCEEDED {
		t.Errorf("moved past the quota: %v", err)
	}
	setQuota(t, t, s, "default", &vmhostv1.ResourceQuota{StorageBytes: proto.Int64(2 * gb)})
	if err := takeMove(t.Context(), l, s, "m", ""); err != nil {
		t.Fatal(err)
	}
	checkQuotas(t, t, s)
	if err := settleMove(t.Context(), l, s, "m", func(tx *store.Txn, v *store.View) { EndMove(tx, v, "m") }); err != nil {
		t.Fatal(err)
	}
	checkQuotas(t, t, s)
	after, _ := store.Machines.Get(s.Cached(), "m")
	if d := after.Value.GetResource().GetDisks()[0]; d.GetVolume() != "vmhost-m-0" || after.Value.GetCommitment().GetStorageBytes()["default"] != 2*gb {
		t.Errorf("moved: %v", after.Value)
	}
	checkBooks(t, s, "a")
	checkBooks(t, s, "b")
}
