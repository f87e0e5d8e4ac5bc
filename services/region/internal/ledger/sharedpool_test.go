package ledger

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

const nas = "nfs://nas/vm"

// declare says what is behind a host's pool `default`, as the API does; empty: the
// pool is the host's alone.
func declare(ctx context.Context, s *store.Store, host, identity string) error {
	v, err := s.View(ctx)
	if err != nil {
		return err
	}
	spec, _ := store.VmHosts.Get(v, host)
	observed, _ := store.Observed.Get(v, host)
	next := proto.CloneOf(spec.Value)
	next.Resource.SharedStoragePools = []*vmhostv1.SharedStoragePool{{StoragePool: "default", Identity: identity}}
	tx := store.NewTxn()
	tx.IfRevision(store.VmHosts.Key(host), spec.Revision)
	tx.IfRevision(store.Observed.Key(host), observed.Revision)
	store.Put(tx, store.VmHosts, next, host)
	FollowPools(tx, v, host, next.GetResource(), observed.Value.GetObservation())
	_, err = s.Commit(ctx, tx)
	return err
}

// addSharing is a host with plenty of everything but storage: its pool has room for
// so many machines, and hosts share it.
func addSharing(t testing.TB, s *store.Store, id string, machines int64) {
	t.Helper()
	spec, observed := hostRecord(id, 1000, 1<<20)
	spec.Resource.Type = vmhostv1.VmHostType_VM_HOST_TYPE_FAKE
	p := observed.GetObservation().GetStoragePools()[0]
	p.Type, p.CapacityBytes = "dir", machines*defaultDiskBytes
	tx := store.NewTxn()
	store.Put(tx, store.VmHosts, spec, id)
	store.Put(tx, store.Observed, observed, id)
	// A rack drives it that leaves disks in the pool when it moves machines.
	store.Put(tx, store.Assignments, &storev1.StoredAssignment{Rack: "r", VmHostUid: "uid-" + id}, id)
	store.Put(tx, store.Sessions, &storev1.StoredSession{Drivers: []string{"fake"}, SharedMovers: []string{"fake"}}, "r")
	commit(t, s, tx)
	if err := declare(t.Context(), s, id, nas); err != nil {
		t.Fatal(err)
	}
}

