// Command feed writes the inventories and request streams of /benchmarks, and
// feeds vmhost with them. See benchmarks/README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region"
	"github.com/vmhost-project/vmhost/services/region/regiontest/ledgerbench"
	"github.com/vmhost-project/vmhost/tests/bench/internal/feed"
	"github.com/vmhost-project/vmhost/tests/bench/internal/process"
)

func main() {
	region.TuneMemory(os.Getenv)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "feed:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("feed", flag.ContinueOnError)
	flags.SetOutput(stderr)
	out := flags.String("out", "benchmarks/data", "`folder` for the files, one folder in it for each set")
	seed := flags.Uint64("seed", 1, "of everything random; the hashes of the README are those of 1")
	set := flags.String("run", "", "feed vmhost with the files of this `set` (uniform-1000 …), after writing them")
	clients := flags.Int("clients", 64, "with -run: how many clients send requests at the same time")
	limit := flags.Duration("for", time.Minute, "with -run: end after this time if there are requests left")
	dir := flags.String("dir", os.TempDir(), "with -run: `folder` on a real disk for the state of etcd")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("read the arguments: %w", err)
	}
	found := *set == ""
	for _, s := range feed.Sets() {
		s.Seed = *seed
		folder := filepath.Join(*out, s.Name)
		if err := write(filepath.Join(folder, "hosts.jsonl"), s.Fleet()); err != nil {
			return err
		}
		if err := write(filepath.Join(folder, "requests.jsonl"), s.Stream()); err != nil {
			return err
		}
		if s.Name == *set {
			found = true
			if err := feedVmhost(ctx, folder, *dir, *clients, *limit, stdout); err != nil {
				return err
			}
		}
	}
	if !found {
		return fmt.Errorf("there is no set %q", *set)
	}
	return nil
}

func write[T any](path string, values []T) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // nothing secret
		return fmt.Errorf("make a folder for %s: %w", path, err)
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	if err := errors.Join(feed.Lines(f, values), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func read[T any](path string) ([]T, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	values, err := feed.Read[T](f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return values, nil
}

// feedVmhost is decide and commit, with every write of etcd synced.
func feedVmhost(ctx context.Context, folder, dir string, clients int, limit time.Duration, stdout io.Writer) error {
	hosts, err := read[feed.Host](filepath.Join(folder, "hosts.jsonl"))
	if err != nil {
		return err
	}
	requests, err := read[feed.Request](filepath.Join(folder, "requests.jsonl"))
	if err != nil {
		return err
	}
	state, err := os.MkdirTemp(dir, "feed-")
	if err != nil {
		return fmt.Errorf("make a folder for etcd: %w", err)
	}
	defer func() { _ = os.RemoveAll(state) }()
	etcd, err := process.StartEtcd(ctx, state)
	if err != nil {
		return err
	}
	defer etcd.Close()
	fleet := make([]ledgerbench.Host, len(hosts))
	for i := range hosts {
		fleet[i] = hosts[i].ForLedger()
	}
	l, err := ledgerbench.StartWith(ctx, etcd.Wire, fleet)
	if err != nil {
		return err
	}
	defer l.Close()
	r, err := feed.Run(ctx, requests, clients, limit, func(ctx context.Context, req *vmhostv1.ComposeMachineRequest) error {
		_, err := l.Compose(ctx, req)
		return err
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%s: %d hosts, %d clients: %d placed and recorded, %d refused, %.0f/s, one call p50 %s, p99 %s\n",
		filepath.Base(folder), len(hosts), clients, r.Placed, r.Refused, r.PerSecond(), r.P50.Round(10*time.Microsecond), r.P99.Round(10*time.Microsecond))
	return err
}
