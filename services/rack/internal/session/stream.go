package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const (
	// Protocol is the version that is spoken.
	Protocol = 1
	// queueLength is how many messages may wait to be sent.
	queueLength = 256
	// slow is how long a region may take nothing before it is disconnected.
	slow = 30 * time.Second
	// greetLimit is how long a region may take to answer Hello.
	greetLimit = 15 * time.Second
	// Bounds of the heartbeat that a region may ask for.
	fastest, slowest, usual = 100 * time.Millisecond, 5 * time.Minute, 10 * time.Second
)

// link is one session's stream.
type link struct {
	stream rackv1.RackService_ConnectClient
	cancel context.CancelCauseFunc
	queue  chan *rackv1.ConnectRequest
	ended  <-chan struct{}
}

// cause is why a stream failed: what it was cancelled for, if it was.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil && !errors.Is(c, context.Canceled) {
		return c
	}
	return err
}

// greet says Hello and waits for the region's.
func (s *link) greet(hello *rackv1.RackHello) (*rackv1.RegionHello, error) {
	timer := time.AfterFunc(greetLimit, func() { s.cancel(errors.New("greet region: no answer in time")) })
	defer timer.Stop()
	if err := s.stream.Send(&rackv1.ConnectRequest{Message: &rackv1.ConnectRequest_Hello{Hello: hello}}); err != nil {
		_, err = s.stream.Recv() // what Send failed for
		return nil, fmt.Errorf("greet region: %w", err)
	}
	message, err := s.stream.Recv()
	if err != nil {
		return nil, fmt.Errorf("greet region: %w", err)
	}
	if d := message.GetDisconnect(); d != nil {
		return nil, disconnected(d)
	}
	answer := message.GetHello()
	if answer == nil {
		return nil, errors.New("greet region: its first message is no Hello")
	}
	if answer.GetProtocol() != Protocol {
		return nil, fmt.Errorf("greet region: it speaks protocol %d, this rack speaks %d", answer.GetProtocol(), Protocol)
	}
	return answer, nil
}

func disconnected(d *rackv1.Disconnect) error {
	return apierror.New(codes.Unavailable, d.GetReason(), "the region ended the session: %s", d.GetMessage())
}

// run serves the session until it ends. Its error is never nil.
func (s *link) run(ctx context.Context, region *rackv1.RegionHello, handler Handler, log *slog.Logger) error {
	var wg sync.WaitGroup
	defer func() {
		wg.Wait()
		handler.Disconnected()
	}()
	defer s.cancel(nil)
	wg.Go(func() {
		if err := s.send(ctx, region.GetHeartbeatInterval().AsDuration()); err != nil {
			s.cancel(err)
		}
	})
	handler.Connected(s, region)
	wg.Go(func() { handler.Resume(ctx) })
	for {
		message, err := s.stream.Recv()
		if err != nil {
			return cause(ctx, fmt.Errorf("receive from region: %w", err))
		}
		switch m := message.GetMessage().(type) {
		case *rackv1.ConnectResponse_Assignment:
			handler.Assign(ctx, m.Assignment)
		case *rackv1.ConnectResponse_Unassignment:
			handler.Unassign(ctx, m.Unassignment.GetUid())
		case *rackv1.ConnectResponse_Step:
			handler.Do(ctx, m.Step)
		case *rackv1.ConnectResponse_StepResultAck:
			handler.Acknowledged(m.StepResultAck.GetId())
		case *rackv1.ConnectResponse_ReportAgain:
			handler.ReportAgain(ctx, m.ReportAgain.GetUid(), m.ReportAgain.GetEpoch())
		case *rackv1.ConnectResponse_OpenConsole:
			handler.OpenConsole(ctx, m.OpenConsole)
		case *rackv1.ConnectResponse_Disconnect:
			return disconnected(m.Disconnect)
		case *rackv1.ConnectResponse_Hello:
			return errors.New("receive from region: a second Hello")
		default: // a newer region's
			log.DebugContext(ctx, "ignored a message of unknown kind")
		}
	}
}

// send is the only one that sends after Hello.
func (s *link) send(ctx context.Context, heartbeat time.Duration) error {
	if heartbeat == 0 {
		heartbeat = usual
	}
	ticker := time.NewTicker(min(max(heartbeat, fastest), slowest))
	defer ticker.Stop()
	for {
		var message *rackv1.ConnectRequest
		select {
		case <-ctx.Done():
			return nil
		case message = <-s.queue:
		case <-ticker.C:
			message = &rackv1.ConnectRequest{Message: &rackv1.ConnectRequest_Heartbeat{Heartbeat: &rackv1.Heartbeat{Time: timestamppb.Now()}}}
		}
		timer := time.AfterFunc(slow, func() { s.cancel(errSlow()) })
		err := s.stream.Send(message)
		timer.Stop()
		if err != nil { // Recv learns why
			return nil
		}
	}
}

func errSlow() error {
	return apierror.New(codes.Unavailable, vmhostv1.ErrorReason_ERROR_REASON_UNSPECIFIED, "the region took nothing for %v", slow)
}

// Send queues a message.
func (s *link) Send(ctx context.Context, message *rackv1.ConnectRequest) error {
	select {
	case <-s.ended:
		return ErrNoSession
	default:
	}
	select {
	case s.queue <- message:
		return nil
	case <-s.ended:
		return ErrNoSession
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
