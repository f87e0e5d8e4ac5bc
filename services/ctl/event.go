package ctl

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/backoff"
	"github.com/vmhost-project/vmhost/pkg/client"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

func (a *app) eventCommand() *cobra.Command {
	return noun("event", "See what happens in the fleet", "Events say what happened to hosts, machines and racks. They are kept for a day.",
		a.eventList(), a.eventWatch())
}

func (a *app) eventList() *cobra.Command {
	var f listFlags
	c := &cobra.Command{
		Use: "list", Short: "List the events of the last 24 hours, newest first", Args: takes(0),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			items, next, err := collect(ctx, f.limit, func(ctx context.Context, size int32, token string) ([]*vmhostv1.Event, string, error) {
				r, err := call(ctx, api.events.ListEvents, &vmhostv1.ListEventsRequest{PageSize: size, PageToken: token, Filter: f.filter})
				return r.GetEvents(), r.GetNextPageToken(), err
			})
			if err != nil {
				return fail(err, "list events")
			}
			return printList(a, &vmhostv1.ListEventsResponse{Events: items, NextPageToken: next}, items, (*vmhostv1.Event).GetId, eventColumns())
		},
	}
	f.register(c, `type = "machine.power_changed"`, "")
	return c
}

func (a *app) eventWatch() *cobra.Command {
	var filter, token string
	c := &cobra.Command{
		Use: "watch", Short: "Show events as they happen, until Ctrl-C", Args: takes(0),
		Long: "Shows events as they happen. With -o json each is one line, with the token to\nresume after it. When the region is lost, watching goes on where it stopped.",
		Example: "  vmhostctl event watch --filter 'vm_host = \"vmHosts/h1\"'\n" +
			"  vmhostctl event watch -o json | jq -r .event.message",
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			w := &watch{app: a, api: api, filter: filter, token: token}
			err = w.run(ctx)
			if w.token != "" && errors.Is(err, errInterrupted) {
				fmt.Fprintf(a.stderr, "go on with\n  vmhostctl event watch --resume-token %s\n", shellQuote(display.Clean(w.token)))
			}
			return err
		},
	}
	c.Flags().StringVar(&filter, "filter", "", "only those that match `EXPRESSION`")
	c.Flags().StringVar(&token, "resume-token", "", "go on after the answer with `TOKEN` of an earlier watch")
	return c
}

// watch is one `event watch` over however many streams it takes.
type watch struct {
	app           *app
	api           *region
	filter, token string
	headed        bool
}

// run streams until the user ends it or it cannot go on. A stream that broke is
// opened again at the token.
func (w *watch) run(ctx context.Context) error {
	pause := backoff.Backoff{Min: 250 * time.Millisecond, Max: 10 * time.Second}
	lost := time.Time{}
	for {
		got, err := w.stream(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		e := apierror.FromStatus(err)
		if e.Code != codes.Unavailable {
			return fail(err, "watch events")
		}
		if got {
			pause.Reset()
			lost = time.Time{}
		}
		if lost.IsZero() {
			lost = w.app.now()
		}
		// Without a token what happens meanwhile would be missed unseen.
		if w.token == "" || w.app.now().Sub(lost) > outOfTouch {
			return fail(err, "watch events")
		}
		if err := backoff.Wait(ctx, pause.Next()); err != nil {
			return err
		}
	}
}

// stream shows one stream to its end, and says whether anything came.
func (w *watch) stream(ctx context.Context) (got bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := w.api.events.WatchEvents(ctx, &vmhostv1.WatchEventsRequest{ResumeToken: w.token, Filter: w.filter, MaxEvents: client.MaxEvents})
	if err != nil {
		return false, err
	}
	for {
		r, err := s.Recv()
		if err != nil {
			return got, err
		}
		got = true
		for one := range client.EventsOf(r) {
			if one.GetEvent() != nil {
				if err := w.show(one); err != nil {
					return got, err
				}
			}
			w.token = first(one.GetResumeToken(), w.token)
		}
	}
}

func (w *watch) show(r *vmhostv1.WatchedEvent) error {
	a := w.app
	switch a.flags.output {
	case outputJSON:
		return display.JSONLine(a.stdout, r)
	case outputYAML:
		fmt.Fprintln(a.stdout, "---")
		return display.YAML(a.stdout, r)
	case outputName:
		_, err := fmt.Fprintln(a.stdout, display.Clean(r.GetEvent().GetId()))
		return err
	default:
		return w.row(r.GetEvent())
	}
}

// row writes one event. Widths are fixed: what comes next is not known.
func (w *watch) row(e *vmhostv1.Event) error {
	const form = "%-19s  %-24s  %-46s  %s\n"
	if !w.headed && !w.app.flags.noHeaders {
		fmt.Fprintf(w.app.stdout, form, "TIME", "TYPE", "RESOURCE", "MESSAGE")
	}
	w.headed = true
	message := e.GetMessage()
	if w.app.flags.output == outputWide && !strings.Contains(message, e.GetPrincipal()) {
		message += " (by " + e.GetPrincipal() + ")"
	}
	_, err := fmt.Fprintf(w.app.stdout, form, eventTime(e), display.Clean(e.GetType()), display.Clean(e.GetResource()), display.Clean(message))
	return err
}

func eventTime(e *vmhostv1.Event) string {
	if !e.GetTime().IsValid() {
		return display.None
	}
	return e.GetTime().AsTime().Local().Format("2006-01-02 15:04:05")
}

func eventColumns() []display.Column[*vmhostv1.Event] {
	type event = *vmhostv1.Event
	return []display.Column[event]{
		{Head: "TIME", Cell: eventTime},
		{Head: "TYPE", Cell: event.GetType},
		{Head: "RESOURCE", Cell: event.GetResource},
		{Head: "HOST", Wide: true, Cell: func(e event) string { return display.ID(e.GetVmHost()) }},
		{Head: "OPERATION", Wide: true, Cell: func(e event) string { return display.ID(e.GetOperation()) }},
		{Head: "BY", Wide: true, Cell: event.GetPrincipal},
		{Head: "MESSAGE", Text: true, Cell: event.GetMessage},
	}
}
