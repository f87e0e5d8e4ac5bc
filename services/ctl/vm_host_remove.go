package ctl

import (
	"fmt"

	"github.com/spf13/cobra"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

const vmHostRemoveLong = `Takes a host out of the fleet. Without more, nothing on the hypervisor is
touched, and a host with machines of ours is refused.

  --forget     every machine stays; our metadata is taken off those of ours
  --decompose  machines of ours are deleted with their disks, one by one
  --abandon    for a host that is lost: only our records go, nothing is reached

A machine that cannot be forgotten or deleted stops nothing else; it keeps its
record, and the host stays, cordoned. Machines that were only discovered are
never touched.`

func (a *app) vmHostRemove() *cobra.Command {
	var f changeFlags
	var yes, forget, decompose, abandon bool
	c := &cobra.Command{
		Use: "remove NAME", Short: "Take a host out of the fleet", Args: takes(1), ValidArgsFunction: a.completeArg(completeHosts), Long: vmHostRemoveLong,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			id, name := display.ID(args[0]), full(vmHosts, args[0])
			consequence := "VM host " + id + " leaves the fleet; what runs on it goes on"
			mode := vmhostv1.RemoveMode_REMOVE_MODE_UNSPECIFIED
			switch {
			case forget:
				mode = vmhostv1.RemoveMode_REMOVE_MODE_FORGET
				consequence += ", and vmhost forgets the machines of its own there"
			case abandon:
				consequence += ", and vmhost forgets the machines of its own there without reaching it"
			case decompose:
				mode = vmhostv1.RemoveMode_REMOVE_MODE_DECOMPOSE
				consequence = "VM host " + id + " leaves the fleet, and every machine of ours on it is DELETED with its disks"
			}
			if err := a.confirm(c.Context(), yes || f.dryRun, consequence, id); err != nil {
				return err
			}
			if mode == vmhostv1.RemoveMode_REMOVE_MODE_UNSPECIFIED {
				if _, err := change(ctx, api.vmHosts.DeleteVmHost, &vmhostv1.DeleteVmHostRequest{
					Name: name, Forget: abandon, RequestId: f.id(), ValidateOnly: f.dryRun,
				}); err != nil {
					return fail(err, "remove VM host %s", id)
				}
				return a.gone("VM host", name, "removed", &f)
			}
			b := &batch{}
			if a.forPeople() { // some will have no name afterwards
				found, _, err := collect(ctx, 0, machinePages(api, "vm_host = "+quote(name), ""))
				if err != nil {
					return fail(err, "remove VM host %s", id)
				}
				b.titles = titles(found)
			}
			op, err := change(ctx, api.vmHosts.RemoveVmHost, &vmhostv1.RemoveVmHostRequest{Name: name, Mode: mode, RequestId: f.id(), ValidateOnly: f.dryRun})
			if err != nil {
				return fail(err, "remove VM host %s", id)
			}
			ended, verdict := a.finish(ctx, op, "remove VM host "+id, &f)
			if ended == nil {
				return verdict
			}
			if err := a.printRemoval(ended, id, b); err != nil {
				return err
			}
			return verdict
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&forget, "forget", false, "keep every machine and take our metadata off those of ours")
	c.Flags().BoolVar(&decompose, "decompose", false, "delete the machines of ours with their disks")
	c.Flags().BoolVar(&abandon, "abandon", false, "drop our records without reaching the host")
	c.MarkFlagsMutuallyExclusive("forget", "decompose", "abandon")
	f.registerWait(c)
	return c
}

// printRemoval shows what became of each machine.
func (a *app) printRemoval(op *vmhostv1.Operation, host string, b *batch) error {
	r := &vmhostv1.RemoveVmHostResult{}
	if !op.GetResponse().MessageIs(r) {
		return nil // it was given up before it had any
	}
	if err := op.GetResponse().UnmarshalTo(r); err != nil {
		return fail(err, "show what became of the machines of VM host %s", host)
	}
	b.results = r.GetResults()
	return a.print(r, full(vmHosts, host), func() error {
		if len(b.results) > 0 {
			if err := printTable(a, b.results, b.columns()); err != nil {
				return err
			}
		}
		if more := int(r.GetSucceeded()+r.GetFailed()) - len(b.results); more > 0 {
			fmt.Fprintf(a.stdout, "and %s more: %d of all went well, %d did not\n", count(more, "machine"), r.GetSucceeded(), r.GetFailed())
		}
		if !r.GetRemoved() {
			return nil
		}
		_, err := fmt.Fprintf(a.stdout, "VM host %s removed\n", display.Clean(host))
		return err
	})
}
