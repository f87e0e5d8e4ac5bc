package soak

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// plan reserves places, composes against some of them at another region, and gives
// back the rest. For the hosts that is one taking and one giving back: a compose
// against a reservation is nothing to them.
func (s *soak) plan(ctx context.Context, c *client, r *region, a amount, one *vmhostv1.ComposeMachineRequest, asked []string) {
	n, use := int32(1+c.rng.IntN(4)), c.rng.IntN(4)
	begin := time.Now()
	held, err := r.ledger.Reserve(ctx, "soak", &vmhostv1.ReserveRequest{Machine: one, Count: n})
	switch reason := apierror.Reason(err); {
	case err == nil:
	case reason == vmhostv1.ErrorReason_NO_CAPACITY:
		if len(asked) == 1 {
			all := amount{}
			for range n {
				all = all.plus(a)
			}
			s.note(c.id, begin, call{verb: take, amount: all}, false, asked...)
		}
		s.refused.Add(1)
		c.full = true
		return
	case reason == vmhostv1.ErrorReason_CONFLICT:
		s.gaveUp.Add(1)
		return
	default:
		s.t.Errorf("reserve %d: %v", n, err)
		return
	}
	rec, ok := store.Reservations.Get(r.store.Cached(), held.GetUid())
	if !ok {
		s.t.Errorf("%s was acknowledged, and its region does not have it", held.GetName())
	}
	left := map[string]amount{}
	for _, p := range held.GetPlaces() {
		h := strings.TrimPrefix(p.GetVmHost(), "vmHosts/")
		for range p.GetCount() {
			left[h] = left[h].plus(a)
		}
	}
	for h, taken := range left {
		s.note(c.id, begin, call{verb: take, amount: taken, revision: rec.CreateRevision}, true, h)
	}

	for range min(int(n), use) {
		other := s.regions[c.rng.IntN(len(s.regions))]
		op, err := other.ledger.Compose(ctx, "soak", &vmhostv1.ComposeMachineRequest{Reservation: held.GetName()})
		if apierror.Reason(err) == vmhostv1.ErrorReason_CONFLICT {
			continue
		}
		if err != nil {
			s.t.Errorf("compose against %s: %v", held.GetName(), err)
			return
		}
		h := strings.TrimPrefix(op.GetVmHost(), "vmHosts/")
		left[h] = left[h].minus(a)
		c.machines = append(c.machines, machine{strings.TrimPrefix(op.GetTarget(), "machines/"), strings.TrimPrefix(op.GetName(), "operations/"), h, a})
		s.composed.Add(1)
	}

	begin, id := time.Now(), uuid.NewString()
	if _, err := r.ledger.DeleteReservation(ctx, "soak", &vmhostv1.DeleteReservationRequest{Name: held.GetName(), RequestId: id}); err != nil {
		s.t.Errorf("give back %s: %v", held.GetName(), err) // that it loses every race is not expected
		return
	}
	done, _ := store.Requests.Get(r.store.Cached(), "soak", id)
	for _, h := range slices.Sorted(maps.Keys(left)) {
		if left[h] != (amount{}) {
			s.note(c.id, begin, call{verb: give, amount: left[h], revision: done.CreateRevision}, nil, h)
		}
	}
	s.planned.Add(1)
}

// reservation replays one that changed: what it holds counts as machines do.
func (r *replay) reservation(uid string, now *storev1.StoredReservation, at func(id string) *replayed) {
	count := func(of *storev1.StoredReservation, sign int32) {
		for _, hold := range of.GetHolds() {
			h, each := at(hold.GetVmHost()), amountOf(of.GetKinds()[hold.GetKind()].GetCommitment())
			for range hold.GetCount() {
				if sign > 0 {
					h.sum = h.sum.plus(each)
				} else {
					h.sum = h.sum.minus(each)
				}
				h.machines += sign
			}
		}
	}
	count(r.reservations[uid], -1)
	count(now, 1)
	if r.reservations[uid] = now; now == nil {
		delete(r.reservations, uid)
	}
}
