package api

import (
	"context"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

type resourcePools struct {
	vmhostv1.UnimplementedResourcePoolServiceServer
	*base
}

// showResourcePool is a pool with what its machines take.
func showResourcePool(v *store.View, r store.Record[*storev1.StoredResourcePool]) *vmhostv1.ResourcePool {
	p := proto.CloneOf(r.Value.GetResource())
	p.Etag = view.Etag(r.Revision)
	p.Used = ledger.Used(v, idOf(p.GetName()))
	return p
}

// quotaFields are the limits of a quota, as update masks name them.
var quotaFields = []string{"quota.machines", "quota.cores", "quota.memory_mib", "quota.storage_bytes"}

// changeQuota is the quota with the limits that the mask names as they are asked
// for; nil when nothing is limited.
func changeQuota(now, asked *vmhostv1.ResourceQuota, set map[string]bool) *vmhostv1.ResourceQuota {
	q := &vmhostv1.ResourceQuota{}
	proto.Merge(q, now)
	if asked == nil {
		asked = &vmhostv1.ResourceQuota{}
	}
	whole := set["quota"]
	if whole || set["quota.machines"] {
		q.Machines = asked.Machines
	}
	if whole || set["quota.cores"] {
		q.Cores = asked.Cores
	}
	if whole || set["quota.memory_mib"] {
		q.MemoryMib = asked.MemoryMib
	}
	if whole || set["quota.storage_bytes"] {
		q.StorageBytes = asked.StorageBytes
	}
	if proto.Size(q) == 0 {
		return nil
	}
	return q
}

// count completes the count of a pool whose quota may be new. Should it fail,
// whoever needs the count next completes it.
func (s *resourcePools) count(ctx context.Context, answer *vmhostv1.ResourcePool, err error) (*vmhostv1.ResourcePool, error) {
	if err == nil && answer.GetQuota() != nil {
		_ = ledger.Count(ctx, s.store, idOf(answer.GetName()))
	}
	return answer, err
}

// CreateResourcePool adds a resource pool.
func (s *resourcePools) CreateResourcePool(ctx context.Context, req *vmhostv1.CreateResourcePoolRequest) (*vmhostv1.ResourcePool, error) {
	id := req.GetResourcePoolId()
	if err := checkName("resource_pool.name", req.GetResourcePool().GetName(), resourcePoolsCollection, id); err != nil {
		return nil, err
	}
	uid, err := newUID()
	if err != nil {
		return nil, err
	}
	quota := changeQuota(nil, req.GetResourcePool().GetQuota(), map[string]bool{"quota": true})
	return mutate(ctx, s.base, vmhostv1.ResourcePoolService_CreateResourcePool_FullMethodName, req, func(v *store.View, tx *store.Txn) (*vmhostv1.ResourcePool, error) {
		if _, ok := store.ResourcePools.Get(v, id); ok {
			return nil, alreadyExists(resourcePoolsCollection + id)
		}
		now := timestamppb.Now()
		p := &vmhostv1.ResourcePool{Name: resourcePoolsCollection + id, Uid: uid, CreateTime: now, UpdateTime: now, Description: req.GetResourcePool().GetDescription(), Quota: quota}
		stored := &storev1.StoredResourcePool{Resource: p}
		tx.IfAbsent(store.ResourcePools.Key(id))
		store.Put(tx, store.ResourcePools, stored, id)
		ledger.SetQuota(tx, id, nil, stored)
		addEvent(ctx, tx, "resource_pool.created", p.GetName(), "")
		answer := proto.CloneOf(p)
		answer.Used = &vmhostv1.ResourceAmount{}
		return answer, nil
	})
}

// GetResourcePool is one pool.
func (s *resourcePools) GetResourcePool(ctx context.Context, req *vmhostv1.GetResourcePoolRequest) (*vmhostv1.ResourcePool, error) {
	v, err := s.store.View(ctx)
	if err != nil {
		return nil, err
	}
	r, ok := store.ResourcePools.Get(v, idOf(req.GetName()))
	if !ok {
		return nil, apierror.NotFound(req.GetName())
	}
	return showResourcePool(v, r), nil
}

// ListResourcePools are all pools.
func (s *resourcePools) ListResourcePools(ctx context.Context, req *vmhostv1.ListResourcePoolsRequest) (*vmhostv1.ListResourcePoolsResponse, error) {
	page, next, err := answerList[*vmhostv1.ResourcePool](ctx, s.base, vmhostv1.ResourcePoolService_ListResourcePools_FullMethodName, req, "name",
		itemsOf(store.ResourcePools, resourcePoolsCollection, func(v *store.View, r store.Record[*storev1.StoredResourcePool]) proto.Message {
			return showResourcePool(v, r)
		}))
	if err != nil {
		return nil, err
	}
	return &vmhostv1.ListResourcePoolsResponse{ResourcePools: page, NextPageToken: next}, nil
}

// UpdateResourcePool changes what the mask names.
func (s *resourcePools) UpdateResourcePool(ctx context.Context, req *vmhostv1.UpdateResourcePoolRequest) (*vmhostv1.ResourcePool, error) {
	name := req.GetResourcePool().GetName()
	if err := needName("resource_pool.name", name, resourcePoolsCollection); err != nil {
		return nil, err
	}
	set, err := fields(req.GetUpdateMask(), append([]string{"description", "quota"}, quotaFields...), []string{"uid", "create_time", "update_time", "used"})
	if err != nil {
		return nil, err
	}
	answer, err := mutate(ctx, s.base, vmhostv1.ResourcePoolService_UpdateResourcePool_FullMethodName, req, func(v *store.View, tx *store.Txn) (*vmhostv1.ResourcePool, error) {
		r, ok := store.ResourcePools.Get(v, idOf(name))
		if !ok {
			return nil, apierror.NotFound(name)
		}
		if err := checkEtag(name, req.GetResourcePool().GetEtag(), r.Revision); err != nil {
			return nil, err
		}
		stored := proto.CloneOf(r.Value)
		if set["description"] {
			stored.Resource.Description = req.GetResourcePool().GetDescription()
		}
		stored.Resource.Quota = changeQuota(stored.GetResource().GetQuota(), req.GetResourcePool().GetQuota(), set)
		stored.Resource.UpdateTime = timestamppb.Now()
		tx.IfRevision(store.ResourcePools.Key(idOf(name)), r.Revision)
		store.Put(tx, store.ResourcePools, stored, idOf(name))
		ledger.SetQuota(tx, idOf(name), r.Value, stored)
		addEvent(ctx, tx, "resource_pool.updated", name, "")
		return showResourcePool(v, store.Record[*storev1.StoredResourcePool]{Value: stored, Revision: r.Revision}), nil
	})
	return s.count(ctx, answer, err)
}

// DeleteResourcePool removes a resource pool that nothing uses.
func (s *resourcePools) DeleteResourcePool(ctx context.Context, req *vmhostv1.DeleteResourcePoolRequest) (*vmhostv1.DeleteResourcePoolResponse, error) {
	name, id := req.GetName(), idOf(req.GetName())
	return mutate(ctx, s.base, vmhostv1.ResourcePoolService_DeleteResourcePool_FullMethodName, req, func(v *store.View, tx *store.Txn) (*vmhostv1.DeleteResourcePoolResponse, error) {
		r, ok := store.ResourcePools.Get(v, id)
		if !ok {
			return nil, apierror.NotFound(name)
		}
		if err := checkEtag(name, req.GetEtag(), r.Revision); err != nil {
			return nil, err
		}
		if id == defaultID {
			return nil, staysForever(name)
		}
		if users := append(users(v, "pools", id), machinesIn(v, id)...); len(users) > 0 {
			return nil, inUse(name, users, "move them to another pool first")
		}
		tx.IfRevision(store.ResourcePools.Key(id), r.Revision)
		tx.IfNone(store.References.Prefix("pools", id))
		tx.IfNone(store.Names.Prefix(id))
		tx.Delete(store.ResourcePools.Key(id))
		tx.Delete(store.PoolUsage.Key(id))
		tx.DeletePrefix(store.Groups.Prefix(id))
		addEvent(ctx, tx, "resource_pool.deleted", name, "")
		return &vmhostv1.DeleteResourcePoolResponse{}, nil
	})
}

// machinesIn are the names of a pool's machines: the pool's hostnames refer to
// it, so that no further record is written with every compose.
func machinesIn(v *store.View, pool string) []string {
	var names []string
	for _, name := range store.Names.All(v, pool) {
		names = append(names, "machines/"+name.Value.GetUid())
	}
	return names
}
