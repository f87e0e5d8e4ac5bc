package ledger

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Books adds to one transaction what machines take and give back: capacity of
// their hosts, the storage pools that these share with others, and the quota of
// their pools. The transaction holds only if none
// of these ledgers, pools and counts changed since the view; run it by WithTurn,
// or it can lose its race on a busy host. Call Close before it is committed.
//
// Whatever else belongs to it, the caller adds: Books compare and write no
// machine, no name, and no host.
type Books struct {
	tx      *store.Txn
	v       *store.View
	ledgers map[string]*storev1.StoredLedger
	pools   map[string]*storev1.StoredPoolUsage         // nil: no quota
	hosts   map[string]*storev1.StoredVmHostObservation // see Unsee and Disclaim
}

// Open opens the books of a view for a transaction.
func Open(tx *store.Txn, v *store.View) *Books {
	return &Books{tx: tx, v: v, ledgers: map[string]*storev1.StoredLedger{}, pools: map[string]*storev1.StoredPoolUsage{}, hosts: map[string]*storev1.StoredVmHostObservation{}}
}

// Take takes what the machine commits, whether its host has room or not: it is
// for a machine that is there already. Errors: NOT_FOUND when its pool does not
// exist, QUOTA_EXCEEDED.
func (b *Books) Take(m *storev1.StoredMachine) error {
	pool := poolOf(m)
	record, ok := store.ResourcePools.Get(b.v, pool)
	if !ok {
		return apierror.NotFound("resourcePools/"+pool).WithField("resource_pool", "does not exist")
	}
	used, want := b.pool(pool), amountOf(m.GetCommitment())
	if used != nil {
		if err := checkQuota(pool, quotaOf(record.Value), used.GetAmount(), want); err != nil {
			return err
		}
		charge(used, want)
	}
	add(b.ledger(hostOf(m)), m.GetCommitment())
	return nil
}

// GiveBack gives back what the machine committed, also where it is being moved.
func (b *Books) GiveBack(m *storev1.StoredMachine) {
	if used := b.pool(poolOf(m)); used != nil {
		charge(used, minus(heldBy(m)))
	}
	subtract(b.ledger(hostOf(m)), m.GetCommitment())
	if to := m.GetMove(); to != nil {
		comesNot(b.ledger(to.GetVmHost()), m)
	}
}

// Move takes what the machine commits off its host and puts it on another, past
// its limit if need be: the machine is there.
func (b *Books) Move(m *storev1.StoredMachine, host string) {
	subtract(b.ledger(hostOf(m)), m.GetCommitment())
	add(b.ledger(host), m.GetCommitment())
}

// Close writes the books.
func (b *Books) Close() {
	change := sharedChange{}
	for host, l := range b.ledgers {
		before, _ := store.Ledgers.Get(b.v, host)
		change.of(before.Value, l)
		store.Put(b.tx, store.Ledgers, l, host)
	}
	change.put(b.tx, b.v)
	for pool, used := range b.pools {
		if used != nil {
			store.Put(b.tx, store.PoolUsage, used, pool)
		}
	}
	for host, o := range b.hosts {
		store.Put(b.tx, store.Observed, o, host)
	}
}

func (b *Books) ledger(host string) *storev1.StoredLedger {
	l, ok := b.ledgers[host]
	if !ok {
		record, _ := store.Ledgers.Get(b.v, host)
		b.tx.IfRevision(store.Ledgers.Key(host), record.Revision)
		l = cloneLedger(record.Value)
		b.ledgers[host] = l
	}
	return l
}

// pool is the count of a pool with a quota; nil of one without.
func (b *Books) pool(pool string) *storev1.StoredPoolUsage {
	used, ok := b.pools[pool]
	if !ok {
		record, _ := store.ResourcePools.Get(b.v, pool)
		b.tx.IfRevision(store.ResourcePools.Key(pool), record.Revision)
		if quotaOf(record.Value) != nil {
			count, _ := store.PoolUsage.Get(b.v, pool)
			b.tx.IfRevision(store.PoolUsage.Key(pool), count.Revision)
			used = counted(b.v, pool, count.Value)
		}
		b.pools[pool] = used
	}
	return used
}

