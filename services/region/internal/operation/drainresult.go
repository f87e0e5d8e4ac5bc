package operation

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

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
	// maxHeld is how many reservations the result of a drain names.
	maxHeld = 100

	live, offline = "live", "offline"
)

// howMoved is how a machine would be moved, as far as that is known before, and why
// it would be stopped for it if it runs.
func howMoved(v *store.View, m *storev1.StoredMachine) (how, why string) {
	if !runs(v, m) {
		return offline, ""
	}
	if why := notLive(v, m.GetResource()); why != "" {
		return offline, why
	}
	return live, ""
}

// noPlace is why a machine has no place.
func noPlace(plan *placement.Plan) error {
	c := ledger.MoveChoice{Plan: *plan}
	return c.Refusal()
}

// drainResult is what became of every machine that the drain tried, those that
// stayed first, as many as fit. Those that had no turn are counted. Of a machine
// that was tried with several destinations the last counts.
func (c *change) drainResult() *vmhostv1.DrainVmHostResult {
	out := &vmhostv1.DrainVmHostResult{}
	size := 0
	fits := func(d *vmhostv1.DrainedMachine) bool {
		size += proto.Size(d) + 4
		return size <= maxResultBytes
	}
	last := map[string]*storev1.StoredOperation{}
	for _, op := range store.Operations.All(c.view) { // in the order they were begun
		if op.Value.GetParent() == c.op.GetResource().GetName() {
			last[op.Value.GetMachineUid()] = op.Value
		}
	}
	var moved []*vmhostv1.DrainedMachine
	for _, uid := range slices.SortedFunc(maps.Keys(last), func(a, b string) int {
		return cmp.Compare(last[a].GetResource().GetName(), last[b].GetResource().GetName())
	}) {
		op := last[uid]
		r := op.GetResource()
		d := &vmhostv1.DrainedMachine{Machine: r.GetTarget(), Operation: r.GetName()}
		if r.GetPhase() == succeeded {
			d.To, d.How, d.WhyOffline = destination(op), howWord(op.GetMove()), shorten(op.GetMove().GetNotLive())
			d.StayingDisks, d.CopiedDisks = disksOf(op)
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
	out.Held, out.HeldPlaces = ledger.HeldOn(c.view, hostOf(c.op), maxHeld)
	return out
}

// heldWords say which places stay held on a drained host; empty when there are
// none.
func heldWords(r *vmhostv1.DrainVmHostResult) string {
	var until time.Time
	for _, h := range r.GetHeld() {
		if t := h.GetExpireTime().AsTime(); t.After(until) {
			until = t
		}
	}
	switch len(r.GetHeld()) {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("%d places of %s stay held there until %s, unless they are used or given back before", r.GetHeldPlaces(), r.GetHeld()[0].GetReservation(), until.UTC().Format(time.RFC3339))
	default:
		return fmt.Sprintf("%d places of reservations stay held there, the last until %s, unless they are used or given back before", r.GetHeldPlaces(), until.UTC().Format(time.RFC3339))
	}
}
