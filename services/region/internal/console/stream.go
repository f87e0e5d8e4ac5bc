package console

import (
	"errors"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const (
	// maxID bounds what is compared.
	maxID = 128
	// idLimit is how long a rack may take to say which console it has.
	idLimit = 10 * time.Second
	// maxMessage bounds the hypervisor's words in an answer.
	maxMessage = 2048
)

type bidi = grpc.BidiStreamingServer[rackv1.ConsoleRequest, rackv1.ConsoleResponse]

// Console is RackService.Console: a rack brings a console that was asked for.
func (s *Server) Console(stream bidi) error {
	rack, _, ok := s.cfg.Identity(stream.Context())
	if !ok {
		return apierror.New(codes.Unauthenticated, vmhostv1.ErrorReason_UNAUTHENTICATED, "the call comes from no enrolled rack")
	}
	first := make(chan *rackv1.ConsoleRequest, 1)
	var c *Console
	claimed, over := make(chan struct{}), make(chan struct{})
	s.streams.Go(func() { // ends when the stream does
		defer close(over)
		m, err := stream.Recv()
		if err != nil {
			return
		}
		first <- m
		select {
		case <-claimed:
			c.receive(stream)
		case <-stream.Context().Done():
		}
	})
	late := time.NewTimer(idLimit)
	defer late.Stop()
	var id string
	select {
	case m := <-first:
		id = m.GetId()
	case <-over:
		return nil
	case <-late.C:
		return apierror.New(codes.DeadlineExceeded, vmhostv1.ErrorReason_DEADLINE, "the rack did not say which console it has")
	}
	if id == "" || len(id) > maxID {
		return apierror.InvalidField("id", "is missing or too long")
	}
	if c = s.claim(id, rack); c == nil {
		return apierror.New(codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND, "no console of that id is asked for from racks/%s", rack)
	}
	close(claimed)
	return c.serve(stream, over)
}

// serve sends what is typed until the console ends.
func (c *Console) serve(stream bidi, over <-chan struct{}) error {
	c.server.streams.Go(func() { // ends when the console or the stream does
		for {
			select {
			case data := <-c.in:
				if stream.Send(&rackv1.ConsoleResponse{Data: data}) != nil {
					return
				}
			case <-c.ctx.Done():
				return
			}
		}
	})
	select {
	case <-c.ctx.Done():
	case <-over:
		c.end(lost(c))
	}
	return nil
}

// receive takes what the machine writes until it ends.
func (c *Console) receive(stream bidi) {
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && c.isOpen():
			c.end(io.EOF)
			return
		case err != nil:
			c.end(lost(c))
			return
		case m.GetError() != nil:
			c.end(c.failure(m.GetError()))
			return
		}
		if !c.isOpen() {
			close(c.opened)
		}
		if len(m.GetData()) == 0 {
			continue
		}
		select {
		case c.out <- m.GetData():
		case <-c.ctx.Done():
			return
		}
	}
}

func lost(c *Console) error {
	return noRack(c.host, "the connection with racks/%s was lost, and the console with it", c.rack).WithHint("open it again")
}

// failure is what the rack says went wrong, for the client.
func (c *Console) failure(e *rackv1.StepError) error {
	code, reason, hint := codes.Unavailable, vmhostv1.ErrorReason_HYPERVISOR_ERROR, "look at the host's log"
	switch e.GetClass() {
	case rackv1.ErrorClass_ERROR_CLASS_BUSY:
		code, reason, hint = codes.FailedPrecondition, vmhostv1.ErrorReason_CONSOLE_BUSY, "take it with `vmhostctl machine console --force`"
	case rackv1.ErrorClass_ERROR_CLASS_UNSUPPORTED:
		code, reason, hint = codes.Unimplemented, vmhostv1.ErrorReason_UNSUPPORTED, ""
	case rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE, rackv1.ErrorClass_ERROR_CLASS_TIMEOUT:
		reason, hint = vmhostv1.ErrorReason_HOST_UNREACHABLE, "look at the host's conditions, and try again"
	case rackv1.ErrorClass_ERROR_CLASS_AUTH:
		code, reason, hint = codes.FailedPrecondition, vmhostv1.ErrorReason_HOST_AUTH_FAILED, "give the host another credential"
	case rackv1.ErrorClass_ERROR_CLASS_HOST_KEY:
		code, reason, hint = codes.FailedPrecondition, vmhostv1.ErrorReason_HOST_KEY_CHANGED, "find out why the key changed, then confirm the new one"
	case rackv1.ErrorClass_ERROR_CLASS_NOT_FOUND:
		code, reason, hint = codes.NotFound, vmhostv1.ErrorReason_MACHINE_MISSING, "refresh the host to see what it has now"
	case rackv1.ErrorClass_ERROR_CLASS_FOREIGN:
		code, reason, hint = codes.FailedPrecondition, vmhostv1.ErrorReason_FOREIGN_OBJECT, "vmhost does not touch what is not its own"
	case rackv1.ErrorClass_ERROR_CLASS_CAPACITY:
		code, reason, hint = codes.ResourceExhausted, vmhostv1.ErrorReason_HYPERVISOR_CAPACITY, "close some consoles"
	case rackv1.ErrorClass_ERROR_CLASS_REFUSED:
		code, reason, hint = codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE, "see with `vmhostctl machine get` that it runs"
	default:
	}
	if e.GetHint() != "" {
		hint = clip(e.GetHint())
	}
	out := apierror.New(code, reason, "%s", clip(e.GetMessage())).With("resource", c.Machine()).With("vm_host", "vmHosts/"+c.host)
	if hint != "" {
		out = out.WithHint("%s", hint)
	}
	return out
}

// clip makes words of a hypervisor fit for an answer.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	return s[:min(len(s), maxMessage)]
}
