package ledger

import (
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// usages are the counts of pools with a quota as this process wrote them, or is
// writing them: what `ahead` is for hosts. Guarded by Ledger.mu.
type usages struct {
	ahead map[string]usageAhead // by pool id
	first map[string]firstCount // by pool id
}

type usageAhead struct {
	value    *storev1.StoredPoolUsage
	revision int64
}

// firstCount is what the machines of a pool held when its quota was set, that
// is, when its count was made.
type firstCount struct {
	made   int64
	amount *vmhostv1.ResourceAmount
}

// taking is what composes of a decision take of one pool with a quota.
type taking struct {
	quota *vmhostv1.ResourceQuota
	base  *storev1.StoredPoolUsage // as it was decided on
	next  *storev1.StoredPoolUsage // as it will be
	taken bool                     // whether any compose of it was placed
}

// usageAt is the newest count of a pool that is known: the view's, or what was
// committed since.
func (l *Ledger) usageAt(v *store.View, pool string) usageAhead {
	l.mu.Lock()
	defer l.mu.Unlock()
	if u, ok := l.usages.ahead[pool]; ok && u.revision > v.Revision {
		return u
	}
	delete(l.usages.ahead, pool)
	record, _ := store.PoolUsage.Get(v, pool)
	return usageAhead{record.Value, record.Revision}
}

// within says whether the pool's quota allows a compose beside those that were
// decided on already. A pool without a quota costs a look at its record.
func (l *Ledger) within(v *store.View, d *decision, w *want) error {
	pool := w.place.ResourcePool
	record, ok := store.ResourcePools.Get(v, pool)
	if !ok {
		return nil // place says so
	}
	quota := quotaOf(record.Value)
	if quota == nil {
		return nil
	}
	t := d.taking[pool]
	if t == nil {
		base := l.usageAt(v, pool).value
		t = &taking{quota: quota, base: base, next: &storev1.StoredPoolUsage{Amount: base.GetAmount(), Counted: true}}
		if !base.GetCounted() {
			t.next.Amount = sum(base.GetAmount(), l.firstCount(v, pool))
		}
		if d.taking == nil {
			d.taking = map[string]*taking{}
		}
		d.taking[pool] = t
	}
	return checkQuota(pool, t.quota, t.next.GetAmount(), w.amount())
}

// firstCount counts once for every count that was made.
func (l *Ledger) firstCount(v *store.View, pool string) *vmhostv1.ResourceAmount {
	record, _ := store.PoolUsage.Get(v, pool)
	l.mu.Lock()
	known := l.usages.first[pool]
	l.mu.Unlock()
	if known.amount != nil && known.made == record.CreateRevision {
		return known.amount
	}
	known = firstCount{made: record.CreateRevision, amount: sum(held(v, pool), minus(record.Value.GetAmount()))}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.usages.first == nil {
		l.usages.first = map[string]firstCount{}
	}
	l.usages.first[pool] = known
	return known.amount
}

// charge takes what a machine takes of its pool's quota, if there is one.
func (d *decision) charge(pool string, c *storev1.Commitment) {
	if t := d.taking[pool]; t != nil {
		t.taken = true
		charge(t.next, amountOf(c))
	}
}

// bindUsage makes a decision depend on the counts it was made on. False when
// those did not come to be.
func (l *Ledger) bindUsage(v *store.View, d *decision) bool {
	for pool, t := range d.taking {
		now := l.usageAt(v, pool)
		switch {
		case !t.taken:
		case now.value != t.base || now.revision == underway:
			return false
		default:
			d.tx.IfRevision(store.PoolUsage.Key(pool), now.revision)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for pool, t := range d.taking {
		if !t.taken {
			continue
		}
		if l.usages.ahead == nil {
			l.usages.ahead = map[string]usageAhead{}
		}
		l.usages.ahead[pool] = usageAhead{t.next, underway}
	}
	return true
}

// putUsage writes the counts.
func (d *decision) putUsage() {
	for pool, t := range d.taking {
		if t.taken {
			store.Put(d.tx, store.PoolUsage, t.next, pool)
		}
	}
}

// settleUsage says what became of what was under way. Call it with l.mu held.
func (l *Ledger) settleUsage(d *decision, revision int64, err error) {
	for pool, t := range d.taking {
		switch {
		case !t.taken || l.usages.ahead[pool].value != t.next:
		case err == nil:
			l.usages.ahead[pool] = usageAhead{t.next, revision}
		default:
			delete(l.usages.ahead, pool)
		}
	}
}
