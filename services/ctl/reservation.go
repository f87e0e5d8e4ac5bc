package ctl

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

const reservationLong = `A reservation holds room for machines that are composed later. From the moment
it is made its places count as committed on their hosts and against the quota of
the pool. 'machine compose --reservation' takes one of them; what is not used
when it expires is given back.`

func (a *app) reservationCommand() *cobra.Command {
	return noun("reservation", "Hold room for machines that are composed later", reservationLong,
		a.reservationList(), a.reservationGet(), a.reservationCreate(), a.reservationExtend(), a.reservationDelete())
}

func (a *app) reservationCreate() *cobra.Command {
	var f composeFlags
	var n int32
	var ttl time.Duration
	c := &cobra.Command{
		Use: "create", Short: "Hold room for machines", Args: takes(0),
		Long: "Chooses hosts for machines that are alike and holds the room, all of it or none.\nThe flags say what each will be like, as for 'machine compose'. With --dry-run\nit shows where the places would be.",
		Example: "  vmhostctl reservation create --count 10 --ttl 1h --cores 2 --memory 4GiB\n" +
			"  vmhostctl machine compose web-1 --reservation RESERVATION",
		RunE: func(c *cobra.Command, _ []string) error {
			if n == 0 { // which the region takes for not set
				return usage("give a --count of 1 or more", "--count is 0")
			}
			machine, err := f.request(nil)
			if err != nil {
				return err
			}
			req := &vmhostv1.ReserveRequest{Machine: machine, Count: n, RequestId: f.change.id(), ValidateOnly: f.change.dryRun}
			machine.RequestId, machine.ValidateOnly = "", false
			if ttl != 0 {
				req.Ttl = durationpb.New(ttl)
			}
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			r, err := change(ctx, api.reserved.Reserve, req)
			if err != nil {
				return fail(err, "reserve %s", count(int(n), "machine"))
			}
			return a.changed(r, r.GetName(), &f.change, func() error {
				if f.change.dryRun {
					return printTable(a, r.GetPlaces(), placeColumns())
				}
				return printTable(a, []*vmhostv1.Reservation{r}, reservationColumns(a.now()))
			})
		},
	}
	f.register(a, c)
	c.Flags().Int32Var(&n, "count", 1, "hold room for `NUMBER` machines, all or none")
	c.Flags().DurationVar(&ttl, "ttl", 0, "`DURATION` it is good for, up to 24h; 15m when left out")
	f.change.register(c)
	return c
}

func (a *app) reservationList() *cobra.Command {
	var f listFlags
	c := &cobra.Command{
		Use: "list", Short: "List reservations", Args: takes(0),
		Long: "Lists reservations, those too that ended within the last hour.",
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			items, next, err := collect(ctx, f.limit, reservationPages(api, f))
			if err != nil {
				return fail(err, "list reservations")
			}
			return printList(a, &vmhostv1.ListReservationsResponse{Reservations: items, NextPageToken: next}, items,
				(*vmhostv1.Reservation).GetName, reservationColumns(a.now()))
		},
	}
	f.register(c, `state = RESERVATION_STATE_ACTIVE`, "expire_time")
	return c
}

func (a *app) reservationGet() *cobra.Command {
	return &cobra.Command{
		Use: "get RESERVATION", Short: "Show a reservation and its places", Args: takes(1), ValidArgsFunction: a.completeArg(completeReservations),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			r, err := call(ctx, api.reserved.GetReservation, &vmhostv1.GetReservationRequest{Name: full(reservations, args[0])})
			if err != nil {
				return fail(err, "show reservation %s", args[0])
			}
			return a.printReservation(r)
		},
	}
}

func (a *app) reservationExtend() *cobra.Command {
	var f changeFlags
	var ttl time.Duration
	c := &cobra.Command{
		Use: "extend RESERVATION", Short: "Change when a reservation expires", Args: takes(1), ValidArgsFunction: a.completeArg(completeReservations),
		Example: "  vmhostctl reservation extend RESERVATION --ttl 2h",
		RunE: func(c *cobra.Command, args []string) error {
			if ttl <= 0 {
				return usage("write for example --ttl 30m", "--ttl must say how long, from now on")
			}
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			r, err := change(ctx, api.reserved.UpdateReservation, &vmhostv1.UpdateReservationRequest{
				Reservation: &vmhostv1.Reservation{
					Name: full(reservations, args[0]), Expiration: &vmhostv1.Reservation_Ttl{Ttl: durationpb.New(ttl)},
				},
				UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"ttl"}}, RequestId: f.id(), ValidateOnly: f.dryRun,
			})
			if err != nil {
				return fail(err, "extend reservation %s", args[0])
			}
			return a.changed(r, r.GetName(), &f, func() error { return printTable(a, []*vmhostv1.Reservation{r}, reservationColumns(a.now())) })
		},
	}
	c.Flags().DurationVar(&ttl, "ttl", 0, "`DURATION` it is good for from now on, up to 24h")
	f.register(c)
	return c
}

