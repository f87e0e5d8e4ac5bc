package region

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/vmhost-project/vmhost/pkg/direct"
)

// Connection reaches the API from the same process: unary calls run in the
// caller's goroutine, streams go over a connection in memory. Both go through
// the same interceptors as calls from outside, so a token is needed as well.
type Connection struct {
	*direct.Conn

	streams *grpc.ClientConn
}

// Connect makes a connection for a gateway in this process.
func (r *Region) Connect() (*Connection, error) {
	streams, err := grpc.NewClient("passthrough:///region",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return r.memory.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // it never leaves the process
		grpc.WithIdleTimeout(0))
	if err != nil {
		return nil, fmt.Errorf("connect to the region in memory: %w", err)
	}
	conn := direct.New(streams, r.direct)
	r.api.Register(conn)
	return &Connection{Conn: conn, streams: streams}, nil
}

// Close ends the streams.
func (c *Connection) Close() error { return c.streams.Close() }
