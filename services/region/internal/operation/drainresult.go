package operation

import (
	"slices"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

const (
	// maxDrained is how many machines the result of a drain, or its plan, has.
	maxDrained = 1000

	live, offline = "live", "offline"
)

// howMoved is how a machine would be moved, as far as that is known before.
func howMoved(v *store.View, m *storev1.StoredMachine) string {
	if runs(v, m) && notLive(v, m.GetResource()) == "" {
		return live
	}
	return offline
}

// noPlace is why a machine has no place.
func noPlace(plan *placement.Plan) error {
	c := ledger.MoveChoice{Plan: *plan}
	return c.Refusal()
}

// drainResult is what became of every machine that the drain tried, those that
// stayed first, as many as fit. Those that had no turn are counted.
func (c *change) drainResult() *vmhostv1.DrainVmHostResult {
	out := &vmhostv1.DrainVmHostResult{}
	var moved []*vmhostv1.DrainedMachine
	size := 0
	fits := func(d *vmhostv1.DrainedMachine) bool {
		size += proto.Size(d) + 4
		return size <= maxResultBytes
	}
	for _, op := range store.Operations.All(c.view) {
		if op.Value.GetParent() != c.op.GetResource().GetName() {
			continue
		}
		r := op.Value.GetResource()
		d := &vmhostv1.DrainedMachine{Machine: r.GetTarget(), Operation: r.GetName()}
		if r.GetPhase() == succeeded {
			d.To, d.How = destination(op.Value), offline
			m, _ := store.Machines.Get(c.view, op.Value.GetMachineUid())
			if op.Value.GetPlan()[0].GetMoveMachine().GetLive() && runs(c.view, m.Value) {
				d.How = live
			}
			out.Moved++
			moved = append(moved, d)
			continue
		}
		if e := r.GetError(); e != nil {
			d.Error = &vmhostv1.OperationError{Code: e.GetCode(), Reason: e.GetReason(), Message: shorten(e.GetMessage()), Hint: shorten(e.GetHint())}
		}
		if fits(d) {
			out.Machines = append(out.Machines, d)
		}
	}
	left, _ := c.left()
	out.Stayed = int32(left)
	for _, d := range moved {
		if fits(d) {
			out.Machines = append(out.Machines, d)
		}
	}
	out.Machines = slices.Clip(out.GetMachines()[:min(len(out.GetMachines()), maxDrained)])
	return out
}
