package ctl

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

func (a *app) rackCommand() *cobra.Command {
	return noun("rack", "Enrol, look at and remove racks",
		"A rack is the agent near hypervisors: it does what the region decided and\nreports what it sees.",
		a.rackList(), a.rackGet(), a.rackRemove(), a.rackTokenCommand())
}

func (a *app) rackList() *cobra.Command {
	var f listFlags
	c := &cobra.Command{
		Use: "list", Short: "List racks", Args: takes(0),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			items, next, err := collect(ctx, f.limit, rackPages(api, f))
			if err != nil {
				return fail(err, "list racks")
			}
			return printList(a, &vmhostv1.ListRacksResponse{Racks: items, NextPageToken: next}, items, (*vmhostv1.Rack).GetName, rackColumns(a.now()))
		},
	}
	f.register(c, "connected = true", "name desc")
	return c
}

func (a *app) rackGet() *cobra.Command {
	return &cobra.Command{
		Use: "get RACK", Short: "Show a rack", Args: takes(1), ValidArgsFunction: a.completeArg(completeRacks),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			r, err := call(ctx, api.racks.GetRack, &vmhostv1.GetRackRequest{Name: full(racks, args[0])})
			if err != nil {
				return fail(err, "show rack %s", args[0])
			}
			return a.printBlock(r, r.GetName(), func(b *display.Block) {
				b.Add("Name", display.ID(r.GetName()))
				b.AddState("Connected", yesNo(r.GetConnected()), "since or last "+display.Time(a.now(), r.GetLastSeenTime()))
				b.Add("Zone", display.ID(r.GetZone()))
				b.Add("Hosts", display.IDs(r.GetVmHosts()))
				b.Add("Drivers", strings.Join(r.GetDrivers(), ","))
				b.Add("Local sockets", strings.Join(r.GetLocalSockets(), ","))
				b.Add("Version", r.GetVersion())
				b.Add("Certificate ends", display.Time(a.now(), r.GetCertificateExpireTime()))
				b.Add("Enrolled", display.Time(a.now(), r.GetCreateTime()))
				b.Add("Uid", r.GetUid())
			})
		},
	}
}

func (a *app) rackRemove() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "remove RACK", Short: "Remove a rack and refuse it from now on", Args: takes(1), ValidArgsFunction: a.completeArg(completeRacks),
		Long: "Removes a rack: its stream is ended and its certificate refused from now on.\nIts hosts go to other racks that can reach them. Machines keep running.",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			id := display.ID(args[0])
			if err := a.confirm(c.Context(), yes, "rack "+id+" is refused from now on and would have to enrol again", id); err != nil {
				return err
			}
			if _, err := call(ctx, api.racks.DeleteRack, &vmhostv1.DeleteRackRequest{Name: full(racks, args[0])}); err != nil {
				return fail(err, "remove rack %s", id)
			}
			return a.gone("rack", full(racks, id), "removed", nil)
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func (a *app) rackTokenCommand() *cobra.Command {
	return noun("token", "One-time tokens with which racks enrol",
		"A join token holds the region's addresses, the pin of its CA and a secret. It\nenrols one rack, once, within its time.",
		a.rackTokenCreate(), a.rackTokenList(), a.rackTokenDelete())
}

