package ledger

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/anishathalye/porcupine"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// replay goes through every revision of a store: the count is what the machines
// take whenever it says that it is complete, and what is taken is within the
// quota of that moment.
func replay(t *testing.T, s *store.Store, pool string) (taken int) {
	t.Helper()
	var quota *vmhostv1.ResourceQuota
	var count *storev1.StoredPoolUsage
	machines := map[string]*vmhostv1.ResourceAmount{}
	total := func() *vmhostv1.ResourceAmount {
		out := &vmhostv1.ResourceAmount{}
		for _, a := range machines {
			out = sum(out, a)
		}
		return out
	}
	for _, r := range storetest.History(t, s) {
		before := total()
		for key, value := range r.Changed {
			switch {
			case key == store.ResourcePools.Key(pool):
				p := &storev1.StoredResourcePool{}
				decode(t, value, p)
				quota = quotaOf(p)
			case key == store.PoolUsage.Key(pool):
				if count = nil; value != nil {
					count = &storev1.StoredPoolUsage{}
					decode(t, value, count)
				}
			case strings.HasPrefix(key, store.Machines.Prefix()):
				if delete(machines, key); value != nil {
					m := &storev1.StoredMachine{}
					decode(t, value, m)
					if poolOf(m) == pool {
						machines[key] = amountOf(m.GetCommitment())
					}
				}
			default:
			}
		}
		after := total()
		if (count != nil) != (quota != nil) {
			t.Fatalf("revision %d: quota %v, count %v", r.Number, quota, count)
		}
		if count.GetCounted() && !proto.Equal(count.GetAmount(), after) {
			t.Fatalf("revision %d: count %v, machines %v", r.Number, count.GetAmount(), after)
		}
		if after.GetMachines() > before.GetMachines() {
			taken++
			if err := checkQuota(pool, quota, before, sum(after, minus(before))); err != nil {
				t.Fatalf("revision %d: %v", r.Number, err)
			}
		}
	}
	return taken
}

func decode(t *testing.T, value []byte, m proto.Message) {
	t.Helper()
	if err := proto.Unmarshal(value, m); err != nil {
		t.Fatal(err)
	}
}

