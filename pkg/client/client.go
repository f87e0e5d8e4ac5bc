// Package client speaks to a region: connection, token and retries. It is what
// vmhostctl and the tests use, and meant for every Go program.
//
//	c, err := client.Dial(client.Options{Endpoint: "region:7443", Token: token, CASPKI: pin})
//	machine, err := c.Machines.GetMachine(ctx, &vmhostv1.GetMachineRequest{Name: name})
//
// Calls return gRPC status errors; apierror.FromStatus reads reason, fields and
// hint from them. Reads are tried again while the region is unavailable, changes
// never: repeat those yourself, with the same request_id. The package reads no
// file and no environment. A Client owns its connection until Close.
package client

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// maxMessage is the largest answer that is read: a page of 1000 machines with
// their disks and interfaces stays well below it.
const maxMessage = 32 << 20

// Options say whom to call and as whom.
type Options struct {
	// Endpoint is host:port of a region, or any gRPC target.
	Endpoint string
	// Token is a bearer token, `vmh_…`; empty sends none.
	Token string
	// CAPEM are the certificates of the authorities to trust.
	CAPEM []byte
	// CASPKI is the pin of the one authority to trust, see pki.SPKIHash. With
	// neither CAPEM nor CASPKI the system's authorities are trusted.
	CASPKI string
	// DialOptions are added at the end, for tests and tracing.
	DialOptions []grpc.DialOption
}

// Client has one client per service, all over one connection.
type Client struct {
	// VmHosts are the hosts of the fleet.
	VmHosts vmhostv1.VmHostServiceClient
	// Machines are what runs on them.
	Machines vmhostv1.MachineServiceClient
	// Operations are long work under way.
	Operations vmhostv1.OperationServiceClient
	// Zones are failure domains.
	Zones vmhostv1.ZoneServiceClient
	// Placements and PlacementPolicies answer where machines would go, and how
	// hosts are preferred.
	Placements        vmhostv1.PlacementServiceClient
	PlacementPolicies vmhostv1.PlacementPolicyServiceClient
	// Reservations hold capacity for machines that are composed later.
	Reservations vmhostv1.ReservationServiceClient
	// ResourcePools are tenants or purposes.
	ResourcePools vmhostv1.ResourcePoolServiceClient
	// Racks are the agents near the hypervisors.
	Racks vmhostv1.RackServiceClient
	// Events are what happened.
	Events vmhostv1.EventServiceClient

	close func() error
}

// Dial makes a client. It connects with the first call.
func Dial(o Options) (*Client, error) {
	if o.Endpoint == "" {
		return nil, errors.New("dial region: no endpoint")
	}
	opts, err := DialOptions(o.CAPEM, o.CASPKI)
	if err != nil {
		return nil, fmt.Errorf("dial region: %w", err)
	}
	if o.Token != "" {
		opts = append(opts, grpc.WithPerRPCCredentials(bearer(o.Token)))
	}
	conn, err := grpc.NewClient(o.Endpoint, append(opts, o.DialOptions...)...)
	if err != nil {
		return nil, fmt.Errorf("dial region: %w", err)
	}
	c := New(conn)
	c.close = conn.Close
	return c, nil
}

// streamWindow and connWindow are how much a region may send ahead of what was
// read. They are fixed: to find them out, gRPC would ping with every message, which
// doubles what a small one costs both sides.
const streamWindow, connWindow = 1 << 20, 4 << 20

// DialOptions are those of every connection to regions: TLS as Credentials makes
// it, ServiceConfig, a keepalive that notices a region that is gone, and fixed
// windows.
func DialOptions(caPEM []byte, caSPKI string) ([]grpc.DialOption, error) {
	creds, err := Credentials(caPEM, caSPKI)
	if err != nil {
		return nil, err
	}
	config, err := ServiceConfig()
	if err != nil {
		return nil, err
	}
	return []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultServiceConfig(config),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithInitialWindowSize(streamWindow), grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	}, nil
}

// New makes a client over a connection that stays the caller's.
func New(conn grpc.ClientConnInterface) *Client {
	return &Client{
		VmHosts:           vmhostv1.NewVmHostServiceClient(conn),
		Machines:          vmhostv1.NewMachineServiceClient(conn),
		Operations:        vmhostv1.NewOperationServiceClient(conn),
		Zones:             vmhostv1.NewZoneServiceClient(conn),
		Placements:        vmhostv1.NewPlacementServiceClient(conn),
		PlacementPolicies: vmhostv1.NewPlacementPolicyServiceClient(conn),
		Reservations:      vmhostv1.NewReservationServiceClient(conn),
		ResourcePools:     vmhostv1.NewResourcePoolServiceClient(conn),
		Racks:             vmhostv1.NewRackServiceClient(conn),
		Events:            vmhostv1.NewEventServiceClient(conn),
		close:             func() error { return nil },
	}
}

// Close ends the connection that Dial made, and every call on it.
func (c *Client) Close() error { return c.close() }
