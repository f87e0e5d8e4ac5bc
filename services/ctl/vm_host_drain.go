package ctl

import (
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

const vmHostDrainLong = `Cordons a host and brings its machines to others, the largest first, each as
` + "`vmhostctl machine move`" + ` does. What has no place or cannot be moved stays
where and as it is, and the table says why. Places that reservations hold on
the host stay held until they are used, given back or expire. The host stays
cordoned; uncordon it to have it used again.

With --dry-run nothing changes, and the table is the plan. Ctrl-C twice begins
no further move; those under way are finished.`

func (a *app) vmHostDrain() *cobra.Command {
	var f changeFlags
	var how moveFlags
	var parallel int32
	c := &cobra.Command{
		Use: "drain NAME", Short: "Bring the machines of a host to others", Args: takes(1), ValidArgsFunction: a.completeArg(completeHosts), Long: vmHostDrainLong,
		Example: "  vmhostctl vm-host drain h1 --dry-run\n  vmhostctl vm-host drain h1 --allow-offline --parallel 4",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			id, name := display.ID(args[0]), full(vmHosts, args[0])
			named := map[string]string{}
			if a.forPeople() {
				found, _, err := collect(ctx, 0, machinePages(api, "vm_host = "+quote(name), ""))
				if err != nil {
					return fail(err, "drain VM host %s", id)
				}
				named = titles(found)
			}
			op, err := change(ctx, api.vmHosts.DrainVmHost, &vmhostv1.DrainVmHostRequest{
				Name: name, AllowOffline: how.allowOffline, MaxParallel: parallel, RequestId: f.id(), ValidateOnly: f.dryRun,
			})
			if err != nil {
				return fail(err, "drain VM host %s", id)
			}
			if f.dryRun {
				return a.printDrain(op, id, named, &f)
			}
			ended, verdict := a.finish(ctx, op, "drain VM host "+id, &f)
			if ended == nil {
				return verdict
			}
			if err := a.printDrain(ended, id, named, &f); err != nil {
				return err
			}
			return verdict
		},
	}
	how.register(c)
	c.Flags().Int32Var(&parallel, "parallel", 0, "`NUMBER` of machines moved at the same time, 1 to 16; 2 when left out")
	f.registerWait(c)
	return c
}

// printDrain shows what became of each machine, or would.
func (a *app) printDrain(op *vmhostv1.Operation, host string, named map[string]string, f *changeFlags) error {
	r := &vmhostv1.DrainVmHostResult{}
	if !op.GetResponse().MessageIs(r) {
		return nil // it was given up before it had any
	}
	if err := op.GetResponse().UnmarshalTo(r); err != nil {
		return fail(err, "show what became of the machines of VM host %s", host)
	}
	if err := a.print(r, full(vmHosts, host), func() error {
		if len(r.GetMachines()) > 0 {
			if err := printTable(a, r.GetMachines(), drainColumns(named, f.dryRun)); err != nil {
				return err
			}
		}
		_, err := fmt.Fprintln(a.stdout, drainSummary(r, f.dryRun))
		if held := heldText(a.now(), r); held != "" && err == nil {
			_, err = fmt.Fprintln(a.stdout, held)
		}
		return err
	}); err != nil || !f.dryRun {
		return err
	}
	if r.GetStayed() > 0 {
		e := apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_ERROR_REASON_UNSPECIFIED, "%s of VM host %s would stay on it", count(int(r.GetStayed()), "machine"), host).
			WithHint("see above what is wrong with each; make room elsewhere, or allow running machines to be stopped with --allow-offline")
		return &failure{what: "cannot drain VM host " + host + " of all machines", err: e, code: exitFailed}
	}
	return f.checked()
}
