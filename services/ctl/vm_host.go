package ctl

import (
	"context"

	"github.com/spf13/cobra"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

func (a *app) vmHostCommand() *cobra.Command {
	c := noun("vm-host", "Add, look at and remove VM hosts",
		"A VM host is a machine with a hypervisor that vmhost manages. Adding, reading\nor removing one never touches a machine on it.",
		a.vmHostList(), a.vmHostGet(), a.vmHostAdd(), a.vmHostUpdate(), a.vmHostRemove(), a.vmHostRefresh(),
		a.vmHostCordon(), a.vmHostUncordon(), a.vmHostDrain(), a.vmHostCheck(), a.vmHostParameters(), a.vmHostAddClusterMembers())
	c.Aliases = []string{"vmhost"}
	return c
}

func (a *app) vmHostList() *cobra.Command {
	var f listFlags
	c := &cobra.Command{
		Use: "list", Short: "List hosts with what is used and what is free", Args: takes(0),
		Example: "  vmhostctl vm-host list -o wide\n  vmhostctl vm-host list --filter 'state = VM_HOST_STATE_READY'",
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			items, next, err := collect(ctx, f.limit, hostPages(api, f))
			if err != nil {
				return fail(err, "list VM hosts")
			}
			return printList(a, &vmhostv1.ListVmHostsResponse{VmHosts: items, NextPageToken: next}, items, (*vmhostv1.VmHost).GetName, hostColumns(a.now()))
		},
	}
	f.register(c, `state = VM_HOST_STATE_READY`, "name desc")
	return c
}

func (a *app) vmHostGet() *cobra.Command {
	return &cobra.Command{
		Use: "get NAME", Short: "Show a host with its storage, networks and conditions", Args: takes(1), ValidArgsFunction: a.completeArg(completeHosts),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			h, err := call(ctx, api.vmHosts.GetVmHost, &vmhostv1.GetVmHostRequest{Name: full(vmHosts, args[0])})
			if err != nil {
				return fail(err, "show VM host %s", args[0])
			}
			return a.printHost(h)
		},
	}
}

func (a *app) vmHostRefresh() *cobra.Command {
	var f changeFlags
	c := &cobra.Command{
		Use: "refresh NAME", Short: "Read a host anew", Args: takes(1), ValidArgsFunction: a.completeArg(completeHosts),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			what := "refresh VM host " + display.ID(args[0])
			op, err := change(ctx, api.vmHosts.RefreshVmHost, &vmhostv1.RefreshVmHostRequest{
				Name: full(vmHosts, args[0]), RequestId: f.id(), ValidateOnly: f.dryRun,
			})
			if err != nil {
				return fail(err, "%s", what)
			}
			if op, err = a.finish(ctx, op, what, &f); err != nil {
				return err
			}
			h := &vmhostv1.VmHost{}
			if op.GetResponse().UnmarshalTo(h) != nil {
				if h, err = call(ctx, api.vmHosts.GetVmHost, &vmhostv1.GetVmHostRequest{Name: full(vmHosts, args[0])}); err != nil {
					return fail(err, "show VM host %s", args[0])
				}
			}
			return printRow(a, h, hostColumns(a.now()))
		},
	}
	f.registerWait(c)
	return c
}

func (a *app) vmHostCordon() *cobra.Command {
	return a.hostSwitch("cordon", "Stop placing machines on a host; those on it go on",
		func(ctx context.Context, api *region, name string, f *changeFlags) (*vmhostv1.VmHost, error) {
			return change(ctx, api.vmHosts.CordonVmHost, &vmhostv1.CordonVmHostRequest{Name: name, RequestId: f.id(), ValidateOnly: f.dryRun})
		})
}

func (a *app) vmHostUncordon() *cobra.Command {
	return a.hostSwitch("uncordon", "Place machines on a host again",
		func(ctx context.Context, api *region, name string, f *changeFlags) (*vmhostv1.VmHost, error) {
			return change(ctx, api.vmHosts.UncordonVmHost, &vmhostv1.UncordonVmHostRequest{Name: name, RequestId: f.id(), ValidateOnly: f.dryRun})
		})
}

func (a *app) hostSwitch(verb, short string, do func(context.Context, *region, string, *changeFlags) (*vmhostv1.VmHost, error)) *cobra.Command {
	var f changeFlags
	c := &cobra.Command{
		Use: verb + " NAME", Short: short, Args: takes(1), ValidArgsFunction: a.completeArg(completeHosts),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			h, err := do(ctx, api, full(vmHosts, args[0]), &f)
			if err != nil {
				return fail(err, "%s VM host %s", verb, args[0])
			}
			return a.changedHost(h, &f)
		},
	}
	f.register(c)
	return c
}

func (a *app) changedHost(h *vmhostv1.VmHost, f *changeFlags) error {
	return a.changed(h, h.GetName(), f, func() error { return printTable(a, []*vmhostv1.VmHost{h}, hostColumns(a.now())) })
}

func hostPages(api *region, f listFlags) func(context.Context, int32, string) ([]*vmhostv1.VmHost, string, error) {
	return func(ctx context.Context, size int32, token string) ([]*vmhostv1.VmHost, string, error) {
		r, err := call(ctx, api.vmHosts.ListVmHosts, &vmhostv1.ListVmHostsRequest{PageSize: size, PageToken: token, Filter: f.filter, OrderBy: f.sort})
		return r.GetVmHosts(), r.GetNextPageToken(), err
	}
}

// worstNote is the first thing wrong with a host, for one line.
func worstNote(h *vmhostv1.VmHost) string {
	for _, c := range h.GetConditions() {
		if c.GetMessage() != "" {
			return c.GetMessage()
		}
	}
	return "the host is " + hostState(h)
}
