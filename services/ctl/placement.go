package ctl

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

func (a *app) capacityCommand() *cobra.Command {
	var f composeFlags
	var hosts int32
	c := &cobra.Command{
		Use: "capacity", Short: "How many more machines like this fit, and what runs out first", Args: takes(0),
		Long:    "Counts how many more machines fit as `vmhostctl machine compose` would make\nthem with the same flags, per zone and host. It takes nothing.",
		Example: "  vmhostctl capacity --cores 4 --memory 8GiB --disk 40GB\n  vmhostctl capacity --zone a --pool dev -o json",
		RunE: func(c *cobra.Command, args []string) error {
			machine, err := f.question(args)
			if err != nil {
				return err
			}
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			r, err := call(ctx, api.placements.Capacity, &vmhostv1.CapacityRequest{Machine: machine, MaxVmHosts: hosts})
			if err != nil {
				return fail(err, "count what fits")
			}
			return a.print(r, strconv.FormatInt(r.GetMachines(), 10), func() error { return a.printCapacity(r) })
		},
	}
	f.register(a, c)
	c.Flags().Int32Var(&hosts, "hosts", 0, "show at most `NUMBER` hosts, up to 10000; 20 when left out")
	return c
}

// question is the machine of a question: a compose without what makes it one.
func (f *composeFlags) question(args []string) (*vmhostv1.ComposeMachineRequest, error) {
	r, err := f.request(args)
	if err != nil {
		return nil, err
	}
	r.RequestId = ""
	return r, nil
}

// roomRow is how many fit somewhere.
type roomRow struct {
	where, limit string
	machines     int64
}

func (a *app) printCapacity(r *vmhostv1.CapacityResponse) error {
	b := &display.Block{Palette: a.palette()}
	b.Add("More that fit", strconv.FormatInt(r.GetMachines(), 10))
	b.Add("Runs out first", r.GetLimitedBy())
	if len(r.GetRefusedCounts()) > 0 {
		hosts := 0
		for _, n := range r.GetRefusedCounts() {
			hosts += int(n)
		}
		b.Add("Full or unfit", count(hosts, "host")+": "+countsText(r.GetRefusedCounts()))
	}
	if err := b.Write(a.stdout); err != nil {
		return err
	}
	var rows []roomRow
	for _, z := range r.GetZones() {
		rows = append(rows, roomRow{display.ID(z.GetZone()), z.GetLimitedBy(), z.GetMachines()})
	}
	if err := a.printRoom("ZONE", rows); err != nil {
		return err
	}
	rows = nil
	for _, h := range r.GetVmHosts() {
		rows = append(rows, roomRow{display.ID(h.GetVmHost()), h.GetLimitedBy(), h.GetMachines()})
	}
	if err := a.printRoom("HOST", rows); err != nil || r.GetMachines() > 0 {
		return err
	}
	_, err := fmt.Fprintln(a.stderr, "none fits; see what refuses it and what to do with `vmhostctl machine compose --dry-run` and the same flags")
	return err
}

func (a *app) printRoom(head string, rows []roomRow) error {
	if len(rows) == 0 {
		return nil
	}
	fmt.Fprintln(a.stdout)
	return printTable(a, rows, []display.Column[roomRow]{
		{Head: head, Cell: func(r roomRow) string { return r.where }},
		{Head: "MACHINES", Right: true, Cell: func(r roomRow) string { return strconv.FormatInt(r.machines, 10) }},
		{Head: "RUNS OUT", Cell: func(r roomRow) string { return r.limit }},
	})
}

const whatIfLong = `Says what would be if hosts or zones were lost, or ratios changed: which
machines have a place elsewhere and which have none, which hosts would be over
their limits, and, with flags of a machine, how many more of it fit before and
after. It takes nothing and changes nothing.`

func (a *app) whatIfCommand() *cobra.Command {
	var f composeFlags
	var hosts, zoneNames, on []string
	var overcommit string
	c := &cobra.Command{
		Use: "what-if", Short: "What would be if hosts were lost, or ratios changed", Long: whatIfLong, Args: takes(0),
		Example: "  vmhostctl what-if --lose-host h1 --lose-host h2\n  vmhostctl what-if --lose-zone a --cores 4 --memory 8GiB\n  vmhostctl what-if --overcommit cores=2 --on-host h3",
		RunE: func(c *cobra.Command, args []string) error {
			request := &vmhostv1.WhatIfRequest{LostVmHosts: all(vmHosts, hosts), LostZones: all(zones, zoneNames), RatioVmHosts: all(vmHosts, on)}
			if c.Flags().Changed("overcommit") {
				var err error
				if request.Overcommit, _, err = parseOvercommit(overcommit); err != nil {
					return err
				}
			}
			if len(request.GetLostVmHosts())+len(request.GetLostZones())+len(on) == 0 && request.GetOvercommit() == nil {
				return usage("say what is: --lose-host HOST, --lose-zone ZONE or --overcommit RATIOS", "nothing is lost, and no ratio changes")
			}
			machine, err := f.question(args)
			if err != nil {
				return err
			}
			if proto.Size(machine) > 0 {
				request.Machine = machine
			}
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			r, err := call(ctx, api.placements.WhatIf, request)
			if err != nil {
				return fail(err, "say what would be")
			}
			named := map[string]string{}
			if a.forPeople() && len(r.GetMoves())+len(r.GetStranded()) > 0 {
				if named, err = titlesOn(ctx, api, request); err != nil {
					return err
				}
			}
			return a.printSome(r, nil, func() error { return a.printWhatIf(r, named, request.GetMachine() != nil) })
		},
	}
	c.Flags().StringArrayVar(&hosts, "lose-host", nil, "`HOST` that is lost; repeat for more")
	c.Flags().StringArrayVar(&zoneNames, "lose-zone", nil, "`ZONE` that is lost with all its hosts; repeat for more")
	c.Flags().StringVar(&overcommit, "overcommit", "", "`RATIOS` that change, such as cores=2,memory=1.5")
	c.Flags().StringArrayVar(&on, "on-host", nil, "`HOST` whose ratios change; all when left out; repeat for more")
	f.register(a, c)
	a.completeFlag(c, "lose-host", completeHosts)
	a.completeFlag(c, "on-host", completeHosts)
	a.completeFlag(c, "lose-zone", completeZones)
	return c
}

