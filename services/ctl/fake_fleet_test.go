package ctl_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func anyOf(m proto.Message) *anypb.Any {
	if m == nil {
		return nil
	}
	packed, err := anypb.New(m)
	if err != nil {
		panic(err) // only for messages that are no messages
	}
	return packed
}

// fill is the fleet that every test begins with.
func (f *fakeRegion) fill() {
	hoursAgo := timestamppb.New(time.Now().Add(-3*time.Hour - 30*time.Minute))
	machine := func(uid, hostname, host, pool string) *vmhostv1.Machine {
		return &vmhostv1.Machine{
			Name: "machines/" + uid, Uid: uid, Hostname: hostname, HypervisorName: hostname, HypervisorUuid: uid, CreateTime: hoursAgo,
			Origin: vmhostv1.MachineOrigin_MACHINE_ORIGIN_COMPOSED, VmHost: "vmHosts/" + host, Zone: "zones/default",
			ResourcePool: "resourcePools/" + pool, Architecture: "x86_64", Cores: 2, MemoryMib: 2048,
			Disks:      []*vmhostv1.MachineDisk{{StoragePool: "default", Volume: "vmhost-" + uid + "-0", SizeBytes: 20e9, Device: "vda"}},
			Interfaces: []*vmhostv1.MachineInterface{{Mac: "52:54:00:00:00:01", Source: "default", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK}},
			Phase:      vmhostv1.MachinePhase_MACHINE_PHASE_READY, PowerState: vmhostv1.PowerState_POWER_STATE_ON,
			Addresses: []string{"192.0.2.7"}, ObserveTime: hoursAgo,
		}
	}
	f.machines = []*vmhostv1.Machine{
		machine("aaaa1111-0000-4000-8000-000000000001", "web-1", "h1", "default"),
		machine("aaaa2222-0000-4000-8000-000000000002", "db", "h1", "default"),
		machine("bbbb3333-0000-4000-8000-000000000003", "db", "h2", "dev"),
	}
	evil := machine("cccc4444-0000-4000-8000-000000000004", "", "h2", "default")
	evil.Origin, evil.HypervisorName, evil.Addresses = vmhostv1.MachineOrigin_MACHINE_ORIGIN_DISCOVERED, "red\x1b[31m\nmachine\u202e", nil
	evil.PowerState = vmhostv1.PowerState_POWER_STATE_OFF
	f.machines = append(f.machines, evil)
	usage := func(committed, limit int64) *vmhostv1.ResourceUsage {
		return &vmhostv1.ResourceUsage{Physical: limit, Ratio: 1, Limit: limit, Committed: committed, Free: limit - committed}
	}
	f.hosts = []*vmhostv1.VmHost{{
		Name: "vmHosts/h1", Uid: "u1", Etag: "e1", Address: "qemu:///system", Zone: "zones/default", ResourcePool: "resourcePools/default", CreateTime: hoursAgo,
		State: vmhostv1.VmHostState_VM_HOST_STATE_READY, AssignedRack: "racks/r1", Tags: []string{"ssd"}, CredentialKind: "none",
		Usage: &vmhostv1.VmHostUsage{Cores: usage(4, 16), MemoryMib: usage(4096, 32768), Machines: 2, StorageBytes: map[string]*vmhostv1.ResourceUsage{"default": usage(40e9, 123456789012)}},
	}, {
		Name: "vmHosts/h2", Uid: "u2", Etag: "e2", Address: "qemu+ssh://root@h2/system", Zone: "zones/a", ResourcePool: "resourcePools/default", CreateTime: hoursAgo,
		State: vmhostv1.VmHostState_VM_HOST_STATE_UNREACHABLE, Cordoned: true, Usage: &vmhostv1.VmHostUsage{Cores: usage(0, 0), MemoryMib: usage(0, 0)},
		Conditions: []*vmhostv1.Condition{{Type: "Reachable", Reason: "HOST_UNREACHABLE", Message: "dial: connection refused", Hint: "start sshd", TransitionTime: hoursAgo}},
	}}
	f.zones = []*vmhostv1.Zone{{Name: "zones/default", Uid: "z1", CreateTime: hoursAgo}, {Name: "zones/a", Uid: "z2", Description: "first floor", CreateTime: hoursAgo}}
	f.pools = []*vmhostv1.ResourcePool{{Name: "resourcePools/default", Uid: "p1", CreateTime: hoursAgo}, {Name: "resourcePools/dev", Uid: "p2", CreateTime: hoursAgo}}
	f.racks = []*vmhostv1.Rack{{Name: "racks/r1", Uid: "k1", Zone: "zones/default", Connected: true, Drivers: []string{"libvirt"}, Version: "v1", VmHosts: []string{"vmHosts/h1"}, LastSeenTime: hoursAgo}}
	f.events = []*vmhostv1.Event{{Id: "ev1", Time: hoursAgo, Type: "machine.composed", Resource: "machines/aaaa1111-0000-4000-8000-000000000001", Message: "web-1 was composed"}}
	f.placement = &vmhostv1.Placement{
		VmHost: "vmHosts/h1", StoragePools: []string{"default"}, Networks: []string{"default"}, Load: 0.375, Considered: 2,
		Refusals:      []*vmhostv1.PlacementRefusal{{VmHost: "vmHosts/h2", Filter: "state", Message: "is unreachable", Reason: vmhostv1.ErrorReason_HOST_UNREACHABLE}},
		RefusedCounts: map[string]int32{"state": 1},
	}
	f.check = &vmhostv1.CheckVmHostResult{
		Rack: "racks/r1", HostKey: "ssh-ed25519 AAAAC3Nz", Fingerprint: "SHA256:abcdef",
		Items: []*vmhostv1.CheckItem{
			{Check: "reach", Status: vmhostv1.CheckStatus_CHECK_STATUS_OK, Message: "connected in 2 ms"},
			{Check: "login", Status: vmhostv1.CheckStatus_CHECK_STATUS_SKIPPED, Message: "the host key is not confirmed"},
		},
	}
}

