package ledger

import (
	"cmp"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// A reservation holds places: what a machine would commit of a host, in that
// host's ledger and in the count of its pool since the transaction that made it.
// Places that are alike are stored once with how many there are, so that one of a
// thousand machines is some twenty bytes per host.

// holder collects the places of a new reservation.
type holder struct {
	kinds  []*storev1.StoredHoldKind
	byKind map[string]int32 // encoded kind: its index
	counts map[holdKey]int32
}

type holdKey struct {
	host string
	kind int32
}

// add adds the place that a plan found.
func (h *holder) add(plan *placement.Plan, c *storev1.Commitment) error {
	kind := &storev1.StoredHoldKind{
		Architecture: plan.Architecture, StoragePools: slices.Clone(plan.Pools), PinnedCores: slices.Clone(plan.PinnedCores), Commitment: c,
	}
	for _, n := range plan.Networks {
		kind.Networks = append(kind.Networks, &vmhostv1.MachineInterface{Source: n.Source, Kind: n.Kind, Vlan: n.VLAN})
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(kind)
	if err != nil {
		return fmt.Errorf("encode a place: %w", err)
	}
	if h.byKind == nil {
		h.byKind, h.counts = map[string]int32{}, map[holdKey]int32{}
	}
	i, ok := h.byKind[string(data)]
	if !ok {
		i = int32(len(h.kinds))
		h.byKind[string(data)] = i
		h.kinds = append(h.kinds, kind)
	}
	h.counts[holdKey{plan.Host.ID, i}]++
	return nil
}

// holds are the places as they are stored, by host.
func (h *holder) holds() []*storev1.StoredHold {
	out := make([]*storev1.StoredHold, 0, len(h.counts))
	for key, n := range h.counts {
		out = append(out, &storev1.StoredHold{VmHost: key.host, Kind: key.kind, Count: n})
	}
	slices.SortFunc(out, func(a, b *storev1.StoredHold) int {
		return cmp.Or(cmp.Compare(a.GetVmHost(), b.GetVmHost()), cmp.Compare(a.GetKind(), b.GetKind()))
	})
	return out
}

// holdsOn are the places that a reservation has on a host.
func holdsOn(r *storev1.StoredReservation, host string) []*storev1.StoredHold {
	holds := r.GetHolds()
	from, _ := slices.BinarySearchFunc(holds, host, func(h *storev1.StoredHold, id string) int { return cmp.Compare(h.GetVmHost(), id) })
	to := from
	for to < len(holds) && holds[to].GetVmHost() == host {
		to++
	}
	return holds[from:to]
}

// ReservationsOn are the names of the reservations that hold places on a host.
func ReservationsOn(v *store.View, host string) []string {
	var names []string
	for uid, r := range store.Reservations.All(v) {
		if len(holdsOn(r.Value, host)) > 0 {
			names = append(names, "reservations/"+uid)
		}
	}
	return names
}

// HeldOn are the places that reservations hold on a host, of so many reservations
// at the most, and how many places there are in all.
func HeldOn(v *store.View, host string, most int) (held []*vmhostv1.HeldPlaces, places int32) {
	for uid, r := range store.Reservations.All(v) {
		n := int32(0)
		for _, h := range holdsOn(r.Value, host) {
			n += h.GetCount()
		}
		if places += n; n > 0 && len(held) < most {
			resource := r.Value.GetResource()
			held = append(held, &vmhostv1.HeldPlaces{
				Reservation: reservations + uid, Places: n, ExpireTime: resource.GetExpireTime(), Principal: resource.GetPrincipal(),
			})
		}
	}
	return held, places
}

// addHeld adds to what the machines of a host hold what reservations do.
func addHeld(l *storev1.StoredLedger, v *store.View, host string) {
	for _, r := range store.Reservations.All(v) {
		for _, h := range holdsOn(r.Value, host) {
			for range h.GetCount() {
				add(l, r.Value.GetKinds()[h.GetKind()].GetCommitment())
			}
		}
	}
}

// heldOf is what reservations take of a pool's quota.
func heldOf(v *store.View, pool string) *vmhostv1.ResourceAmount {
	out := &vmhostv1.ResourceAmount{}
	for _, r := range store.Reservations.All(v) {
		if reservedPool(r.Value) != pool {
			continue
		}
		for _, h := range r.Value.GetHolds() {
			out = sum(out, times(amountOf(r.Value.GetKinds()[h.GetKind()].GetCommitment()), int64(h.GetCount())))
		}
	}
	return out
}

func times(a *vmhostv1.ResourceAmount, n int64) *vmhostv1.ResourceAmount {
	return &vmhostv1.ResourceAmount{
		Machines: a.GetMachines() * int32(n), Cores: a.GetCores() * n, MemoryMib: a.GetMemoryMib() * n, StorageBytes: a.GetStorageBytes() * n,
	}
}

// giveBackHolds gives back places of a reservation. A host that is gone took its
// ledger along.
func (b *Books) giveBackHolds(r *storev1.StoredReservation, holds []*storev1.StoredHold) {
	used := b.pool(reservedPool(r))
	for _, h := range holds {
		c := r.GetKinds()[h.GetKind()].GetCommitment()
		if used != nil {
			charge(used, minus(times(amountOf(c), int64(h.GetCount()))))
		}
		if _, ok := store.VmHosts.Get(b.v, h.GetVmHost()); !ok {
			continue
		}
		l := b.ledger(h.GetVmHost())
		for range h.GetCount() {
			subtract(l, c)
		}
	}
}

// left is how many places a reservation still holds.
func left(r *storev1.StoredReservation) int {
	n := 0
	for _, h := range r.GetHolds() {
		n += int(h.GetCount())
	}
	return n
}
