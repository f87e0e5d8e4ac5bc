package ledger

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/request"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

const (
	// ExpiryMargin is how long after its time an expired reservation is given back:
	// as long as the clocks of regions differ by less, none gives back what another
	// still takes for good. Whatever they say, the reservation's revision decides.
	ExpiryMargin = 5 * time.Second
	// keepReservations is how long one is shown after its end, so that who comes too
	// late is told what became of it.
	keepReservations = time.Hour
	// hostsAtOnce is of how many hosts one transaction gives places back: each is a
	// compare. A reservation on more hosts is given back in parts, and its record
	// with them, so that the sum is right after each.
	hostsAtOnce = 40
	// reservationsAtOnce is how many lose their places on a host at once: each can
	// have a pool of its own with a quota.
	reservationsAtOnce = 30
)

// DeleteReservation gives back what a reservation holds and removes it. Errors:
// NOT_FOUND, ETAG_MISMATCH, REQUEST_ID_REUSED, CONFLICT, STORE_UNAVAILABLE.
func (l *Ledger) DeleteReservation(ctx context.Context, principal string, req *vmhostv1.DeleteReservationRequest) (*vmhostv1.DeleteReservationResponse, error) {
	id, err := request.New(principal, "DeleteReservation", req)
	if err != nil {
		return nil, err
	}
	uid, err := idOf("name", reservations, req.GetName())
	if err != nil {
		return nil, err
	}
	out := &vmhostv1.DeleteReservationResponse{}
	for begun, more := false, true; more; begun = true {
		err := l.again(ctx, "delete "+req.GetName(), func() (int64, error) {
			more = false
			v, err := l.store.View(ctx)
			if err != nil {
				return 0, unavailable(err)
			}
			if used, err := id.Lookup(v); err != nil || used != nil {
				return 0, err
			}
			r, ok := store.Reservations.Get(v, uid)
			switch {
			case !ok && begun: // somebody else removed it meanwhile
				return 0, nil
			case !ok:
				return 0, apierror.NotFound(req.GetName())
			case !begun && req.GetEtag() != "" && req.GetEtag() != view.Etag(r.Revision):
				return 0, apierror.New(codes.Aborted, vmhostv1.ErrorReason_ETAG_MISMATCH, "%s has changed since it was read", req.GetName()).
					With("resource", req.GetName()).With("etag", view.Etag(r.Revision)).WithHint("read it again, and decide whether to go on")
			case req.GetValidateOnly():
				return 0, nil
			}
			tx := store.NewTxn()
			next := giveBackSome(tx, v, r)
			if more = len(next.GetHolds()) > 0; more {
				// Nobody uses what is left, and if this ends here it expires.
				next.Resource.Expiration = &vmhostv1.Reservation_ExpireTime{ExpireTime: timestamppb.Now()}
				putReservation(tx, next, principal)
				return l.store.Commit(ctx, tx)
			}
			tx.Delete(store.Reservations.Key(uid))
			tx.Delete(store.References.Key("pools", reservedPool(next), "reservations", uid))
			reservationEvent(tx, next.GetResource(), "deleted", principal, "", "deleted by "+principal+", and what was left is given back")
			if err := id.RecordResponse(tx, out); err != nil {
				return 0, err
			}
			return l.store.Commit(ctx, tx)
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// giveBackSome adds to a transaction that the places on some hosts are given back.
// The answer is the reservation without them, to be written by the caller.
func giveBackSome(tx *store.Txn, v *store.View, r store.Record[*storev1.StoredReservation]) *storev1.StoredReservation {
	next := proto.CloneOf(r.Value)
	tx.IfRevision(store.Reservations.Key(next.GetResource().GetUid()), r.Revision)
	some, hosts, last := 0, 0, ""
	for _, h := range next.GetHolds() {
		if h.GetVmHost() != last {
			hosts, last = hosts+1, h.GetVmHost()
		}
		if hosts > hostsAtOnce {
			break
		}
		some++
	}
	if some > 0 {
		b := Open(tx, v)
		b.giveBackHolds(next, next.GetHolds()[:some])
		b.Close()
	}
	next.Holds = next.GetHolds()[some:]
	return next
}

// ExpireReservations gives back what expired reservations hold, and forgets those
// that ended long ago. Every region does it: the reservation's revision lets one
// win. The answer is how many expired.
func (l *Ledger) ExpireReservations(ctx context.Context, now time.Time) (expired int, err error) {
	v := l.store.Cached()
	for uid, r := range store.Reservations.All(v) {
		resource := r.Value.GetResource()
		var ended bool
		switch {
		case resource.GetState() != vmhostv1.ReservationState_RESERVATION_STATE_UNSPECIFIED:
			if now.Sub(resource.GetUpdateTime().AsTime()) > keepReservations {
				err = l.forgetReservation(ctx, uid)
			}
		case now.Sub(resource.GetExpireTime().AsTime()) > ExpiryMargin:
			ended, err = l.expire(ctx, uid, now)
		}
		if err != nil {
			return expired, fmt.Errorf("end %s: %w", reservations+uid, err)
		}
		if ended {
			expired++
		}
	}
	return expired, nil
}

// expire ends an expired reservation; false when somebody else did.
func (l *Ledger) expire(ctx context.Context, uid string, now time.Time) (ended bool, err error) {
	for more := true; more; {
		err := l.again(ctx, "expire "+reservations+uid, func() (int64, error) {
			more = false
			v := l.store.Cached()
			r, ok := store.Reservations.Get(v, uid)
			resource := r.Value.GetResource()
			if !ok || resource.GetState() != vmhostv1.ReservationState_RESERVATION_STATE_UNSPECIFIED || now.Sub(resource.GetExpireTime().AsTime()) <= ExpiryMargin {
				return 0, nil // used up, ended, or extended meanwhile
			}
			tx := store.NewTxn()
			next := giveBackSome(tx, v, r)
			if more = len(next.GetHolds()) > 0; !more {
				next.Resource.State = vmhostv1.ReservationState_RESERVATION_STATE_EXPIRED
				n := int(next.GetResource().GetCount() - next.GetResource().GetUsed() - next.GetResource().GetLost())
				reservationEvent(tx, next.GetResource(), "expired", "", "", strconv.Itoa(n)+" places that were not used are given back")
			}
			putReservation(tx, next, "")
			revision, err := l.store.Commit(ctx, tx)
			ended = err == nil && !more
			return revision, err
		})
		if err != nil {
			return false, err
		}
	}
	return ended, nil
}

// forgetReservation removes the record of one that has ended.
func (l *Ledger) forgetReservation(ctx context.Context, uid string) error {
	r, ok := store.Reservations.Get(l.store.Cached(), uid)
	if !ok {
		return nil
	}
	tx := store.NewTxn()
	tx.IfRevision(store.Reservations.Key(uid), r.Revision)
	tx.Delete(store.Reservations.Key(uid))
	if _, err := l.store.Commit(ctx, tx); err != nil && !errors.Is(err, store.ErrConflict) {
		return err
	}
	return nil
}

// DropHeld adds to a transaction that reservations lose places on a host that is
// taken out of the fleet, of some reservations at a time; the answer is how many
// still have places there. The transaction holds only if neither they nor the
// books changed since the view; run it by WithTurn.
func DropHeld(tx *store.Txn, v *store.View, host, principal string) int {
	names := ReservationsOn(v, host)
	now := names[:min(len(names), reservationsAtOnce)]
	b := Open(tx, v)
	for _, name := range now {
		uid := name[len(reservations):]
		r, _ := store.Reservations.Get(v, uid)
		gone := holdsOn(r.Value, host)
		b.giveBackHolds(r.Value, gone)
		tx.IfRevision(store.Reservations.Key(uid), r.Revision)
		next := proto.CloneOf(r.Value)
		next.Holds = nil
		lost := int32(0)
		for _, h := range r.Value.GetHolds() {
			if h.GetVmHost() == host {
				lost += h.GetCount()
				continue
			}
			next.Holds = append(next.Holds, proto.CloneOf(h))
		}
		next.Resource.Lost += lost
		reservationEvent(tx, next.GetResource(), "reduced", principal, "vmHosts/"+host, fmt.Sprintf("%d places went with vmHosts/%s", lost, host))
		putReservation(tx, next, principal)
	}
	b.Close()
	return len(names) - len(now)
}
