package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/vmhost-project/vmhost/pkg/config"
	"github.com/vmhost-project/vmhost/pkg/obs"
	"github.com/vmhost-project/vmhost/services/region"
)

const envPrefix = "VMHOST_REGION"

// run is main with everything it uses handed in.
func run(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	options := config.Options{Name: "vmhost-region", EnvPrefix: envPrefix, Args: args, Getenv: getenv}
	switch {
	case len(args) > 0 && args[0] == "version":
		fmt.Fprintln(stdout, obs.Version)
		return nil
	case len(args) > 0 && args[0] == "init":
		options.Args = args[1:]
		return initialize(ctx, options, stdout)
	case len(args) > 1 && args[0] == "token" && args[1] == "create":
		options.Args = args[2:]
		return createToken(ctx, options, stdout)
	}
	cfg := region.Default()
	if done, err := config.Command(&cfg, options, stdout); done || err != nil {
		return err
	}
	r, err := region.New(ctx, cfg)
	if err != nil {
		return err
	}
	return r.Run(ctx)
}

// initSettings are the region's own, and what only init needs.
type initSettings struct {
	region.Config `yaml:",inline"`
	// Out is where files are written.
	Out string `yaml:"out" usage:"folder that gets ca.pem, admin.token, and the gateway's certificate"`
	// GatewayName are the names of gateways.
	GatewayName []string `yaml:"gateway_name" usage:"DNS names and IP addresses of the gateway; makes gateway.crt and gateway.key"`
}

func initialize(ctx context.Context, options config.Options, stdout io.Writer) error {
	s := initSettings{Config: region.Default(), Out: "."}
	if done, err := config.Command(&s, options, stdout); done || err != nil {
		return err
	}
	log, err := obs.NewLogger(os.Stderr, s.LogLevel, s.LogFormat)
	if err != nil {
		return err
	}
	if err := region.Init(ctx, s.Config, s.Out, s.GatewayName, log); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "The deployment is ready. Its files are in %s; the key that encrypts secrets is %s: back it up.\n", s.Out, s.SecretKeyFile)
	return nil
}

// tokenSettings are the region's own, and whom the token is for.
type tokenSettings struct {
	region.Config `yaml:",inline"`
	// Role is what the token may do.
	Role string `yaml:"role" usage:"viewer, composer, operator or admin"`
	// Principal is whom it stands for.
	Principal string `yaml:"principal" usage:"whom the token stands for, as in events and logs"`
	// TTL is how long it is good.
	TTL time.Duration `yaml:"ttl" usage:"how long the token is good; 0: without end"`
}

func createToken(ctx context.Context, options config.Options, stdout io.Writer) error {
	s := tokenSettings{Config: region.Default(), Role: "viewer"}
	if done, err := config.Command(&s, options, stdout); done || err != nil {
		return err
	}
	text, err := region.CreateToken(ctx, s.Config, s.Principal, s.Role, s.TTL)
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, text)
	return nil
}
