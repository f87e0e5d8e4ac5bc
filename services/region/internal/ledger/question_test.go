package ledger

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

func TestAnExplanationNamesWhoFitsAndWhyOthersDoNotAndTakesNothing(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	fleetOf(t, s, 300, 3)
	one := small()
	one.Zone = "zones/z1"
	before := s.Cached().Revision
	out, err := l.Explain(t.Context(), &vmhostv1.ExplainRequest{Machine: one, MaxRefusals: 150, MaxCandidates: 7})
	if err != nil {
		t.Fatal(err)
	}
	p := out.GetPlacement()
	if p.GetConsidered() != 300 || len(p.GetRefusals()) != 150 || p.GetRefusedCounts()["zone"] != 200 || len(out.GetCandidates()) != 7 {
		t.Fatalf("%d considered, %d refusals, counts %v, %d candidates", p.GetConsidered(), len(p.GetRefusals()), p.GetRefusedCounts(), len(out.GetCandidates()))
	}
	if c := out.GetCandidates()[0]; c.GetVmHost() != p.GetVmHost() || c.GetTotal() <= 0 || c.GetScores()["least_loaded"] <= 0 {
		t.Errorf("chosen is %s, best %v", p.GetVmHost(), c)
	}
	// Asked for nothing in particular, an answer is short.
	out, err = l.Explain(t.Context(), &vmhostv1.ExplainRequest{Machine: one})
	if err != nil || len(out.GetPlacement().GetRefusals()) != 100 || len(out.GetCandidates()) != 10 {
		t.Errorf("%d refusals, %d candidates, %v", len(out.GetPlacement().GetRefusals()), len(out.GetCandidates()), err)
	}
	one.Cores = 5
	if out, err = l.Explain(t.Context(), &vmhostv1.ExplainRequest{Machine: one}); err != nil || out.GetPlacement().GetVmHost() != "" || out.GetPlacement().GetRefusedCounts()["cores"] != 100 || len(out.GetCandidates()) != 0 {
		t.Errorf("too large: %v, %v", out.GetPlacement().GetRefusedCounts(), err)
	}
	if s.Cached().Revision != before {
		t.Error("it wrote something")
	}
}

