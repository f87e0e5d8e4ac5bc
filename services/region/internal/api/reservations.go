package api

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

type reservationService struct {
	vmhostv1.UnimplementedReservationServiceServer
	*base
	composer Composer
}

// Reserve holds capacity for machines that are composed later.
func (s *reservationService) Reserve(ctx context.Context, req *vmhostv1.ReserveRequest) (*vmhostv1.Reservation, error) {
	return s.composer.Reserve(ctx, principal(ctx), req)
}

// GetReservation is one reservation.
func (s *reservationService) GetReservation(ctx context.Context, req *vmhostv1.GetReservationRequest) (*vmhostv1.Reservation, error) {
	r, err := get(ctx, s.base, store.Reservations, req.GetName())
	if err != nil {
		return nil, err
	}
	return view.Reservation(r, time.Now()), nil
}

// ListReservations are all reservations, also those that ended a short time ago.
func (s *reservationService) ListReservations(ctx context.Context, req *vmhostv1.ListReservationsRequest) (*vmhostv1.ListReservationsResponse, error) {
	now := time.Now()
	page, next, err := answerList[*vmhostv1.Reservation](ctx, s.base, vmhostv1.ReservationService_ListReservations_FullMethodName, req, "name",
		itemsOf(store.Reservations, reservationsCollection, func(_ *store.View, r store.Record[*storev1.StoredReservation]) proto.Message {
			return view.Reservation(r, now)
		}))
	if err != nil {
		return nil, err
	}
	return &vmhostv1.ListReservationsResponse{Reservations: page, NextPageToken: next}, nil
}

// UpdateReservation changes when a reservation expires.
func (s *reservationService) UpdateReservation(ctx context.Context, req *vmhostv1.UpdateReservationRequest) (*vmhostv1.Reservation, error) {
	asked := req.GetReservation()
	name, uid := asked.GetName(), idOf(asked.GetName())
	if name != reservationsCollection+uid || uid == "" {
		return nil, apierror.InvalidField("reservation.name", "must have the form %s{id}", reservationsCollection)
	}
	set, err := fields(req.GetUpdateMask(), []string{"expire_time", "ttl"}, []string{
		"uid", "create_time", "update_time", "principal", "machine", "count", "used", "lost", "state", "places",
	})
	if err != nil {
		return nil, err
	}
	if set["expire_time"] && set["ttl"] {
		return nil, apierror.InvalidField("update_mask", "names expire_time and ttl, which say the same")
	}
	return mutate(ctx, s.base, vmhostv1.ReservationService_UpdateReservation_FullMethodName, req, func(v *store.View, tx *store.Txn) (*vmhostv1.Reservation, error) {
		r, ok := store.Reservations.Get(v, uid)
		if !ok {
			return nil, apierror.NotFound(name)
		}
		if err := checkEtag(name, asked.GetEtag(), r.Revision); err != nil {
			return nil, err
		}
		now := time.Now()
		if err := ledger.Usable(r.Value, now); err != nil {
			return nil, err
		}
		until, err := expiry(asked, set, now)
		if err != nil {
			return nil, err
		}
		stored := proto.CloneOf(r.Value)
		stored.Resource.Expiration = &vmhostv1.Reservation_ExpireTime{ExpireTime: timestamppb.New(until)}
		stored.Resource.UpdateTime = timestamppb.New(now)
		tx.IfRevision(store.Reservations.Key(uid), r.Revision)
		store.Put(tx, store.Reservations, stored, uid)
		addEvent(ctx, tx, "reservation.updated", name, "")
		return view.Reservation(store.Record[*storev1.StoredReservation]{Value: stored, Revision: r.Revision}, now), nil
	})
}

// expiry is until when a reservation shall be good.
func expiry(asked *vmhostv1.Reservation, set map[string]bool, now time.Time) (time.Time, error) {
	field, until := "reservation.expire_time", asked.GetExpireTime().AsTime()
	if set["ttl"] {
		if asked.GetTtl() == nil {
			return until, apierror.InvalidField("reservation.ttl", "must be said, as update_mask names it")
		}
		field, until = "reservation.ttl", now.Add(asked.GetTtl().AsDuration())
	} else if asked.GetExpireTime() == nil {
		return until, apierror.InvalidField(field, "must be said, as update_mask names it")
	}
	if !until.After(now) || until.After(now.Add(ledger.MaxReserveTTL)) {
		return until, apierror.InvalidField(field, "must be in the future, and at most %s from now", ledger.MaxReserveTTL).
			WithHint("to give it back now, delete it")
	}
	return until, nil
}

// DeleteReservation gives back what a reservation holds.
func (s *reservationService) DeleteReservation(ctx context.Context, req *vmhostv1.DeleteReservationRequest) (*vmhostv1.DeleteReservationResponse, error) {
	return s.composer.DeleteReservation(ctx, principal(ctx), req)
}
