package ledger

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/reach"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Disks that stay in a storage pool of both hosts are held once (ADR 0026): by the
// ledger of the host that the machine is on, and from the transaction on that ends the
// move by that of its destination. The pool's sum is the same before, in between and
// after. What a machine will hold follows from its record: what it holds on its host in
// the pools of these disks, beside what the move took.

// LocalPools are the types of storage pools that are their host's alone, unless an
// operator says otherwise: nobody on another host has their volumes.
func LocalPools() []string { return []string{"dir", "fs", "logical", "lvm", "zfs", "btrfs", "disk"} }

// Handed is what goes from the ledger of a machine's host to that of the destination
// when its move ends, by storage pool of the destination.
func Handed(m *storev1.StoredMachine) map[string]int64 {
	c := &storev1.Commitment{}
	from, to := stayingPools(m)
	placement.HandOver(m.GetCommitment(), from, c, to)
	return c.GetStorageBytes()
}

// kept is the same by storage pool of the host that the machine is on.
func kept(m *storev1.StoredMachine) map[string]int64 {
	c := &storev1.Commitment{}
	from, _ := stayingPools(m)
	placement.HandOver(m.GetCommitment(), from, c, from)
	return c.GetStorageBytes()
}

// stayingPools are the storage pools of the disks that stay, disk by disk: on the
// machine's host, and on the destination.
func stayingPools(m *storev1.StoredMachine) (from, to []string) {
	here, there := m.GetResource().GetDisks(), m.GetMove().GetMoved().GetDisks()
	for _, i := range m.GetMove().GetStayingDisks() {
		if i >= 0 && int(i) < len(here) && int(i) < len(there) {
			from, to = append(from, here[i].GetStoragePool()), append(to, there[i].GetStoragePool())
		}
	}
	return from, to
}

// arrived is what a machine that is being moved holds when it has arrived.
func arrived(m *storev1.StoredMachine) *storev1.Commitment {
	out := proto.CloneOf(m.GetMove().GetCommitment())
	for pool, bytes := range Handed(m) {
		if out.StorageBytes == nil {
			out.StorageBytes = map[string]int64{}
		}
		out.StorageBytes[pool] += bytes
	}
	return out
}

// comesTo adds to the destination's ledger a machine that is being moved there.
func comesTo(l *storev1.StoredLedger, m *storev1.StoredMachine) {
	add(l, m.GetMove().GetCommitment())
	for pool, bytes := range Handed(m) {
		if l.StayingBytes == nil {
			l.StayingBytes = map[string]int64{}
		}
		l.StayingBytes[pool] += bytes
	}
}

// comesNot takes it off again.
func comesNot(l *storev1.StoredLedger, m *storev1.StoredMachine) {
	subtract(l, m.GetMove().GetCommitment())
	stopStaying(l, m)
}

// arrives makes of it one that is there.
func arrives(l *storev1.StoredLedger, m *storev1.StoredMachine) {
	stopStaying(l, m)
	for pool, bytes := range Handed(m) {
		if l.GetTotal() == nil {
			l.Total = &storev1.Commitment{}
		}
		if l.GetTotal().GetStorageBytes() == nil {
			l.Total.StorageBytes = map[string]int64{}
		}
		l.Total.StorageBytes[pool] += bytes
	}
}

func stopStaying(l *storev1.StoredLedger, m *storev1.StoredMachine) {
	for pool, bytes := range Handed(m) {
		if left := l.GetStayingBytes()[pool] - bytes; left > 0 {
			l.StayingBytes[pool] = left
		} else {
			delete(l.GetStayingBytes(), pool)
		}
	}
}

// unshow takes out of what is ours on a host what a machine has in storage pools, which
// it was seen with there and is known to be gone from. Another host shows these disks,
// so that until the next report they would count as ours twice, and as much of what
// others use would not count at all (P1).
func (b *Books) unshow(host, uuid string, bytes map[string]int64) {
	if _, seen := store.Seen.Get(b.v, host, uuid); !seen || len(bytes) == 0 {
		return
	}
	record, _ := store.Observed.Get(b.v, host)
	for i, p := range record.Value.GetObservation().GetStoragePools() {
		if bytes[p.GetName()] > 0 && p.GetOursBytes() > 0 {
			next := b.observed(host).GetObservation().GetStoragePools()[i]
			next.OursBytes = max(next.GetOursBytes()-bytes[p.GetName()], 0)
		}
	}
}

// Shown is what of a machine's commitment on a host, or of what is handed to it, a
// host shows as ours: disks that stay only where the machine was seen.
func Shown(v *store.View, m *storev1.StoredMachine, host string) map[string]int64 {
	_, seen := store.Seen.Get(v, host, m.GetResource().GetHypervisorUuid())
	if host == hostOf(m) {
		out := maps.Clone(m.GetCommitment().GetStorageBytes())
		if !seen {
			for pool, bytes := range kept(m) {
				out[pool] -= bytes
			}
		}
		return out
	}
	if seen {
		return arrived(m).GetStorageBytes()
	}
	return m.GetMove().GetCommitment().GetStorageBytes()
}

// holdDisks says of the disks of a machine what is behind the storage pool that each
// is in, where other hosts can have that as well, and whether it can stay there.
func holdDisks(v *store.View, m *storev1.StoredMachine, req *placement.Request) {
	host := hostOf(m)
	l, _ := store.Ledgers.Get(v, host)
	if len(l.Value.GetSharedPools()) == 0 {
		return
	}
	adopted := m.GetResource().GetOrigin() == vmhostv1.MachineOrigin_MACHINE_ORIGIN_ADOPTED
	i, held := 0, false
	for _, d := range m.GetResource().GetDisks() {
		if d.GetSizeBytes() <= 0 || i == len(req.Disks) { // as placement.MachineOf has them
			continue
		}
		if identity := l.Value.GetSharedPools()[d.GetStoragePool()]; identity != "" {
			held = true
			req.Disks[i].Held, req.Disks[i].In = identity, d.GetStoragePool()
			req.Disks[i].Bound = adopted && !IsLocal(v, host, d.GetStoragePool())
		}
		i++
	}
	if held {
		req.Copies = reach.WhyCopies(v, host)
	}
}

// IsLocal says whether a storage pool of a host, an id, is of a type that is its alone.
func IsLocal(v *store.View, host, pool string) bool {
	o, _ := store.Observed.Get(v, host)
	return slices.ContainsFunc(o.Value.GetObservation().GetStoragePools(), func(p *vmhostv1.StoragePool) bool {
		return p.GetName() == pool && slices.Contains(LocalPools(), p.GetType())
	})
}