func (a *app) rackTokenCreate() *cobra.Command {
	var zone string
	var ttl time.Duration
	c := &cobra.Command{
		Use: "create RACK_ID", Short: "Make a token for a rack", Args: takes(1), ValidArgsFunction: a.completeArg(completeRacks),
		Long:    "Makes a one-time token for a rack and prints it; it is not shown again. For a\nrack that exists, it enrols again with a new identity.",
		Example: "  vmhostctl rack token create rack-a --zone a --ttl 30m > token",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			request := &vmhostv1.CreateJoinTokenRequest{RackId: args[0], Zone: full(zones, zone)}
			if ttl != 0 {
				request.Ttl = durationpb.New(ttl)
			}
			// Without a request id a repeat would make a second token: sent once.
			t, err := call(ctx, api.racks.CreateJoinToken, request)
			if err != nil {
				return fail(err, "make a join token for rack %s", args[0])
			}
			return a.print(t, t.GetId(), func() error {
				fmt.Fprintf(a.stderr, "join token %s for %s, good until %s\n", display.Clean(t.GetId()), display.ID(t.GetRack()), display.Time(a.now(), t.GetExpireTime()))
				_, err := fmt.Fprintln(a.stdout, display.Clean(t.GetToken()))
				return err
			})
		},
	}
	c.Flags().StringVar(&zone, "zone", "", "`ZONE` the rack stands in; default when left out")
	c.Flags().DurationVar(&ttl, "ttl", 0, "`DURATION` it is good for, up to 24h; 10m when left out")
	a.completeFlag(c, "zone", completeZones)
	return c
}

func (a *app) rackTokenList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List tokens that can still be used, without their secrets", Args: takes(0),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			r, err := call(ctx, api.racks.ListJoinTokens, &vmhostv1.ListJoinTokensRequest{})
			if err != nil {
				return fail(err, "list join tokens")
			}
			type token = *vmhostv1.JoinToken
			return printList(a, r, r.GetJoinTokens(), token.GetId, []display.Column[token]{
				{Head: "TOKEN", Cell: token.GetId},
				{Head: "RACK", Cell: func(t token) string { return display.ID(t.GetRack()) }},
				{Head: "ZONE", Cell: func(t token) string { return display.ID(t.GetZone()) }},
				{Head: "GOOD UNTIL", Cell: func(t token) string { return display.Time(a.now(), t.GetExpireTime()) }},
			})
		},
	}
}

func (a *app) rackTokenDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete TOKEN", Short: "Take a token back", Args: takes(1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			if _, err := call(ctx, api.racks.DeleteJoinToken, &vmhostv1.DeleteJoinTokenRequest{Id: args[0]}); err != nil {
				return fail(err, "delete join token %s", args[0])
			}
			return a.gone("join token", args[0], "deleted", nil)
		},
	}
}

func rackColumns(now time.Time) []display.Column[*vmhostv1.Rack] {
	type rack = *vmhostv1.Rack
	return []display.Column[rack]{
		{Head: "NAME", Cell: func(r rack) string { return display.ID(r.GetName()) }},
		{Head: "CONNECTED", State: true, Cell: func(r rack) string { return yesNo(r.GetConnected()) }},
		{Head: "ZONE", Cell: func(r rack) string { return display.ID(r.GetZone()) }},
		{Head: "HOSTS", Cell: func(r rack) string { return display.IDs(r.GetVmHosts()) }},
		{Head: "DRIVERS", Cell: func(r rack) string { return strings.Join(r.GetDrivers(), ",") }},
		{Head: "VERSION", Cell: rack.GetVersion},
		{Head: "SEEN", Right: true, Cell: func(r rack) string { return display.Age(now, r.GetLastSeenTime()) }},
		{Head: "SOCKETS", Wide: true, Cell: func(r rack) string { return strings.Join(r.GetLocalSockets(), ",") }},
		{Head: "CERTIFICATE ENDS", Wide: true, Cell: func(r rack) string { return display.Time(now, r.GetCertificateExpireTime()) }},
		{Head: "UID", Wide: true, Cell: rack.GetUid},
	}
}

func rackPages(api *region, f listFlags) func(context.Context, int32, string) ([]*vmhostv1.Rack, string, error) {
	return func(ctx context.Context, size int32, token string) ([]*vmhostv1.Rack, string, error) {
		r, err := call(ctx, api.racks.ListRacks, &vmhostv1.ListRacksRequest{PageSize: size, PageToken: token, Filter: f.filter, OrderBy: f.sort})
		return r.GetRacks(), r.GetNextPageToken(), err
	}
}
