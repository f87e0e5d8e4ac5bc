package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// consoleChunk is how much travels in one message; the contract takes 64 KiB.
const consoleChunk = 32 << 10

// Console is an attached serial console. One goroutine may read while another
// writes; Close may be called at any time, by any.
type Console struct {
	// Machine is the machine's name, Rack that of the rack it goes through.
	Machine, Rack string

	stream grpc.BidiStreamingClient[vmhostv1.AttachConsoleRequest, vmhostv1.AttachConsoleResponse]
	cancel context.CancelFunc
	rest   []byte

	mu     sync.Mutex
	closed bool
}

// AttachConsole attaches to the console of a machine, `machines/{machine}`, and
// with force takes it from whoever has it. It ends with ctx.
func (c *Client) AttachConsole(ctx context.Context, machine string, force bool) (*Console, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := c.Machines.AttachConsole(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	// What Send fails for, Recv says.
	_ = stream.Send(&vmhostv1.AttachConsoleRequest{Message: &vmhostv1.AttachConsoleRequest_Name{Name: machine}, Force: force})
	first, err := stream.Recv()
	if err == nil && first.GetAttached() == nil {
		err = errors.New("attach console: the region's first answer does not say that it is attached")
	}
	if err != nil {
		cancel()
		if errors.Is(err, io.EOF) {
			err = errors.New("attach console: the region ended it at once")
		}
		return nil, err
	}
	return &Console{Machine: first.GetAttached().GetMachine(), Rack: first.GetAttached().GetRack(), stream: stream, cancel: cancel}, nil
}

// Read reads what the machine writes. io.EOF says that the machine stopped, or
// that this end was closed; any other error is the region's, with its reason.
func (c *Console) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		m, err := c.stream.Recv()
		if err != nil {
			if c.isClosed() {
				err = io.EOF
			}
			return 0, err
		}
		c.rest = m.GetData()
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// Write types. It waits while the machine does not take what is typed. An error
// says only that the console has ended; Read says why.
func (c *Console) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		part := p[n:min(len(p), n+consoleChunk)]
		if err := c.stream.Send(&vmhostv1.AttachConsoleRequest{Message: &vmhostv1.AttachConsoleRequest_Data{Data: part}}); err != nil {
			return n, fmt.Errorf("write to console: %w", io.ErrClosedPipe)
		}
		n += len(part)
	}
	return n, nil
}

func (c *Console) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// Close detaches.
func (c *Console) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.cancel()
	return nil
}

// ReadConsoleLog writes the last so many bytes of what a machine wrote to its
// console; 0 means 64 KiB.
func (c *Client) ReadConsoleLog(ctx context.Context, machine string, tail int64, to io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Machines.ReadConsoleLog(ctx, &vmhostv1.ReadConsoleLogRequest{Name: machine, TailBytes: tail})
	for err == nil {
		var part *vmhostv1.ReadConsoleLogResponse
		if part, err = stream.Recv(); err == nil {
			_, err = to.Write(part.GetData())
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
