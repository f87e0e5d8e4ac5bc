package ctl

import (
	"context"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

func (a *app) poolCommand() *cobra.Command { return labelCommand(a, poolLabel()) }

func poolLabel() label[*vmhostv1.ResourcePool] {
	return label[*vmhostv1.ResourcePool]{
		noun: "pool", plural: "resource pools", collection: resourcePools,
		long:    "A resource pool is a tenant or purpose: the unit of quota and access. Every host\nand machine belongs to one.",
		example: "--quota machines=10,cores=40,memory=64GiB,storage=2TB",
		fresh: func(name, description string) *vmhostv1.ResourcePool {
			return &vmhostv1.ResourcePool{Name: name, Description: description}
		},
		more: quotaFlag,
		columns: []display.Column[*vmhostv1.ResourcePool]{
			{Head: "MACHINES", Right: true, Cell: func(p *vmhostv1.ResourcePool) string { return quotaRows(p)[0].text() }},
			{Head: "CORES", Right: true, Cell: func(p *vmhostv1.ResourcePool) string { return quotaRows(p)[1].text() }},
			{Head: "MEMORY", Right: true, Cell: func(p *vmhostv1.ResourcePool) string { return quotaRows(p)[2].text() }},
			{Head: "STORAGE", Right: true, Cell: func(p *vmhostv1.ResourcePool) string { return quotaRows(p)[3].text() }},
		},
		block: func(b *display.Block, p *vmhostv1.ResourcePool) {
			for _, r := range quotaRows(p) {
				b.Add(r.name, r.text())
			}
			b.Add("Quota", quotaText(p.GetQuota()))
		},
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
		create: func(ctx context.Context, api *region, id string, p *vmhostv1.ResourcePool, f *changeFlags) (*vmhostv1.ResourcePool, error) {
			return change(ctx, api.pools.CreateResourcePool, &vmhostv1.CreateResourcePoolRequest{
				ResourcePoolId: id, ResourcePool: p, RequestId: f.id(), ValidateOnly: f.dryRun,
			})
		},
		update: func(ctx context.Context, api *region, p *vmhostv1.ResourcePool, paths []string, f *changeFlags) (*vmhostv1.ResourcePool, error) {
			return change(ctx, api.pools.UpdateResourcePool, &vmhostv1.UpdateResourcePoolRequest{
				ResourcePool: p, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}, RequestId: f.id(), ValidateOnly: f.dryRun,
			})
		},
		remove: func(ctx context.Context, api *region, name string, f *changeFlags) error {
			_, err := change(ctx, api.pools.DeleteResourcePool, &vmhostv1.DeleteResourcePoolRequest{Name: name, RequestId: f.id(), ValidateOnly: f.dryRun})
			return err
		},
	}
}
