package api

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

type zones struct {
	vmhostv1.UnimplementedZoneServiceServer
	*base
}

func showZone(r store.Record[*storev1.StoredZone]) *vmhostv1.Zone {
	z := proto.CloneOf(r.Value.GetResource())
	z.Etag = view.Etag(r.Revision)
	return z
}

// CreateZone adds a zone.
func (s *zones) CreateZone(ctx context.Context, req *vmhostv1.CreateZoneRequest) (*vmhostv1.Zone, error) {
	id := req.GetZoneId()
	if err := checkName("zone.name", req.GetZone().GetName(), zonesCollection, id); err != nil {
		return nil, err
	}
	uid, err := newUID()
	if err != nil {
		return nil, err
	}
	return mutate(ctx, s.base, vmhostv1.ZoneService_CreateZone_FullMethodName, req, func(v *store.View, tx *store.Txn) (*vmhostv1.Zone, error) {
		if _, ok := store.Zones.Get(v, id); ok {
			return nil, alreadyExists(zonesCollection + id)
		}
		now := timestamppb.Now()
		z := &vmhostv1.Zone{Name: zonesCollection + id, Uid: uid, CreateTime: now, UpdateTime: now, Description: req.GetZone().GetDescription()}
		tx.IfAbsent(store.Zones.Key(id))
		store.Put(tx, store.Zones, &storev1.StoredZone{Resource: z}, id)
		addEvent(ctx, tx, "zone.created", z.GetName(), "")
		return proto.CloneOf(z), nil
	})
}

// GetZone is one zone.
func (s *zones) GetZone(ctx context.Context, req *vmhostv1.GetZoneRequest) (*vmhostv1.Zone, error) {
	r, err := get(ctx, s.base, store.Zones, req.GetName())
	if err != nil {
		return nil, err
	}
	return showZone(r), nil
}

// ListZones are all zones.
func (s *zones) ListZones(ctx context.Context, req *vmhostv1.ListZonesRequest) (*vmhostv1.ListZonesResponse, error) {
	page, next, err := answerList[*vmhostv1.Zone](ctx, s.base, vmhostv1.ZoneService_ListZones_FullMethodName, req, "name",
		itemsOf(store.Zones, zonesCollection, func(_ *store.View, r store.Record[*storev1.StoredZone]) proto.Message { return showZone(r) }))
	if err != nil {
		return nil, err
	}
	return &vmhostv1.ListZonesResponse{Zones: page, NextPageToken: next}, nil
}

// UpdateZone changes what the mask names.
func (s *zones) UpdateZone(ctx context.Context, req *vmhostv1.UpdateZoneRequest) (*vmhostv1.Zone, error) {
	name := req.GetZone().GetName()
	if err := needName("zone.name", name, zonesCollection); err != nil {
		return nil, err
	}
	if _, err := fields(req.GetUpdateMask(), []string{"description"}, []string{"uid", "create_time", "update_time"}); err != nil {
		return nil, err
	}
	return mutate(ctx, s.base, vmhostv1.ZoneService_UpdateZone_FullMethodName, req, func(v *store.View, tx *store.Txn) (*vmhostv1.Zone, error) {
		r, ok := store.Zones.Get(v, idOf(name))
		if !ok {
			return nil, apierror.NotFound(name)
		}
		if err := checkEtag(name, req.GetZone().GetEtag(), r.Revision); err != nil {
			return nil, err
		}
		stored := proto.CloneOf(r.Value)
		stored.Resource.Description = req.GetZone().GetDescription()
		stored.Resource.UpdateTime = timestamppb.Now()
		tx.IfRevision(store.Zones.Key(idOf(name)), r.Revision)
		store.Put(tx, store.Zones, stored, idOf(name))
		addEvent(ctx, tx, "zone.updated", name, "")
		return showZone(store.Record[*storev1.StoredZone]{Value: stored, Revision: r.Revision}), nil
	})
}

// DeleteZone removes a zone that nothing uses.
func (s *zones) DeleteZone(ctx context.Context, req *vmhostv1.DeleteZoneRequest) (*vmhostv1.DeleteZoneResponse, error) {
	name, id := req.GetName(), idOf(req.GetName())
	return mutate(ctx, s.base, vmhostv1.ZoneService_DeleteZone_FullMethodName, req, func(v *store.View, tx *store.Txn) (*vmhostv1.DeleteZoneResponse, error) {
		r, ok := store.Zones.Get(v, id)
		if !ok {
			return nil, apierror.NotFound(name)
		}
		if err := checkEtag(name, req.GetEtag(), r.Revision); err != nil {
			return nil, err
		}
		if id == defaultID {
			return nil, staysForever(name)
		}
		if users := users(v, "zones", id); len(users) > 0 {
			return nil, inUse(name, users, "move them to another zone first")
		}
		tx.IfRevision(store.Zones.Key(id), r.Revision)
		tx.IfNone(store.References.Prefix("zones", id))
		tx.Delete(store.Zones.Key(id))
		addEvent(ctx, tx, "zone.deleted", name, "")
		return &vmhostv1.DeleteZoneResponse{}, nil
	})
}

func staysForever(name string) error {
	return apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE, "%s is the default and stays", name).With("resource", name)
}
