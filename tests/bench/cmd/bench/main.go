// Command bench measures vmhost against floors and peers, side by side on this
// machine, and prints one line per figure. See docs/performance.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/pprof"
	"syscall"

	"github.com/vmhost-project/vmhost/services/region"
	"github.com/vmhost-project/vmhost/tests/bench/internal/child"
	"github.com/vmhost-project/vmhost/tests/bench/internal/figure"
	"github.com/vmhost-project/vmhost/tests/bench/internal/measure"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == child.Word {
		if err := child.Main(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	region.TuneMemory(os.Getenv) // the ledger is measured in this process
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

var errMissed = errors.New("a target was missed")

type options struct {
	only         *regexp.Regexp
	reps         int
	out, dir     string
	profile      string
	list, strict bool
}

func parse(args []string, stderr io.Writer) (options, error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var o options
	only := flags.String("run", "", "only the figures that match this `regexp`")
	flags.IntVar(&o.reps, "reps", 3, "how often each side of a figure runs; 3 at least")
	flags.StringVar(&o.out, "out", "bench/latest.json", "`file` that gets the figures, relative to the repository")
	flags.StringVar(&o.dir, "dir", os.TempDir(), "`folder` on a real disk for the state of what is measured")
	flags.StringVar(&o.profile, "cpuprofile", "", "`file` that gets a CPU profile of this process, which has the ledger and the raw etcd in it")
	flags.BoolVar(&o.list, "list", false, "say which figures there are, and measure nothing")
	flags.BoolVar(&o.strict, "strict", false, "fail when a target is missed")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.reps < 3 {
		return o, errors.New("-reps: a median of fewer than three says nothing")
	}
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, fmt.Errorf("-run: %w", err)
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if o.list {
		for _, f := range figure.All() {
			if o.only.MatchString(f.Name) {
				fmt.Fprintf(stdout, "%-24s %s\n", f.Name, f.About)
			}
		}
		return nil
	}
	root, err := repository()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.dir, "vmhost-bench-")
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	if err := realDisk(dir); err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	env := &figure.Env{Root: root, Dir: dir, Progress: stderr}
	stop, err := profile(o.profile)
	if err != nil {
		return err
	}
	results, err := measureAll(ctx, o, env, stdout)
	err = errors.Join(err, stop())
	// Also after an interrupt: nothing of ours stays on the host.
	err = errors.Join(err, env.Close(context.WithoutCancel(ctx)))
	if err == nil {
		err = os.RemoveAll(dir)
	} else {
		fmt.Fprintln(stderr, "bench: logs are in", dir)
	}
	if len(results) > 0 {
		if !filepath.IsAbs(o.out) {
			o.out = filepath.Join(root, o.out)
		}
		err = errors.Join(err, write(o.out, results))
	}
	if err != nil {
		return err
	}
	return verdict(o, results)
}

func measureAll(ctx context.Context, o options, env *figure.Env, stdout io.Writer) ([]measure.Result, error) {
	runner := measure.Runner{Reps: o.reps, Settle: measure.Quiet, Stolen: measure.Stolen}
	var (
		results []measure.Result
		errs    []error
	)
	for _, f := range figure.All() {
		if !o.only.MatchString(f.Name) || ctx.Err() != nil {
			continue
		}
		r, err := one(ctx, f, env, runner)
		if err != nil {
			// The other figures may well work.
			errs = append(errs, fmt.Errorf("%s: %w", f.Name, err))
			fmt.Fprintln(env.Progress, "bench: cannot measure", f.Name+":", err)
			continue
		}
		results = append(results, r)
		errs = append(errs, r.Print(stdout))
	}
	return results, errors.Join(append(errs, context.Cause(ctx))...)
}

func one(ctx context.Context, f figure.Figure, env *figure.Env, runner measure.Runner) (measure.Result, error) {
	pair, err := f.Pair(ctx, env)
	if err != nil {
		return measure.Result{}, fmt.Errorf("set up: %w", err)
	}
	pair.Name = f.Name
	return runner.Run(ctx, pair)
}

// profile begins a CPU profile of this process.
func profile(path string) (stop func() error, err error) {
	if path == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("profile: %w", err), f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}

func verdict(o options, results []measure.Result) error {
	if len(results) == 0 {
		return errors.New("no figure matches -run; see -list")
	}
	if !o.strict {
		return nil
	}
	for _, r := range results {
		if !r.Met() {
			return errMissed
		}
	}
	return nil
}

func write(path string, results []measure.Result) error {
	data, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return fmt.Errorf("write the figures: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fmt.Errorf("write the figures: %w", err)
	}
	if err := os.WriteFile(path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the figures: %w", err)
	}
	return nil
}

// repository is the folder with go.work, here or above.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("find the repository: no go.work here or above")
}

// realDisk refuses a folder in memory, where syncing a write costs nothing.
func realDisk(dir string) error {
	const tmpfs, ramfs = 0x01021994, 0x858458f6
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if fs.Type == tmpfs || fs.Type == ramfs {
		return fmt.Errorf("%s is in memory: give a folder on a disk with -dir", dir)
	}
	return nil
}
