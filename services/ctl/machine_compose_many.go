package ctl

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

// manyFlags say how many machines are wanted.
type manyFlags struct {
	count     int32
	all, some bool
}

func (f *manyFlags) register(c *cobra.Command) {
	c.Flags().Int32Var(&f.count, "count", 0, "make `NUMBER` machines, HOSTNAME-1 and so on, all or none")
	c.Flags().BoolVar(&f.all, "all", false, "with --count: all or none, which is what happens anyway")
	c.Flags().BoolVar(&f.some, "as-many-as-fit", false, "with --count: make as many as fit")
	c.MarkFlagsMutuallyExclusive("all", "as-many-as-fit")
}

// wanted says whether many are, and refuses what says how without how many.
func (f *manyFlags) wanted(c *cobra.Command) (bool, error) {
	if !c.Flags().Changed("count") && (f.all || f.some) {
		return false, usage("add for example --count 3", "--all and --as-many-as-fit are for many machines")
	}
	return c.Flags().Changed("count"), nil
}

// composeMany makes machines that are alike, waits for all, and shows what became
// of each.
func (a *app) composeMany(ctx context.Context, api *region, one *vmhostv1.ComposeMachineRequest, m *manyFlags, f *changeFlags) error {
	what := "compose " + count(int(m.count), "machine")
	request := &vmhostv1.ComposeMachinesRequest{
		Machine: one, Count: m.count, Mode: vmhostv1.ComposeManyMode_COMPOSE_MANY_MODE_ALL, RequestId: one.GetRequestId(), ValidateOnly: f.dryRun,
	}
	if m.some {
		request.Mode = vmhostv1.ComposeManyMode_COMPOSE_MANY_MODE_AS_MANY_AS_FIT
	}
	one.RequestId, one.ValidateOnly = "", false
	r, err := change(ctx, api.machines.ComposeMachines, request)
	if err != nil {
		return fail(err, "%s", what)
	}
	if f.dryRun {
		return a.printManyPlan(r, what, m, f)
	}
	b := &batch{word: "compose"}
	for _, op := range r.GetOperations() {
		b.results = append(b.results, &vmhostv1.BatchResult{Name: op.GetTarget(), Operation: op})
	}
	var lost error
	if !f.async {
		lost = a.awaitAll(ctx, api, b, f.wait)
	}
	b.titles = madeTitles(b.results)
	for i, done := range b.results {
		r.Operations[i] = done.GetOperation()
	}
	if len(b.results) > 0 || !a.forPeople() {
		where := display.Column[*vmhostv1.BatchResult]{Head: "HOST", Cell: func(r *vmhostv1.BatchResult) string { return display.ID(r.GetOperation().GetVmHost()) }}
		if err := printList(a, r, b.results, (*vmhostv1.BatchResult).GetName, slices.Insert(b.columns(), 1, where)); err != nil {
			return err
		}
	}
	if lost != nil {
		return lost
	}
	if err := b.verdict(); err != nil {
		return err
	}
	return unplaced(r, what)
}

// madeTitles are the hostnames of machines whose operations say them.
func madeTitles(results []*vmhostv1.BatchResult) map[string]string {
	var made []*vmhostv1.Machine
	for _, r := range results {
		m := &vmhostv1.Machine{}
		if r.GetOperation().GetResponse().UnmarshalTo(m) == nil {
			made = append(made, m)
		}
	}
	return titles(made)
}

// unplaced is an error when some do not fit.
func unplaced(r *vmhostv1.ComposeMachinesResponse, what string) error {
	if r.GetUnplaced() == 0 {
		return nil
	}
	e := apierror.New(codes.ResourceExhausted, vmhostv1.ErrorReason_NO_CAPACITY, "%d fit, %d do not: %s", len(r.GetPlacements()), r.GetUnplaced(), refusalText(r.GetRefusal())).
		WithHint("%s", first(r.GetRefusal().GetHint(), "see what runs out: `vmhostctl capacity` with the same flags"))
	return fail(e, "%s", what)
}

// refusalText says why one more does not fit.
func refusalText(p *vmhostv1.Placement) string {
	if len(p.GetRefusedCounts()) == 0 && len(p.GetRefusals()) > 0 {
		return p.GetRefusals()[0].GetMessage()
	}
	return refusedText(p)
}

// hostShare is how many machines of a plan a host gets.
type hostShare struct {
	host     string
	machines int
}

func (a *app) printManyPlan(r *vmhostv1.ComposeMachinesResponse, what string, m *manyFlags, f *changeFlags) error {
	var hosts []string
	for _, p := range r.GetPlacements() {
		hosts = append(hosts, p.GetVmHost())
	}
	if err := a.printSome(r, hosts, func() error { return a.printShares(r) }); err != nil {
		return err
	}
	if err := unplaced(r, what); err != nil && (!m.some || len(r.GetPlacements()) == 0) {
		return err
	}
	if f.detailed {
		return quietError{exitChanges}
	}
	return nil
}

func (a *app) printShares(r *vmhostv1.ComposeMachinesResponse) error {
	b := &display.Block{Palette: a.palette()}
	b.Add("Fit", count(len(r.GetPlacements()), "machine"))
	if r.GetUnplaced() > 0 {
		b.Add("Do not fit", fmt.Sprintf("%d; the next: %s", r.GetUnplaced(), refusalText(r.GetRefusal())))
	}
	if err := b.Write(a.stdout); err != nil {
		return err
	}
	var shares []*hostShare
	of := map[string]*hostShare{}
	for _, p := range r.GetPlacements() {
		if of[p.GetVmHost()] == nil {
			of[p.GetVmHost()] = &hostShare{host: display.ID(p.GetVmHost())}
			shares = append(shares, of[p.GetVmHost()])
		}
		of[p.GetVmHost()].machines++
	}
	if len(shares) == 0 {
		return nil
	}
	fmt.Fprintln(a.stdout)
	return printTable(a, shares, []display.Column[*hostShare]{
		{Head: "HOST", Cell: func(s *hostShare) string { return s.host }},
		{Head: "MACHINES", Right: true, Cell: func(s *hostShare) string { return strconv.Itoa(s.machines) }},
	})
}
