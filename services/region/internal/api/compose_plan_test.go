package api_test

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func TestADryRunAnswersWithTheMachineTheNetworksAndTheQuota(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	f.ready(f.addHost(ctx, "h"))
	if _, err := f.pools.UpdateResourcePool(ctx, &vmhostv1.UpdateResourcePoolRequest{
		ResourcePool: &vmhostv1.ResourcePool{Name: "resourcePools/default", Quota: &vmhostv1.ResourceQuota{Machines: proto.Int32(5)}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"quota.machines"}},
	}); err != nil {
		t.Fatal(err)
	}
	op, err := f.mach.ComposeMachine(ctx, &vmhostv1.ComposeMachineRequest{
		Hostname: "web", PinnedCores: []int32{1, 3}, ValidateOnly: true, Interfaces: []*vmhostv1.InterfaceRequest{{Source: "default", Mac: "52:54:00:00:00:07"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	plan := &vmhostv1.ComposePlan{}
	if err := op.GetResponse().UnmarshalTo(plan); err != nil {
		t.Fatal(err)
	}
	m, p := plan.GetMachine(), plan.GetPlacement()
	if op.GetName() != "" || op.GetVmHost() != "vmHosts/h" || m.GetHostname() != "web" || m.GetUid() != "" || m.GetCores() != 2 ||
		m.GetInterfaces()[0].GetMac() != "52:54:00:00:00:07" || plan.GetQuota().GetMachines() != 5 || plan.GetUsed().GetMachines() != 0 {
		t.Errorf("operation %v, plan %v", op, plan)
	}
	if p.GetNetworkChoices()[0].GetWhy() != "asked for by name" || p.GetStoragePoolReasons()[0] != "the only running pool" {
		t.Errorf("placement %v", p)
	}
	for what, field := range map[*vmhostv1.ComposeMachineRequest]string{
		{ValidateOnly: true, Interfaces: []*vmhostv1.InterfaceRequest{{IpAddress: "10.0.0.1", SubnetCidr: "10.1.0.0/24"}}}: "interfaces[0].ip_address",
		{ValidateOnly: true, Type: vmhostv1.MachineType_MACHINE_TYPE_CONTAINER}:                                            "image",
		{ValidateOnly: true, Cores: 1, PinnedCores: []int32{0, 1}}:                                                         "pinned_cores",
	} {
		_, err := f.mach.ComposeMachine(ctx, what)
		wantReason(t, field, err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, field)
	}
	list, err := f.mach.ListMachines(ctx, &vmhostv1.ListMachinesRequest{})
	if err != nil || len(list.GetMachines()) != 0 {
		t.Errorf("machines after dry runs: %v, %v", list, err)
	}
}
