package ledger

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/units"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// The quota of a pool is kept by `usage/<pool>`, which is there as long as the
// pool has a quota. Every transaction in which a machine of the pool takes or
// gives back compares the revision of the pool, and with a quota that of the
// count, which it changes. So nobody takes by an older quota than the present
// one, or by an older count.
//
// A first quota is recorded with a count of nothing that says that it is not
// complete: from then on it gets what is taken and given back, below zero if need
// be. What the pool's machines held at that revision is added once by whoever
// comes first: the sum over any later view less the count in that view.

// quotaOf is the quota of a pool; nil when nothing is limited.
func quotaOf(pool *storev1.StoredResourcePool) *vmhostv1.ResourceQuota {
	q := pool.GetResource().GetQuota()
	if q == nil || q.Machines == nil && q.Cores == nil && q.MemoryMib == nil && q.StorageBytes == nil {
		return nil
	}
	return q
}

// amountOf is what a machine takes of its pool's quota.
func amountOf(c *storev1.Commitment) *vmhostv1.ResourceAmount {
	a := &vmhostv1.ResourceAmount{Machines: 1, Cores: int64(c.GetCores()), MemoryMib: c.GetMemoryMib()}
	for _, bytes := range c.GetStorageBytes() {
		a.StorageBytes += bytes
	}
	return a
}

func sum(a, b *vmhostv1.ResourceAmount) *vmhostv1.ResourceAmount {
	return &vmhostv1.ResourceAmount{
		Machines: a.GetMachines() + b.GetMachines(), Cores: a.GetCores() + b.GetCores(),
		MemoryMib: a.GetMemoryMib() + b.GetMemoryMib(), StorageBytes: a.GetStorageBytes() + b.GetStorageBytes(),
	}
}

func minus(a *vmhostv1.ResourceAmount) *vmhostv1.ResourceAmount {
	return &vmhostv1.ResourceAmount{
		Machines: -a.GetMachines(), Cores: -a.GetCores(), MemoryMib: -a.GetMemoryMib(), StorageBytes: -a.GetStorageBytes(),
	}
}

func charge(used *storev1.StoredPoolUsage, a *vmhostv1.ResourceAmount) {
	used.Amount = sum(used.GetAmount(), a)
}

// checkQuota refuses what the quota does not allow, naming the first resource
// that is short. A resource of which nothing is asked for is never short.
func checkQuota(pool string, q *vmhostv1.ResourceQuota, used, want *vmhostv1.ResourceAmount) error {
	if q == nil {
		return nil
	}
	var e *apierror.Error
	look := func(resource, of string, measure units.Measure, limited bool, quota, used, want int64) {
		if !limited || want <= 0 || used+want <= quota {
			return
		}
		if e == nil {
			said := measure.Say(units.Need(used), units.Room(quota), units.Need(want))
			e = apierror.New(codes.ResourceExhausted, vmhostv1.ErrorReason_QUOTA_EXCEEDED,
				"the quota of resource pool %s does not allow it: %s of %s %s are used, %s asked for", pool, said[0], said[1], of, said[2]).
				With("resource_pool", "resourcePools/"+pool).With("resource", resource).
				With("quota", strconv.FormatInt(quota, 10)).With("used", strconv.FormatInt(used, 10)).With("requested", strconv.FormatInt(want, 10)).
				WithHint("ask for less, delete machines of the pool, or have its quota raised: `vmhostctl pool get %s` shows it", pool)
			return
		}
		e = e.With("also", strings.TrimPrefix(e.Metadata["also"]+","+resource, ","))
	}
	look("machines", "machines", units.Count, q.Machines != nil, int64(q.GetMachines()), int64(used.GetMachines()), int64(want.GetMachines()))
	look("cores", "cores", units.Count, q.Cores != nil, q.GetCores(), used.GetCores(), want.GetCores())
	look("memory_mib", "of memory", units.MiB, q.MemoryMib != nil, q.GetMemoryMib(), used.GetMemoryMib(), want.GetMemoryMib())
	look("storage_bytes", "of storage", units.Bytes, q.StorageBytes != nil, q.GetStorageBytes(), used.GetStorageBytes(), want.GetStorageBytes())
	if e == nil {
		return nil
	}
	return e
}

// held is what the machines and reservations of a pool take together, by looking
// at each.
func held(v *store.View, pool string) *vmhostv1.ResourceAmount {
	out := heldOf(v, pool)
	for _, name := range store.Names.All(v, pool) {
		if m, ok := store.Machines.Get(v, name.Value.GetUid()); ok {
			out = sum(out, heldBy(m.Value))
		}
	}
	return out
}

// counted is the complete count of a pool, to be changed by the caller.
func counted(v *store.View, pool string, count *storev1.StoredPoolUsage) *storev1.StoredPoolUsage {
	if count.GetCounted() {
		return proto.CloneOf(count)
	}
	return &storev1.StoredPoolUsage{Amount: held(v, pool), Counted: true}
}

// Used is what the machines of a pool take together.
func Used(v *store.View, pool string) *vmhostv1.ResourceAmount {
	count, _ := store.PoolUsage.Get(v, pool)
	return counted(v, pool, count.Value).GetAmount()
}

// SetQuota adds to a transaction that puts a pool what a change of its quota
// needs; before is the pool as it was, nil for a new one. The transaction must
// compare the revision of the pool.
func SetQuota(tx *store.Txn, pool string, before, after *storev1.StoredResourcePool) {
	had, has := quotaOf(before) != nil, quotaOf(after) != nil
	switch {
	case has && !had:
		store.Put(tx, store.PoolUsage, &storev1.StoredPoolUsage{Amount: &vmhostv1.ResourceAmount{}, Counted: before == nil}, pool)
	case had && !has:
		tx.Delete(store.PoolUsage.Key(pool))
	default:
	}
}

// Count completes the count of a pool whose quota is new, so that no compose has
// to. Whoever finds it incomplete does it as well; nothing depends on this.
func Count(ctx context.Context, s *store.Store, pool string) error {
	var first *vmhostv1.ResourceAmount // what the machines held when the quota was set
	made := int64(0)
	for {
		v := s.Cached()
		count, ok := store.PoolUsage.Get(v, pool)
		if !ok || count.Value.GetCounted() {
			return nil
		}
		if first == nil || made != count.CreateRevision {
			first, made = sum(held(v, pool), minus(count.Value.GetAmount())), count.CreateRevision
		}
		tx := store.NewTxn()
		tx.IfRevision(store.PoolUsage.Key(pool), count.Revision)
		store.Put(tx, store.PoolUsage, &storev1.StoredPoolUsage{Amount: sum(first, count.Value.GetAmount()), Counted: true}, pool)
		if _, err := s.Commit(ctx, tx); !errors.Is(err, store.ErrConflict) {
			if err != nil {
				return fmt.Errorf("count what resource pool %s uses: %w", pool, err)
			}
			return nil
		}
	}
}
