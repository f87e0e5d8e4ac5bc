package operation

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// A machine that is adopted or given back changes sides: what it takes is foreign
// use before and committed after, or the other way round. Both are changed in the
// transaction that changes the record, by the same amount, so that their sum does
// not jump (P1) and no room is needed for it.
//
// Storage is the exception. Volumes of an adopted machine have names of their own,
// and stay what they were: part of what their pool has allocated beside our
// volumes, which is foreign. So they are not committed. When a machine that
// vmhost composed is given away its volumes become foreign at once.

// adoptedCommitment is what an adopted machine holds: what it takes by now.
func adoptedCommitment(r *vmhostv1.Machine) *storev1.Commitment {
	out := &storev1.Commitment{
		Cores: r.GetCores(), MemoryMib: r.GetMemoryMib(),
		PinnedCores: slices.Sorted(slices.Values(r.GetPinnedCores())), SriovFunctions: functions(r.GetInterfaces()),
	}
	if r.GetHugepages() {
		out.HugepagesMib = r.GetMemoryMib()
	}
	for _, i := range r.GetInterfaces() {
		if a, err := netip.ParseAddr(i.GetFixedAddress()); err == nil {
			out.FixedAddresses = append(out.FixedAddresses, placement.FixedAddress(i.GetSource(), a.Unmap().String()))
		}
	}
	slices.Sort(out.GetFixedAddresses())
	return out
}

// functions are the virtual functions that interfaces take, by device.
func functions(interfaces []*vmhostv1.MachineInterface) map[string]int32 {
	var out map[string]int32
	for _, i := range interfaces {
		if i.GetKind() == vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV {
			if out == nil {
				out = map[string]int32{}
			}
			out[i.GetSource()]++
		}
	}
	return out
}

// takeOver adds to a transaction that a machine which is there becomes ours.
func takeOver(tx *store.Txn, v *store.View, m *storev1.StoredMachine, seen *rackv1.MachineObservation) error {
	if err := ledger.Adopt(tx, v, m); err != nil {
		return err
	}
	moveForeign(tx, v, idOf(m.GetResource().GetVmHost()), seen, nil, -1)
	return nil
}

// moveForeign adds to a transaction that a machine as it is seen counts as foreign
// from now on, or with sign -1 that it does not any more. Storage is what it
// held committed in the host's pools.
func moveForeign(tx *store.Txn, v *store.View, host string, seen *rackv1.MachineObservation, storage map[string]int64, sign int32) {
	spec, _ := store.VmHosts.Get(v, host)
	observed, ok := store.Observed.Get(v, host)
	tx.IfRevision(store.Observed.Key(host), observed.Revision)
	if !ok || seen == nil || observed.Value.GetVmHostUid() != spec.Value.GetResource().GetUid() || observed.Value.GetObservation() == nil {
		return // nothing is known of the host, or it does not have the machine
	}
	next := proto.CloneOf(observed.Value)
	o := next.GetObservation()
	if o.GetForeign() == nil {
		o.Foreign = &vmhostv1.ForeignUsage{}
	}
	f := o.GetForeign()
	f.Machines = max(f.GetMachines()+sign, 0)
	f.Cores = max(f.GetCores()+sign*seen.GetCores(), 0)
	f.MemoryMib = max(f.GetMemoryMib()+int64(sign)*seen.GetMemoryMib(), 0)
	if seen.GetHugepages() && f.HugepagesMib != nil {
		f.HugepagesMib = new(max(f.GetHugepagesMib()+int64(sign)*seen.GetMemoryMib(), 0))
	}
	for device, n := range functions(seen.GetInterfaces()) {
		if had, known := f.GetSriovFunctions()[device]; known {
			f.SriovFunctions[device] = max(had+sign*n, 0)
		}
	}
	if sign > 0 { // of those that are less, the next report knows whether others have them too
		f.PinnedCores = append(f.GetPinnedCores(), seen.GetPinnedCores()...)
		slices.Sort(f.GetPinnedCores())
		f.PinnedCores = slices.Compact(f.GetPinnedCores())
	}
	for _, p := range o.GetStoragePools() {
		p.OursBytes = max(p.GetOursBytes()-storage[p.GetName()], 0)
	}
	store.Put(tx, store.Observed, next, host)
}

// committed is a machine as it is seen without what it takes beyond its
// commitment, which counts as foreign already.
func committed(seen *rackv1.MachineObservation, c *storev1.Commitment) *rackv1.MachineObservation {
	if seen.GetCores() <= c.GetCores() && seen.GetMemoryMib() <= c.GetMemoryMib() {
		return seen
	}
	out := proto.CloneOf(seen)
	out.Cores, out.MemoryMib = min(seen.GetCores(), c.GetCores()), min(seen.GetMemoryMib(), c.GetMemoryMib())
	return out
}

// letGo ends the operation and makes its machine a
// foreign one: record, name, capacity and quota go, and what is seen of it counts
// as foreign. seen is how a rack saw it just now, nil when it did not say.
func (c *change) letGo(ctx context.Context, next *storev1.StoredOperation, seen *rackv1.MachineObservation) error {
	return c.byTurns(ctx, next, func(tx *store.Txn, v *store.View) {
		m, ok := store.Machines.Get(v, c.op.GetMachineUid())
		if !ok {
			return
		}
		r := m.Value.GetResource()
		ledger.LetGo(tx, v, r.GetUid())
		seenOn := func(host string, otherwise *rackv1.MachineObservation) *rackv1.MachineObservation {
			if rec, ok := store.Seen.Get(v, host, r.GetHypervisorUuid()); ok {
				return rec.Value.GetObservation()
			}
			return otherwise
		}
		host := idOf(r.GetVmHost())
		moveForeign(tx, v, host, committed(seenOn(host, seen), m.Value.GetCommitment()), ledger.Shown(v, m.Value, host), 1)
		if to := m.Value.GetMove(); to != nil {
			moveForeign(tx, v, to.GetVmHost(), committed(seenOn(to.GetVmHost(), nil), to.GetCommitment()), ledger.Shown(v, m.Value, to.GetVmHost()), 1)
		}
	})
}

// byTurns ends the operation and changes the books with it. On a busy host they
// change all the time, so it is done by turns, and again when another region was
// faster.
func (c *change) byTurns(ctx context.Context, next *storev1.StoredOperation, books func(tx *store.Txn, v *store.View)) error {
	const tries = 50
	return c.engine.cfg.Turn.WithTurn(ctx, func() error {
		for range tries {
			v := c.engine.store.Cached()
			if op, ok := store.Operations.Get(v, c.uid); !ok || op.Revision != c.revision {
				return store.ErrConflict
			}
			tx := c.begin(next)
			books(tx, v)
			c.event(tx, next)
			if err := c.last(ctx, tx, next); !errors.Is(err, store.ErrConflict) {
				return err
			}
		}
		return fmt.Errorf("change what the machine holds: %w", store.ErrConflict)
	})
}
