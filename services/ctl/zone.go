package ctl

import (
	"context"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func (a *app) zoneCommand() *cobra.Command {
	return labelCommand(a, label[*vmhostv1.Zone]{
		noun: "zone", plural: "zones", collection: zones,
		long: "A zone is a failure domain: its hosts may fail together.",
		list: func(ctx context.Context, api *region, f listFlags) (listed[*vmhostv1.Zone], error) {
			items, next, err := collect(ctx, f.limit, func(ctx context.Context, size int32, token string) ([]*vmhostv1.Zone, string, error) {
				r, err := call(ctx, api.zones.ListZones, &vmhostv1.ListZonesRequest{PageSize: size, PageToken: token, Filter: f.filter, OrderBy: f.sort})
				return r.GetZones(), r.GetNextPageToken(), err
			})
			return listed[*vmhostv1.Zone]{&vmhostv1.ListZonesResponse{Zones: items, NextPageToken: next}, items}, err
		},
		get: func(ctx context.Context, api *region, name string) (*vmhostv1.Zone, error) {
			return call(ctx, api.zones.GetZone, &vmhostv1.GetZoneRequest{Name: name})
		},
		fresh: func(name, description string) *vmhostv1.Zone {
			return &vmhostv1.Zone{Name: name, Description: description}
		},
		create: func(ctx context.Context, api *region, id string, z *vmhostv1.Zone, f *changeFlags) (*vmhostv1.Zone, error) {
			return change(ctx, api.zones.CreateZone, &vmhostv1.CreateZoneRequest{ZoneId: id, Zone: z, RequestId: f.id(), ValidateOnly: f.dryRun})
		},
		update: func(ctx context.Context, api *region, z *vmhostv1.Zone, paths []string, f *changeFlags) (*vmhostv1.Zone, error) {
			return change(ctx, api.zones.UpdateZone, &vmhostv1.UpdateZoneRequest{
				Zone: z, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}, RequestId: f.id(), ValidateOnly: f.dryRun,
			})
		},
		remove: func(ctx context.Context, api *region, name string, f *changeFlags) error {
			_, err := change(ctx, api.zones.DeleteZone, &vmhostv1.DeleteZoneRequest{Name: name, RequestId: f.id(), ValidateOnly: f.dryRun})
			return err
		},
	})
}
