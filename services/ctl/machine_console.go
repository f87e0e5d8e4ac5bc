package ctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/vmhost-project/vmhost/pkg/units"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

// escapeKey is Ctrl-], which leaves a console, as telnet and virsh have it.
const escapeKey = 0x1d

func (a *app) machineConsole() *cobra.Command {
	var which machineFlags
	var force bool
	c := &cobra.Command{
		Use: "console MACHINE", Short: "Attach to a machine's serial console", Args: takes(1),
		Long: "Attaches the terminal to a machine's serial console. Ctrl-] leaves it. When standard\ninput is no terminal, it is sent as it is and the console is left at its end.",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			m, err := a.findMachine(ctx, api, args[0], which.pool)
			if err != nil {
				return err
			}
			return fail(a.console(ctx, api, m, force), "attach to the console of machine %s", machineTitle(m))
		},
	}
	c.Flags().BoolVar(&force, "force", false, "take it away from whoever has it")
	which.register(a, c)
	return c
}

func (a *app) console(ctx context.Context, api *region, m *vmhostv1.Machine, force bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := api.machines.AttachConsole(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&vmhostv1.AttachConsoleRequest{Message: &vmhostv1.AttachConsoleRequest_Name{Name: m.GetName()}, Force: force}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	// Why it could not be opened comes with the first answer.
	if _, err := stream.Recv(); err != nil {
		return err
	}
	restore, raw, err := a.rawTerminal()
	if err != nil {
		return err
	}
	defer restore()
	if raw {
		fmt.Fprintf(a.stderr, "attached to the console of %s; Ctrl-] leaves it\r\n", display.Clean(machineTitle(m)))
	}
	typed := make(chan error, 1)
	go func() { typed <- sendTyped(a.stdin, stream, raw) }() // ends with standard input, or with the process
	shown := make(chan error, 1)
	go func() { shown <- a.showConsole(stream) }() // ends with the stream
	select {
	case err = <-shown:
	case err = <-typed:
		if err != nil || raw {
			cancel()
			<-shown
			break
		}
		// What was piped in is answered still, until the machine or a user ends it.
		err = <-shown
	}
	if raw {
		fmt.Fprint(a.stderr, "\r\nleft the console\r\n")
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// rawTerminal has the terminal hand over every key as it is typed.
func (a *app) rawTerminal() (restore func(), raw bool, err error) {
	in, ok := a.stdin.(*os.File)
	if !ok || !a.interactive() {
		return func() {}, false, nil
	}
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, false, local(err, "use a terminal, or pipe something in", "put the terminal into raw mode")
	}
	return func() { _ = term.Restore(int(in.Fd()), before) }, true, nil
}

type consoleStream interface {
	Send(request *vmhostv1.AttachConsoleRequest) error
	Recv() (*vmhostv1.AttachConsoleResponse, error)
	CloseSend() error
}

// sendTyped sends what is typed until Ctrl-], or until there is no more.
func sendTyped(in io.Reader, stream consoleStream, keys bool) error {
	buf := make([]byte, 4096)
	for {
		n, err := in.Read(buf)
		data, left := buf[:n], false
		if i := bytes.IndexByte(data, escapeKey); keys && i >= 0 {
			data, left = data[:i], true
		}
		if len(data) > 0 {
			if err := stream.Send(&vmhostv1.AttachConsoleRequest{Message: &vmhostv1.AttachConsoleRequest_Data{Data: bytes.Clone(data)}}); err != nil {
				return nil //nolint:nilerr // why is what the other direction says
			}
		}
		switch {
		case left:
			return nil
		case errors.Is(err, io.EOF):
			return stream.CloseSend()
		case err != nil:
			return err
		}
	}
}

// showConsole writes what the guest writes as it is: it is the user's own
// terminal that they attached.
func (a *app) showConsole(stream consoleStream) error {
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		if _, err := a.stdout.Write(r.GetData()); err != nil {
			return err
		}
	}
}

func (a *app) machineConsoleLog() *cobra.Command {
	var which machineFlags
	var tail string
	c := &cobra.Command{
		Use: "console-log MACHINE", Short: "Show what a machine wrote to its serial console", Args: takes(1),
		Long: "Shows the end of the log of a machine's serial console, also when it is off. On a\nterminal, control characters other than line breaks are left out.",
		RunE: func(c *cobra.Command, args []string) error {
			bytes := int64(0)
			if tail != "" {
				var err error
				if bytes, err = units.ParseBytes(tail); err != nil {
					return usage("write for example --tail 64KB", "--tail %q: %w", tail, err)
				}
			}
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			m, err := a.findMachine(ctx, api, args[0], which.pool)
			if err != nil {
				return err
			}
			return fail(a.consoleLog(ctx, api, m, bytes), "show the console log of machine %s", machineTitle(m))
		},
	}
	c.Flags().StringVar(&tail, "tail", "", "`SIZE` of the end to show, up to 16MiB; 64KiB when left out")
	which.register(a, c)
	return c
}

func (a *app) consoleLog(ctx context.Context, api *region, m *vmhostv1.Machine, tail int64) error {
	stream, err := api.machines.ReadConsoleLog(ctx, &vmhostv1.ReadConsoleLogRequest{Name: m.GetName(), TailBytes: tail})
	if err != nil {
		return err
	}
	clean := isTerminal(a.stdout)
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		data := r.GetData()
		if clean {
			data = printable(data)
		}
		if _, err := a.stdout.Write(data); err != nil {
			return err
		}
	}
}

// printable leaves out what could move the cursor or change the terminal: a log
// is shown beside other things, and a guest wrote it.
func printable(data []byte) []byte {
	out := make([]byte, 0, len(data))
	for _, b := range data {
		if b >= ' ' && b != 0x7f || b == '\n' || b == '\t' {
			out = append(out, b)
		}
	}
	return out
}
