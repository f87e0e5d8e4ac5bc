package operation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/request"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// defaultParallel is how many machines of a host are moved side by side when the
// request does not say: each copies disks over one wire.
const defaultParallel = 2

// Drain begins to bring the machines of a host to others. It is cordoned at once,
// and stays so. Errors: NOT_FOUND, WRONG_STATE (it is being removed or drained),
// REQUEST_ID_REUSED.
func (e *Engine) Drain(ctx context.Context, principal string, req *vmhostv1.DrainVmHostRequest) (*vmhostv1.Operation, error) {
	id, err := request.New(principal, "DrainVmHost", req)
	if err != nil {
		return nil, err
	}
	return e.begin(ctx, order{
		principal: principal, verb: vmhostv1.OperationVerb_OPERATION_VERB_DRAIN, id: id,
		deadline: e.cfg.Deadlines.Drain, validateOnly: req.GetValidateOnly(),
		decide: func(v *store.View, tx *store.Txn, op *storev1.StoredOperation) error {
			name, host := req.GetName(), idOf(req.GetName())
			h, ok := store.VmHosts.Get(v, host)
			if !ok {
				return apierror.NotFound(name)
			}
			if err := notClearing(v, h.Value.GetResource()); err != nil {
				return err
			}
			op.Resource.Target, op.Resource.VmHost, op.Resource.Message = name, name, "beginning"
			if req.GetValidateOnly() {
				op.Resource.Message = ""
				op.Resource.Response, err = packed(e.drainPlan(v, host, movePlan{allowOffline: req.GetAllowOffline(), grace: defaultGrace}))
				return err
			}
			op.Drain = &storev1.StoredDrain{
				VmHostUid: h.Value.GetResource().GetUid(), AllowOffline: req.GetAllowOffline(), MaxParallel: cmp.Or(req.GetMaxParallel(), defaultParallel),
			}
			cordon(tx, h, host)
			return nil
		},
	})
}

// drainPlan is what a drain would do now. A machine that somebody works on is
// waited for, and planned as if it were ready.
func (e *Engine) drainPlan(v *store.View, host string, plan movePlan) *vmhostv1.DrainVmHostResult {
	out := &vmhostv1.DrainVmHostResult{}
	how, whyOffline := map[string]string{}, map[string]string{}
	var going, stay []*vmhostv1.DrainedMachine
	var movable []*storev1.StoredMachine
	for _, m := range store.Machines.All(v) {
		r := m.Value.GetResource()
		if r.GetVmHost() != "vmHosts/"+host {
			continue
		}
		how[r.GetName()], whyOffline[r.GetName()] = howMoved(v, m.Value)
		if err := e.mayMove(v, m.Value, plan); err != nil && notBusy(v, r) == nil {
			stay = append(stay, &vmhostv1.DrainedMachine{Machine: r.GetName(), Error: told(err)})
		} else if to := m.Value.GetMove(); to != nil {
			staying := int32(len(to.GetStayingDisks()))
			going = append(going, &vmhostv1.DrainedMachine{
				Machine: r.GetName(), To: "vmHosts/" + to.GetVmHost(), How: how[r.GetName()], WhyOffline: whyOffline[r.GetName()],
				StayingDisks: staying, CopiedDisks: int32(len(r.GetDisks())) - staying,
			})
		} else {
			movable = append(movable, m.Value)
		}
	}
	moves, stranded := e.cfg.Places.DrainPlan(v, host, movable, notReached(v, host))
	for _, m := range moves {
		staying, copied := m.Plan.Disks()
		going = append(going, &vmhostv1.DrainedMachine{
			Machine: m.Machine.Name, To: "vmHosts/" + m.Plan.Host.ID, How: how[m.Machine.Name], WhyOffline: whyOffline[m.Machine.Name],
			StayingDisks: staying, CopiedDisks: copied,
		})
	}
	for _, s := range stranded {
		stay = append(stay, &vmhostv1.DrainedMachine{Machine: s.Machine.Name, Error: told(noPlace(&s.Plan))})
	}
	out.Moved, out.Stayed = int32(len(going)), int32(len(stay))
	out.Machines = slices.Concat(going, stay)
	out.Machines = out.GetMachines()[:min(len(out.GetMachines()), maxDrained)]
	out.Held, out.HeldPlaces = ledger.HeldOn(v, host, maxDrained)
	return out
}

