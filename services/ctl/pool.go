package ctl

import (
	"context"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func (a *app) poolCommand() *cobra.Command {
	return labelCommand(a, label[*vmhostv1.ResourcePool]{
		noun: "pool", plural: "resource pools", collection: resourcePools,
		long: "A resource pool is a tenant or purpose: the unit of access. Every host and machine belongs to one.",
		list: func(ctx context.Context, api *region, f listFlags) (listed[*vmhostv1.ResourcePool], error) {
			items, next, err := collect(ctx, f.limit, func(ctx context.Context, size int32, token string) ([]*vmhostv1.ResourcePool, string, error) {
				r, err := call(ctx, api.pools.ListResourcePools, &vmhostv1.ListResourcePoolsRequest{PageSize: size, PageToken: token, Filter: f.filter, OrderBy: f.sort})
				return r.GetResourcePools(), r.GetNextPageToken(), err
			})
			return listed[*vmhostv1.ResourcePool]{&vmhostv1.ListResourcePoolsResponse{ResourcePools: items, NextPageToken: next}, items}, err
		},
		get: func(ctx context.Context, api *region, name string) (*vmhostv1.ResourcePool, error) {
			return call(ctx, api.pools.GetResourcePool, &vmhostv1.GetResourcePoolRequest{Name: name})
		},
		create: func(ctx context.Context, api *region, id, description string, f *changeFlags) (*vmhostv1.ResourcePool, error) {
			return change(ctx, api.pools.CreateResourcePool, &vmhostv1.CreateResourcePoolRequest{
				ResourcePoolId: id, ResourcePool: &vmhostv1.ResourcePool{Description: description}, RequestId: f.id(), ValidateOnly: f.dryRun,
			})
		},
		update: func(ctx context.Context, api *region, name, description string, f *changeFlags) (*vmhostv1.ResourcePool, error) {
			return change(ctx, api.pools.UpdateResourcePool, &vmhostv1.UpdateResourcePoolRequest{
				ResourcePool: &vmhostv1.ResourcePool{Name: name, Description: description},
				UpdateMask:   &fieldmaskpb.FieldMask{Paths: []string{"description"}}, RequestId: f.id(), ValidateOnly: f.dryRun,
			})
		},
		remove: func(ctx context.Context, api *region, name string, f *changeFlags) error {
			_, err := change(ctx, api.pools.DeleteResourcePool, &vmhostv1.DeleteResourcePoolRequest{Name: name, RequestId: f.id(), ValidateOnly: f.dryRun})
			return err
		},
	})
}