type pageRequest interface {
	GetPageSize() int32
	GetPageToken() string
	GetFilter() string
}

// page answers a list: what the filter lets through, from the token on.
func page[T proto.Message](f *fakeRegion, all []T, r pageRequest) ([]T, string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []T
	for _, item := range all {
		ok, err := matches(item, r.GetFilter())
		if err != nil {
			return nil, "", err
		}
		if ok {
			found = append(found, proto.CloneOf(item))
		}
	}
	from := 0
	if r.GetPageToken() != "" {
		if _, err := fmt.Sscanf(r.GetPageToken(), "from-%d", &from); err != nil {
			return nil, "", apierror.InvalidField("page_token", "is not one of ours")
		}
	}
	to := min(len(found), from+min(int(r.GetPageSize()), f.maxPage))
	if to < len(found) {
		return found[from:to], fmt.Sprintf("from-%d", to), nil
	}
	return found[from:to], "", nil
}

var comparison = regexp.MustCompile(`^(\w+) (!?=) (?:"((?:[^"\\]|\\.)*)"|([A-Z_]+))$`)

// matches knows as much of AIP-160 as these tests need: FIELD = "TEXT" AND
// FIELD != VALUE AND ….
func matches(m proto.Message, filter string) (bool, error) {
	if filter == "" {
		return true, nil
	}
	for part := range strings.SplitSeq(filter, " AND ") {
		c := comparison.FindStringSubmatch(part)
		if c == nil {
			return false, apierror.InvalidField("filter", "is no filter: %s", part)
		}
		field := m.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(c[1]))
		if field == nil {
			return false, apierror.InvalidField("filter", "names %q, which is no field", c[1])
		}
		value := m.ProtoReflect().Get(field).String()
		if enum := field.Enum(); enum != nil {
			value = string(enum.Values().ByNumber(m.ProtoReflect().Get(field).Enum()).Name())
		}
		want, wild := strings.CutSuffix(strings.NewReplacer(`\"`, `"`, `\\`, `\`).Replace(c[3])+c[4], "*")
		if (value == want || wild && strings.HasPrefix(value, want)) != (c[2] == "=") {
			return false, nil
		}
	}
	return true, nil
}

func byName[T interface{ GetName() string }](items []T, name string) (T, error) {
	for _, item := range items {
		if item.GetName() == name {
			return item, nil
		}
	}
	var none T
	return none, apierror.NotFound(name)
}

func (f *fakeRegion) ListVmHosts(_ context.Context, r *vmhostv1.ListVmHostsRequest) (*vmhostv1.ListVmHostsResponse, error) {
	items, next, err := page(f, f.hosts, r)
	return &vmhostv1.ListVmHostsResponse{VmHosts: items, NextPageToken: next}, err
}

func (f *fakeRegion) GetVmHost(_ context.Context, r *vmhostv1.GetVmHostRequest) (*vmhostv1.VmHost, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h, err := byName(f.hosts, r.GetName())
	if err == nil && h.GetState() == vmhostv1.VmHostState_VM_HOST_STATE_PENDING {
		h.State = f.newState
	}
	return proto.CloneOf(h), err
}

func (f *fakeRegion) CreateVmHost(_ context.Context, r *vmhostv1.CreateVmHostRequest) (*vmhostv1.VmHost, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := proto.CloneOf(r.GetVmHost())
	h.Name, h.State, h.Credential = "vmHosts/"+r.GetVmHostId(), vmhostv1.VmHostState_VM_HOST_STATE_PENDING, nil
	if f.newState == vmhostv1.VmHostState_VM_HOST_STATE_AUTH_FAILED {
		h.Conditions = []*vmhostv1.Condition{{Type: "Reachable", Reason: "HOST_AUTH_FAILED", Message: "the key was refused", Hint: "put the key into authorized_keys"}}
		if h.GetType() == vmhostv1.VmHostType_VM_HOST_TYPE_LXD {
			h.Conditions[0].Message = "the server does not trust the host's certificate"
		}
	}
	if !r.GetValidateOnly() {
		f.hosts = append(f.hosts, h)
	}
	return proto.CloneOf(h), nil
}

func (f *fakeRegion) UpdateVmHost(_ context.Context, r *vmhostv1.UpdateVmHostRequest) (*vmhostv1.VmHost, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h, err := byName(f.hosts, r.GetVmHost().GetName())
	return proto.CloneOf(h), err
}

func (f *fakeRegion) DeleteVmHost(_ context.Context, r *vmhostv1.DeleteVmHostRequest) (*vmhostv1.DeleteVmHostResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := byName(f.hosts, r.GetName())
	return &vmhostv1.DeleteVmHostResponse{}, err
}

func (f *fakeRegion) RefreshVmHost(_ context.Context, r *vmhostv1.RefreshVmHostRequest) (*vmhostv1.Operation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h, err := byName(f.hosts, r.GetName())
	if err != nil {
		return nil, err
	}
	return f.begin(vmhostv1.OperationVerb_OPERATION_VERB_REFRESH, r.GetName(), r.GetName(), r.GetRequestId(), h), nil
}

func (f *fakeRegion) CordonVmHost(_ context.Context, r *vmhostv1.CordonVmHostRequest) (*vmhostv1.VmHost, error) {
	return f.cordon(r.GetName(), true)
}

func (f *fakeRegion) UncordonVmHost(_ context.Context, r *vmhostv1.UncordonVmHostRequest) (*vmhostv1.VmHost, error) {
	return f.cordon(r.GetName(), false)
}

func (f *fakeRegion) cordon(name string, on bool) (*vmhostv1.VmHost, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h, err := byName(f.hosts, name)
	if err == nil {
		h.Cordoned = on
	}
	return proto.CloneOf(h), err
}

func (f *fakeRegion) CheckVmHost(_ context.Context, r *vmhostv1.CheckVmHostRequest) (*vmhostv1.Operation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.GetAddress() == "" {
		return nil, apierror.New(codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "address is empty")
	}
	return f.begin(vmhostv1.OperationVerb_OPERATION_VERB_CHECK, "", "", r.GetRequestId(), f.check), nil
}
