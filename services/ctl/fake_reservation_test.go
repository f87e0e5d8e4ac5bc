package ctl_test

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func (f *fakeRegion) Reserve(_ context.Context, r *vmhostv1.ReserveRequest) (*vmhostv1.Reservation, error) {
	ttl := 15 * time.Minute
	if r.GetTtl() != nil {
		ttl = r.GetTtl().AsDuration()
	}
	one := proto.CloneOf(r.GetMachine())
	one.ResourcePool = "resourcePools/default"
	out := &vmhostv1.Reservation{
		Name: "reservations/r1", Principal: "alice", Machine: one, Count: r.GetCount(), State: vmhostv1.ReservationState_RESERVATION_STATE_ACTIVE,
		CreateTime: timestamppb.Now(), Expiration: &vmhostv1.Reservation_ExpireTime{ExpireTime: timestamppb.New(time.Now().Add(ttl + 30*time.Second))},
		Places: []*vmhostv1.HeldPlace{{VmHost: "vmHosts/h1", Count: r.GetCount(), StoragePools: []string{"default"}, Networks: []string{"lab"}}},
	}
	if r.GetValidateOnly() {
		out.Name = ""
	} else {
		f.held = append(f.held, out)
	}
	return out, nil
}

func (f *fakeRegion) GetReservation(_ context.Context, r *vmhostv1.GetReservationRequest) (*vmhostv1.Reservation, error) {
	return byName(f.held, r.GetName())
}

func (f *fakeRegion) ListReservations(_ context.Context, r *vmhostv1.ListReservationsRequest) (*vmhostv1.ListReservationsResponse, error) {
	items, next, err := page(f, f.held, r)
	return &vmhostv1.ListReservationsResponse{Reservations: items, NextPageToken: next}, err
}

func (f *fakeRegion) UpdateReservation(_ context.Context, r *vmhostv1.UpdateReservationRequest) (*vmhostv1.Reservation, error) {
	out, err := byName(f.held, r.GetReservation().GetName())
	if err != nil {
		return nil, err
	}
	until := time.Now().Add(r.GetReservation().GetTtl().AsDuration() + 30*time.Second)
	out.Expiration = &vmhostv1.Reservation_ExpireTime{ExpireTime: timestamppb.New(until)}
	return out, nil
}

func (f *fakeRegion) DeleteReservation(_ context.Context, r *vmhostv1.DeleteReservationRequest) (*vmhostv1.DeleteReservationResponse, error) {
	if _, err := byName(f.held, r.GetName()); err != nil {
		return nil, err
	}
	if !r.GetValidateOnly() {
		f.held = nil
	}
	return &vmhostv1.DeleteReservationResponse{}, nil
}
