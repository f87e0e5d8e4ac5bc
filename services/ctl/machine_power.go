package ctl

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

// power is a verb that changes whether machines run.
type power struct {
	word, short, long string
	verb              vmhostv1.OperationVerb
	// one asks for it on one machine.
	one func(ctx context.Context, api *region, name string, f *changeFlags) (*vmhostv1.Operation, error)
	// many completes the request for several.
	many func(r *vmhostv1.BatchChangePowerRequest)
}

func (a *app) machineStart() *cobra.Command {
	return a.machinePower(power{
		word: "start", short: "Start machines; started already is fine", verb: vmhostv1.OperationVerb_OPERATION_VERB_START,
		one: func(ctx context.Context, api *region, name string, f *changeFlags) (*vmhostv1.Operation, error) {
			return change(ctx, api.machines.StartMachine, &vmhostv1.StartMachineRequest{Name: name, RequestId: f.id(), ValidateOnly: f.dryRun})
		},
	})
}

// graceFlag is how long a guest may take to stop.
type graceFlag struct {
	command *cobra.Command
	grace   time.Duration
}

func (g *graceFlag) register(c *cobra.Command) {
	g.command = c
	c.Flags().DurationVar(&g.grace, "grace", 0, "`DURATION` the guest may take, up to 1h; 60s when left out")
}

// value is nil when the flag was not given.
func (g *graceFlag) value() *durationpb.Duration {
	if !g.command.Flags().Changed("grace") {
		return nil
	}
	return durationpb.New(g.grace)
}

func (a *app) machineStop() *cobra.Command {
	var g graceFlag
	var hard, soft bool
	mode := func() vmhostv1.StopMode {
		switch {
		case hard:
			return vmhostv1.StopMode_STOP_MODE_HARD
		case soft:
			return vmhostv1.StopMode_STOP_MODE_SOFT
		default:
			return vmhostv1.StopMode_STOP_MODE_UNSPECIFIED
		}
	}
	c := a.machinePower(power{
		word: "stop", short: "Stop machines: ask the guest, and turn it off after a while", verb: vmhostv1.OperationVerb_OPERATION_VERB_STOP,
		one: func(ctx context.Context, api *region, name string, f *changeFlags) (*vmhostv1.Operation, error) {
			return change(ctx, api.machines.StopMachine, &vmhostv1.StopMachineRequest{
				Name: name, GracePeriod: g.value(), Mode: mode(), RequestId: f.id(), ValidateOnly: f.dryRun,
			})
		},
		many: func(r *vmhostv1.BatchChangePowerRequest) { r.GracePeriod, r.Mode = g.value(), mode() },
	})
	g.register(c)
	c.Flags().BoolVar(&hard, "hard", false, "turn it off at once")
	c.Flags().BoolVar(&soft, "soft", false, "only ask the guest; it is never turned off")
	c.MarkFlagsMutuallyExclusive("grace", "hard")
	c.MarkFlagsMutuallyExclusive("soft", "hard")
	return c
}

func (a *app) machineReset() *cobra.Command {
	return a.machinePower(power{
		word: "reset", short: "Reset machines, as their reset button would", verb: vmhostv1.OperationVerb_OPERATION_VERB_RESET,
		one: func(ctx context.Context, api *region, name string, f *changeFlags) (*vmhostv1.Operation, error) {
			return change(ctx, api.machines.ResetMachine, &vmhostv1.ResetMachineRequest{Name: name, RequestId: f.id(), ValidateOnly: f.dryRun})
		},
	})
}

func (a *app) machineCycle() *cobra.Command {
	var g graceFlag
	c := a.machinePower(power{
		word: "cycle", short: "Turn machines off and on again", verb: vmhostv1.OperationVerb_OPERATION_VERB_CYCLE,
		long: "Asks the guest to stop, turns it off after a while, and starts it. A machine\nthat is off is started.",
		one: func(ctx context.Context, api *region, name string, f *changeFlags) (*vmhostv1.Operation, error) {
			return change(ctx, api.machines.CycleMachine, &vmhostv1.CycleMachineRequest{
				Name: name, GracePeriod: g.value(), RequestId: f.id(), ValidateOnly: f.dryRun,
			})
		},
		many: func(r *vmhostv1.BatchChangePowerRequest) { r.GracePeriod = g.value() },
	})
	g.register(c)
	return c
}

func (a *app) machinePause() *cobra.Command {
	return a.machinePower(power{
		word: "pause", short: "Pause machines: they stay in memory and do not run", verb: vmhostv1.OperationVerb_OPERATION_VERB_PAUSE,
		one: func(ctx context.Context, api *region, name string, f *changeFlags) (*vmhostv1.Operation, error) {
			return change(ctx, api.machines.PauseMachine, &vmhostv1.PauseMachineRequest{Name: name, RequestId: f.id(), ValidateOnly: f.dryRun})
		},
	})
}

