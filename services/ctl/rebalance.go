package ctl

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

const rebalanceLong = `Proposes a few moves that make the load of hosts more even, and makes them, one
after the other, each when the one before has ended. It stops at the first that
fails; the proposal is shown and asked about before anything is moved.

The imbalance is the standard deviation of the loads of all hosts (the larger of
cores and memory against their limits), and what hosts are over their limits,
added up. Machines go only to where they may be by what they were composed with.`

func (a *app) rebalanceCommand() *cobra.Command {
	var pool, zone string
	var most int32
	var gain float64
	var wait time.Duration
	var dryRun, detailed, yes, offline bool
	c := &cobra.Command{
		Use: "rebalance", Short: "Propose and make a few moves that even out the load", Long: rebalanceLong, Args: takes(0),
		Example: "  vmhostctl rebalance --dry-run\n  vmhostctl rebalance --zone a --max-moves 3 --yes",
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			r, err := call(ctx, api.placements.Rebalance, &vmhostv1.RebalanceRequest{
				ResourcePool: full(resourcePools, pool), Zone: full(zones, zone), MaxMoves: most, MinGain: gain,
			})
			if err != nil {
				return fail(err, "look for moves")
			}
			b := &batch{}
			if a.forPeople() {
				if b.titles, err = titlesOf(ctx, api, r.GetMoves()); err != nil {
					return err
				}
			}
			var moving []string
			for _, m := range r.GetMoves() {
				moving = append(moving, m.GetMachine())
			}
			if err := a.printSome(r, moving, func() error { return a.printRebalance(r, b) }); err != nil {
				return err
			}
			switch {
			case len(r.GetMoves()) == 0:
				return nil
			case dryRun && detailed:
				return quietError{exitChanges}
			case dryRun:
				return nil
			}
			if err := a.confirm(ctx, yes, count(len(r.GetMoves()), "machine")+" will be moved to other hosts", "rebalance"); err != nil {
				return err
			}
			return a.moveAll(ctx, api, r.GetMoves(), b, offline, wait)
		},
	}
	c.Flags().StringVar(&pool, "pool", "", "only hosts of the resource `POOL`")
	c.Flags().StringVar(&zone, "zone", "", "only hosts of `ZONE`")
	c.Flags().Int32Var(&most, "max-moves", 0, "at most `NUMBER` moves, up to 1000; 10 when left out")
	c.Flags().Float64Var(&gain, "min-gain", 0, "only moves that lower the imbalance by `GAIN`, 0 to 1; 0.01 by the number of hosts when left out")
	c.Flags().BoolVar(&offline, "allow-offline", false, "stop, move and start again what cannot be moved while it runs")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only propose; move nothing")
	c.Flags().BoolVar(&detailed, "detailed-exitcode", false, "with --dry-run: end with 10 when there is something to move")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().DurationVar(&wait, "wait", 0, "wait at most for `DURATION` for each move, such as 90s; 0 means until it ends")
	a.completeFlag(c, "pool", completePools)
	a.completeFlag(c, "zone", completeZones)
	return c
}

// titlesOf are the names of machines for people.
func titlesOf(ctx context.Context, api *region, moves []*vmhostv1.RebalanceMove) (map[string]string, error) {
	var found []*vmhostv1.Machine
	for _, m := range moves {
		machine, err := call(ctx, api.machines.GetMachine, &vmhostv1.GetMachineRequest{Name: m.GetMachine()})
		if err != nil {
			return nil, fail(err, "find machine %s", m.GetMachine())
		}
		found = append(found, machine)
	}
	return titles(found), nil
}

func (a *app) printRebalance(r *vmhostv1.RebalanceResponse, b *batch) error {
	block := &display.Block{Palette: a.palette()}
	block.Add("Hosts", strconv.Itoa(int(r.GetConsidered())))
	if len(r.GetMoves()) == 0 {
		block.Add("Imbalance", fmt.Sprintf("%.4f; no move is worth it", r.GetImbalanceBefore()))
		return block.Write(a.stdout)
	}
	block.Add("Imbalance", fmt.Sprintf("%.4f, then %.4f", r.GetImbalanceBefore(), r.GetImbalanceAfter()))
	if err := block.Write(a.stdout); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout)
	return printTable(a, r.GetMoves(), []display.Column[*vmhostv1.RebalanceMove]{
		{Head: "MACHINE", Cell: func(m *vmhostv1.RebalanceMove) string { return b.title(m.GetMachine()) }},
		{Head: "FROM", Cell: func(m *vmhostv1.RebalanceMove) string { return display.ID(m.GetFrom()) }},
		{Head: "TO", Cell: func(m *vmhostv1.RebalanceMove) string { return display.ID(m.GetTo()) }},
		{Head: "GAIN", Right: true, Cell: func(m *vmhostv1.RebalanceMove) string { return fmt.Sprintf("%.5f", m.GetGain()) }},
		{Head: "WHY", Text: true, Cell: func(m *vmhostv1.RebalanceMove) string {
			if disks := howText("", m); disks != "" {
				return m.GetWhy() + "; " + disks
			}
			return m.GetWhy()
		}},
	})
}

// moveAll makes the moves in their order. After one that failed the others may
// not be possible, or not be worth it, so that it is the last.
func (a *app) moveAll(ctx context.Context, api *region, moves []*vmhostv1.RebalanceMove, b *batch, offline bool, wait time.Duration) error {
	for i, m := range moves {
		title, to := b.title(m.GetMachine()), display.ID(m.GetTo())
		what := fmt.Sprintf("move machine %s to %s", title, to)
		op, err := change(ctx, api.machines.MoveMachine, &vmhostv1.MoveMachineRequest{
			Name: m.GetMachine(), VmHost: m.GetTo(), AllowOffline: offline, RequestId: uuid.NewString(),
		})
		if err != nil {
			return fail(err, "%s, after %d of %d moves", what, i, len(moves))
		}
		if _, err := a.await(ctx, op, fmt.Sprintf("%s, after %d of %d moves", what, i, len(moves)), wait); err != nil {
			return err
		}
		fmt.Fprintf(a.stderr, "machine %s moved to %s (%d of %d)\n", display.Clean(title), display.Clean(to), i+1, len(moves))
	}
	return nil
}
