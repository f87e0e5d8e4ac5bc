package ledger

import (
	"testing"

	"google.golang.org/protobuf/proto"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// bothSee has the pool as two hosts read it: so many bytes in it, and what each says
// is ours.
func bothSee(t *testing.T, s *store.Store, uid string, allocated int64, ours map[string]int64) {
	t.Helper()
	tx := store.NewTxn()
	for host, bytes := range ours {
		o, _ := store.Observed.Get(s.Cached(), host)
		next := proto.CloneOf(o.Value)
		p := next.GetObservation().GetStoragePools()[0]
		p.AllocationBytes, p.OursBytes = allocated, bytes
		store.Put(tx, store.Observed, next, host)
		if bytes > 0 {
			store.Put(tx, store.Seen, &storev1.StoredSeenMachine{Observation: &rackv1.MachineObservation{Uuid: uid, Uid: uid}}, host, uid)
		}
	}
	commit(t, s, tx)
}

// A disk that stays is held once, by one ledger or the other, while a full pool's
// machine is moved, and however that ends; so it is with what is seen of it.
func TestADiskThatStaysIsHeldOnceHoweverAMoveEnds_P1_P4(t *testing.T) {
	const d = defaultDiskBytes
	for word, tt := range map[string]struct {
		end                  func(tx *store.Txn, v *store.View, uid string)
		here, there, foreign int64
	}{
		"moved":    {func(tx *store.Txn, v *store.View, uid string) { EndMove(tx, v, uid) }, 0, d, 0},
		"undone":   {func(tx *store.Txn, v *store.View, uid string) { UndoMove(tx, v, uid) }, d, 0, 0},
		"released": {func(tx *store.Txn, v *store.View, uid string) { Release(tx, v, uid) }, 0, 0, 0},
	} {
		t.Run(word, func(t *testing.T) {
			s := storetest.New(t)
			l := open(t, s)
			addSharing(t, s, "a", 1)
			addSharing(t, s, "b", 1)
			setQuota(t, t, s, "default", &vmhostv1.ResourceQuota{StorageBytes: proto.Int64(d)})
			req := small()
			req.VmHost = "vmHosts/a"
			op, err := l.Compose(t.Context(), "alice", req)
			if err != nil {
				t.Fatal(err)
			}
			uid := op.GetTarget()[len("machines/"):]
			bothSee(t, s, uid, d, map[string]int64{"a": d, "b": 0})
			sum := func(here, there int64) {
				t.Helper()
				checkShared(t, s)
				checkQuotas(t, t, s)
				v, err := s.View(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				one, _ := store.Ledgers.Get(v, "a")
				two, _ := store.Ledgers.Get(v, "b")
				if a, b := one.Value.GetTotal().GetStorageBytes()["default"], two.Value.GetTotal().GetStorageBytes()["default"]; a != here || b != there || SharedNow(v)[nas] != here+there {
					t.Errorf("%d on the source, %d on the destination, %v in the pool; want %d and %d", a, b, SharedNow(v), here, there)
				}
			}
			if err := takeMove(t.Context(), l, s, uid, ""); err != nil {
				t.Fatalf("out of a full pool into the same: %v", err)
			}
			sum(d, 0)
			m, _ := store.Machines.Get(s.Cached(), uid)
			if move := m.Value.GetMove(); len(move.GetStayingDisks()) != 1 || len(move.GetCommitment().GetStorageBytes()) != 0 || move.GetMoved().GetDisks()[0].GetVolume() != m.Value.GetResource().GetDisks()[0].GetVolume() {
				t.Errorf("recorded %v", move)
			}
			// Both show it for a moment. What others have is neither less nor more for that.
			bothSee(t, s, uid, d, map[string]int64{"a": d, "b": d})
			for _, host := range []string{"a", "b"} {
				if p := l.Fleet(s.Cached()).Host(host).Pools[0]; p.Foreign != 0 || p.Committed != d {
					t.Errorf("while it is moved %s has %+v", host, p)
				}
			}
			bothSee(t, s, uid, 2*d, map[string]int64{"a": d, "b": d})
			if p := l.Fleet(s.Cached()).Host("b").Pools[0]; p.Foreign != d {
				t.Errorf("while it is moved %d bytes of others count %d", d, p.Foreign)
			}
			revision := s.Cached().Revision
			if err := settleMove(t.Context(), l, s, uid, func(tx *store.Txn, v *store.View) { tt.end(tx, v, uid) }); err != nil {
				t.Fatal(err)
			}
			sum(tt.here, tt.there)
			shared, _ := store.SharedPools.Get(s.Cached(), store.EscapeID(nas))
			if word != "released" && shared.Revision > revision {
				t.Error("the end of the move changed the pool, which holds as much as before")
			}
			if l, _ := store.Ledgers.Get(s.Cached(), "b"); len(l.Value.GetStayingBytes()) != 0 {
				t.Errorf("the destination's ledger says %v", l.Value)
			}
			// The host that it is not on showed it last, and has not been read since.
			if p := l.Fleet(s.Cached()).Host("b").Pools[0]; p.Foreign != d {
				t.Errorf("after it was %s %d bytes of others count %d", word, d, p.Foreign)
			}
			sharedHistory(t, s, d)
		})
	}
}

// A machine that was found keeps the names of volumes that stay, and these stay what
// they are: part of what others have in the pool.
func TestAnAdoptedMachinesDiskStaysUncommitted(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addSharing(t, s, "a", 10)
	addSharing(t, s, "b", 10)
	addSharing(t, s, "c", 10)
	if err := declare(t.Context(), s, "c", ""); err != nil { // has not the pool
		t.Fatal(err)
	}
	tx := store.NewTxn()
	o, _ := store.Observed.Get(s.Cached(), "a")
	netfs := proto.CloneOf(o.Value)
	netfs.Observation.StoragePools[0].Type = "netfs"
	store.Put(tx, store.Observed, netfs, "a")
	m := &storev1.StoredMachine{
		Resource: &vmhostv1.Machine{
			Name: "machines/m", Uid: "m", Hostname: "old", HypervisorName: "Old", HypervisorUuid: "u", VmHost: "vmHosts/a", Zone: "zones/default", ResourcePool: "resourcePools/default",
			Origin: vmhostv1.MachineOrigin_MACHINE_ORIGIN_ADOPTED, Phase: vmhostv1.MachinePhase_MACHINE_PHASE_READY, Cores: 1, MemoryMib: 64,
			Disks: []*vmhostv1.MachineDisk{{StoragePool: "default", Volume: "old.qcow2", SizeBytes: 2 * gb}},
		},
		Commitment: &storev1.Commitment{Cores: 1, MemoryMib: 64},
	}
	if err := Adopt(tx, s.Cached(), m); err != nil {
		t.Fatal(err)
	}
	commit(t, s, tx)
	if err := takeMove(t.Context(), l, s, "m", "c"); err == nil {
		t.Error("a disk that cannot be copied would go to a host without its pool")
	}
	if err := takeMove(t.Context(), l, s, "m", ""); err != nil {
		t.Fatal(err)
	}
	if err := settleMove(t.Context(), l, s, "m", func(tx *store.Txn, v *store.View) { EndMove(tx, v, "m") }); err != nil {
		t.Fatal(err)
	}
	after, _ := store.Machines.Get(s.Cached(), "m")
	if d := after.Value.GetResource().GetDisks()[0]; after.Value.GetResource().GetVmHost() != "vmHosts/b" || d.GetVolume() != "old.qcow2" || len(after.Value.GetCommitment().GetStorageBytes()) != 0 {
		t.Errorf("moved: %v", after.Value)
	}
	checkBooks(t, s, "a")
	checkBooks(t, s, "b")
}

// The pool of a destination on which nothing but disks of coming machines is stays the
// pool that it is while it cannot be read: they are counted there in the end.
func TestAPoolThatIsNotReadStaysSharedForDisksThatCome_P1(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addSharing(t, s, "a", 5)
	addSharing(t, s, "b", 5)
	req := small()
	req.VmHost = "vmHosts/a"
	op, err := l.Compose(t.Context(), "alice", req)
	if err != nil {
		t.Fatal(err)
	}
	uid := op.GetTarget()[len("machines/"):]
	if err := takeMove(t.Context(), l, s, uid, ""); err != nil {
		t.Fatal(err)
	}
	v := s.Cached()
	spec, _ := store.VmHosts.Get(v, "b")
	tx := store.NewTxn()
	if FollowPools(tx, v, "b", spec.Value.GetResource(), &vmhostv1.VmHostObservation{}) {
		t.Error("the pool ceases to be shared")
	}
	if err := settleMove(t.Context(), l, s, uid, func(tx *store.Txn, v *store.View) { EndMove(tx, v, uid) }); err != nil {
		t.Fatal(err)
	}
	checkShared(t, s)
}
