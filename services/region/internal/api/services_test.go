package api_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

func TestZonesLiveAsLongAsNothingUsesThem(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	z, err := f.zones.CreateZone(ctx, &vmhostv1.CreateZoneRequest{ZoneId: "a", Zone: &vmhostv1.Zone{Description: "A"}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.zones.CreateZone(ctx, &vmhostv1.CreateZoneRequest{ZoneId: "a", Zone: &vmhostv1.Zone{}})
	wantReason(t, "twice", err, codes.AlreadyExists, vmhostv1.ErrorReason_ALREADY_EXISTS)
	if _, err := f.hosts.CreateVmHost(ctx, &vmhostv1.CreateVmHostRequest{VmHostId: "h", VmHost: &vmhostv1.VmHost{Address: "fake://a", Zone: "zones/a"}}); err != nil {
		t.Fatal(err)
	}
	_, err = f.zones.DeleteZone(ctx, &vmhostv1.DeleteZoneRequest{Name: "zones/a"})
	wantReason(t, "in use", err, codes.FailedPrecondition, vmhostv1.ErrorReason_IN_USE)
	if !strings.Contains(err.Error(), "vmHosts/h") {
		t.Errorf("%v does not name the host", err)
	}
	up, err := f.zones.UpdateZone(ctx, &vmhostv1.UpdateZoneRequest{Zone: &vmhostv1.Zone{Name: "zones/a", Description: "B", Etag: z.GetEtag()}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"description"}}})
	if err != nil || up.GetDescription() != "B" {
		t.Errorf("update: %v, %v", up, err)
	}
	_, err = f.zones.DeleteZone(ctx, &vmhostv1.DeleteZoneRequest{Name: "zones/a", Etag: z.GetEtag()})
	wantReason(t, "stale", err, codes.Aborted, vmhostv1.ErrorReason_ETAG_MISMATCH)
	if _, err = f.hosts.DeleteVmHost(ctx, &vmhostv1.DeleteVmHostRequest{Name: "vmHosts/h"}); err != nil {
		t.Fatal(err)
	}
	if _, err = f.zones.DeleteZone(ctx, &vmhostv1.DeleteZoneRequest{Name: "zones/a", ValidateOnly: true}); err != nil {
		t.Error(err)
	}
	if got, err := f.zones.GetZone(ctx, &vmhostv1.GetZoneRequest{Name: "zones/a"}); err != nil || got.GetEtag() != up.GetEtag() {
		t.Errorf("after validate_only: %v, %v", got, err)
	}
	if _, err = f.zones.DeleteZone(ctx, &vmhostv1.DeleteZoneRequest{Name: "zones/a", Etag: up.GetEtag()}); err != nil {
		t.Error(err)
	}
	_, err = f.zones.GetZone(ctx, &vmhostv1.GetZoneRequest{Name: "zones/a"})
	wantReason(t, "gone", err, codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND)
	_, err = f.zones.DeleteZone(ctx, &vmhostv1.DeleteZoneRequest{Name: "zones/default"})
	wantReason(t, "the default", err, codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE)
}

