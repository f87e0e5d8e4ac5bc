package ledger

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// setQuota does to a pool, making it if need be, what the API does.
func setQuota(t testing.TB, f fataler, s *store.Store, pool string, q *vmhostv1.ResourceQuota) {
	f.Helper()
	for {
		v, err := s.View(t.Context())
		if err != nil {
			f.Fatalf("view: %v", err)
		}
		r, ok := store.ResourcePools.Get(v, pool)
		after := &storev1.StoredResourcePool{Resource: &vmhostv1.ResourcePool{Name: "resourcePools/" + pool}}
		if ok {
			after = proto.CloneOf(r.Value)
		}
		after.Resource.Quota = q
		tx := store.NewTxn()
		tx.IfRevision(store.ResourcePools.Key(pool), r.Revision)
		store.Put(tx, store.ResourcePools, after, pool)
		SetQuota(tx, pool, r.Value, after)
		if _, err = s.Commit(t.Context(), tx); errors.Is(err, store.ErrConflict) {
			continue
		} else if err != nil {
			f.Fatalf("set a quota: %v", err)
		}
		return
	}
}

func TestAQuotaRefusesBeforePlacementWithItsNumbers(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addHost(t, s, "h", 100, 1<<20)
	setQuota(t, t, s, "default", &vmhostv1.ResourceQuota{
		Machines: proto.Int32(3), Cores: proto.Int64(6), MemoryMib: proto.Int64(1000), StorageBytes: proto.Int64(20 * gb),
	})
	if _, err := l.Compose(t.Context(), "alice", &vmhostv1.ComposeMachineRequest{Cores: 2, MemoryMib: 300}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		req  *vmhostv1.ComposeMachineRequest
		says string
		want map[string]string
	}{
		{"cores", &vmhostv1.ComposeMachineRequest{Cores: 5, MemoryMib: 1}, "2 of 6 cores are used, 5 asked for", map[string]string{"resource": "cores", "quota": "6", "used": "2", "requested": "5"}},
		{"memory", &vmhostv1.ComposeMachineRequest{MemoryMib: 1024}, "300 MiB of 1000 MiB of memory are used, 1 GiB asked for", map[string]string{"resource": "memory_mib", "quota": "1000", "used": "300", "requested": "1024"}},
		{
			"storage", &vmhostv1.ComposeMachineRequest{MemoryMib: 1, Disks: []*vmhostv1.DiskRequest{{SizeBytes: 6 * gb}, {SizeBytes: 7 * gb}}},
			"7.5 GiB of 18.6 GiB of storage are used, 12.2 GiB asked for",
			map[string]string{"resource": "storage_bytes", "quota": "20000000000", "used": "8000000000", "requested": "13000000000"},
		},
		{"several", &vmhostv1.ComposeMachineRequest{Cores: 5, MemoryMib: 701}, "", map[string]string{"resource": "cores", "also": "memory_mib"}},
		{"more than any host has", &vmhostv1.ComposeMachineRequest{Cores: 4000}, "", map[string]string{"resource": "cores", "requested": "4000"}},
	} {
		for call, do := range map[string]func() error{
			"compose": func() error { _, err := l.Compose(t.Context(), "alice", tt.req); return err },
			"dry run": func() error { _, err := l.Plan(t.Context(), tt.req); return err },
		} {
			e := apierror.FromStatus(do())
			if e != nil && !strings.Contains(e.Message, tt.says) {
				t.Errorf("%s, %s: %q does not say %q", tt.name, call, e.Message, tt.says)
			}
			if e == nil || e.Reason != vmhostv1.ErrorReason_QUOTA_EXCEEDED || e.Metadata["resource_pool"] != "resourcePools/default" || e.Hint == "" {
				t.Errorf("%s, %s: %v", tt.name, call, e)
				continue
			}
			for key, want := range tt.want {
				if e.Metadata[key] != want {
					t.Errorf("%s, %s: %s is %q, want %q", tt.name, call, key, e.Metadata[key], want)
				}
			}
		}
	}
	for i := range 2 {
		if _, err := l.Compose(t.Context(), "alice", small2(i)); err != nil {
			t.Fatalf("within the quota: %v", err)
		}
	}
	if _, err := l.Compose(t.Context(), "alice", small2(3)); apierror.FromStatus(err).Metadata["resource"] != "machines" {
		t.Errorf("a fourth machine: %v", err)
	}
	setQuota(t, t, s, "default", &vmhostv1.ResourceQuota{Machines: proto.Int32(1)})
	if _, err := l.Compose(t.Context(), "alice", small2(4)); apierror.Reason(err) != vmhostv1.ErrorReason_QUOTA_EXCEEDED {
		t.Errorf("with a quota below what is used: %v", err)
	}
	setQuota(t, t, s, "default", nil)
	if _, err := l.Compose(t.Context(), "alice", small2(5)); err != nil {
		t.Errorf("without a quota: %v", err)
	}
	checkQuotas(t, t, s)
}

func small2(int) *vmhostv1.ComposeMachineRequest {
	return &vmhostv1.ComposeMachineRequest{Cores: 1, MemoryMib: 64, Disks: []*vmhostv1.DiskRequest{{SizeBytes: 1 << 20}}}
}

// checkQuotas compares the counts with the machines, now and, for pools without
// a quota, that there is none.
func checkQuotas(t testing.TB, f fataler, s *store.Store, only ...string) {
	f.Helper()
	v, err := s.View(t.Context())
	if err != nil {
		f.Fatalf("view: %v", err)
	}
	for pool, r := range store.ResourcePools.All(v) {
		if len(only) > 0 && pool != only[0] {
			continue
		}
		count, ok := store.PoolUsage.Get(v, pool)
		if ok != (quotaOf(r.Value) != nil) {
			f.Errorf("pool %s: quota %v, count %v", pool, r.Value.GetResource().GetQuota(), count.Value)
		}
		if !ok || !count.Value.GetCounted() {
			continue
		}
		if diff := cmp.Diff(held(v, pool), count.Value.GetAmount(), protocmp.Transform()); diff != "" {
			f.Errorf("count of %s differs from its machines (-machines +count):\n%s", pool, diff)
		}
	}
}

// TestWhatAQuotaCostsATransaction counts keys: every one costs etcd some 25 µs.
func TestWhatAQuotaCostsATransaction(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addHost(t, s, "h", 100, 1<<20)
	cost := func() (compares int, written []string) {
		w, err := newWant("alice", small())
		if err != nil {
			t.Fatal(err)
		}
		d := l.newDecision(s.Cached())
		l.decide(d, []*pending{{want: w, done: make(chan struct{})}})
		if !l.bind(d) {
			t.Fatal("nothing has changed meanwhile")
		}
		compares = d.tx.Compares()
		l.commit(t.Context(), d)
		history := storetest.History(t, s)
		for key := range history[len(history)-1].Changed {
			family, _, _ := strings.Cut(strings.TrimPrefix(key, store.Root), "/")
			written = append(written, family)
		}
		slices.Sort(written)
		return compares, written
	}
	if n, keys := cost(); n != 4 || strings.Join(keys, " ") != "ledger machines names operations" {
		t.Errorf("without a quota: %d compares, writes %v", n, keys)
	}
	setQuota(t, t, s, "default", &vmhostv1.ResourceQuota{Machines: proto.Int32(9)})
	if n, keys := cost(); n != 5 || strings.Join(keys, " ") != "ledger machines names operations usage" {
		t.Errorf("with a quota: %d compares, writes %v", n, keys)
	}
	checkQuotas(t, t, s)
}
