package ctl_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func (f *fakeRegion) ListMachines(_ context.Context, r *vmhostv1.ListMachinesRequest) (*vmhostv1.ListMachinesResponse, error) {
	items, next, err := page(f, f.machines, r)
	return &vmhostv1.ListMachinesResponse{Machines: items, NextPageToken: next}, err
}

func (f *fakeRegion) GetMachine(_ context.Context, r *vmhostv1.GetMachineRequest) (*vmhostv1.Machine, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, err := byName(f.machines, r.GetName())
	return proto.CloneOf(m), err
}

func (f *fakeRegion) ComposeMachine(_ context.Context, r *vmhostv1.ComposeMachineRequest) (*vmhostv1.Operation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.GetValidateOnly() {
		return &vmhostv1.Operation{Verb: vmhostv1.OperationVerb_OPERATION_VERB_COMPOSE, Response: anyOf(&vmhostv1.ComposePlan{
			Placement: f.placement, Quota: f.planQuota, Used: &vmhostv1.ResourceAmount{Machines: 3, Cores: 6},
		})}, nil
	}
	uid := fmt.Sprintf("dddd0000-0000-4000-8000-%012d", len(f.machines))
	m := &vmhostv1.Machine{
		Name: "machines/" + uid, Uid: uid, Hostname: r.GetHostname(), VmHost: "vmHosts/h1", Cores: max(1, r.GetCores()), MemoryMib: max(2048, r.GetMemoryMib()),
		ResourcePool: "resourcePools/default", Phase: vmhostv1.MachinePhase_MACHINE_PHASE_READY, PowerState: vmhostv1.PowerState_POWER_STATE_OFF,
		Origin: vmhostv1.MachineOrigin_MACHINE_ORIGIN_COMPOSED,
	}
	if m.GetHostname() == "" {
		m.Hostname = "brave-otter"
	}
	f.machines = append(f.machines, m)
	return f.begin(vmhostv1.OperationVerb_OPERATION_VERB_COMPOSE, m.GetName(), m.GetVmHost(), r.GetRequestId(), m), nil
}

func (f *fakeRegion) act(verb vmhostv1.OperationVerb, name, requestID string, to vmhostv1.PowerState) (*vmhostv1.Operation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, err := byName(f.machines, name)
	if err != nil {
		return nil, err
	}
	if to != vmhostv1.PowerState_POWER_STATE_UNSPECIFIED {
		m.PowerState = to
	}
	return f.begin(verb, name, m.GetVmHost(), requestID, nil), nil
}

func (f *fakeRegion) StartMachine(_ context.Context, r *vmhostv1.StartMachineRequest) (*vmhostv1.Operation, error) {
	return f.act(vmhostv1.OperationVerb_OPERATION_VERB_START, r.GetName(), r.GetRequestId(), vmhostv1.PowerState_POWER_STATE_ON)
}

func (f *fakeRegion) StopMachine(_ context.Context, r *vmhostv1.StopMachineRequest) (*vmhostv1.Operation, error) {
	return f.act(vmhostv1.OperationVerb_OPERATION_VERB_STOP, r.GetName(), r.GetRequestId(), vmhostv1.PowerState_POWER_STATE_OFF)
}

func (f *fakeRegion) ResetMachine(_ context.Context, r *vmhostv1.ResetMachineRequest) (*vmhostv1.Operation, error) {
	return f.act(vmhostv1.OperationVerb_OPERATION_VERB_RESET, r.GetName(), r.GetRequestId(), 0)
}

func (f *fakeRegion) QueryMachinePower(_ context.Context, r *vmhostv1.QueryMachinePowerRequest) (*vmhostv1.Operation, error) {
	return f.act(vmhostv1.OperationVerb_OPERATION_VERB_QUERY_POWER, r.GetName(), "", 0)
}

func (f *fakeRegion) DeleteMachine(_ context.Context, r *vmhostv1.DeleteMachineRequest) (*vmhostv1.Operation, error) {
	return f.act(vmhostv1.OperationVerb_OPERATION_VERB_DELETE, r.GetName(), r.GetRequestId(), 0)
}

func (f *fakeRegion) ListZones(_ context.Context, r *vmhostv1.ListZonesRequest) (*vmhostv1.ListZonesResponse, error) {
	items, next, err := page(f, f.zones, r)
	return &vmhostv1.ListZonesResponse{Zones: items, NextPageToken: next}, err
}

func (f *fakeRegion) GetZone(_ context.Context, r *vmhostv1.GetZoneRequest) (*vmhostv1.Zone, error) {
	return byName(f.zones, r.GetName())
}

func (f *fakeRegion) CreateZone(_ context.Context, r *vmhostv1.CreateZoneRequest) (*vmhostv1.Zone, error) {
	z := proto.CloneOf(r.GetZone())
	z.Name = "zones/" + r.GetZoneId()
	return z, nil
}

func (f *fakeRegion) UpdateZone(_ context.Context, r *vmhostv1.UpdateZoneRequest) (*vmhostv1.Zone, error) {
	return r.GetZone(), nil
}

func (f *fakeRegion) DeleteZone(_ context.Context, r *vmhostv1.DeleteZoneRequest) (*vmhostv1.DeleteZoneResponse, error) {
	_, err := byName(f.zones, r.GetName())
	return &vmhostv1.DeleteZoneResponse{}, err
}