func TestAPoolWithAMachineStays(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	if _, err := f.pools.CreateResourcePool(ctx, &vmhostv1.CreateResourcePoolRequest{ResourcePoolId: "p", ResourcePool: &vmhostv1.ResourcePool{}}); err != nil {
		t.Fatal(err)
	}
	h, err := f.hosts.CreateVmHost(ctx, &vmhostv1.CreateVmHostRequest{VmHostId: "h", VmHost: &vmhostv1.VmHost{Address: "fake://a", ResourcePool: "resourcePools/p"}})
	if err != nil {
		t.Fatal(err)
	}
	f.ready(h)
	op, err := f.mach.ComposeMachine(ctx, &vmhostv1.ComposeMachineRequest{Cores: 1, MemoryMib: 512, ResourcePool: "resourcePools/p"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = f.hosts.UpdateVmHost(ctx, &vmhostv1.UpdateVmHostRequest{
		VmHost: &vmhostv1.VmHost{Name: "vmHosts/h", ResourcePool: "resourcePools/default"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"resource_pool"}},
	}); err != nil {
		t.Fatal(err)
	}
	_, err = f.pools.DeleteResourcePool(ctx, &vmhostv1.DeleteResourcePoolRequest{Name: "resourcePools/p"})
	wantReason(t, "in use", err, codes.FailedPrecondition, vmhostv1.ErrorReason_IN_USE)
	if !strings.Contains(err.Error(), op.GetTarget()) || strings.Contains(err.Error(), "vmHosts/h") {
		t.Errorf("%v should name %s only", err, op.GetTarget())
	}
}

func TestAMachineIsShownAsItsHostShowsIt(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	h := f.addHost(ctx, "h1")
	f.ready(h)
	name := f.compose(ctx, "web1").GetTarget()
	m, err := f.mach.GetMachine(ctx, &vmhostv1.GetMachineRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	if m.GetHostname() != "web1" || m.GetPhase() != vmhostv1.MachinePhase_MACHINE_PHASE_COMPOSING || m.GetVmHost() != "vmHosts/h1" || m.GetEtag() == "" || m.GetZone() != "zones/default" {
		t.Errorf("composing: %v", m)
	}
	f.settle(name)
	m, _ = f.mach.GetMachine(ctx, &vmhostv1.GetMachineRequest{Name: name})
	if len(m.GetConditions()) != 1 || m.GetConditions()[0].GetReason() != "MACHINE_MISSING" {
		t.Errorf("ready but not seen: %v", m.GetConditions())
	}
	mac := m.GetInterfaces()[0].GetMac()
	f.see(h, &rackv1.MachineObservation{
		Uuid: m.GetUid(), Name: "web1", PowerState: vmhostv1.PowerState_POWER_STATE_ON, ConsoleLogPath: "/var/log/x",
		Interfaces: []*vmhostv1.MachineInterface{{Mac: mac, Addresses: []string{"10.0.0.7"}}},
		Disks:      []*vmhostv1.MachineDisk{{StoragePool: m.GetDisks()[0].GetStoragePool(), Volume: m.GetDisks()[0].GetVolume(), Device: "vda"}},
	})
	m, _ = f.mach.GetMachine(ctx, &vmhostv1.GetMachineRequest{Name: name})
	if m.GetPowerState() != vmhostv1.PowerState_POWER_STATE_ON || len(m.GetAddresses()) != 1 || m.GetInterfaces()[0].GetAddresses()[0] != "10.0.0.7" ||
		m.GetDisks()[0].GetDevice() != "vda" || len(m.GetConditions()) != 0 || m.GetObserveTime() == nil {
		t.Errorf("seen: %v", m)
	}
	tx := store.NewTxn()
	tx.Delete(store.Sessions.Key("r1"))
	f.commit(tx)
	m, _ = f.mach.GetMachine(ctx, &vmhostv1.GetMachineRequest{Name: name})
	if m.GetPowerState() != vmhostv1.PowerState_POWER_STATE_UNSPECIFIED || len(m.GetConditions()) != 1 {
		t.Errorf("without its rack: %v", m)
	}
}

func TestAFoundMachineIsShownAndNeverChanged_P5(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	h := f.addHost(ctx, "h1")
	f.ready(h)
	f.see(h, &rackv1.MachineObservation{Uuid: uuid.NewString(), Name: "by hand", Cores: 2, MemoryMib: 1024, PowerState: vmhostv1.PowerState_POWER_STATE_ON})
	list, err := f.mach.ListMachines(ctx, &vmhostv1.ListMachinesRequest{Filter: "origin = MACHINE_ORIGIN_DISCOVERED"})
	if err != nil || len(list.GetMachines()) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	m := list.GetMachines()[0]
	if m.GetHostname() != "by hand" || m.GetCores() != 2 || m.GetPowerState() != vmhostv1.PowerState_POWER_STATE_ON {
		t.Errorf("shown as %v", m)
	}
	got, err := f.mach.GetMachine(ctx, &vmhostv1.GetMachineRequest{Name: m.GetName()})
	if diff := cmp.Diff(m, got, protocmp.Transform()); err != nil || diff != "" {
		t.Errorf("get: %v %s", err, diff)
	}
	_, err = f.mach.DeleteMachine(ctx, &vmhostv1.DeleteMachineRequest{Name: m.GetName()})
	wantReason(t, "delete", err, codes.FailedPrecondition, vmhostv1.ErrorReason_FOREIGN_OBJECT)
	for _, validateOnly := range []bool{true, false} {
		_, err = f.mach.StopMachine(ctx, &vmhostv1.StopMachineRequest{Name: m.GetName(), ValidateOnly: validateOnly})
		wantReason(t, "stop", err, codes.FailedPrecondition, vmhostv1.ErrorReason_FOREIGN_OBJECT)
	}
	ops, err := f.ops.ListOperations(ctx, &vmhostv1.ListOperationsRequest{})
	if err != nil || len(ops.GetOperations()) != 0 {
		t.Errorf("operations were begun: %v, %v", ops, err)
	}
}

func TestComposesThatCannotBeAreRefusedWithTheField(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	h := f.addHost(ctx, "h1")
	f.ready(h)
	f.compose(ctx, "taken")
	const tooMuch = int64(1) << 60
	invalid, missing := vmhostv1.ErrorReason_INVALID_FIELD, vmhostv1.ErrorReason_NOT_FOUND
	for name, tc := range map[string]struct {
		req    *vmhostv1.ComposeMachineRequest
		code   codes.Code
		reason vmhostv1.ErrorReason
		field  string
	}{
		"a long hostname":     {&vmhostv1.ComposeMachineRequest{Hostname: strings.Repeat("a", 64)}, codes.InvalidArgument, invalid, "hostname"},
		"a bad hostname":      {&vmhostv1.ComposeMachineRequest{Hostname: "Web_1"}, codes.InvalidArgument, invalid, "hostname"},
		"negative cores":      {&vmhostv1.ComposeMachineRequest{Cores: -1}, codes.InvalidArgument, invalid, "cores"},
		"too many cores":      {&vmhostv1.ComposeMachineRequest{Cores: 5000}, codes.InvalidArgument, invalid, "cores"},
		"negative memory":     {&vmhostv1.ComposeMachineRequest{MemoryMib: -1}, codes.InvalidArgument, invalid, "memory_mib"},
		"huge memory":         {&vmhostv1.ComposeMachineRequest{MemoryMib: tooMuch}, codes.InvalidArgument, invalid, "memory_mib"},
		"an empty disk":       {&vmhostv1.ComposeMachineRequest{Disks: []*vmhostv1.DiskRequest{{SizeBytes: 0}}}, codes.InvalidArgument, invalid, "disks[0].size_bytes"},
		"a negative disk":     {&vmhostv1.ComposeMachineRequest{Disks: []*vmhostv1.DiskRequest{{SizeBytes: 1 << 30}, {SizeBytes: -1}}}, codes.InvalidArgument, invalid, "disks[1].size_bytes"},
		"a huge disk":         {&vmhostv1.ComposeMachineRequest{Disks: []*vmhostv1.DiskRequest{{SizeBytes: tooMuch}}}, codes.InvalidArgument, invalid, "disks[0].size_bytes"},
		"too many disks":      {&vmhostv1.ComposeMachineRequest{Disks: make([]*vmhostv1.DiskRequest, 17)}, codes.InvalidArgument, invalid, "disks"},
		"diskless with disks": {&vmhostv1.ComposeMachineRequest{Diskless: true, Disks: []*vmhostv1.DiskRequest{{SizeBytes: 1 << 30}}}, codes.InvalidArgument, invalid, "diskless"},
		"a multicast MAC":     {&vmhostv1.ComposeMachineRequest{Interfaces: []*vmhostv1.InterfaceRequest{{Mac: "01:00:00:00:00:01"}}}, codes.InvalidArgument, invalid, "interfaces[0].mac"},
		"an unknown kind":     {&vmhostv1.ComposeMachineRequest{Interfaces: []*vmhostv1.InterfaceRequest{{Kind: 77}}}, codes.InvalidArgument, invalid, "interfaces[0].kind"},
		"a bad tag":           {&vmhostv1.ComposeMachineRequest{RequiredTags: []string{""}}, codes.InvalidArgument, invalid, "required_tags[0]"},
		"a bad request id":    {&vmhostv1.ComposeMachineRequest{RequestId: "x"}, codes.InvalidArgument, invalid, "request_id"},
		"no zone's name":      {&vmhostv1.ComposeMachineRequest{Zone: "default"}, codes.InvalidArgument, invalid, "zone"},
		"an unknown zone":     {&vmhostv1.ComposeMachineRequest{Zone: "zones/none"}, codes.NotFound, missing, "zone"},
		"an unknown pool":     {&vmhostv1.ComposeMachineRequest{ResourcePool: "resourcePools/none"}, codes.NotFound, missing, "resource_pool"},
		"an unknown host":     {&vmhostv1.ComposeMachineRequest{VmHost: "vmHosts/none"}, codes.NotFound, missing, "vm_host"},
		"a taken name":        {&vmhostv1.ComposeMachineRequest{Hostname: "taken"}, codes.AlreadyExists, vmhostv1.ErrorReason_ALREADY_EXISTS, ""},
		"an unknown storage pool": {
			&vmhostv1.ComposeMachineRequest{Disks: []*vmhostv1.DiskRequest{{SizeBytes: 1 << 30, StoragePool: "none"}}},
			codes.ResourceExhausted, vmhostv1.ErrorReason_NO_CAPACITY, "",
		},
		"more than the host": {&vmhostv1.ComposeMachineRequest{Cores: 9}, codes.ResourceExhausted, vmhostv1.ErrorReason_NO_CAPACITY, ""},
	} {
		disks := tc.req.GetDisks()
		for i := range disks {
			if disks[i] == nil {
				disks[i] = &vmhostv1.DiskRequest{SizeBytes: 1 << 30}
			}
		}
		_, err := f.mach.ComposeMachine(ctx, tc.req)
		var fields []string
		if tc.field != "" {
			fields = append(fields, tc.field)
		}
		wantReason(t, name, err, tc.code, tc.reason, fields...)
	}
	list, err := f.mach.ListMachines(ctx, &vmhostv1.ListMachinesRequest{})
	if err != nil || len(list.GetMachines()) != 1 {
		t.Errorf("something half-made stayed behind: %v, %v", list, err)
	}
	plan, err := f.mach.ComposeMachine(ctx, &vmhostv1.ComposeMachineRequest{Cores: 2, MemoryMib: 512, ValidateOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	var got vmhostv1.ComposePlan
	if err := plan.GetResponse().UnmarshalTo(&got); err != nil || got.GetPlacement().GetVmHost() != "vmHosts/h1" || plan.GetName() != "" {
		t.Errorf("the plan: %v, %v", plan, err)
	}
}

func TestOneOperationWorksOnAMachineAtATime(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	f.ready(f.addHost(ctx, "h1"))
	op := f.compose(ctx, "a")
	_, err := f.mach.DeleteMachine(ctx, &vmhostv1.DeleteMachineRequest{Name: op.GetTarget()})
	wantReason(t, "delete", err, codes.FailedPrecondition, vmhostv1.ErrorReason_MACHINE_BUSY)
	_, err = f.mach.StartMachine(ctx, &vmhostv1.StartMachineRequest{Name: op.GetTarget(), ValidateOnly: true})
	wantReason(t, "start, only checked", err, codes.FailedPrecondition, vmhostv1.ErrorReason_MACHINE_BUSY)
	begin := time.Now()
	got, err := f.ops.WaitOperation(ctx, &vmhostv1.WaitOperationRequest{Name: op.GetName(), Timeout: durationpb.New(0)})
	if err != nil || got.GetName() != op.GetName() || time.Since(begin) > 30*time.Second {
		t.Errorf("wait for nothing: %v, %v", got, err)
	}
	if got, err = f.ops.CancelOperation(ctx, &vmhostv1.CancelOperationRequest{Name: op.GetName()}); err != nil || !got.GetCancelRequested() {
		t.Errorf("cancel: %v, %v", got, err)
	}
	for _, call := range []func() error{
		func() error {
			_, err := f.ops.GetOperation(ctx, &vmhostv1.GetOperationRequest{Name: "operations/none"})
			return err
		},
		func() error {
			_, err := f.ops.WaitOperation(ctx, &vmhostv1.WaitOperationRequest{Name: "operations/none"})
			return err
		},
		func() error {
			_, err := f.ops.CancelOperation(ctx, &vmhostv1.CancelOperationRequest{Name: "operations/none"})
			return err
		},
		func() error {
			_, err := f.mach.GetMachine(ctx, &vmhostv1.GetMachineRequest{Name: "machines/none"})
			return err
		},
		func() error {
			_, err := f.mach.QueryMachinePower(ctx, &vmhostv1.QueryMachinePowerRequest{Name: "machines/none"})
			return err
		},
		func() error {
			_, err := f.hosts.RefreshVmHost(ctx, &vmhostv1.RefreshVmHostRequest{Name: "vmHosts/none"})
			return err
		},
		func() error {
			_, err := f.hosts.CheckVmHost(ctx, &vmhostv1.CheckVmHostRequest{Address: "fake://a", Rack: "racks/none"})
			return err
		},
	} {
		wantReason(t, "what does not exist", call(), codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND)
	}
	_, err = f.hosts.CheckVmHost(ctx, &vmhostv1.CheckVmHostRequest{Address: "qemu+unix://other/system"})
	wantReason(t, "a check that no rack can do", err, codes.FailedPrecondition, vmhostv1.ErrorReason_NO_RACK)
}

func TestListsAnswerPageByPageWithFilterAndOrder(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	for i := range 7 {
		f.addHost(ctx, fmt.Sprintf("h%d", i))
	}
	var got []string
	req := &vmhostv1.ListVmHostsRequest{PageSize: 2, Filter: `name != "vmHosts/h3"`, OrderBy: "name desc"}
	for {
		page, err := f.hosts.ListVmHosts(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range page.GetVmHosts() {
			got = append(got, h.GetName())
		}
		if req.PageToken = page.GetNextPageToken(); req.GetPageToken() == "" {
			break
		}
	}
	if want := "vmHosts/h6 vmHosts/h5 vmHosts/h4 vmHosts/h2 vmHosts/h1 vmHosts/h0"; strings.Join(got, " ") != want {
		t.Errorf("got %v", got)
	}
	for name, req := range map[string]*vmhostv1.ListVmHostsRequest{
		"page_size": {PageSize: -1}, "filter": {Filter: "colour = 1"}, "order_by": {OrderBy: "colour"}, "page_token": {PageToken: "x"},
	} {
		_, err := f.hosts.ListVmHosts(ctx, req)
		wantReason(t, name, err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, name)
	}
}

func TestAJoinTokenIsShownOnceAndCanBeTakenBack(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	made, err := f.racks.CreateJoinToken(ctx, &vmhostv1.CreateJoinTokenRequest{RackId: "r1", Ttl: durationpb.New(time.Hour)})
	if err != nil || made.GetToken() == "" || made.GetRack() != "racks/r1" || time.Until(made.GetExpireTime().AsTime()) < 50*time.Minute {
		t.Fatalf("%v, %v", made, err)
	}
	list, err := f.racks.ListJoinTokens(ctx, &vmhostv1.ListJoinTokensRequest{})
	if err != nil || len(list.GetJoinTokens()) != 1 || list.GetJoinTokens()[0].GetToken() != "" || list.GetJoinTokens()[0].GetId() != made.GetId() {
		t.Errorf("%v, %v", list, err)
	}
	if _, err = f.racks.DeleteJoinToken(ctx, &vmhostv1.DeleteJoinTokenRequest{Id: made.GetId()}); err != nil {
		t.Error(err)
	}
	_, err = f.racks.DeleteJoinToken(ctx, &vmhostv1.DeleteJoinTokenRequest{Id: made.GetId()})
	wantReason(t, "twice", err, codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND)
	_, err = f.racks.CreateJoinToken(ctx, &vmhostv1.CreateJoinTokenRequest{RackId: "r1", Zone: "zones/none"})
	wantReason(t, "an unknown zone", err, codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND, "zone")
	_, err = f.racks.CreateJoinToken(ctx, &vmhostv1.CreateJoinTokenRequest{RackId: "r1", Ttl: durationpb.New(48 * time.Hour)})
	wantReason(t, "for two days", err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "ttl")
}

func TestARemovedRackTakesItsTokensWithIt(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	h := f.addHost(ctx, "h1")
	f.ready(h)
	rack, err := f.racks.GetRack(ctx, &vmhostv1.GetRackRequest{Name: "racks/r1"})
	if err != nil || !rack.GetConnected() || len(rack.GetVmHosts()) != 1 || len(rack.GetDrivers()) != 2 {
		t.Fatalf("%v, %v", rack, err)
	}
	if list, err := f.racks.ListRacks(ctx, &vmhostv1.ListRacksRequest{Filter: "connected"}); err != nil || len(list.GetRacks()) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	if _, err := f.racks.CreateJoinToken(ctx, &vmhostv1.CreateJoinTokenRequest{RackId: "r1"}); err != nil {
		t.Fatal(err)
	}
	_, err = f.racks.DeleteRack(ctx, &vmhostv1.DeleteRackRequest{Name: "racks/r1", Etag: "old"})
	wantReason(t, "stale", err, codes.Aborted, vmhostv1.ErrorReason_ETAG_MISMATCH)
	if _, err = f.racks.DeleteRack(ctx, &vmhostv1.DeleteRackRequest{Name: "racks/r1", Etag: rack.GetEtag()}); err != nil {
		t.Fatal(err)
	}
	_, err = f.racks.GetRack(ctx, &vmhostv1.GetRackRequest{Name: "racks/r1"})
	wantReason(t, "gone", err, codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND)
	if list, err := f.racks.ListJoinTokens(ctx, &vmhostv1.ListJoinTokensRequest{}); err != nil || len(list.GetJoinTokens()) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestAStoreThatDoesNotAnswerIsSaidSo(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	if _, err := f.zones.ListZones(ctx, &vmhostv1.ListZonesRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := f.store.Client().Close(); err != nil {
		t.Fatal(err)
	}
	_, err := f.zones.ListZones(ctx, &vmhostv1.ListZonesRequest{})
	wantReason(t, "list", err, codes.Unavailable, vmhostv1.ErrorReason_STORE_UNAVAILABLE)
	_, err = f.zones.CreateZone(ctx, &vmhostv1.CreateZoneRequest{ZoneId: "a", Zone: &vmhostv1.Zone{}})
	wantReason(t, "create", err, codes.Unavailable, vmhostv1.ErrorReason_STORE_UNAVAILABLE)
}

func TestManyAtOnceOnOneRecordAllEnd(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	f.addHost(ctx, "h1")
	const writers = 8
	done := make(chan error, writers)
	for i := range writers {
		go func() {
			_, err := f.hosts.UpdateVmHost(ctx, &vmhostv1.UpdateVmHostRequest{
				VmHost: &vmhostv1.VmHost{Name: "vmHosts/h1", DisplayName: fmt.Sprint(i)}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name"}},
			})
			done <- err
		}()
	}
	for range writers {
		if err := <-done; err != nil && apierror.Reason(err) != vmhostv1.ErrorReason_CONFLICT {
			t.Error(err)
		}
	}
}

func TestEveryResourceOfACallIsOfTheRoleThatMayMakeIt(t *testing.T) {
	f := start(t)
	viewer, composer := f.as(storev1.Role_ROLE_VIEWER), f.as(storev1.Role_ROLE_COMPOSER)
	if _, err := f.zones.ListZones(viewer, &vmhostv1.ListZonesRequest{}); err != nil {
		t.Error(err)
	}
	_, err := f.zones.CreateZone(composer, &vmhostv1.CreateZoneRequest{ZoneId: "a", Zone: &vmhostv1.Zone{}})
	wantReason(t, "a composer's zone", err, codes.PermissionDenied, vmhostv1.ErrorReason_PERMISSION_DENIED)
	_, err = f.racks.ListJoinTokens(f.as(storev1.Role_ROLE_OPERATOR), &vmhostv1.ListJoinTokensRequest{})
	wantReason(t, "an operator's tokens", err, codes.PermissionDenied, vmhostv1.ErrorReason_PERMISSION_DENIED)
	_, err = f.zones.ListZones(t.Context(), &vmhostv1.ListZonesRequest{})
	wantReason(t, "nobody", err, codes.Unauthenticated, vmhostv1.ErrorReason_UNAUTHENTICATED)
}
