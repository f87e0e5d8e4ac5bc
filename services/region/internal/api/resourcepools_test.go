package api_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func TestAPoolShowsItsQuotaAndWhatItsMachinesTake(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	mask := func(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }
	f.ready(f.addHost(ctx, "h"))
	compose := func() error {
		_, err := f.mach.ComposeMachine(ctx, &vmhostv1.ComposeMachineRequest{Cores: 2, MemoryMib: 64, Disks: []*vmhostv1.DiskRequest{{SizeBytes: 1 << 20}}})
		return err
	}
	if err := compose(); err != nil {
		t.Fatal(err)
	}
	used := &vmhostv1.ResourceAmount{Machines: 1, Cores: 2, MemoryMib: 64, StorageBytes: 1 << 20}
	name := "resourcePools/default"
	check := func(when string, got *vmhostv1.ResourcePool, err error, quota *vmhostv1.ResourceQuota) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if diff := cmp.Diff(used, got.GetUsed(), protocmp.Transform()); diff != "" {
			t.Errorf("%s: used (-want +got):\n%s", when, diff)
		}
		if diff := cmp.Diff(quota, got.GetQuota(), protocmp.Transform()); diff != "" {
			t.Errorf("%s: quota (-want +got):\n%s", when, diff)
		}
	}
	get := func() (*vmhostv1.ResourcePool, error) {
		return f.pools.GetResourcePool(ctx, &vmhostv1.GetResourcePoolRequest{Name: name})
	}
	p, err := get()
	check("without a quota", p, err, nil)
	update := func(q *vmhostv1.ResourceQuota, paths ...string) (*vmhostv1.ResourcePool, error) {
		return f.pools.UpdateResourcePool(ctx, &vmhostv1.UpdateResourcePoolRequest{
			ResourcePool: &vmhostv1.ResourcePool{Name: name, Quota: q, Description: "not this"}, UpdateMask: mask(paths...),
		})
	}
	p, err = update(&vmhostv1.ResourceQuota{Cores: proto.Int64(3), Machines: proto.Int32(9)}, "quota")
	check("with a first one", p, err, &vmhostv1.ResourceQuota{Cores: proto.Int64(3), Machines: proto.Int32(9)})
	if p.GetDescription() == "not this" {
		t.Errorf("the description became %q", p.GetDescription())
	}
	wantReason(t, "beyond the quota", compose(), codes.ResourceExhausted, vmhostv1.ErrorReason_QUOTA_EXCEEDED)
	_, err = f.mach.ComposeMachine(ctx, &vmhostv1.ComposeMachineRequest{Cores: 2, ValidateOnly: true})
	wantReason(t, "beyond the quota, dry run", err, codes.ResourceExhausted, vmhostv1.ErrorReason_QUOTA_EXCEEDED)
	p, err = update(&vmhostv1.ResourceQuota{Cores: proto.Int64(4)}, "quota.cores", "quota.machines")
	check("with one limit taken off", p, err, &vmhostv1.ResourceQuota{Cores: proto.Int64(4)})
	if err := compose(); err != nil {
		t.Fatal(err)
	}
	used = &vmhostv1.ResourceAmount{Machines: 2, Cores: 4, MemoryMib: 128, StorageBytes: 2 << 20}
	list, err := f.pools.ListResourcePools(ctx, &vmhostv1.ListResourcePoolsRequest{Filter: "used.cores >= 4"})
	if err != nil || len(list.GetResourcePools()) != 1 {
		t.Fatalf("pools that are full: %v, %v", list, err)
	}
	check("in the list", list.GetResourcePools()[0], nil, &vmhostv1.ResourceQuota{Cores: proto.Int64(4)})
	p, err = update(nil, "quota")
	check("with the quota taken off", p, err, nil)
	if err := compose(); err != nil {
		t.Errorf("without a quota: %v", err)
	}
	_, err = update(&vmhostv1.ResourceQuota{Cores: proto.Int64(-1)}, "quota")
	wantReason(t, "a negative quota", err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD)
	_, err = update(nil, "used")
	wantReason(t, "an update of what is used", err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD)
}

func TestAPoolIsCreatedAndDeletedWithItsQuota(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	p, err := f.pools.CreateResourcePool(ctx, &vmhostv1.CreateResourcePoolRequest{
		ResourcePoolId: "lab", ResourcePool: &vmhostv1.ResourcePool{Quota: &vmhostv1.ResourceQuota{Machines: proto.Int32(0)}},
	})
	if err != nil || p.GetQuota().Machines == nil || p.GetUsed() == nil {
		t.Fatalf("created %v, %v", p, err)
	}
	_, err = f.mach.ComposeMachine(ctx, &vmhostv1.ComposeMachineRequest{ResourcePool: p.GetName()})
	wantReason(t, "a machine where there may be none", err, codes.ResourceExhausted, vmhostv1.ErrorReason_QUOTA_EXCEEDED)
	if _, err := f.pools.DeleteResourcePool(ctx, &vmhostv1.DeleteResourcePoolRequest{Name: p.GetName()}); err != nil {
		t.Fatal(err)
	}
	p, err = f.pools.CreateResourcePool(ctx, &vmhostv1.CreateResourcePoolRequest{ResourcePoolId: "lab", ResourcePool: &vmhostv1.ResourcePool{}})
	if err != nil || p.GetQuota() != nil {
		t.Fatalf("created again %v, %v", p, err)
	}
}
