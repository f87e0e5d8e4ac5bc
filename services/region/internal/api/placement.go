package api

import (
	"context"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Planner answers questions about placement. It takes nothing.
type Planner interface {
	Explain(ctx context.Context, req *vmhostv1.ExplainRequest) (*vmhostv1.ExplainResponse, error)
	Capacity(ctx context.Context, req *vmhostv1.CapacityRequest) (*vmhostv1.CapacityResponse, error)
	WhatIf(ctx context.Context, req *vmhostv1.WhatIfRequest) (*vmhostv1.WhatIfResponse, error)
	Rebalance(ctx context.Context, req *vmhostv1.RebalanceRequest) (*vmhostv1.RebalanceResponse, error)
}

type placements struct {
	vmhostv1.UnimplementedPlacementServiceServer
	planner Planner
}

// Explain says where a machine would go, and why.
func (s *placements) Explain(ctx context.Context, req *vmhostv1.ExplainRequest) (*vmhostv1.ExplainResponse, error) {
	return s.planner.Explain(ctx, req)
}

// Capacity says how many more machines fit.
func (s *placements) Capacity(ctx context.Context, req *vmhostv1.CapacityRequest) (*vmhostv1.CapacityResponse, error) {
	return s.planner.Capacity(ctx, req)
}

// WhatIf says what would be if hosts were lost or ratios changed.
func (s *placements) WhatIf(ctx context.Context, req *vmhostv1.WhatIfRequest) (*vmhostv1.WhatIfResponse, error) {
	return s.planner.WhatIf(ctx, req)
}

// Rebalance proposes moves that would make the load of hosts more even.
func (s *placements) Rebalance(ctx context.Context, req *vmhostv1.RebalanceRequest) (*vmhostv1.RebalanceResponse, error) {
	return s.planner.Rebalance(ctx, req)
}

// ComposeMachines makes many machines.
func (s *machines) ComposeMachines(ctx context.Context, req *vmhostv1.ComposeMachinesRequest) (*vmhostv1.ComposeMachinesResponse, error) {
	return s.composer.ComposeMany(ctx, principal(ctx), req)
}
