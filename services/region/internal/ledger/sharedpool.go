package ledger

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// A storage pool that several hosts have is kept by `shared/<identity>` (ADR 0019):
// the sum of what their ledgers have in it. A ledger says itself which of its pools
// are in which (shared_pools), so that whoever compares the ledger's revision knows
// to whom it belongs; that changes only together with the record that it follows
// from, spec or observation, by FollowPools.
//
// Every transaction that changes the sum compares the key and writes it, so that two
// hosts never take the same bytes. One in which bytes go from one ledger to another
// changes no sum, and leaves the key alone.

// sharedChange is by how much what shared pools hold changes, by identity.
type sharedChange map[string]int64

// of adds that a ledger becomes another. Either may be nil.
func (c sharedChange) of(before, after *storev1.StoredLedger) {
	for pool, identity := range before.GetSharedPools() {
		c[identity] -= before.GetTotal().GetStorageBytes()[pool]
	}
	for pool, identity := range after.GetSharedPools() {
		c[identity] += after.GetTotal().GetStorageBytes()[pool]
	}
}

// identities are those that change.
func (c sharedChange) identities() []string {
	maps.DeleteFunc(c, func(_ string, bytes int64) bool { return bytes == 0 })
	return slices.Sorted(maps.Keys(c))
}

// spareCompares are left to others in a transaction that compares shared pools.
const spareCompares = 8

// put compares and writes the pools that change. Nothing else of the transaction may
// write to them.
func (c sharedChange) put(tx *store.Txn, v *store.View) {
	identities := c.identities()
	each := tx.Compares()+len(identities)+spareCompares <= store.MaxCompares
	if !each {
		// No such key is ever removed, so that a range notices every change.
		tx.IfPrefixUnchanged(store.SharedPools.Prefix(), v.Revision)
	}
	for _, identity := range identities {
		record, _ := store.SharedPools.Get(v, store.EscapeID(identity))
		if each {
			tx.IfRevision(store.SharedPools.Key(store.EscapeID(identity)), record.Revision)
		}
		store.Put(tx, store.SharedPools, sharedWith(record.Value, identity, c[identity]), store.EscapeID(identity))
	}
}

// sharedWith is a shared pool that holds so much more.
func sharedWith(p *storev1.StoredSharedPool, identity string, bytes int64) *storev1.StoredSharedPool {
	return &storev1.StoredSharedPool{Identity: identity, CommittedBytes: max(p.GetCommittedBytes()+bytes, 0)}
}

// FollowPools adds to a transaction that writes a host's spec or observation that
// its ledger says what is behind its storage pools by these, and that the pools it
// shares hold what it has in them. The transaction holds only if neither changed
// since the view. False when nothing had to be changed.
func FollowPools(tx *store.Txn, v *store.View, host string, spec *vmhostv1.VmHost, o *vmhostv1.VmHostObservation) bool {
	record, _ := store.Ledgers.Get(v, host)
	identities, differ := follow(record.Value, spec, o)
	if !differ {
		return false
	}
	next := cloneLedger(record.Value)
	next.SharedPools = identities
	tx.IfRevision(store.Ledgers.Key(host), record.Revision)
	store.Put(tx, store.Ledgers, next, host)
	change := sharedChange{}
	change.of(record.Value, next)
	change.put(tx, v)
	return true
}

// PoolsDiffer says whether FollowPools would add something.
func PoolsDiffer(v *store.View, host string, spec *vmhostv1.VmHost, o *vmhostv1.VmHostObservation) bool {
	record, _ := store.Ledgers.Get(v, host)
	_, differ := follow(record.Value, spec, o)
	return differ
}

// follow is what is behind the storage pools of a host, and whether its ledger says
// something else.
func follow(l *storev1.StoredLedger, spec *vmhostv1.VmHost, o *vmhostv1.VmHostObservation) (identities map[string]string, differ bool) {
	identities = identitiesOf(l, spec, o)
	return identities, !maps.Equal(identities, l.GetSharedPools())
}

// identitiesOf is what is behind the storage pools of a host, of those that are
// shared. Of a pool that is not seen, or could not be read, nothing is known: as long as machines
// hold something in it, it is what it was.
func identitiesOf(l *storev1.StoredLedger, spec *vmhostv1.VmHost, o *vmhostv1.VmHostObservation) map[string]string {
	var out map[string]string
	note := func(pool, detected string) {
		if identity := placement.Identity(spec, pool, detected); identity != "" {
			if out == nil {
				out = map[string]string{}
			}
			out[pool] = identity
		}
	}
	read := map[string]bool{}
	for _, p := range o.GetStoragePools() {
		if p.GetType() != "" || p.GetProblem() == "" {
			read[p.GetName()] = true
			note(p.GetName(), p.GetShared())
		}
	}
	// Also where only disks of machines stay that are being moved here: they are held
	// in it in the end.
	for _, held := range []map[string]int64{l.GetTotal().GetStorageBytes(), l.GetStayingBytes()} {
		for pool, bytes := range held {
			if bytes > 0 && !read[pool] {
				note(pool, l.GetSharedPools()[pool])
			}
		}
	}
	return out
}

