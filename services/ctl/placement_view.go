package ctl

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

// printPlan shows what a dry run of a compose gave: where the machine would go,
// and why each other host was refused. That none fits is a failure.
func (a *app) printPlan(ctx context.Context, api *region, r *vmhostv1.ComposeMachineRequest, op *vmhostv1.Operation, what string, f *changeFlags) error {
	plan := &vmhostv1.ComposePlan{}
	if err := op.GetResponse().UnmarshalTo(plan); err != nil {
		return fail(err, "%s: read the plan", what)
	}
	p := plan.GetPlacement()
	var judged []*vmhostv1.PlacementCandidate
	if a.forPeople() && p.GetVmHost() != "" && r.GetReservation() == "" { // of a reserved place there is nothing to judge
		e, err := call(ctx, api.placements.Explain, &vmhostv1.ExplainRequest{Machine: r})
		if err != nil {
			return fail(err, "%s: ask how hosts are judged", what)
		}
		judged = e.GetCandidates()
	}
	if err := a.print(plan, p.GetVmHost(), func() error { return a.explain(plan, judged...) }); err != nil {
		return err
	}
	if p.GetVmHost() == "" {
		e := apierror.New(codes.ResourceExhausted, vmhostv1.ErrorReason_NO_CAPACITY, "no host fits: %s", refusedText(p)).
			WithHint("%s", first(p.GetHint(), "ask for less, allow more hosts, or add one"))
		return fail(e, "%s", what)
	}
	if f.detailed {
		return quietError{exitChanges}
	}
	return nil
}

// verdictRow is one host of a placement.
type verdictRow struct{ host, fits, score, filter, message string }

func (a *app) explain(plan *vmhostv1.ComposePlan, judged ...*vmhostv1.PlacementCandidate) error {
	p := plan.GetPlacement()
	b := &display.Block{Palette: a.palette()}
	if p.GetVmHost() != "" {
		b.AddState("Would go to", display.ID(p.GetVmHost()), fmt.Sprintf("(then %.0f%% loaded)", p.GetLoad()*100))
		b.AddList("Storage pools", withReasons(p.GetStoragePools(), p.GetStoragePoolReasons()))
		b.AddList("Networks", withReasons(p.GetNetworks(), networkReasons(p)))
	} else {
		b.AddState("Would go to", "no", "host: none fits")
	}
	b.Add("Quota", quotaUse(plan))
	b.Add("Looked at", count(int(p.GetConsidered()), "host")+refusedSuffix(p))
	if err := b.Write(a.stdout); err != nil {
		return err
	}
	var rows []verdictRow
	if p.GetVmHost() != "" {
		rows = append(rows, verdictRow{host: display.ID(p.GetVmHost()), fits: "yes"})
	}
	for _, c := range judged {
		row := verdictRow{display.ID(c.GetVmHost()), "yes", fmt.Sprintf("%.3f", c.GetTotal()), "", scoreText(c)}
		if c.GetVmHost() == p.GetVmHost() {
			rows[0] = row
		} else {
			rows = append(rows, row)
		}
	}
	rows = a.others(rows, p)
	if len(rows) == 0 {
		return nil
	}
	fmt.Fprintln(a.stdout)
	return printTable(a, rows, []display.Column[verdictRow]{
		{Head: "HOST", Cell: func(r verdictRow) string { return r.host }},
		{Head: "FITS", State: true, Cell: func(r verdictRow) string { return r.fits }},
		{Head: "SCORE", Right: true, Wide: len(judged) == 0, Cell: func(r verdictRow) string { return r.score }},
		{Head: "FILTER", Cell: func(r verdictRow) string { return r.filter }},
		{Head: "WHY", Text: true, Cell: func(r verdictRow) string { return r.message }},
	})
}

const (
	// fewRefused are hosts that one filter refused and that are shown one by one.
	fewRefused = 10
	// someRefused are the examples of more.
	someRefused = 5
)

// others adds the hosts that were refused to those that fit, and counts those that
// it does not name: what a filter refuses is much alike, and the region names some
// of many only.
func (a *app) others(rows []verdictRow, p *vmhostv1.Placement) []verdictRow {
	fit := int(p.GetConsidered())
	for _, n := range p.GetRefusedCounts() {
		fit -= int(n)
	}
	if more := fit - len(rows); more > 0 && len(rows) > 0 {
		rows = append(rows, verdictRow{host: fmt.Sprintf("%d more", more), fits: "yes"})
	}
	refused, shown := map[string]int{}, map[string]int{}
	for filter, n := range p.GetRefusedCounts() {
		refused[filter] = int(n)
	}
	for _, r := range p.GetRefusals() {
		filter := r.GetFilter()
		if refused[filter] > fewRefused && shown[filter] == someRefused && a.flags.output != outputWide {
			continue
		}
		shown[filter]++
		message := r.GetMessage()
		if r.GetReason() != vmhostv1.ErrorReason_ERROR_REASON_UNSPECIFIED {
			message += " (" + r.GetReason().String() + ")"
		}
		rows = append(rows, verdictRow{display.ID(r.GetVmHost()), "no", "", filter, message})
	}
	for _, filter := range slices.Sorted(maps.Keys(refused)) {
		if more := refused[filter] - shown[filter]; more > 0 {
			rows = append(rows, verdictRow{host: fmt.Sprintf("%d more", more), fits: "no", filter: filter})
		}
	}
	return rows
}

// quotaUse is what the machine's pool takes without it, of how much.
func quotaUse(plan *vmhostv1.ComposePlan) string {
	var parts []string
	for _, r := range quotaRows(&vmhostv1.ResourcePool{Quota: plan.GetQuota(), Used: plan.GetUsed()}) {
		if r.limit != nil {
			parts = append(parts, strings.ToLower(r.name)+" "+r.text())
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return strings.Join(parts, ", ") + " without it"
}

// withReasons are the things chosen, each with why it was.
func withReasons(chosen, reasons []string) []string {
	out := make([]string, len(chosen))
	for i, what := range chosen {
		out[i] = what
		if i < len(reasons) && reasons[i] != "" {
			out[i] += " (" + reasons[i] + ")"
		}
	}
	return out
}

func networkReasons(p *vmhostv1.Placement) []string {
	out := make([]string, len(p.GetNetworkChoices()))
	for i, c := range p.GetNetworkChoices() {
		out[i] = c.GetWhy()
	}
	return out
}

func refusedSuffix(p *vmhostv1.Placement) string {
	if len(p.GetRefusedCounts()) == 0 {
		return ""
	}
	return "; " + refusedText(p)
}

// refusedText counts the refusals of each filter.
func refusedText(p *vmhostv1.Placement) string {
	if len(p.GetRefusedCounts()) == 0 {
		return "there are no hosts"
	}
	return "refused " + countsText(p.GetRefusedCounts())
}

// countsText are the refusals of each filter.
func countsText(counts map[string]int32) string {
	var parts []string
	for _, filter := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d by %s", counts[filter], filter))
	}
	return strings.Join(parts, ", ")
}
