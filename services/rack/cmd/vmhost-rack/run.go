package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/vmhost-project/vmhost/pkg/config"
	"github.com/vmhost-project/vmhost/pkg/obs"
	"github.com/vmhost-project/vmhost/pkg/pki"
	"github.com/vmhost-project/vmhost/services/rack"
)

// run is main with everything it uses handed in.
func run(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	options := config.Options{Name: "vmhost-rack", EnvPrefix: "VMHOST_RACK", Args: args, Getenv: getenv}
	switch {
	case len(args) > 0 && args[0] == "version":
		fmt.Fprintln(stdout, obs.Version)
		return nil
	case len(args) > 0 && args[0] == "enroll":
		text := ""
		if options.Args = args[1:]; len(args) > 1 && !strings.HasPrefix(args[1], "-") {
			text, options.Args = args[1], args[2:]
		}
		return enroll(ctx, text, options, stdout)
	}
	cfg := rack.Default()
	if done, err := config.Command(&cfg, options, stdout); done || err != nil {
		return err
	}
	r, err := rack.New(ctx, cfg)
	if err != nil {
		return err
	}
	return r.Run(ctx)
}

// enroll uses the token of the command line, or the configured one: in a file or
// the environment it is not shown to everybody who lists processes.
func enroll(ctx context.Context, text string, options config.Options, stdout io.Writer) error {
	cfg := rack.Default()
	if done, err := config.Command(&cfg, options, stdout); done || err != nil {
		return err
	}
	if text == "" {
		var err error
		if text, err = cfg.Token(); err != nil {
			return fmt.Errorf("enroll: %w", err)
		}
	}
	token, err := pki.ParseJoinToken(text)
	if err != nil {
		return err
	}
	name, err := rack.Enroll(ctx, cfg, token)
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, "enrolled as", name)
	return nil
}
