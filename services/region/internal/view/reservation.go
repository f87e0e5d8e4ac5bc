package view

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Reservation is a reservation as the API shows it at a time.
func Reservation(r store.Record[*storev1.StoredReservation], now time.Time) *vmhostv1.Reservation {
	out := proto.CloneOf(r.Value.GetResource())
	out.Etag = Etag(r.Revision)
	if out.GetState() == vmhostv1.ReservationState_RESERVATION_STATE_UNSPECIFIED {
		out.State = vmhostv1.ReservationState_RESERVATION_STATE_ACTIVE
		if !now.Before(out.GetExpireTime().AsTime()) {
			out.State = vmhostv1.ReservationState_RESERVATION_STATE_EXPIRED
		}
	}
	for _, h := range r.Value.GetHolds() {
		kind := r.Value.GetKinds()[h.GetKind()]
		place := &vmhostv1.HeldPlace{
			VmHost: "vmHosts/" + h.GetVmHost(), Count: h.GetCount(),
			StoragePools: slices.Clone(kind.GetStoragePools()), PinnedCores: slices.Clone(kind.GetPinnedCores()),
		}
		for _, n := range kind.GetNetworks() {
			place.Networks = append(place.Networks, n.GetSource())
		}
		out.Places = append(out.Places, place)
	}
	return out
}

// heldOn is how many places reservations hold on a host. Of each reservation they
// are found without looking at those on other hosts.
func heldOn(v *store.View, host string) int32 {
	n := int32(0)
	for _, r := range store.Reservations.All(v) {
		holds := r.Value.GetHolds()
		i, _ := slices.BinarySearchFunc(holds, host, func(h *storev1.StoredHold, id string) int { return cmp.Compare(h.GetVmHost(), id) })
		for ; i < len(holds) && holds[i].GetVmHost() == host; i++ {
			n += holds[i].GetCount()
		}
	}
	return n
}
