package ctl

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

const machineMoveLong = `Brings a machine to another host, with its disks; those in a storage pool that
both hosts have stay where they are. Room is taken there first, and
given back on the host it leaves once that was seen without it. Whatever fails,
the machine stays where and as it was.

A machine that runs is moved while it does, where its hosts can do that. Where
they cannot it is refused, unless --allow-offline lets it be stopped, moved and
started again. One that is off is moved as it is.

Without --to the host is chosen by what the machine was composed with. With
--dry-run nothing is moved, and hosts that do not fit say why.

When it is not known in the end where the machine is, it keeps its room on both
hosts: move it again, which goes on from there, or delete it.`

// moveFlags say how running machines are moved.
type moveFlags struct{ allowOffline bool }

func (f *moveFlags) register(c *cobra.Command) {
	c.Flags().BoolVar(&f.allowOffline, "allow-offline", false, "stop what runs and cannot be moved so, and start it again after")
}

func (a *app) machineMove() *cobra.Command {
	var f changeFlags
	var which machineFlags
	var how moveFlags
	var grace graceFlag
	var to string
	c := &cobra.Command{
		Use: "move MACHINE", Short: "Bring a machine to another host", Long: machineMoveLong, Args: takes(1),
		Example: "  vmhostctl machine move web-1 --dry-run\n  vmhostctl machine move web-1 --to h2 --allow-offline --grace 5m",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			m, err := a.findMachine(ctx, api, args[0], which.pool)
			if err != nil {
				return err
			}
			what := "move machine " + machineTitle(m)
			op, err := change(ctx, api.machines.MoveMachine, &vmhostv1.MoveMachineRequest{
				Name: m.GetName(), VmHost: full(vmHosts, to), AllowOffline: how.allowOffline, GracePeriod: grace.value(), RequestId: f.id(), ValidateOnly: f.dryRun,
			})
			if err != nil {
				return fail(err, "%s", what)
			}
			if f.dryRun {
				return a.printMovePlan(op, what, &f)
			}
			if op, err = a.finish(ctx, op, what, &f); err != nil {
				return err
			}
			if m, err = machineOf(ctx, api, op, m.GetName()); err != nil {
				return fail(err, "show machine %s", args[0])
			}
			return printRow(a, m, machineColumns(a.now()))
		},
	}
	c.Flags().StringVar(&to, "to", "", "`HOST` to bring it to; one is chosen when left out")
	how.register(c)
	grace.register(c)
	f.registerWait(c)
	which.register(a, c)
	a.completeFlag(c, "to", completeHosts)
	c.ValidArgsFunction = a.completeArg(completeOurMachines)
	return c
}

// printMovePlan shows where a machine would go, and why not elsewhere. That no
// host fits is a failure.
func (a *app) printMovePlan(op *vmhostv1.Operation, what string, f *changeFlags) error {
	plan := &vmhostv1.ComposePlan{}
	if err := op.GetResponse().UnmarshalTo(plan); err != nil {
		return fail(err, "%s: read the plan", what)
	}
	p := plan.GetPlacement()
	if err := a.print(plan, p.GetVmHost(), func() error { return a.explain(plan) }); err != nil {
		return err
	}
	if p.GetVmHost() == "" {
		e := apierror.New(codes.ResourceExhausted, vmhostv1.ErrorReason_NO_CAPACITY, "no host fits: %s", refusedText(p)).
			WithHint("the machine stays where it is; %s", first(p.GetHint(), "make room on another host, or add one"))
		return fail(e, "%s", what)
	}
	return f.checked()
}

// drainColumns show what becomes, or became, of each machine of a drain.
func drainColumns(titles map[string]string, plan bool) []display.Column[*vmhostv1.DrainedMachine] {
	type row = *vmhostv1.DrainedMachine
	columns := []display.Column[row]{
		{Head: "MACHINE", Cell: func(r row) string { return first(titles[r.GetMachine()], display.ID(r.GetMachine())) }},
		{Head: "TO", Cell: func(r row) string { return first(display.ID(r.GetTo()), "-") }},
		{Head: "HOW", Cell: func(r row) string { return first(howText(r.GetHow(), r), "-") }},
	}
	if !plan {
		columns = append(columns, display.Column[row]{Head: "OPERATION", Wide: true, Cell: func(r row) string { return display.ID(r.GetOperation()) }})
	}
	return append(columns,
		display.Column[row]{Head: "WHY NOT", Text: true, Cell: whyNot},
		display.Column[row]{Head: "TO DO", Text: true, Cell: func(r row) string { return r.GetError().GetHint() }})
}

// howText is how a machine is moved, and which of its disks stay where they are.
func howText(how string, r interface {
	GetStayingDisks() int32
	GetCopiedDisks() int32
},
) string {
	if r.GetStayingDisks() == 0 {
		return how
	}
	disks := "disks stay"
	if r.GetCopiedDisks() > 0 {
		disks = fmt.Sprintf("%d of %d disks stay", r.GetStayingDisks(), r.GetStayingDisks()+r.GetCopiedDisks())
	}
	if how == "" {
		return disks
	}
	return how + ", " + disks
}

// whyNot is why a machine stays, or is not moved while it runs.
func whyNot(r *vmhostv1.DrainedMachine) string {
	if r.GetError() == nil && r.GetWhyOffline() != "" {
		return "not live: " + r.GetWhyOffline()
	}
	return r.GetError().GetMessage()
}

// heldText says which places stay held on a drained host; empty when there are
// none.
func heldText(now time.Time, r *vmhostv1.DrainVmHostResult) string {
	if r.GetHeldPlaces() == 0 {
		return ""
	}
	var names []string
	var last time.Time
	for _, h := range r.GetHeld() {
		names = append(names, display.ID(h.GetReservation()))
		if t := h.GetExpireTime().AsTime(); t.After(last) {
			last = t
		}
	}
	const shown = 3
	if more := len(names) - shown; more > 0 {
		names = append(names[:shown], fmt.Sprintf("%d more", more))
	}
	s := "1 place of a reservation stays held there"
	if n := r.GetHeldPlaces(); n > 1 {
		s = fmt.Sprintf("%d places of reservations stay held there", n)
	}
	if left := last.Sub(now); left > 0 {
		s += " for at most " + display.Span(left)
	}
	return s + ": " + strings.Join(names, ", ")
}

// drainSummary is a drain in one line.
func drainSummary(r *vmhostv1.DrainVmHostResult, plan bool) string {
	moved, stay := "moved", "stay"
	if plan {
		moved, stay = "would be moved", "would stay"
	}
	s := fmt.Sprintf("%s %s, %d %s", count(int(r.GetMoved()), "machine"), moved, r.GetStayed(), stay)
	if more := int(r.GetMoved()+r.GetStayed()) - len(r.GetMachines()); more > 0 {
		s += fmt.Sprintf("; %d of them are not shown", more)
	}
	return s
}