func TestAFirstQuotaSetUnderLoadIsNeverExceededAtAnyRevision(t *testing.T) {
	const clients, rounds = 8, 12
	ledgers, stores := regions(t, 2)
	addHost(t, stores[0], "h", 1<<20, 1<<40)
	var wg sync.WaitGroup
	var mu sync.Mutex
	made, refused := 0, 0
	underway := make(chan struct{})
	begun := sync.OnceFunc(func() { close(underway) })
	for id := range clients {
		l, s := ledgers[id%2], stores[id%2]
		wg.Go(func() {
			for round := range rounds {
				op, err := l.Compose(t.Context(), "alice", &vmhostv1.ComposeMachineRequest{Cores: int32(1 + (id+round)%3), MemoryMib: 1})
				mu.Lock()
				switch {
				case err == nil:
					made++
				case apierror.Reason(err) == vmhostv1.ErrorReason_QUOTA_EXCEEDED:
					refused++
				default:
					t.Errorf("compose: %v", err)
				}
				mu.Unlock()
				if round == rounds/4 {
					begun()
				}
				if err == nil && round%4 == 1 {
					release(t, l, s, strings.TrimPrefix(op.GetTarget(), "machines/"))
				}
			}
		})
	}
	wg.Go(func() {
		<-underway
		for i, cores := range []int64{60, 0, 70} {
			var q *vmhostv1.ResourceQuota
			if cores > 0 {
				q = &vmhostv1.ResourceQuota{Cores: proto.Int64(cores)}
			}
			setQuota(t, t, stores[i%2], "default", q)
		}
		if err := Count(t.Context(), stores[0], "default"); err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
	if taken := replay(t, stores[0], "default"); taken == 0 || made == 0 || refused == 0 {
		t.Errorf("made %d in %d transactions, refused %d: there was no load", made, taken, refused)
	}
	for _, s := range stores {
		checkQuotas(t, t, s)
	}
	checkBooks(t, stores[0], "h")
}

func TestTheQuotaOfAPoolIsLinearizable(t *testing.T) {
	const limit = 6
	ledgers, stores := regions(t, 2)
	for i := range 3 {
		addHost(t, stores[0], fmt.Sprintf("h%d", i), 100, 1<<20)
	}
	setQuota(t, t, stores[0], "default", &vmhostv1.ResourceQuota{Cores: proto.Int64(limit)})
	history := race(t, ledgers, stores, vmhostv1.ErrorReason_QUOTA_EXCEEDED)
	if !porcupine.CheckOperations(book(limit), history) {
		t.Errorf("no order of these %d calls explains their answers: %+v", len(history), history)
	}
	replay(t, stores[0], "default")
	checkQuotas(t, t, stores[0])
}

// TestTheCountIsExactAfterAnyHistory runs random calls beside a model of a pool.
func TestTheCountIsExactAfterAnyHistory(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addHost(t, s, "h", 1<<20, 1<<40)
	other := storetest.On(t, s.Client())
	l2 := New(other, l.log)
	rapid.Check(t, func(rt *rapid.T) {
		pool := "p" + strings.ReplaceAll(uuid.NewString(), "-", "")
		setQuota(t, rt, s, pool, nil)
		setHostPool(t, rt, s, "h", pool)
		model := map[string]*storev1.Commitment{}
		used := func() *vmhostv1.ResourceAmount {
			out := &vmhostv1.ResourceAmount{}
			for _, c := range model {
				out = sum(out, amountOf(c))
			}
			return out
		}
		var quota *vmhostv1.ResourceQuota
		pick := func() string {
			var uids []string
			for uid := range model {
				uids = append(uids, uid)
			}
			if len(uids) == 0 {
				return ""
			}
			slices.Sort(uids)
			return uids[rapid.IntRange(0, len(uids)-1).Draw(rt, "machine")]
		}
		expect := func(err error, want *vmhostv1.ResourceAmount) bool {
			fits := checkQuota(pool, quota, used(), want) == nil
			if (err == nil) != fits || (err != nil && apierror.Reason(err) != vmhostv1.ErrorReason_QUOTA_EXCEEDED) {
				rt.Fatalf("quota %v, used %v, wanted %v: %v", quota, used(), want, err)
			}
			return fits
		}
		c := func() *storev1.Commitment {
			return &storev1.Commitment{
				Cores: rapid.Int32Range(1, 3).Draw(rt, "cores"), MemoryMib: rapid.Int64Range(1, 4).Draw(rt, "memory"),
				StorageBytes: map[string]int64{"default": 512 * rapid.Int64Range(1, 3).Draw(rt, "sectors")},
			}
		}
		compose := func(l *Ledger) func(*rapid.T) {
			return func(*rapid.T) {
				c := c()
				op, err := l.Compose(t.Context(), "alice", &vmhostv1.ComposeMachineRequest{
					ResourcePool: "resourcePools/" + pool, Cores: c.GetCores(), MemoryMib: c.GetMemoryMib(),
					Disks: []*vmhostv1.DiskRequest{{SizeBytes: c.GetStorageBytes()["default"]}},
				})
				if expect(err, amountOf(c)) {
					model[strings.TrimPrefix(op.GetTarget(), "machines/")] = c
				}
			}
		}
		change := func(fn func(tx *store.Txn, v *store.View) error) error {
			v, err := s.View(t.Context())
			if err != nil {
				rt.Fatalf("view: %v", err)
			}
			tx := store.NewTxn()
			if err := fn(tx, v); err != nil {
				return err
			}
			if _, err := s.Commit(t.Context(), tx); err != nil {
				rt.Fatalf("commit: %v", err)
			}
			return nil
		}
		let := func(gone func(*store.Txn, *store.View, ...string) int) func(*rapid.T) {
			return func(*rapid.T) {
				uid := pick()
				if uid == "" {
					return
				}
				if err := change(func(tx *store.Txn, v *store.View) error {
					if gone(tx, v, uid) != 1 {
						return errors.New("it is not there")
					}
					return nil
				}); err != nil {
					rt.Fatalf("give back: %v", err)
				}
				delete(model, uid)
			}
		}
		calls := map[string]func(*rapid.T){
			"compose": compose(l), "compose elsewhere": compose(l2), "release": let(Release), "let go": let(LetGo),
			"adopt": func(*rapid.T) {
				uid, c := uuid.NewString(), c()
				err := change(func(tx *store.Txn, v *store.View) error {
					return Adopt(tx, v, &storev1.StoredMachine{Commitment: c, Resource: &vmhostv1.Machine{
						Name: "machines/" + uid, Uid: uid, Hostname: uid, VmHost: "vmHosts/h", ResourcePool: "resourcePools/" + pool,
					}})
				})
				if expect(err, amountOf(c)) {
					model[uid] = c
				}
			},
			"quota": func(*rapid.T) {
				quota = rapid.SampledFrom([]*vmhostv1.ResourceQuota{
					nil, {}, {Cores: proto.Int64(4)}, {Machines: proto.Int32(2), MemoryMib: proto.Int64(9)}, {StorageBytes: proto.Int64(512 * 5)}, {Cores: proto.Int64(0)},
				}).Draw(rt, "quota")
				setQuota(t, rt, s, pool, quota)
				if quotaOf(&storev1.StoredResourcePool{Resource: &vmhostv1.ResourcePool{Quota: quota}}) == nil {
					quota = nil
				}
			},
			"count": func(*rapid.T) {
				if err := Count(t.Context(), other, pool); err != nil {
					rt.Fatalf("count: %v", err)
				}
			},
		}
		words := slices.Sorted(maps.Keys(calls))
		for range rapid.IntRange(1, 16).Draw(rt, "calls") {
			calls[rapid.SampledFrom(words).Draw(rt, "call")](rt)
			v, err := s.View(t.Context())
			if err != nil {
				rt.Fatalf("view: %v", err)
			}
			if diff := cmp.Diff(used(), Used(v, pool), protocmp.Transform()); diff != "" {
				rt.Fatalf("used (-model +answer):\n%s", diff)
			}
			checkQuotas(t, rt, s, pool)
		}
	})
	checkBooks(t, s, "h")
}

func setHostPool(t testing.TB, f fataler, s *store.Store, host, pool string) {
	v, err := s.View(t.Context())
	if err != nil {
		f.Fatalf("view: %v", err)
	}
	r, _ := store.VmHosts.Get(v, host)
	h := proto.CloneOf(r.Value)
	h.Resource.ResourcePool = "resourcePools/" + pool
	tx := store.NewTxn()
	store.Put(tx, store.VmHosts, h, host)
	if _, err := s.Commit(t.Context(), tx); err != nil {
		f.Fatalf("commit: %v", err)
	}
}