func (a *app) machineResume() *cobra.Command {
	return a.machinePower(power{
		word: "resume", short: "Let paused machines run again", verb: vmhostv1.OperationVerb_OPERATION_VERB_RESUME,
		one: func(ctx context.Context, api *region, name string, f *changeFlags) (*vmhostv1.Operation, error) {
			return change(ctx, api.machines.ResumeMachine, &vmhostv1.ResumeMachineRequest{Name: name, RequestId: f.id(), ValidateOnly: f.dryRun})
		},
	})
}

// machinePower is a verb on one machine, whose row is shown after it, or on many
// at once with a result each.
func (a *app) machinePower(p power) *cobra.Command {
	var f changeFlags
	var which machineFlags
	var filter string
	c := &cobra.Command{
		Use: p.word + " MACHINE...", Short: p.short, Long: p.long,
		Example: "  vmhostctl machine " + p.word + " web-1 web-2\n  vmhostctl machine " + p.word + " --filter 'vm_host = \"vmHosts/h1\"'",
		Args: func(c *cobra.Command, args []string) error {
			if (len(args) == 0) == (filter == "") {
				return usage(a.helpHintOf("machine "+p.word), "name machines, or give --filter, and not both")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			var found []*vmhostv1.Machine
			for _, arg := range args {
				m, err := a.findMachine(ctx, api, arg, which.pool)
				if err != nil {
					return err
				}
				found = append(found, m)
			}
			if len(found) == 1 {
				return a.powerOne(ctx, api, p, found[0], &f)
			}
			request := &vmhostv1.BatchChangePowerRequest{Filter: filter, Verb: p.verb, RequestId: f.id(), ValidateOnly: f.dryRun}
			for _, m := range found {
				if !slices.Contains(request.GetNames(), m.GetName()) {
					request.Names = append(request.Names, m.GetName())
				}
			}
			if p.many != nil {
				p.many(request)
			}
			return a.powerMany(ctx, api, p, found, request, &f)
		},
	}
	c.Flags().StringVar(&filter, "filter", "", "all machines of ours that match `EXPRESSION`")
	f.registerWait(c)
	which.register(a, c)
	c.MarkFlagsMutuallyExclusive("filter", "pool") // which the filter can say
	c.ValidArgsFunction = a.completeArgs(completeOurMachines)
	return c
}

func (a *app) powerOne(ctx context.Context, api *region, p power, m *vmhostv1.Machine, f *changeFlags) error {
	what := p.word + " machine " + machineTitle(m)
	op, err := p.one(ctx, api, m.GetName(), f)
	if err != nil {
		return fail(err, "%s", what)
	}
	if op, err = a.finish(ctx, op, what, f); err != nil {
		return err
	}
	if m, err = machineOf(ctx, api, op, m.GetName()); err != nil {
		return fail(err, "show machine %s", display.ID(op.GetTarget()))
	}
	return printRow(a, m, machineColumns(a.now()))
}

// powerMany asks for it on all at once, waits for all, and shows what became of
// each.
func (a *app) powerMany(ctx context.Context, api *region, p power, found []*vmhostv1.Machine, request *vmhostv1.BatchChangePowerRequest, f *changeFlags) error {
	if request.GetFilter() != "" && a.forPeople() {
		var err error
		if found, _, err = collect(ctx, 0, machinePages(api, request.GetFilter(), "")); err != nil {
			return fail(err, "%s machines", p.word)
		}
	}
	b := &batch{word: p.word, titles: titles(found)}
	r, err := change(ctx, api.machines.BatchChangePower, request)
	if err != nil {
		return fail(err, "%s machines", p.word)
	}
	b.results = r.GetResults()
	if len(b.results) == 0 && a.forPeople() {
		fmt.Fprintln(a.stderr, "no machine of ours matches; nothing was done")
		return nil
	}
	if f.dryRun {
		fmt.Fprintln(a.stderr, "dry run: the request is valid; nothing was changed")
	}
	var lost error
	if !f.async && !f.dryRun {
		lost = a.awaitAll(ctx, api, b, f.wait)
	}
	if err := printList(a, r, b.results, (*vmhostv1.BatchResult).GetName, b.columns()); err != nil {
		return err
	}
	switch failed := b.verdict(); {
	case lost != nil:
		return lost
	case failed != nil:
		return failed
	case f.dryRun:
		return f.checked()
	default:
		return nil
	}
}
