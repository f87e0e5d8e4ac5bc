package soak

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// mostTenths is the largest ratio of storage that operators of the soak set.
const mostTenths = 12

// replay goes through the state revision by revision as etcd has it.
type replay struct {
	hosts    map[string]*replayed
	machines map[string]held   // by uid
	names    map[string]string // key: uid

	reservations map[string]*storev1.StoredReservation // by uid

	shared int64 // what the shared pool says that it holds
	nas    int64 // the most that it held

	composed  int // machines that came to be
	revisions int // that changed a ledger
	over      int // times that a host was over its limit after a change of ratio
	worst     peak
}

type replayed struct {
	spec     *storev1.StoredVmHost
	observed *storev1.StoredVmHostObservation
	ledger   *storev1.StoredLedger
	sum      amount // of the machines
	machines int32
	last     register
}

type held struct {
	host, name string
	amount     amount
}

// peak is how full the fullest host was just after it took something.
type peak struct {
	host, of string
	used     int64
	limit    int64
	revision int64
}

func (p peak) String() string {
	return fmt.Sprintf("%s, %d of %d %s (%.2f %%) at revision %d", p.host, p.used, p.limit, p.of, 100*float64(p.used)/float64(max(p.limit, 1)), p.revision)
}

func newReplay() *replay {
	return &replay{hosts: map[string]*replayed{}, machines: map[string]held{}, names: map[string]string{}, reservations: map[string]*storev1.StoredReservation{}}
}

// apply is one revision.
func (r *replay) apply(now storetest.Revision) error {
	touched := map[string]bool{}
	for key, value := range now.Changed {
		if err := r.event(key, value, touched); err != nil {
			return err
		}
	}
	for id := range touched {
		if err := r.host(now.Number, id); err != nil {
			return err
		}
	}
	sum := int64(0)
	for _, h := range r.hosts {
		sum += h.ledger.GetTotal().GetStorageBytes()[nas]
	}
	r.nas = max(r.nas, sum)
	if sum != r.shared {
		return fmt.Errorf("the shared pool says %d, and ledgers have %d in it", r.shared, sum)
	}
	if most := int64(nasMiB) * mib / 10 * mostTenths; sum > most {
		return fmt.Errorf("overshoot: %d of %d in the shared pool", sum, most)
	}
	if len(r.names) != len(r.machines) {
		return fmt.Errorf("%d names, %d machines", len(r.names), len(r.machines))
	}
	return nil
}

func (r *replay) event(key string, value []byte, touched map[string]bool) error {
	gone := value == nil
	at := func(id string) *replayed {
		touched[id] = true
		if r.hosts[id] == nil {
			r.hosts[id] = &replayed{}
		}
		return r.hosts[id]
	}
	var err error
	switch {
	case strings.HasPrefix(key, store.VmHosts.Prefix()):
		h := at(store.VmHosts.ID(key))
		h.spec = &storev1.StoredVmHost{}
		err = proto.Unmarshal(value, h.spec)
	case strings.HasPrefix(key, store.Observed.Prefix()):
		h := at(store.Observed.ID(key))
		h.observed = &storev1.StoredVmHostObservation{}
		err = proto.Unmarshal(value, h.observed)
	case key == store.SharedPools.Key(store.EscapeID(nasIdentity)):
		p := &storev1.StoredSharedPool{}
		err = proto.Unmarshal(value, p)
		r.shared = p.GetCommittedBytes()
	case strings.HasPrefix(key, store.Ledgers.Prefix()):
		r.revisions++
		h := at(store.Ledgers.ID(key))
		h.ledger = &storev1.StoredLedger{}
		err = proto.Unmarshal(value, h.ledger)
	case strings.HasPrefix(key, store.Machines.Prefix()):
		uid := store.Machines.ID(key)
		if m, ok := r.machines[uid]; ok {
			h := at(m.host)
			h.sum, h.machines = h.sum.minus(m.amount), h.machines-1
			delete(r.machines, uid)
		}
		if gone {
			return nil
		}
		m := &storev1.StoredMachine{}
		err = proto.Unmarshal(value, m)
		id := strings.TrimPrefix(m.GetResource().GetVmHost(), "vmHosts/")
		h := at(id)
		r.machines[uid] = held{id, m.GetResource().GetHostname(), amountOf(m.GetCommitment())}
		h.sum, h.machines = h.sum.plus(amountOf(m.GetCommitment())), h.machines+1
		if m.GetResource().GetOperation() != "" {
			r.composed++
		}
	case strings.HasPrefix(key, store.Reservations.Prefix()):
		var now *storev1.StoredReservation
		if !gone {
			now = &storev1.StoredReservation{}
			err = proto.Unmarshal(value, now)
		}
		r.reservation(store.Reservations.ID(key), now, at)
	case strings.HasPrefix(key, store.Names.Prefix()):
		if delete(r.names, key); !gone {
			n := &storev1.StoredName{}
			err = proto.Unmarshal(value, n)
			r.names[key] = n.GetUid()
		}
	}
	return err
}

// host checks one that changed.
func (r *replay) host(revision int64, id string) error {
	h := r.hosts[id]
	if committed := committedOf(h.ledger); committed != h.sum || h.ledger.GetMachines() != h.machines {
		return fmt.Errorf("host %s: the ledger has %+v for %d machines, the machines are %d with %+v",
			id, committed, h.ledger.GetMachines(), h.machines, h.sum)
	}
	now := register{
		limit: limitOf(h.spec, h.observed), used: h.sum.plus(foreignOf(h.observed)), cordoned: h.spec.GetResource().GetCordoned(),
	}
	before := h.last
	h.last = now
	if before == (register{}) {
		return nil // the first that is known of it
	}
	if now.used.within(before.used) {
		if !now.used.within(now.limit) && before.used.within(before.limit) {
			r.over++
		}
		return nil
	}
	// Something was taken. Spec and ledger never change in one transaction here.
	switch {
	case !now.used.within(now.limit):
		return fmt.Errorf("host %s: overshoot: %+v of %+v, before %+v", id, now.used, now.limit, before)
	case !before.used.within(before.limit):
		return fmt.Errorf("host %s took a machine while it was over its limits: %+v, before %+v", id, now, before)
	case now.cordoned:
		return fmt.Errorf("host %s took a machine while it was cordoned: %+v, before %+v", id, now, before)
	}
	for _, p := range []peak{
		{id, "cores", now.used.cores, now.limit.cores, revision},
		{id, "MiB of memory", now.used.memoryMiB, now.limit.memoryMiB, revision},
		{id, "MiB of disk", now.used.diskMiB, now.limit.diskMiB, revision},
	} {
		if r.worst.limit == 0 || p.used*r.worst.limit > r.worst.used*p.limit {
			r.worst = p
		}
	}
	return nil
}
