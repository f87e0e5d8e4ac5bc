package gateway

import (
	"errors"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/vmhost-project/vmhost/pkg/client"
)

// dialRegion connects to all replicas; it returns before any of them answers.
func dialRegion(cfg RegionConfig, extra ...grpc.DialOption) (*grpc.ClientConn, error) {
	var caPEM []byte
	if cfg.CAFile != "" {
		b, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read authorities of the region: %w", err)
		}
		caPEM = b
	}
	opts, err := client.DialOptions(caPEM, cfg.CASPKI)
	if err != nil {
		return nil, fmt.Errorf("dial region: %w", err)
	}
	// A gateway that was idle must not make the next caller wait for a handshake.
	opts = append(append(opts, grpc.WithIdleTimeout(0)), extra...)
	var target string
	switch len(cfg.Endpoints) {
	case 0:
		return nil, errors.New("dial region: no endpoint is configured")
	case 1:
		target = "dns:///" + cfg.Endpoints[0] // all addresses of the name
	default:
		list := manual.NewBuilderWithScheme("regions")
		list.InitialState(resolver.State{Endpoints: endpoints(cfg.Endpoints)})
		target = list.Scheme() + ":///"
		opts = append(opts, grpc.WithResolvers(list))
	}
	conn, err := grpc.NewClient(target, opts...)
	if err != nil {
		return nil, fmt.Errorf("dial region: %w", err)
	}
	conn.Connect()
	return conn, nil
}

func endpoints(addrs []string) []resolver.Endpoint {
	all := make([]resolver.Endpoint, 0, len(addrs))
	for _, addr := range addrs {
		host, _, _ := net.SplitHostPort(addr) // Validate has looked
		all = append(all, resolver.Endpoint{Addresses: []resolver.Address{{Addr: addr, ServerName: host}}})
	}
	return all
}