// Release adds to a transaction that machines give everything back: capacity,
// quota, name, record and what was seen of them. Call it only when their
// hypervisors were seen without them (P4), or when their host is forgotten. The transaction
// holds only if neither the machines nor the books changed since the view; run it
// by WithTurn. The answer is how many of the machines the view has.
func Release(tx *store.Txn, v *store.View, uids ...string) int {
	released := 0
	b := Open(tx, v)
	for _, uid := range uids {
		if m := b.forget(uid); m != nil {
			released++
			b.Unsee(hostOf(m), m.GetResource().GetHypervisorUuid(), m.GetCommitment())
			if to := m.GetMove(); to != nil && to.GetVmHost() != hostOf(m) {
				b.Unsee(to.GetVmHost(), m.GetResource().GetHypervisorUuid(), to.GetCommitment())
				b.unshow(to.GetVmHost(), m.GetResource().GetHypervisorUuid(), Handed(m))
			}
			for _, host := range HostsOf(m) {
				b.Disclaim(host, uid)
			}
		}
	}
	b.Close()
	return released
}

// LetGo is Release for machines that stay on their host as they are: what was
// seen of them stays, and from now on they are discovered ones.
func LetGo(tx *store.Txn, v *store.View, uids ...string) int {
	released := 0
	b := Open(tx, v)
	for _, uid := range uids {
		if b.forget(uid) != nil {
			released++
		}
	}
	b.Close()
	return released
}

// forget removes the record and the name of a machine; nil when there is none.
func (b *Books) forget(uid string) *storev1.StoredMachine {
	machine, ok := store.Machines.Get(b.v, uid)
	if !ok {
		return nil
	}
	b.tx.IfRevision(store.Machines.Key(uid), machine.Revision)
	b.tx.Delete(store.Machines.Key(uid))
	b.tx.Delete(store.Names.Key(poolOf(machine.Value), machine.Value.GetResource().GetHostname()))
	b.GiveBack(machine.Value)
	return machine.Value
}

// Adopt adds to a transaction the record of a machine that is on its host
// already, with its name, its capacity and its share of the quota. Errors:
// NOT_FOUND (pool), ALREADY_EXISTS (hostname, or the record), QUOTA_EXCEEDED.
func Adopt(tx *store.Txn, v *store.View, m *storev1.StoredMachine) error {
	r, pool := m.GetResource(), poolOf(m)
	if _, ok := store.Names.Get(v, pool, r.GetHostname()); ok {
		return hostnameTaken(pool, r.GetHostname())
	}
	if _, ok := store.Machines.Get(v, r.GetUid()); ok {
		return apierror.New(codes.AlreadyExists, vmhostv1.ErrorReason_ALREADY_EXISTS, "%s is vmhost's already", r.GetName()).
			With("resource", r.GetName())
	}
	b := Open(tx, v)
	if err := b.Take(m); err != nil {
		return err
	}
	b.Close()
	tx.IfAbsent(store.Names.Key(pool, r.GetHostname()))
	tx.IfAbsent(store.Machines.Key(r.GetUid()))
	store.Put(tx, store.Names, &storev1.StoredName{Uid: r.GetUid()}, pool, r.GetHostname())
	store.Put(tx, store.Machines, m, r.GetUid())
	return nil
}

// Recount is what the machines of a host and the places reserved on it hold together: what its ledger must say.
func Recount(v *store.View, host string) *storev1.StoredLedger {
	out := &storev1.StoredLedger{Total: &storev1.Commitment{}}
	if now, ok := store.Ledgers.Get(v, host); ok { // no sum, and not of machines
		out.SharedPools = now.Value.GetSharedPools()
	}
	for _, m := range store.Machines.All(v) {
		if hostOf(m.Value) == host {
			add(out, m.Value.GetCommitment())
		}
		if m.Value.GetMove().GetVmHost() == host {
			comesTo(out, m.Value)
		}
	}
	addHeld(out, v, host)
	return out
}

func hostOf(m *storev1.StoredMachine) string {
	return strings.TrimPrefix(m.GetResource().GetVmHost(), "vmHosts/")
}

func poolOf(m *storev1.StoredMachine) string {
	return strings.TrimPrefix(m.GetResource().GetResourcePool(), "resourcePools/")
}

func cloneLedger(l *storev1.StoredLedger) *storev1.StoredLedger {
	if l == nil {
		return &storev1.StoredLedger{}
	}
	return proto.CloneOf(l)
}
