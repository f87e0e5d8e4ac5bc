package ctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

const (
	// escapeKey is Ctrl-], which leaves a console, as telnet and virsh have it.
	escapeKey = 0x1d
	// leaveTime is how long what was typed last may take to arrive once the
	// console is left.
	leaveTime = 2 * time.Second
	// lingerTime is how long a machine may take to answer what was piped in.
	lingerTime = 5 * time.Second
)

// How reading what is typed ends: when the user leaves, and at the end of input
// that is no terminal.
var errLeft, errInputEnded = errors.New("the console was left"), errors.New("there is no more input")

const consoleLong = `Attaches the terminal to a machine's serial console. Every key goes to the
machine, also Ctrl-C; Ctrl-] leaves. What the machine writes goes to the
terminal as it is.

When standard input is no terminal, it is sent as it is. At its end what the
machine writes is shown for as long as --linger says, since an answer takes its
time: then the console is left.

    echo reboot | vmhostctl machine console web-1 --linger 2m`

func (a *app) machineConsole() *cobra.Command {
	var which machineFlags
	var force bool
	var linger time.Duration
	c := &cobra.Command{
		Use: "console MACHINE", Short: "Attach to a machine's serial console", Args: takes(1), Long: consoleLong,
		RunE: func(c *cobra.Command, args []string) error {
			if !a.forPeople() {
				return usage("leave -o out; what was written is also in `vmhostctl machine console-log`", "a console has no output format")
			}
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			m, err := a.findMachine(ctx, api, args[0], which.pool)
			if err != nil {
				return err
			}
			return fail(a.console(ctx, api, m, consoleWish{force, linger}), "attach to the console of machine %s", machineTitle(m))
		},
	}
	c.Flags().BoolVar(&force, "force", false, "take it away from whoever has it")
	c.Flags().DurationVar(&linger, "linger", lingerTime, "go on for `DURATION` after the end of input that is no terminal; 0 means until the machine stops or Ctrl-C")
	which.register(a, c)
	return c
}

// consoleWish is how a console is to be attached to.
type consoleWish struct {
	force  bool
	linger time.Duration
}

// console attaches until the user leaves, the machine stops, or what is between
// them ends. The terminal is as it was before, however it ends.
func (a *app) console(ctx context.Context, api *region, m *vmhostv1.Machine, wish consoleWish) error {
	// A process that is ended leaves no raw terminal behind.
	signalled, release := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGHUP)
	defer release()
	streaming, cancel := context.WithCancel(signalled)
	defer cancel()
	stream, err := api.machines.AttachConsole(streaming)
	if err != nil {
		return err
	}
	// What cannot be sent has its reason in the first answer.
	_ = stream.Send(&vmhostv1.AttachConsoleRequest{Message: &vmhostv1.AttachConsoleRequest_Name{Name: m.GetName()}, Force: wish.force})
	answer, err := stream.Recv()
	if err != nil {
		return unexpectedEnd(err)
	}
	if answer.GetAttached() == nil {
		return errors.New("the region's first answer does not say that it is attached")
	}
	restore, raw, err := a.rawTerminal()
	if err != nil {
		return err
	}
	defer restore()
	name := display.Clean(machineTitle(m))
	if raw {
		fmt.Fprintf(a.stderr, "attached to the console of %s; Ctrl-] leaves it\r\n", name)
	}
	left, err := a.converse(stream, raw, wish.linger)
	switch {
	case signalled.Err() != nil && ctx.Err() == nil:
		return errInterrupted
	case err != nil:
		return err
	case left:
		fmt.Fprintf(a.stderr, "\r\nleft the console of %s\r\n", name)
	case raw:
		fmt.Fprintf(a.stderr, "\r\nthe console of %s has ended; the machine was stopped\r\n", name)
	}
	return nil
}

// converse carries keys one way and what the machine writes the other, and says
// whether it was the user who ended it.
func (a *app) converse(stream consoleStream, keys bool, linger time.Duration) (left bool, err error) {
	typed := make(chan error, 1)
	go func() { typed <- sendTyped(a.stdin, stream, keys) }() // ends with standard input, or with the process
	shown := make(chan error, 1)
	go func() { shown <- a.showConsole(stream) }() // ends with the stream, which ends with its context
	select {
	case err = <-shown:
		return false, err
	case err = <-typed:
	}
	switch {
	case errors.Is(err, errInputEnded):
		if ended, err := outlast(shown, linger); ended {
			return false, err
		}
		_ = stream.CloseSend() // what it said is shown already
	case err == nil:
		return false, <-shown
	case !errors.Is(err, errLeft):
		return false, err
	}
	// The last keys are to arrive; what refuses to end is let go of.
	timer := time.NewTimer(leaveTime)
	defer timer.Stop()
	select {
	case <-timer.C:
	case err := <-shown:
		_ = err // the user has left, whatever ended it now
	}
	return keys, nil
}

// outlast waits for the end of the console, at most for so long; 0 is as long as
// it takes.
func outlast(shown <-chan error, linger time.Duration) (ended bool, err error) {
	if linger <= 0 {
		return true, <-shown
	}
	timer := time.NewTimer(linger)
	defer timer.Stop()
	select {
	case err := <-shown:
		return true, err
	case <-timer.C:
		return false, nil
	}
}

func unexpectedEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the region ended it at once")
	}
	return err
}

// rawTerminal has the terminal hand over every key as it is typed.
func (a *app) rawTerminal() (restore func(), raw bool, err error) {
	in, ok := a.stdin.(*os.File)
	if !ok || !isTerminal(in) {
		return func() {}, false, nil
	}
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, false, local(err, "use another terminal, or pipe something in", "put the terminal into raw mode")
	}
	return func() { _ = term.Restore(int(in.Fd()), before) }, true, nil // nothing better can be done at the end
}

type consoleStream interface {
	Send(request *vmhostv1.AttachConsoleRequest) error
	Recv() (*vmhostv1.AttachConsoleResponse, error)
	CloseSend() error
}

// sendTyped sends what is typed until Ctrl-], or until there is no more. nil
// says that the other direction knows more.
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
			return errors.Join(errLeft, stream.CloseSend())
		case errors.Is(err, io.EOF):
			return errInputEnded // the answer is still to come
		case err != nil:
			return fmt.Errorf("read what is typed: %w", err)
		}
	}
}

// showConsole writes what the guest writes as it is: it is the user's own
// terminal that they attached. nil is the end.
func (a *app) showConsole(stream consoleStream) error {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := a.stdout.Write(r.GetData()); err != nil {
			return err
		}
	}
}