// sharedHistory checks at every revision that each shared pool holds what the
// ledgers have in it, and that nothing was taken of it past its limit. The answer is
// the most that it held.
func sharedHistory(t *testing.T, s *store.Store, limit int64) (most int64) {
	t.Helper()
	ledgers, pools := map[string]*storev1.StoredLedger{}, map[string]*storev1.StoredSharedPool{}
	before, all := map[string]int64{}, int64(0)
	for _, now := range storetest.History(t, s) {
		var err error
		relinked := false
		for key, value := range now.Changed {
			switch {
			case strings.HasPrefix(key, store.Ledgers.Prefix()):
				was := ledgers[key]
				err = errors.Join(err, keep(ledgers, key, value, &storev1.StoredLedger{}))
				relinked = relinked || cmp.Diff(was.GetSharedPools(), ledgers[key].GetSharedPools()) != ""
			case strings.HasPrefix(key, store.SharedPools.Prefix()):
				err = errors.Join(err, keep(pools, key, value, &storev1.StoredSharedPool{}))
				if value == nil {
					t.Errorf("revision %d: %s was removed", now.Number, key)
				}
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		sums, says := map[string]int64{}, map[string]int64{}
		// What a host hands to another at the end of a move takes nothing anew, also
		// where the pool was said to be another one meanwhile.
		was := all
		all = 0
		for _, l := range ledgers {
			for _, bytes := range l.GetTotal().GetStorageBytes() {
				all += bytes
			}
			for pool, identity := range l.GetSharedPools() {
				if bytes := l.GetTotal().GetStorageBytes()[pool]; bytes > 0 {
					sums[identity] += bytes
				}
			}
		}
		for _, p := range pools {
			if p.GetCommittedBytes() != 0 {
				says[p.GetIdentity()] = p.GetCommittedBytes()
			}
		}
		if diff := cmp.Diff(sums, says); diff != "" {
			t.Fatalf("revision %d: shared pools (-ledgers +pools):\n%s", now.Number, diff)
		}
		for identity, bytes := range sums {
			if bytes > before[identity] && !relinked && all > was && bytes > limit {
				t.Fatalf("revision %d: %d bytes of %d are committed in %s, before %d", now.Number, bytes, limit, identity, before[identity])
			}
			most = max(most, bytes)
		}
		before = sums
	}
	return most
}

// checkShared compares what shared pools say with machines and places.
func checkShared(t *testing.T, s *store.Store) {
	t.Helper()
	v, err := s.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(RecountShared(v), SharedNow(v)); diff != "" {
		t.Errorf("shared pools (-machines +pools):\n%s", diff)
	}
	for host := range store.Ledgers.All(v) {
		checkBooks(t, s, host)
	}
}

func TestHostsThatShareAPoolTakeItOnce_P1(t *testing.T) {
	const hosts, room, asked = 4, 10, 50
	ledgers, stores := regions(t, 2)
	s := stores[0]
	for i := range hosts {
		addSharing(t, s, fmt.Sprintf("h%d", i), room)
	}
	var mu sync.Mutex
	made, said := 0, ""
	var wg sync.WaitGroup
	for i := range asked {
		wg.Go(func() {
			_, err := ledgers[i%2].Compose(t.Context(), "a", small())
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				made++
			case apierror.Reason(err) == vmhostv1.ErrorReason_NO_CAPACITY:
				said = err.Error()
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made != room {
		t.Errorf("%d machines in a pool with room for %d", made, room)
	}
	if !strings.Contains(said, "storage pool default (nfs://nas/vm, which 4 hosts share)") {
		t.Error(said)
	}
	checkShared(t, s)
	if most := sharedHistory(t, s, room*defaultDiskBytes); most != room*defaultDiskBytes {
		t.Errorf("at most %d bytes were held", most)
	}
}

// Two lanes have no host in common, and a pool.
func TestLanesDoNotTakeASharedPoolTwice_P1(t *testing.T) {
	const room = 40
	s := storetest.New(t)
	l := open(t, s)
	for i := range manyHosts {
		addSharing(t, s, laneHost(i), room)
	}
	answers := crowd(t, l, func(int) *vmhostv1.ComposeMachineRequest { return small() })
	if n := made(t, answers, vmhostv1.ErrorReason_NO_CAPACITY); n != room {
		t.Errorf("%d machines in a pool with room for %d", n, room)
	}
	if n := l.Conflicts(); n > 0 {
		t.Errorf("%d transactions failed within one process", n)
	}
	checkShared(t, s)
	sharedHistory(t, s, room*defaultDiskBytes)
}

func TestAGangIsAllOrNoneInASharedPool_P1(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addSharing(t, s, "h0", 5)
	addSharing(t, s, "h1", 5)
	if _, err := l.ComposeMany(t.Context(), "a", manyOf(6, vmhostv1.ComposeManyMode_COMPOSE_MANY_MODE_ALL, small())); apierror.Reason(err) != vmhostv1.ErrorReason_NO_CAPACITY {
		t.Fatalf("6 in a pool with room for 5: %v", err)
	}
	if _, err := l.Reserve(t.Context(), "a", &vmhostv1.ReserveRequest{Machine: small(), Count: 3}); err != nil {
		t.Fatal(err)
	}
	out, err := l.ComposeMany(t.Context(), "a", manyOf(6, vmhostv1.ComposeManyMode_COMPOSE_MANY_MODE_AS_MANY_AS_FIT, small()))
	if err != nil || len(out.GetOperations()) != 2 {
		t.Fatalf("beside 3 of 5: %v, %v", out, err)
	}
	room, err := l.Capacity(t.Context(), &vmhostv1.CapacityRequest{Machine: small()})
	if err != nil || room.GetMachines() != 0 {
		t.Errorf("room for %v (%v)", room, err)
	}
	checkShared(t, s)
}

// What a host has in a pool counts there from the revision on at which the pool
// becomes shared, and no longer than that.
func TestAPoolBecomesSharedAndCeasesToBe_P1(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addSharing(t, s, "h0", 10)
	addSharing(t, s, "h1", 10)
	compose := func(host string, n int) {
		t.Helper()
		for range n {
			req := small()
			req.VmHost = "vmHosts/" + host
			if _, err := l.Compose(t.Context(), "a", req); err != nil {
				t.Fatal(err)
			}
		}
	}
	free := func(host string) int64 {
		v, err := s.View(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return l.Fleet(v).Host(host).Pools[0].Free() / defaultDiskBytes
	}
	compose("h0", 4)
	compose("h1", 3)
	for _, tt := range []struct {
		word, host, identity string
		h0, h1               int64
	}{
		{"ceases to be", "h1", "", 6, 7},
		{"is another", "h1", "nfs://other/vm", 6, 7},
		{"is again", "h1", nas, 3, 3},
		{"is of nobody", "h0", "", 6, 7},
	} {
		if err := declare(t.Context(), s, tt.host, tt.identity); err != nil {
			t.Fatal(err)
		}
		if a, b := free("h0"), free("h1"); a != tt.h0 || b != tt.h1 {
			t.Errorf("%s: room for %d and %d, want %d and %d", tt.word, a, b, tt.h0, tt.h1)
		}
		checkShared(t, s)
	}
	sharedHistory(t, s, 10*defaultDiskBytes)
}

// Everything that takes and gives back, and operators who change what is shared, in
// two regions at once.
func TestASharedPoolIsTheSumOfItsLedgersAtEveryRevision_P1(t *testing.T) {
	const hosts, room, clients, rounds = 4, 14, 6, 30
	ledgers, stores := regions(t, 2)
	for i := range hosts {
		addSharing(t, stores[0], fmt.Sprintf("h%d", i), room)
	}
	counts := make([]int, 8)
	var mu sync.Mutex
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			l, s := ledgers[c%2], stores[c%2]
			random := rand.New(rand.NewPCG(seed, uint64(c)))
			var held []string
			for range rounds {
				var err error
				what := random.IntN(len(counts))
				switch what {
				case 0:
					_, err = l.Compose(t.Context(), "a", small())
				case 1:
					_, err = l.ComposeMany(t.Context(), "a", manyOf(3, vmhostv1.ComposeManyMode_COMPOSE_MANY_MODE_AS_MANY_AS_FIT, small()))
				case 2:
					var r *vmhostv1.Reservation
					if r, err = l.Reserve(t.Context(), "a", &vmhostv1.ReserveRequest{Machine: small(), Count: 2, Ttl: durationpb.New(time.Hour)}); err == nil {
						held = append(held, r.GetName())
					}
				case 3:
					if len(held) > 0 {
						_, err = l.Compose(t.Context(), "a", against(&vmhostv1.Reservation{Name: held[random.IntN(len(held))]}))
					}
				case 4:
					if len(held) > 0 {
						_, err = l.DeleteReservation(t.Context(), "a", &vmhostv1.DeleteReservationRequest{Name: held[0]})
						held = held[1:]
					}
				case 5:
					err = declare(t.Context(), s, fmt.Sprintf("h%d", random.IntN(hosts)), []string{nas, nas, "rbd://b/vms", ""}[random.IntN(4)])
				default: // composes, moves, ends of moves, deletes
					err = anything(t.Context(), l, s, random)
				}
				mu.Lock()
				if err == nil {
					counts[what]++
				}
				mu.Unlock()
				if err != nil && !errors.Is(err, store.ErrConflict) && !errors.Is(err, errNoPlace) && apierror.Reason(err) == vmhostv1.ErrorReason_ERROR_REASON_UNSPECIFIED {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("done %v", counts)
	for what, n := range counts {
		if n == 0 {
			t.Errorf("%d was never done: that proves less", what)
		}
	}
	checkShared(t, stores[0])
	if most := sharedHistory(t, stores[0], room*defaultDiskBytes); most < room*defaultDiskBytes/2 {
		t.Errorf("at most %d bytes were held: that proves little", most)
	}
}
