package api_test

import (
	"testing"

	"google.golang.org/grpc/codes"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func TestQuestionsAboutPlacementAreForViewersAndManyAreForComposers(t *testing.T) {
	f := start(t)
	f.ready(f.addHost(f.admin(), "h1"))
	viewer, composer := f.as(storev1.Role_ROLE_VIEWER), f.as(storev1.Role_ROLE_COMPOSER)
	one := &vmhostv1.ComposeMachineRequest{Cores: 2, MemoryMib: 1024}
	if out, err := f.ask.Explain(viewer, &vmhostv1.ExplainRequest{Machine: one}); err != nil || out.GetPlacement().GetVmHost() != "vmHosts/h1" || len(out.GetCandidates()) != 1 {
		t.Errorf("explain: %v, %v", out, err)
	}
	if out, err := f.ask.Capacity(viewer, &vmhostv1.CapacityRequest{Machine: one}); err != nil || out.GetMachines() != 4 || out.GetLimitedBy() != "cores" {
		t.Errorf("capacity: %v, %v", out, err)
	}
	if out, err := f.ask.WhatIf(viewer, &vmhostv1.WhatIfRequest{LostVmHosts: []string{"vmHosts/h1"}, Machine: one}); err != nil || out.GetCapacityBefore() != 4 || out.GetCapacityAfter() != 0 {
		t.Errorf("what if: %v, %v", out, err)
	}
	if out, err := f.ask.Rebalance(viewer, &vmhostv1.RebalanceRequest{}); err != nil || out.GetConsidered() != 1 || len(out.GetMoves()) != 0 {
		t.Errorf("rebalance: %v, %v", out, err)
	}
	_, err := f.ask.Rebalance(viewer, &vmhostv1.RebalanceRequest{MaxMoves: 1001})
	wantReason(t, "a thousand and one moves", err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "max_moves")
	_, err = f.ask.Rebalance(viewer, &vmhostv1.RebalanceRequest{MinGain: 2})
	wantReason(t, "a gain of more than all", err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "min_gain")
	many := &vmhostv1.ComposeMachinesRequest{Machine: one, Count: 3}
	_, err = f.mach.ComposeMachines(viewer, many)
	wantReason(t, "many by a viewer", err, codes.PermissionDenied, vmhostv1.ErrorReason_PERMISSION_DENIED)
	if out, err := f.mach.ComposeMachines(composer, many); err != nil || len(out.GetOperations()) != 3 {
		t.Errorf("many: %v, %v", out, err)
	}
	_, err = f.mach.ComposeMachines(composer, many)
	wantReason(t, "many more", err, codes.ResourceExhausted, vmhostv1.ErrorReason_NO_CAPACITY)
	for _, n := range []int32{0, -1, 1001, 1_000_000} {
		_, err := f.mach.ComposeMachines(composer, &vmhostv1.ComposeMachinesRequest{Machine: one, Count: n})
		wantReason(t, "a count that is none", err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "count")
	}
	_, err = f.ask.Explain(viewer, &vmhostv1.ExplainRequest{})
	wantReason(t, "no machine", err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "machine")
	_, err = f.ask.Explain(viewer, &vmhostv1.ExplainRequest{Machine: one, MaxRefusals: 1_000_000})
	wantReason(t, "too many refusals", err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "max_refusals")
	_, err = f.mach.ComposeMachine(composer, &vmhostv1.ComposeMachineRequest{MaxPerZone: 1_000_000, Group: "g"})
	wantReason(t, "a million per zone", err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "max_per_zone")
}
