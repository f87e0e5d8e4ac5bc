package ctl

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

func (a *app) machineCommand() *cobra.Command {
	return noun("machine", "Compose, power, move and delete machines",
		"A machine is what runs on a VM host. It is named by its hostname (in --pool, if\nthat is needed to tell two apart), its uid, or the beginning of that.",
		a.machineCompose(), a.machineList(), a.machineGet(), a.machineStart(), a.machineStop(), a.machineReset(), a.machineCycle(),
		a.machinePause(), a.machineResume(), a.machineMove(), a.machineQueryPower(), a.machineConsole(), a.machineConsoleLog(),
		a.machineAdopt(), a.machineRelease(), a.machineDelete())
}

func (a *app) machineList() *cobra.Command {
	var f listFlags
	c := &cobra.Command{
		Use: "list", Short: "List machines, composed and discovered", Args: takes(0),
		Example: "  vmhostctl machine list --filter 'vm_host = \"vmHosts/h1\"'\n  vmhostctl machine list --sort 'memory_mib desc' --limit 10",
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			items, next, err := collect(ctx, f.limit, machinePages(api, f.filter, f.sort))
			if err != nil {
				return fail(err, "list machines")
			}
			return printList(a, &vmhostv1.ListMachinesResponse{Machines: items, NextPageToken: next}, items, (*vmhostv1.Machine).GetName, machineColumns(a.now()))
		},
	}
	f.register(c, `power_state = POWER_STATE_ON`, "hostname")
	return c
}

// machineFlags tell one machine from another.
type machineFlags struct{ pool string }

func (f *machineFlags) register(a *app, c *cobra.Command) {
	c.Flags().StringVar(&f.pool, "pool", "", "resource `POOL` that the hostname is of")
	a.completeFlag(c, "pool", completePools)
	c.ValidArgsFunction = a.completeArg(completeMachines)
}

func (a *app) machineGet() *cobra.Command {
	var which machineFlags
	c := &cobra.Command{
		Use: "get MACHINE", Short: "Show a machine with its disks, interfaces and conditions", Args: takes(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			m, err := a.findMachine(ctx, api, args[0], which.pool)
			if err != nil {
				return err
			}
			return a.printMachine(m)
		},
	}
	which.register(a, c)
	return c
}

// machineAct is a verb that has something done to one machine and shows the
// machine after it.
func (a *app) machineAct(verb, short string, flags func(*cobra.Command), do func(context.Context, *region, *vmhostv1.Machine, *changeFlags) (*vmhostv1.Operation, error)) *cobra.Command {
	var f changeFlags
	var which machineFlags
	c := &cobra.Command{
		Use: verb + " MACHINE", Short: short, Args: takes(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			m, err := a.findMachine(ctx, api, args[0], which.pool)
			if err != nil {
				return err
			}
			what := verb + " machine " + machineTitle(m)
			op, err := do(ctx, api, m, &f)
			if err != nil {
				return fail(err, "%s", what)
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
	if flags != nil {
		flags(c)
	}
	f.registerWait(c)
	which.register(a, c)
	return c
}

func (a *app) machineQueryPower() *cobra.Command {
	var f changeFlags
	var which machineFlags
	c := &cobra.Command{
		Use: "query-power MACHINE", Short: "Ask the hypervisor now whether a machine runs", Args: takes(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			m, err := a.findMachine(ctx, api, args[0], which.pool)
			if err != nil {
				return err
			}
			what := "ask for the power of machine " + machineTitle(m)
			op, err := call(ctx, api.machines.QueryMachinePower, &vmhostv1.QueryMachinePowerRequest{Name: m.GetName()})
			if err != nil {
				return fail(err, "%s", what)
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
	f.registerPatience(c)
	which.register(a, c)
	return c
}

func (a *app) machineDelete() *cobra.Command {
	var f changeFlags
	var which machineFlags
	var yes bool
	c := &cobra.Command{
		Use: "delete MACHINE", Short: "Delete a machine with its disks", Args: takes(1),
		Long: "Stops a machine and removes it with the disks that were made for it; one that\nwas adopted, with those of its disks that only it uses. Its room is given back\nonce the host was seen without it. A discovered machine is refused.",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			m, err := a.findMachine(ctx, api, args[0], which.pool)
			if err != nil {
				return err
			}
			title := machineTitle(m)
			consequence := fmt.Sprintf("machine %s on %s is deleted with %s", title, display.ID(m.GetVmHost()), count(len(m.GetDisks()), "disk"))
			if m.GetOrigin() == vmhostv1.MachineOrigin_MACHINE_ORIGIN_ADOPTED {
				consequence = fmt.Sprintf("machine %s on %s, which was adopted, is deleted with those of its %s that only it uses",
					title, display.ID(m.GetVmHost()), count(len(m.GetDisks()), "disk"))
			}
			if err := a.confirm(c.Context(), yes || f.dryRun, consequence, title); err != nil {
				return err
			}
			op, err := change(ctx, api.machines.DeleteMachine, &vmhostv1.DeleteMachineRequest{Name: m.GetName(), RequestId: f.id(), ValidateOnly: f.dryRun})
			if err != nil {
				return fail(err, "delete machine %s", title)
			}
			if op, err = a.finish(ctx, op, "delete machine "+title, &f); err != nil {
				return err
			}
			return a.print(op, m.GetName(), func() error {
				_, err := fmt.Fprintf(a.stdout, "machine %s deleted\n", display.Clean(title))
				return err
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	f.registerWait(c)
	which.register(a, c)
	c.ValidArgsFunction = a.completeArg(completeOurMachines)
	return c
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// machineOf is the machine that an operation made or saw, else as the region
// shows it now.
func machineOf(ctx context.Context, api *region, op *vmhostv1.Operation, name string) (*vmhostv1.Machine, error) {
	m := &vmhostv1.Machine{}
	if op.GetResponse().UnmarshalTo(m) == nil {
		return m, nil
	}
	return call(ctx, api.machines.GetMachine, &vmhostv1.GetMachineRequest{Name: first(name, op.GetTarget())})
}

func machinePages(api *region, filter, order string) func(context.Context, int32, string) ([]*vmhostv1.Machine, string, error) {
	return func(ctx context.Context, size int32, token string) ([]*vmhostv1.Machine, string, error) {
		r, err := call(ctx, api.machines.ListMachines, &vmhostv1.ListMachinesRequest{PageSize: size, PageToken: token, Filter: filter, OrderBy: order})
		return r.GetMachines(), r.GetNextPageToken(), err
	}
}