func TestCapacityIsHowManyCanReallyBeMade(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	fleetOf(t, s, 6, 2)
	one := &vmhostv1.ComposeMachineRequest{Cores: 3, MemoryMib: 64}
	out, err := l.Capacity(t.Context(), &vmhostv1.CapacityRequest{Machine: one, MaxVmHosts: 2})
	if err != nil {
		t.Fatal(err)
	}
	want := &vmhostv1.CapacityResponse{
		Machines: 6, LimitedBy: "cores",
		Zones:   []*vmhostv1.ZoneCapacity{{Zone: "zones/z0", Machines: 3, LimitedBy: "cores"}, {Zone: "zones/z1", Machines: 3, LimitedBy: "cores"}},
		VmHosts: []*vmhostv1.VmHostCapacity{{VmHost: "vmHosts/h0000", Machines: 1, LimitedBy: "cores"}, {VmHost: "vmHosts/h0001", Machines: 1, LimitedBy: "cores"}},
	}
	if diff := cmp.Diff(want, out, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	made, err := l.ComposeMany(t.Context(), "alice", manyOf(100, some, one))
	if err != nil || int64(len(made.GetOperations())) != out.GetMachines() {
		t.Errorf("%d were made, %v", len(made.GetOperations()), err)
	}
	if out, err = l.Capacity(t.Context(), &vmhostv1.CapacityRequest{Machine: one}); err != nil || out.GetMachines() != 0 || out.GetRefusedCounts()["cores"] != 6 {
		t.Errorf("of a full fleet: %v, %v", out, err)
	}
	tiny := &vmhostv1.ComposeMachineRequest{Cores: 1, MemoryMib: 64}
	setQuota(t, t, s, "default", &vmhostv1.ResourceQuota{Cores: proto.Int64(20)}) // 18 are used
	if out, err = l.Capacity(t.Context(), &vmhostv1.CapacityRequest{Machine: tiny}); err != nil || out.GetMachines() != 2 || out.GetLimitedBy() != "quota" || len(out.GetVmHosts()) != 6 {
		t.Errorf("with a quota: %v, %v", out, err)
	}
}

func TestWhatIfSaysWhoHasAPlaceAndWhoHasNot(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	fleetOf(t, s, 3, 3)
	if _, err := l.ComposeMany(t.Context(), "alice", manyOf(9, all, small())); err != nil { // 3 on each, room for 3
		t.Fatal(err)
	}
	out, err := l.WhatIf(t.Context(), &vmhostv1.WhatIfRequest{LostVmHosts: []string{"vmHosts/h0000"}, Machine: small()})
	if err != nil || out.GetPlaced() != 2 || out.GetStrandedTotal() != 1 || out.GetCapacityBefore() != 3 || out.GetCapacityAfter() != 0 {
		t.Fatalf("got %v, %v", out, err)
	}
	if m := out.GetMoves()[0]; m.GetFrom() != "vmHosts/h0000" || m.GetTo() == m.GetFrom() || out.GetStranded()[0].GetRefusedCounts()["cores"] != 2 {
		t.Errorf("got %v", out)
	}
	if out, err = l.WhatIf(t.Context(), &vmhostv1.WhatIfRequest{LostZones: []string{"zones/z1", "zones/z2"}}); err != nil || out.GetPlaced() != 1 || out.GetStrandedTotal() != 5 {
		t.Errorf("two zones: %v, %v", out, err)
	}
	half := &vmhostv1.OvercommitRatios{Cores: proto.Float64(0.5)}
	if out, err = l.WhatIf(t.Context(), &vmhostv1.WhatIfRequest{Overcommit: half, RatioVmHosts: []string{"vmHosts/h0002"}}); err != nil ||
		!cmp.Equal(out.GetOvercommittedVmHosts(), []string{"vmHosts/h0002"}) {
		t.Errorf("a lower ratio: %v, %v", out, err)
	}
	double := &vmhostv1.OvercommitRatios{Cores: proto.Float64(2)}
	if out, err = l.WhatIf(t.Context(), &vmhostv1.WhatIfRequest{LostVmHosts: []string{"vmHosts/h0000"}, Overcommit: double, Machine: small()}); err != nil ||
		out.GetStrandedTotal() != 0 || out.GetPlaced() != 3 || out.GetCapacityAfter() != 7 {
		t.Errorf("a higher ratio: %v, %v", out, err)
	}
	for i := range 3 {
		checkBooks(t, s, fmt.Sprintf("h%04d", i))
	}
}

func TestAQuestionAboutWhatIsNotThereNamesTheField(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	fleetOf(t, s, 1, 1)
	ask := func(r *vmhostv1.WhatIfRequest) error { _, err := l.WhatIf(t.Context(), r); return err }
	explain := func(r *vmhostv1.ComposeMachineRequest) error {
		_, err := l.Explain(t.Context(), &vmhostv1.ExplainRequest{Machine: r})
		return err
	}
	for _, tc := range []struct {
		field string
		code  codes.Code
		err   error
	}{
		{"lost_vm_hosts[1]", codes.NotFound, ask(&vmhostv1.WhatIfRequest{LostVmHosts: []string{"vmHosts/h0000", "vmHosts/none"}})},
		{"lost_zones[0]", codes.NotFound, ask(&vmhostv1.WhatIfRequest{LostZones: []string{"zones/none"}})},
		{"lost_zones[0]", codes.InvalidArgument, ask(&vmhostv1.WhatIfRequest{LostZones: []string{"none"}})},
		{"ratio_vm_hosts[0]", codes.NotFound, ask(&vmhostv1.WhatIfRequest{RatioVmHosts: []string{"vmHosts/none"}})},
		{"overcommit", codes.InvalidArgument, ask(&vmhostv1.WhatIfRequest{RatioVmHosts: []string{"vmHosts/h0000"}})},
		{"machine.zone", codes.NotFound, ask(&vmhostv1.WhatIfRequest{Machine: &vmhostv1.ComposeMachineRequest{Zone: "zones/none"}})},
		{"machine.placement_policy", codes.NotFound, explain(&vmhostv1.ComposeMachineRequest{PlacementPolicy: "placementPolicies/none"})},
		{"machine.affinity[0].machines[0]", codes.NotFound, explain(&vmhostv1.ComposeMachineRequest{Affinity: []*vmhostv1.AffinityRule{rule(near, zone, "machines/none")}})},
		{"machine.resource_pool", codes.NotFound, explain(&vmhostv1.ComposeMachineRequest{ResourcePool: "resourcePools/none"})},
	} {
		if e := apierror.FromStatus(tc.err); tc.err == nil || e.Code != tc.code || len(e.Fields) != 1 || e.Fields[0].GetField() != tc.field {
			t.Errorf("%s: got %v, fields %v", tc.field, tc.err, e.Fields)
		}
	}
}
