package ctl

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

func (a *app) machineAdopt() *cobra.Command {
	var hostname string
	var tags []string
	c := a.machineAct("adopt", "Take a discovered machine over",
		func(c *cobra.Command) {
			c.Long = "Takes a discovered machine over: from now on it can be powered and deleted, and\ncounts as ours. Only its metadata changes; it is not restarted, and keeps its\nuid."
			c.Example = "  vmhostctl machine list --filter 'origin = MACHINE_ORIGIN_DISCOVERED'\n  vmhostctl machine adopt old-db --hostname db --tag legacy"
			c.Flags().StringVar(&hostname, "hostname", "", "`NAME` it gets in vmhost; that on the hypervisor when left out")
			c.Flags().StringArrayVar(&tags, "tag", nil, "`WORD` to give it; repeat for more")
		},
		func(ctx context.Context, api *region, m *vmhostv1.Machine, f *changeFlags) (*vmhostv1.Operation, error) {
			return change(ctx, api.machines.AdoptMachine, &vmhostv1.AdoptMachineRequest{
				Name: m.GetName(), Hostname: hostname, Tags: tags, RequestId: f.id(), ValidateOnly: f.dryRun,
			})
		})
	c.ValidArgsFunction = a.completeArg(completeDiscovered)
	return c
}

func (a *app) machineRelease() *cobra.Command {
	var f changeFlags
	var which machineFlags
	var yes bool
	c := &cobra.Command{
		Use: "release MACHINE", Short: "Give a machine back: it stays on its host, and vmhost forgets it", Args: takes(1),
		Long: "Takes our metadata off a machine and drops its record. It goes on as it is, with\nits disks, is listed as discovered, and vmhost changes nothing of it any more.",
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
			consequence := fmt.Sprintf("machine %s stays on %s, and vmhost gives it back", title, display.ID(m.GetVmHost()))
			if err := a.confirm(c.Context(), yes || f.dryRun, consequence, title); err != nil {
				return err
			}
			op, err := change(ctx, api.machines.ReleaseMachine, &vmhostv1.ReleaseMachineRequest{Name: m.GetName(), RequestId: f.id(), ValidateOnly: f.dryRun})
			if err != nil {
				return fail(err, "release machine %s", title)
			}
			if op, err = a.finish(ctx, op, "release machine "+title, &f); err != nil {
				return err
			}
			name := m.GetName()
			if now := (&vmhostv1.Machine{}); op.GetResponse().UnmarshalTo(now) == nil {
				name = now.GetName() // one that was composed has another as a discovered one
			}
			return a.print(op, name, func() error {
				_, err := fmt.Fprintf(a.stdout, "machine %s released\n", display.Clean(title))
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