// DropPools adds to a transaction that removes a host's ledger, and compares it,
// that shared pools hold nothing of it any more.
func DropPools(tx *store.Txn, v *store.View, host string) {
	record, _ := store.Ledgers.Get(v, host)
	change := sharedChange{}
	change.of(record.Value, nil)
	change.put(tx, v)
}

// RecountShared is what the hosts that share storage pools hold in them together, by
// identity: what the keys of these pools must say.
func RecountShared(v *store.View) map[string]int64 {
	out := map[string]int64{}
	for host, l := range store.Ledgers.All(v) {
		if len(l.Value.GetSharedPools()) == 0 {
			continue
		}
		total := Recount(v, host).GetTotal().GetStorageBytes()
		for pool, identity := range l.Value.GetSharedPools() {
			out[identity] += total[pool]
		}
	}
	maps.DeleteFunc(out, func(_ string, bytes int64) bool { return bytes == 0 })
	return out
}

// SharedNow is what the keys of shared storage pools say, by identity; those that
// hold nothing are left out.
func SharedNow(v *store.View) map[string]int64 {
	out := map[string]int64{}
	for _, p := range store.SharedPools.All(v) {
		if p.Value.GetCommittedBytes() != 0 {
			out[p.Value.GetIdentity()] = p.Value.GetCommittedBytes()
		}
	}
	return out
}

// shareds are shared pools as this process wrote them, or is writing them: what
// `ahead` is for hosts. Guarded by Ledger.mu.
type shareds map[string]sharedAhead

type sharedAhead struct {
	value    *storev1.StoredSharedPool
	revision int64
}

// sharedAt is the newest record of a shared pool that is known: the view's, or what
// was committed since.
func (l *Ledger) sharedAt(v *store.View, identity string) sharedAhead {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s, ok := l.shareds[identity]; ok && s.revision > v.Revision {
		return s
	}
	delete(l.shareds, identity)
	record, _ := store.SharedPools.Get(v, store.EscapeID(identity))
	return sharedAhead{record.Value, record.Revision}
}

// sharing is what composes of a decision take of one shared pool.
type sharing struct {
	base *storev1.StoredSharedPool // as it was decided on
	next *storev1.StoredSharedPool // as it will be; nil until it is bound
}

// share notes the shared pools that a commitment on a host takes of.
func (l *Ledger) share(d *decision, host string, c *storev1.Commitment) {
	identities := d.ledgers[host].GetSharedPools()
	if len(identities) == 0 {
		return
	}
	for pool := range c.GetStorageBytes() {
		identity := identities[pool]
		if identity == "" || d.sharing[identity] != nil {
			continue
		}
		if d.sharing == nil {
			d.sharing = map[string]*sharing{}
		}
		d.sharing[identity] = &sharing{base: l.sharedAt(d.view, identity).value}
	}
}

// bindShared makes a decision depend on the shared pools that it takes of, and
// writes them. False when what it was decided on did not come to be.
func (l *Ledger) bindShared(d *decision) bool {
	if len(d.sharing) == 0 {
		return true
	}
	change := sharedChange{}
	for host, led := range d.ledgers {
		change.of(d.base[host].value, led)
	}
	compares := map[string]int64{}
	for identity, s := range d.sharing {
		now := l.sharedAt(d.view, identity)
		if now.revision == underway || !proto.Equal(now.value, s.base) {
			return false
		}
		compares[identity] = now.revision
	}
	for _, identity := range slices.Sorted(maps.Keys(d.sharing)) {
		s, key := d.sharing[identity], store.EscapeID(identity)
		s.next = sharedWith(s.base, identity, change[identity])
		d.tx.IfRevision(store.SharedPools.Key(key), compares[identity])
		store.Put(d.tx, store.SharedPools, s.next, key)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for identity, s := range d.sharing {
		if l.shareds == nil {
			l.shareds = shareds{}
		}
		l.shareds[identity] = sharedAhead{s.next, underway}
	}
	return true
}

// settleShared says what became of what was under way. Call it with l.mu held.
func (l *Ledger) settleShared(d *decision, revision int64, err error) {
	for identity, s := range d.sharing {
		switch {
		case s.next == nil || l.shareds[identity].value != s.next:
		case err == nil:
			l.shareds[identity] = sharedAhead{s.next, revision}
		default:
			delete(l.shareds, identity)
		}
	}
}