// largestFirst orders machines as they are moved: those first that find a place
// hardest, and those last that have none as it stands.
func (e *Engine) largestFirst(v *store.View, host string, uids []string) {
	machines := make([]*storev1.StoredMachine, 0, len(uids))
	for _, uid := range uids {
		if m, ok := store.Machines.Get(v, uid); ok {
			machines = append(machines, m.Value)
		}
	}
	place := map[string]int{}
	moves, _ := e.cfg.Places.DrainPlan(v, host, machines, notReached(v, host))
	for i, m := range moves {
		place[idOf(m.Machine.Name)] = i + 1
	}
	slices.SortStableFunc(uids, func(a, b string) int {
		return cmp.Compare(cmp.Or(place[a], len(uids)+1), cmp.Or(place[b], len(uids)+1))
	})
}

// beginMove begins with one machine, by an operation of its own. One that is not
// moved gets one as well, which has ended and says why: so it is known that it was
// tried.
func (c *change) beginMove(ctx context.Context, _ *store.View, w *clearing, m store.Record[*storev1.StoredMachine]) error {
	return c.engine.cfg.Turn.WithTurn(ctx, func() error {
		// A refusal is for good, so that it is decided on all that was given back
		// before.
		v, err := c.engine.store.View(ctx)
		if err != nil {
			return unavailable(err)
		}
		now, ok := store.Machines.Get(v, m.Value.GetResource().GetUid())
		if !ok {
			return store.ErrConflict // gone by itself; looked at again
		}
		op, err := c.child(vmhostv1.OperationVerb_OPERATION_VERB_MOVE, c.engine.cfg.Deadlines.Move)
		if err != nil {
			return err
		}
		plan := movePlan{allowOffline: c.op.GetDrain().GetAllowOffline(), grace: defaultGrace, not: w.notFor(m.Value.GetResource().GetUid())}
		next := proto.CloneOf(c.op)
		next.Drain.Begun++
		w.describe(v, next.GetResource(), 1)
		tx := c.begin(next)
		err = c.engine.planMove(v, tx, op, now, plan)
		refused := (*apierror.Error)(nil)
		switch {
		case err == nil:
			return c.with(ctx, w, tx, next, op)
		case apierror.Reason(err) == vmhostv1.ErrorReason_MACHINE_BUSY, !errors.As(err, &refused):
			return err
		}
		next = proto.CloneOf(c.op)
		next.Drain.Begun++
		w.describe(v, next.GetResource(), 0)
		tx = c.begin(next)
		op = refusedMove(op, now.Value.GetResource(), told(err))
		child := &change{engine: c.engine, view: v, op: op}
		child.event(tx, op)
		return c.with(ctx, w, tx, next, op)
	})
}

// drained ends the drain.
func (c *change) drained(ctx context.Context, stop *vmhostv1.OperationError) error {
	result := c.drainResult()
	left, _ := c.left()
	phase, stop := endOfClearing(left == 0, stop, notDrained(c.op.GetResource().GetVmHost(), left, result))
	next := c.finished(phase, stop)
	if words := heldWords(result); phase == succeeded && words != "" {
		next.Resource.Message = "no machine is left on " + next.GetResource().GetVmHost() + "; " + words
	}
	var err error
	if next.Resource.Response, err = packed(result); err != nil {
		return err
	}
	tx := c.begin(next)
	c.event(tx, next)
	return c.last(ctx, tx, next)
}

func notDrained(host string, left int, result *vmhostv1.DrainVmHostResult) *vmhostv1.OperationError {
	users, first := failedOf(result.GetMachines(), (*vmhostv1.DrainedMachine).GetMachine)
	return stillInUse(host,
		fmt.Sprintf("%s stays cordoned, and %d of its machines stay on it", host, left)+first,
		"look at each machine's result; make room elsewhere, or allow running machines to be stopped; then drain the host again", users)
}
