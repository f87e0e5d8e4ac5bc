package ctl

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/vmhost-project/vmhost/pkg/units"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

// maxTail is as much of a log as the API gives.
const maxTail = 16 << 20

func (a *app) machineConsoleLog() *cobra.Command {
	var which machineFlags
	var tail string
	c := &cobra.Command{
		Use: "console-log MACHINE", Short: "Show what a machine wrote to its serial console", Args: takes(1),
		Long: "Shows the end of the log of a machine's serial console, also when it is off. On\n" +
			"a terminal only lines of printable text are shown; elsewhere the log is written\nas the machine wrote it.",
		RunE: func(c *cobra.Command, args []string) error {
			size, err := parseTail(tail)
			if err != nil {
				return err
			}
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			m, err := a.findMachine(ctx, api, args[0], which.pool)
			if err != nil {
				return err
			}
			return fail(a.consoleLog(ctx, api, m, size), "show the console log of machine %s", machineTitle(m))
		},
	}
	c.Flags().StringVar(&tail, "tail", "", "`SIZE` of the end to show, up to 16MiB; 64KiB when left out")
	which.register(a, c)
	return c
}

func parseTail(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	size, err := units.ParseBytes(s)
	if err != nil {
		return 0, usage("write for example --tail 64KiB", "--tail %q: %w", s, err)
	}
	if size < 1 || size > maxTail {
		return 0, usage("give a size from 1B to 16MiB", "--tail %q is no size that there is", s)
	}
	return size, nil
}

func (a *app) consoleLog(ctx context.Context, api *region, m *vmhostv1.Machine, tail int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := api.machines.ReadConsoleLog(ctx, &vmhostv1.ReadConsoleLogRequest{Name: m.GetName(), TailBytes: tail})
	if err != nil {
		return err
	}
	whole := &vmhostv1.ReadConsoleLogResponse{}
	show, end := a.stdout.Write, func() error { return nil }
	switch {
	case !a.forPeople():
		show = func(p []byte) (int, error) {
			whole.Data = append(whole.Data, p...)
			return len(p), nil
		}
		end = func() error { return a.print(whole, m.GetName(), nil) }
	case isTerminal(a.stdout):
		clean := display.NewLog(a.stdout)
		show, end = clean.Write, clean.Close
	}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return end()
		}
		if err != nil {
			return err
		}
		if _, err := show(r.GetData()); err != nil {
			return err
		}
	}
}