func (a *app) reservationDelete() *cobra.Command {
	var f changeFlags
	c := &cobra.Command{
		Use: "delete RESERVATION", Short: "Give back what a reservation holds", Args: takes(1), ValidArgsFunction: a.completeArg(completeReservations),
		Long: "Gives back what a reservation still holds, and removes it. Machines that were\ncomposed against it stay.",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			name := full(reservations, args[0])
			if _, err := change(ctx, api.reserved.DeleteReservation, &vmhostv1.DeleteReservationRequest{Name: name, RequestId: f.id(), ValidateOnly: f.dryRun}); err != nil {
				return fail(err, "delete reservation %s", args[0])
			}
			return a.gone("reservation", name, "deleted", &f)
		},
	}
	f.register(c)
	return c
}

func reservationPages(api *region, f listFlags) func(context.Context, int32, string) ([]*vmhostv1.Reservation, string, error) {
	return func(ctx context.Context, size int32, token string) ([]*vmhostv1.Reservation, string, error) {
		r, err := call(ctx, api.reserved.ListReservations, &vmhostv1.ListReservationsRequest{PageSize: size, PageToken: token, Filter: f.filter, OrderBy: f.sort})
		return r.GetReservations(), r.GetNextPageToken(), err
	}
}

// completeReservations are those that can be used.
func completeReservations(ctx context.Context, api *region) ([]string, error) {
	found, _, err := collect(ctx, completionLimit, reservationPages(api, listFlags{filter: "state = RESERVATION_STATE_ACTIVE"}))
	out := make([]string, len(found))
	for i, r := range found {
		out[i] = describe(display.ID(r.GetName()), leftText(r)+" of "+sizeText(r))
	}
	return out, err
}

func reservationColumns(now time.Time) []display.Column[*vmhostv1.Reservation] {
	type reservation = *vmhostv1.Reservation
	return []display.Column[reservation]{
		{Head: "NAME", Cell: func(r reservation) string { return display.ID(r.GetName()) }},
		{Head: "STATE", State: true, Cell: reservationState},
		{Head: "LEFT", Right: true, Cell: leftText},
		{Head: "SIZE", Cell: sizeText},
		{Head: "POOL", Cell: func(r reservation) string { return display.ID(r.GetMachine().GetResourcePool()) }},
		{Head: "EXPIRES", Cell: func(r reservation) string { return expiresText(now, r) }},
		{Head: "BY", Wide: true, Cell: reservation.GetPrincipal},
		{Head: "AGE", Wide: true, Cell: func(r reservation) string { return display.Age(now, r.GetCreateTime()) }},
	}
}

func placeColumns() []display.Column[*vmhostv1.HeldPlace] {
	type place = *vmhostv1.HeldPlace
	return []display.Column[place]{
		{Head: "HOST", Cell: func(p place) string { return display.ID(p.GetVmHost()) }},
		{Head: "PLACES", Right: true, Cell: func(p place) string { return strconv.Itoa(int(p.GetCount())) }},
		{Head: "STORAGE", Cell: func(p place) string { return display.IDs(p.GetStoragePools()) }},
		{Head: "NETWORKS", Cell: func(p place) string { return display.IDs(p.GetNetworks()) }},
	}
}

func (a *app) printReservation(r *vmhostv1.Reservation) error {
	now := a.now()
	return a.printBlock(r, r.GetName(), func(b *display.Block) {
		b.Add("Reservation", display.ID(r.GetName()))
		b.AddState("State", reservationState(r), "")
		b.Add("Left", leftText(r))
		b.Add("Used", strconv.Itoa(int(r.GetUsed())))
		if r.GetLost() > 0 {
			b.Add("Lost", strconv.Itoa(int(r.GetLost()))+", with their hosts")
		}
		b.Add("Each", sizeText(r))
		b.Add("Pool", display.ID(r.GetMachine().GetResourcePool()))
		b.Add("Group", r.GetMachine().GetGroup())
		b.Add("Asked by", r.GetPrincipal())
		b.Add("Created", display.Time(now, r.GetCreateTime()))
		b.Add("Expires", display.Time(now, r.GetExpireTime()))
		display.AddTable(b, "Places", r.GetPlaces(), placeColumns())
	})
}

func reservationState(r *vmhostv1.Reservation) string {
	return display.Word(r.GetState(), "RESERVATION_STATE_")
}

// leftText is how many places are held, of how many.
func leftText(r *vmhostv1.Reservation) string {
	left := 0
	for _, p := range r.GetPlaces() {
		left += int(p.GetCount())
	}
	return strconv.Itoa(left) + "/" + strconv.Itoa(int(r.GetCount()))
}

// sizeText is what each machine will be like, in short.
func sizeText(r *vmhostv1.Reservation) string {
	m := r.GetMachine()
	disks := int64(0)
	for _, d := range m.GetDisks() {
		disks += d.GetSizeBytes()
	}
	return count(int(m.GetCores()), "core") + ", " + memory(m.GetMemoryMib()) + ", " + display.Bytes(disks)
}

func expiresText(now time.Time, r *vmhostv1.Reservation) string {
	left := r.GetExpireTime().AsTime().Sub(now)
	switch {
	case r.GetState() != vmhostv1.ReservationState_RESERVATION_STATE_ACTIVE:
		return "-"
	case left <= 0:
		return "now"
	}
	return "in " + display.Span(left)
}