func (f *fakeRegion) ListResourcePools(_ context.Context, r *vmhostv1.ListResourcePoolsRequest) (*vmhostv1.ListResourcePoolsResponse, error) {
	items, next, err := page(f, f.pools, r)
	return &vmhostv1.ListResourcePoolsResponse{ResourcePools: items, NextPageToken: next}, err
}

func (f *fakeRegion) GetResourcePool(_ context.Context, r *vmhostv1.GetResourcePoolRequest) (*vmhostv1.ResourcePool, error) {
	return byName(f.pools, r.GetName())
}

func (f *fakeRegion) CreateResourcePool(_ context.Context, r *vmhostv1.CreateResourcePoolRequest) (*vmhostv1.ResourcePool, error) {
	p := proto.CloneOf(r.GetResourcePool())
	p.Name = "resourcePools/" + r.GetResourcePoolId()
	return p, nil
}

func (f *fakeRegion) UpdateResourcePool(_ context.Context, r *vmhostv1.UpdateResourcePoolRequest) (*vmhostv1.ResourcePool, error) {
	return r.GetResourcePool(), nil
}

func (f *fakeRegion) DeleteResourcePool(_ context.Context, r *vmhostv1.DeleteResourcePoolRequest) (*vmhostv1.DeleteResourcePoolResponse, error) {
	_, err := byName(f.pools, r.GetName())
	return &vmhostv1.DeleteResourcePoolResponse{}, err
}

func (f *fakeRegion) ListRacks(_ context.Context, r *vmhostv1.ListRacksRequest) (*vmhostv1.ListRacksResponse, error) {
	items, next, err := page(f, f.racks, r)
	return &vmhostv1.ListRacksResponse{Racks: items, NextPageToken: next}, err
}

func (f *fakeRegion) GetRack(_ context.Context, r *vmhostv1.GetRackRequest) (*vmhostv1.Rack, error) {
	return byName(f.racks, r.GetName())
}

func (f *fakeRegion) DeleteRack(_ context.Context, r *vmhostv1.DeleteRackRequest) (*vmhostv1.DeleteRackResponse, error) {
	_, err := byName(f.racks, r.GetName())
	return &vmhostv1.DeleteRackResponse{}, err
}

func (f *fakeRegion) CreateJoinToken(_ context.Context, r *vmhostv1.CreateJoinTokenRequest) (*vmhostv1.JoinToken, error) {
	return &vmhostv1.JoinToken{Id: "t1", Rack: "racks/" + r.GetRackId(), Zone: r.GetZone(), Token: "vmhj1.e30", ExpireTime: timestamppb.New(time.Now().Add(10 * time.Minute))}, nil
}

func (f *fakeRegion) ListJoinTokens(context.Context, *vmhostv1.ListJoinTokensRequest) (*vmhostv1.ListJoinTokensResponse, error) {
	return &vmhostv1.ListJoinTokensResponse{JoinTokens: []*vmhostv1.JoinToken{{Id: "t1", Rack: "racks/r2", Zone: "zones/a"}}}, nil
}

func (f *fakeRegion) DeleteJoinToken(_ context.Context, r *vmhostv1.DeleteJoinTokenRequest) (*vmhostv1.DeleteJoinTokenResponse, error) {
	if r.GetId() != "t1" {
		return nil, apierror.NotFound("join token " + r.GetId())
	}
	return &vmhostv1.DeleteJoinTokenResponse{}, nil
}

func (f *fakeRegion) ListEvents(_ context.Context, r *vmhostv1.ListEventsRequest) (*vmhostv1.ListEventsResponse, error) {
	items, next, err := page(f, f.events, r)
	return &vmhostv1.ListEventsResponse{Events: items, NextPageToken: next}, err
}

// WatchEvents sends the events after the token, as many at a time as it is asked
// for, breaks off once so that the client has to resume, and at the end says that
// it cannot go on.
func (f *fakeRegion) WatchEvents(r *vmhostv1.WatchEventsRequest, s vmhostv1.EventService_WatchEventsServer) error {
	if err := f.admit(s.Context(), "WatchEvents", r); err != nil {
		return err
	}
	from := 0
	if r.GetResumeToken() != "" {
		from = 1 + slices.IndexFunc(f.events, func(e *vmhostv1.Event) bool { return "after-"+e.GetId() == r.GetResumeToken() })
	}
	if err := s.Send(&vmhostv1.WatchEventsResponse{ResumeToken: r.GetResumeToken()}); err != nil {
		return err
	}
	answer := &vmhostv1.WatchEventsResponse{}
	for i, e := range f.events[from:] {
		broken := strings.HasPrefix(e.GetId(), "break")
		answer.ResumeToken = "after-" + e.GetId()
		answer.Events = append(answer.Events, &vmhostv1.WatchedEvent{Event: e, ResumeToken: answer.GetResumeToken()})
		if len(answer.GetEvents()) < int(r.GetMaxEvents()) && !broken && from+i < len(f.events)-1 {
			continue
		}
		if r.GetMaxEvents() <= 1 {
			answer.Event, answer.Events = e, nil
		}
		if err := s.Send(answer); err != nil {
			return err
		}
		answer.Reset()
		if broken {
			return apierror.New(14, vmhostv1.ErrorReason_STORE_UNAVAILABLE, "gone for a moment")
		}
	}
	return apierror.New(9, vmhostv1.ErrorReason_RESUME_TOKEN_EXPIRED, "the watch fell behind")
}
