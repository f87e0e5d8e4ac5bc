package ctl

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

const (
	// completionTime is how long pressing Tab may take.
	completionTime = time.Second
	// completionLimit is how many names are worth showing.
	completionLimit = 200
)

// names gives live names, each with a description after a tab.
type names func(ctx context.Context, api *region) ([]string, error)

// completeArg completes the first argument.
func (a *app) completeArg(source names) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.live(c.Context(), source), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeArgs completes any number of arguments, each once.
func (a *app) completeArgs(source names) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		found := slices.DeleteFunc(a.live(c.Context(), source), func(s string) bool {
			name, _, _ := strings.Cut(s, "\t")
			return slices.Contains(args, name)
		})
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFlag completes a flag's value.
func (a *app) completeFlag(c *cobra.Command, flag string, source names) {
	// Fails only for a flag that is not there, which a test would see.
	_ = c.RegisterFlagCompletionFunc(flag, func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return a.live(c.Context(), source), cobra.ShellCompDirectiveNoFileComp
	})
}

func (a *app) completeWords(c *cobra.Command, flag string, words ...string) {
	_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// live asks the region within the time that Tab may take. A failure completes
// nothing: there is nowhere to say it.
func (a *app) live(ctx context.Context, source names) []string {
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	ctx, api, err := a.connect(ctx)
	if err != nil {
		return nil
	}
	found, err := source(ctx, api)
	if err != nil {
		return nil
	}
	return found
}

// describe puts a description to a name, as shells show it.
func describe(name, description string) string {
	name = display.Clean(name)
	if description == "" {
		return name
	}
	return name + "\t" + display.Clean(description)
}

func completeHosts(ctx context.Context, api *region) ([]string, error) {
	found, _, err := collect(ctx, completionLimit, hostPages(api, listFlags{}))
	out := make([]string, len(found))
	for i, h := range found {
		out[i] = describe(display.ID(h.GetName()), hostState(h)+" "+h.GetAddress())
	}
	return out, err
}

func completeMachines(ctx context.Context, api *region) ([]string, error) {
	return machineNames(ctx, api, "")
}

// completeOurMachines leaves out those that vmhost changes nothing of.
func completeOurMachines(ctx context.Context, api *region) ([]string, error) {
	return machineNames(ctx, api, "origin != MACHINE_ORIGIN_DISCOVERED")
}

func completeDiscovered(ctx context.Context, api *region) ([]string, error) {
	return machineNames(ctx, api, "origin = MACHINE_ORIGIN_DISCOVERED")
}

func machineNames(ctx context.Context, api *region, filter string) ([]string, error) {
	found, _, err := collect(ctx, completionLimit, machinePages(api, filter, ""))
	out := make([]string, len(found))
	for i, m := range found {
		out[i] = describe(machineTitle(m), powerWord(m)+" on "+display.ID(m.GetVmHost()))
	}
	return out, err
}

func completeOperations(ctx context.Context, api *region) ([]string, error) {
	found, _, err := collect(ctx, completionLimit, operationPages(api, listFlags{}))
	out := make([]string, len(found))
	for i, o := range found {
		out[i] = describe(display.ID(o.GetName()), verbWord(o)+" "+o.GetTarget()+" "+phaseWord(o))
	}
	return out, err
}

func completeRacks(ctx context.Context, api *region) ([]string, error) {
	found, _, err := collect(ctx, completionLimit, rackPages(api, listFlags{}))
	out := make([]string, len(found))
	for i, r := range found {
		out[i] = describe(display.ID(r.GetName()), display.ID(r.GetZone()))
	}
	return out, err
}

func completeZones(ctx context.Context, api *region) ([]string, error) {
	r, err := call(ctx, api.zones.ListZones, &vmhostv1.ListZonesRequest{PageSize: completionLimit})
	out := make([]string, len(r.GetZones()))
	for i, z := range r.GetZones() {
		out[i] = describe(display.ID(z.GetName()), z.GetDescription())
	}
	return out, err
}

func completePools(ctx context.Context, api *region) ([]string, error) {
	r, err := call(ctx, api.pools.ListResourcePools, &vmhostv1.ListResourcePoolsRequest{PageSize: completionLimit})
	out := make([]string, len(r.GetResourcePools()))
	for i, p := range r.GetResourcePools() {
		out[i] = describe(display.ID(p.GetName()), p.GetDescription())
	}
	return out, err
}

// contextNames are those in the file; it asks no region.
func (a *app) contextNames() []string {
	f, _, err := a.contexts()
	if err != nil {
		return nil
	}
	out := make([]string, len(f.Contexts))
	for i, c := range f.Contexts {
		out[i] = describe(c.Name, c.Endpoint)
	}
	return out
}

// completeContext is completeArg without a region.
func (a *app) completeContext(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.contextNames(), cobra.ShellCompDirectiveNoFileComp
}
