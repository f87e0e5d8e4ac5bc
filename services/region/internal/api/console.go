package api

import (
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/console"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// defaultTail is how much of a console log is read when the request does not say.
const defaultTail = 64 << 10

// ReadConsoleLog sends the end of what a machine wrote to its serial console.
func (s *machines) ReadConsoleLog(req *vmhostv1.ReadConsoleLogRequest, stream grpc.ServerStreamingServer[vmhostv1.ReadConsoleLogResponse]) error {
	ctx := stream.Context()
	tail := req.GetTailBytes()
	if tail == 0 {
		tail = defaultTail
	}
	c, err := s.consoles.Open(ctx, console.Request{Principal: principal(ctx), Machine: idOf(req.GetName()), LogBytes: tail})
	if err != nil {
		return s.explainConsole(err, req.GetName())
	}
	defer c.Close()
	for {
		data, err := c.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&vmhostv1.ReadConsoleLogResponse{Data: data}); err != nil {
			return err
		}
	}
}

// AttachConsole carries a machine's serial console both ways, until its client
// sends no more, the machine stops, or what is between them ends.
func (s *machines) AttachConsole(stream grpc.BidiStreamingServer[vmhostv1.AttachConsoleRequest, vmhostv1.AttachConsoleResponse]) error {
	ctx := stream.Context()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetName() == "" {
		return apierror.InvalidField("name", "must be in the first request, which says whose console is wanted")
	}
	c, err := s.consoles.Open(ctx, console.Request{Principal: principal(ctx), Machine: idOf(first.GetName()), Force: first.GetForce()})
	if err != nil {
		return s.explainConsole(err, first.GetName())
	}
	defer c.Close()
	attached := &vmhostv1.AttachedConsole{Machine: c.Machine(), Rack: c.Rack()}
	if err := stream.Send(&vmhostv1.AttachConsoleResponse{Message: &vmhostv1.AttachConsoleResponse_Attached{Attached: attached}}); err != nil {
		return err
	}
	go func() { // ends with the stream, which ends with this call
		for {
			m, err := stream.Recv()
			if err == nil && m.GetName() != "" {
				err = apierror.InvalidField("name", "is only in the first request")
			}
			if err == nil && len(m.GetData()) > 0 {
				err = c.Write(m.GetData())
			}
			if err != nil {
				c.CloseWith(err)
				return
			}
		}
	}()
	for {
		data, err := c.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&vmhostv1.AttachConsoleResponse{Message: &vmhostv1.AttachConsoleResponse_Data{Data: data}}); err != nil {
			return err
		}
	}
}

// explainConsole says more of a machine that is there and not ours.
func (s *machines) explainConsole(err error, name string) error {
	if apierror.Reason(err) != vmhostv1.ErrorReason_NOT_FOUND {
		return err
	}
	v := s.store.Cached()
	if _, ours := store.Machines.Get(v, idOf(name)); ours {
		return err
	}
	found, ok := view.FindDiscovered(v, s.seen, idOf(name))
	if !ok {
		return err
	}
	return apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_FOREIGN_OBJECT, "%s (%s on %s) was not made by vmhost, which does not touch its console", name, found.GetHypervisorName(), found.GetVmHost()).
		With("resource", name).With("vm_host", found.GetVmHost()).WithHint("adopt it with `vmhostctl machine adopt`")
}
