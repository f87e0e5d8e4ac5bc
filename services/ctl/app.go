package ctl

import (
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/vmhost-project/vmhost/pkg/obs"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

// app is one run of vmhostctl.
type app struct {
	args   []string
	env    map[string]string
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	flags  struct {
		context, endpoint, caFile, tokenFile string
		output                               string
		noHeaders, verbose                   bool
	}
	interrupts *interrupts
	command    *cobra.Command // the one that ran, for hints
	trace      string         // sent with every call of this run, for the region's log
	api        *region        // nil until the first call
	clock      func() time.Time
}

func newApp(args, env []string, stdin io.Reader, stdout, stderr io.Writer) *app {
	a := &app{args: args, stdin: stdin, stdout: stdout, stderr: stderr, env: map[string]string{}, trace: obs.NewRequestID(), clock: time.Now}
	a.flags.output = outputTable
	for _, kv := range env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			a.env[k] = v
		}
	}
	return a
}

func (a *app) close() {
	if a.api != nil {
		a.api.close()
	}
}

func (a *app) getenv(key string) string { return a.env[key] }

func (a *app) now() time.Time { return a.clock() }

// interactive says whether somebody can be asked: a question needs a terminal
// to be read on and one to be answered from.
func (a *app) interactive() bool { return isTerminal(a.stdin) && isTerminal(a.stderr) }

func (a *app) palette() display.Palette    { return display.Palette{On: a.colour(a.stdout)} }
func (a *app) errPalette() display.Palette { return display.Palette{On: a.colour(a.stderr)} }

func (a *app) colour(w io.Writer) bool {
	return a.env["NO_COLOR"] == "" && a.env["TERM"] != "dumb" && isTerminal(w)
}

// width is how many columns the terminal that is written to has; 0: it is none.
func (a *app) width() int {
	f, ok := a.stdout.(*os.File)
	if !ok {
		return 0
	}
	columns, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return columns
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// helpHint names the help of the command that ran.
func (a *app) helpHint() string {
	if a.command == nil {
		return "see `vmhostctl --help`"
	}
	return "see `" + a.command.CommandPath() + " --help`"
}
