// Command vmhost is vmhost in one process: region with an etcd of its own,
// gateway, and a rack for this machine's hypervisors.
//
//	vmhost                  serve
//	vmhost config print     show the effective configuration
//	vmhost version          show the version
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/vmhost-project/vmhost/pkg/config"
	"github.com/vmhost-project/vmhost/pkg/obs"
	"github.com/vmhost-project/vmhost/services/region"
	"github.com/vmhost-project/vmhost/services/standalone"
)

func main() {
	region.TuneMemory(os.Getenv)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmhost:", err)
		os.Exit(1)
	}
}

// run is main with everything it uses handed in.
func run(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	if len(args) > 0 && args[0] == "version" {
		fmt.Fprintln(stdout, obs.Version)
		return nil
	}
	cfg := standalone.Default()
	options := config.Options{Name: "vmhost", EnvPrefix: "VMHOST", Args: args, Getenv: getenv}
	if done, err := config.Command(&cfg, options, stdout); done || err != nil {
		return err
	}
	s, err := standalone.New(ctx, cfg, os.Stderr)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}