// all makes resource names of all of them.
func all(collection string, ids []string) []string {
	var out []string
	for _, id := range ids {
		out = append(out, full(collection, id))
	}
	return out
}

// titlesOn are the names for people of the machines that are lost with their
// hosts.
func titlesOn(ctx context.Context, api *region, r *vmhostv1.WhatIfRequest) (map[string]string, error) {
	var where []string
	for _, host := range r.GetLostVmHosts() {
		where = append(where, "vm_host = "+quote(host))
	}
	for _, zone := range r.GetLostZones() {
		where = append(where, "zone = "+quote(zone))
	}
	out := map[string]string{}
	for _, filter := range where {
		found, _, err := collect(ctx, 0, machinePages(api, filter+" AND origin != MACHINE_ORIGIN_DISCOVERED", ""))
		if err != nil {
			return nil, fail(err, "find the machines that are lost")
		}
		maps.Copy(out, titles(found))
	}
	return out, nil
}

// moveRow is a machine of a lost host.
type moveRow struct{ machine, from, to, why string }

func (a *app) printWhatIf(r *vmhostv1.WhatIfResponse, named map[string]string, counted bool) error {
	title := func(machine string) string { return first(named[machine], display.ID(machine)) }
	b := &display.Block{Palette: a.palette()}
	b.Add("Have a place", count(int(r.GetPlaced()), "machine"))
	b.Add("Have none", count(int(r.GetStrandedTotal()), "machine"))
	if held := r.GetHeldPlaced() + r.GetHeldStranded(); held > 0 {
		b.Add("Reserved places", fmt.Sprintf("%d: room elsewhere for %d, none for %d", held, r.GetHeldPlaced(), r.GetHeldStranded()))
	}
	b.AddList("Over limits", a.some(ids(r.GetOvercommittedVmHosts())))
	if counted {
		b.Add("More that fit", fmt.Sprintf("%d, now %d", r.GetCapacityAfter(), r.GetCapacityBefore()))
	}
	if err := b.Write(a.stdout); err != nil {
		return err
	}
	var rows []moveRow
	for _, s := range r.GetStranded() {
		rows = append(rows, moveRow{title(s.GetMachine()), display.ID(s.GetFrom()), "nowhere", refusedText(&vmhostv1.Placement{RefusedCounts: s.GetRefusedCounts()})})
	}
	for _, m := range r.GetMoves() {
		rows = append(rows, moveRow{title(m.GetMachine()), display.ID(m.GetFrom()), display.ID(m.GetTo()), ""})
	}
	if len(rows) > 0 {
		fmt.Fprintln(a.stdout)
		if err := printTable(a, rows, []display.Column[moveRow]{
			{Head: "MACHINE", Cell: func(r moveRow) string { return r.machine }},
			{Head: "FROM", Cell: func(r moveRow) string { return r.from }},
			{Head: "TO", Cell: func(r moveRow) string { return r.to }},
			{Head: "WHY", Text: true, Cell: func(r moveRow) string { return r.why }},
		}); err != nil {
			return err
		}
	}
	if more := int(r.GetPlaced()+r.GetStrandedTotal()) - len(rows); more > 0 {
		fmt.Fprintf(a.stdout, "and %s that are not shown\n", count(more, "machine"))
	}
	if len(r.GetReservations()) == 0 {
		return nil
	}
	fmt.Fprintln(a.stdout)
	type row = *vmhostv1.ReservationOutcome
	return printTable(a, r.GetReservations(), []display.Column[row]{
		{Head: "RESERVATION", Cell: func(r row) string { return display.ID(r.GetReservation()) }},
		{Head: "ELSEWHERE", Right: true, Cell: func(r row) string { return strconv.Itoa(int(r.GetPlaced())) }},
		{Head: "NOWHERE", Right: true, Cell: func(r row) string { return strconv.Itoa(int(r.GetStranded())) }},
		{Head: "WHY", Text: true, Cell: func(r row) string {
			if r.GetStranded() == 0 {
				return ""
			}
			return refusedText(&vmhostv1.Placement{RefusedCounts: r.GetRefusedCounts()})
		}},
	})
}

// some are the first of names; all of them in a wide table.
func (a *app) some(names []string) []string {
	const shown = 10
	if more := len(names) - shown; more > 0 && a.flags.output != outputWide {
		return append(slices.Clip(names[:shown]), fmt.Sprintf("and %d more", more))
	}
	return names
}

func ids(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = display.ID(n)
	}
	return out
}

// scoreText is what a candidate's scores are made of.
func scoreText(c *vmhostv1.PlacementCandidate) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(c.GetScores())) {
		parts = append(parts, fmt.Sprintf("%s %.2f", name, c.GetScores()[name]))
	}
	return strings.Join(parts, ", ")
}
