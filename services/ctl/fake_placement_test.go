package ctl_test

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// fakePlacement answers questions with what a test set, keeps policies, and has
// room for as many machines as room says.
type fakePlacement struct {
	explained vmhostv1.ExplainResponse
	capacity  vmhostv1.CapacityResponse
	outcome   vmhostv1.WhatIfResponse
	proposal  vmhostv1.RebalanceResponse
	policies  []*vmhostv1.PlacementPolicy
	room      int32
}

func newFakePlacement() *fakePlacement {
	return &fakePlacement{room: 1000, policies: []*vmhostv1.PlacementPolicy{{
		Name: "placementPolicies/spread", Description: "most room first", Weights: &vmhostv1.PlacementWeights{LeastLoaded: 1, Balance: 0.25},
	}}}
}

// set is what the script's `fake set` says.
func (p *fakePlacement) set(key, value string) (known bool, err error) {
	var m proto.Message
	switch key {
	case "explained":
		m = &p.explained
	case "capacity":
		m = &p.capacity
	case "outcome":
		m = &p.outcome
	case "proposal":
		m = &p.proposal
	case "room":
		_, err := fmt.Sscan(value, &p.room)
		return true, err
	default:
		return false, nil
	}
	return true, protojson.Unmarshal([]byte(value), m)
}

func (f *fakeRegion) Explain(context.Context, *vmhostv1.ExplainRequest) (*vmhostv1.ExplainResponse, error) {
	return &f.place.explained, nil
}

func (f *fakeRegion) Capacity(context.Context, *vmhostv1.CapacityRequest) (*vmhostv1.CapacityResponse, error) {
	return &f.place.capacity, nil
}

func (f *fakeRegion) WhatIf(context.Context, *vmhostv1.WhatIfRequest) (*vmhostv1.WhatIfResponse, error) {
	return &f.place.outcome, nil
}

func (f *fakeRegion) Rebalance(context.Context, *vmhostv1.RebalanceRequest) (*vmhostv1.RebalanceResponse, error) {
	return &f.place.proposal, nil
}

func (f *fakeRegion) ComposeMachines(ctx context.Context, r *vmhostv1.ComposeMachinesRequest) (*vmhostv1.ComposeMachinesResponse, error) {
	n := min(r.GetCount(), f.place.room)
	out := &vmhostv1.ComposeMachinesResponse{Unplaced: r.GetCount() - n}
	if out.GetUnplaced() > 0 {
		if r.GetMode() == vmhostv1.ComposeManyMode_COMPOSE_MANY_MODE_ALL && !r.GetValidateOnly() {
			return nil, apierror.New(codes.ResourceExhausted, vmhostv1.ErrorReason_NO_CAPACITY, "%d of %d fit, and nothing was made", n, r.GetCount())
		}
		out.Refusal = &vmhostv1.Placement{Considered: 2, RefusedCounts: map[string]int32{"cores": 2}, Hint: "ask for less, or add a larger host"}
	}
	for i := range n {
		out.Placements = append(out.Placements, &vmhostv1.Placement{VmHost: fmt.Sprintf("vmHosts/h%d", i%2+1)})
		if r.GetValidateOnly() {
			continue
		}
		one := proto.CloneOf(r.GetMachine())
		one.Hostname = fmt.Sprintf("%s-%d", one.GetHostname(), i+1)
		op, err := f.ComposeMachine(ctx, one)
		if err != nil {
			return nil, err
		}
		out.Operations = append(out.Operations, op)
	}
	return out, nil
}

func (f *fakeRegion) ListPlacementPolicies(_ context.Context, r *vmhostv1.ListPlacementPoliciesRequest) (*vmhostv1.ListPlacementPoliciesResponse, error) {
	items, next, err := page(f, f.place.policies, r)
	return &vmhostv1.ListPlacementPoliciesResponse{PlacementPolicies: items, NextPageToken: next}, err
}

func (f *fakeRegion) GetPlacementPolicy(_ context.Context, r *vmhostv1.GetPlacementPolicyRequest) (*vmhostv1.PlacementPolicy, error) {
	return byName(f.place.policies, r.GetName())
}

func (f *fakeRegion) CreatePlacementPolicy(_ context.Context, r *vmhostv1.CreatePlacementPolicyRequest) (*vmhostv1.PlacementPolicy, error) {
	p := proto.CloneOf(r.GetPlacementPolicy())
	p.Name, p.CreateTime = "placementPolicies/"+r.GetPlacementPolicyId(), timestamppb.Now()
	if !r.GetValidateOnly() {
		f.place.policies = append(f.place.policies, p)
	}
	return p, nil
}

func (f *fakeRegion) UpdatePlacementPolicy(_ context.Context, r *vmhostv1.UpdatePlacementPolicyRequest) (*vmhostv1.PlacementPolicy, error) {
	p, err := byName(f.place.policies, r.GetPlacementPolicy().GetName())
	if err != nil {
		return nil, err
	}
	for _, path := range r.GetUpdateMask().GetPaths() {
		switch path {
		case "weights":
			p.Weights = r.GetPlacementPolicy().GetWeights()
		case "predicate":
			p.Predicate = r.GetPlacementPolicy().GetPredicate()
		case "description":
			p.Description = r.GetPlacementPolicy().GetDescription()
		}
	}
	return p, nil
}

func (f *fakeRegion) DeletePlacementPolicy(_ context.Context, r *vmhostv1.DeletePlacementPolicyRequest) (*vmhostv1.DeletePlacementPolicyResponse, error) {
	if _, err := byName(f.place.policies, r.GetName()); err != nil {
		return nil, err
	}
	f.place.policies = f.place.policies[:1]
	return &vmhostv1.DeletePlacementPolicyResponse{}, nil
}
