// Command vmhost-gateway serves the JSON API of vmhost.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/vmhost-project/vmhost/pkg/config"
	"github.com/vmhost-project/vmhost/services/gateway"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmhost-gateway:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	cfg := gateway.Default()
	done, err := config.Command(&cfg, config.Options{
		Name: "vmhost-gateway", EnvPrefix: "VMHOST_GATEWAY", Args: args, Getenv: getenv,
	}, stdout)
	if done || err != nil {
		return err
	}
	g, err := gateway.New(ctx, cfg, gateway.Deps{})
	if err != nil {
		return err
	}
	return g.Run(ctx)
}
