package ctl

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/vmhost-project/vmhost/pkg/client"
	"github.com/vmhost-project/vmhost/pkg/obs"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/clictx"
)

// region is what vmhostctl needs of a region: the services of its API.
type region struct {
	vmHosts    vmhostv1.VmHostServiceClient
	machines   vmhostv1.MachineServiceClient
	operations vmhostv1.OperationServiceClient
	zones      vmhostv1.ZoneServiceClient
	pools      vmhostv1.ResourcePoolServiceClient
	racks      vmhostv1.RackServiceClient
	events     vmhostv1.EventServiceClient
	placements vmhostv1.PlacementServiceClient
	policies   vmhostv1.PlacementPolicyServiceClient
	reserved   vmhostv1.ReservationServiceClient
	close      func()
}

const defaultPort = "7443"

// connect gives the API of the region in use. Nothing is dialled before the
// first call. The context carries the run's id from then on.
func (a *app) connect(ctx context.Context) (context.Context, *region, error) {
	ctx = metadata.AppendToOutgoingContext(ctx, obs.RequestIDHeader, a.trace)
	if a.api != nil {
		return ctx, a.api, nil
	}
	c, err := a.target()
	if err != nil {
		return ctx, nil, err
	}
	o := client.Options{Endpoint: withPort(c.Endpoint), CASPKI: strings.TrimPrefix(c.CAPin, "sha256:")}
	if o.Token, err = readToken(c); err != nil {
		return ctx, nil, local(err, "make the file readable, or name another with --token-file", "read the token of context %q", c.Name)
	}
	if c.CAFile != "" {
		o.CASPKI = ""
		if o.CAPEM, err = os.ReadFile(c.CAFile); err != nil {
			return ctx, nil, local(err, "make the file readable, or name another with --ca-file", "read the CA of the region")
		}
	}
	conn, err := client.Dial(o)
	if err != nil {
		return ctx, nil, local(err, "see what is in use: `vmhostctl context show`", "connect to %s", c.Endpoint)
	}
	a.api = &region{
		vmHosts: conn.VmHosts, machines: conn.Machines, operations: conn.Operations, zones: conn.Zones,
		pools: conn.ResourcePools, racks: conn.Racks, events: conn.Events,
		placements: conn.Placements, policies: conn.PlacementPolicies, reserved: conn.Reservations,
		close: func() { _ = conn.Close() },
	}
	return ctx, a.api, nil
}

// configPath is the file of contexts.
func (a *app) configPath() (string, error) {
	if path := a.env["VMHOSTCTL_CONFIG"]; path != "" {
		return path, nil
	}
	path, err := clictx.DefaultPath(a.getenv)
	if err != nil {
		return "", local(err, "set HOME, or VMHOSTCTL_CONFIG", "find the contexts")
	}
	return path, nil
}

func (a *app) contexts() (*clictx.File, string, error) {
	path, err := a.configPath()
	if err != nil {
		return nil, "", err
	}
	f, err := clictx.Load(path)
	if err != nil {
		return nil, "", local(err, "repair the file, or move it away", "read the contexts")
	}
	return f, path, nil
}

// warnOpen says that others can read a token kept in the file of contexts.
func (a *app) warnOpen(path string, c clictx.Context) {
	info, err := os.Stat(path)
	if err == nil && c.Token != "" && info.Mode().Perm()&0o077 != 0 {
		fmt.Fprintf(a.stderr, "warning: %s holds a token and others can read it; do: chmod 600 %s\n", path, shellQuote(path))
	}
}

// target is the context in use: flags over environment over file. Its name is
// empty when it comes from flags and environment alone.
func (a *app) target() (clictx.Context, error) {
	f, path, err := a.contexts()
	if err != nil {
		return clictx.Context{}, err
	}
	c := clictx.Context{}
	if name := first(a.flags.context, a.env["VMHOSTCTL_CONTEXT"], f.Current); name != "" {
		if c, err = f.Get(name); err != nil {
			return c, local(err, "see which there are: `vmhostctl context list`", "use context %s", name)
		}
		a.warnOpen(path, c)
	}
	c.Endpoint = first(a.flags.endpoint, a.env["VMHOSTCTL_ENDPOINT"], c.Endpoint)
	c.CAFile = first(a.flags.caFile, a.env["VMHOSTCTL_CA_FILE"], c.CAFile)
	switch {
	case a.flags.tokenFile != "":
		c.TokenFile, c.Token = a.flags.tokenFile, ""
	case a.env["VMHOSTCTL_TOKEN"] != "":
		c.TokenFile, c.Token = "", a.env["VMHOSTCTL_TOKEN"]
	case a.env["VMHOSTCTL_TOKEN_FILE"] != "":
		c.TokenFile, c.Token = a.env["VMHOSTCTL_TOKEN_FILE"], ""
	}
	if c.Endpoint == "" {
		return c, local(errors.New("there is no current context, and neither --endpoint nor VMHOSTCTL_ENDPOINT is set"),
			"add a context: `vmhostctl context set NAME --endpoint HOST:PORT --token-file FILE --ca-file FILE`", "find the region to talk to")
	}
	return c, nil
}

func readToken(c clictx.Context) (string, error) {
	if c.TokenFile == "" {
		return c.Token, nil
	}
	data, err := os.ReadFile(c.TokenFile)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return "", fmt.Errorf("%s is empty", c.TokenFile)
	}
	return token, nil
}

// withPort puts the region's usual port to a bare host. A gRPC target stays.
func withPort(endpoint string) string {
	if _, _, err := net.SplitHostPort(endpoint); err == nil || strings.Contains(endpoint, "/") {
		return endpoint
	}
	return net.JoinHostPort(strings.Trim(endpoint, "[]"), defaultPort)
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
