package direct_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/direct"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// zones is a service that does what a test says.
type zones struct {
	vmhostv1.UnimplementedZoneServiceServer

	get func(context.Context, *vmhostv1.GetZoneRequest) (*vmhostv1.Zone, error)
}

func (z *zones) GetZone(ctx context.Context, req *vmhostv1.GetZoneRequest) (*vmhostv1.Zone, error) {
	return z.get(ctx, req)
}

func connect(interceptor grpc.UnaryServerInterceptor, get func(context.Context, *vmhostv1.GetZoneRequest) (*vmhostv1.Zone, error)) vmhostv1.ZoneServiceClient {
	conn := direct.New(nil, interceptor)
	vmhostv1.RegisterZoneServiceServer(conn, &zones{get: get})
	return vmhostv1.NewZoneServiceClient(conn)
}

func TestAHandlerSeesWhatATransportWouldShow(t *testing.T) {
	client := connect(nil, func(ctx context.Context, _ *vmhostv1.GetZoneRequest) (*vmhostv1.Zone, error) {
		in, _ := metadata.FromIncomingContext(ctx)
		if got := in.Get("authorization"); !slices.Equal(got, []string{"Bearer t"}) {
			t.Errorf("incoming authorization = %q", got)
		}
		if out, _ := metadata.FromOutgoingContext(ctx); len(out) != 0 {
			t.Errorf("the handler's own calls would send %v", out)
		}
		if p, ok := peer.FromContext(ctx); !ok || p.Addr.String() == "" {
			t.Error("no peer")
		}
		if name, _ := grpc.Method(ctx); name != vmhostv1.ZoneService_GetZone_FullMethodName {
			t.Errorf("method = %q", name)
		}
		if _, ok := ctx.Deadline(); !ok {
			t.Error("no deadline")
		}
		return &vmhostv1.Zone{}, errors.Join(
			grpc.SetHeader(ctx, metadata.Pairs("x-request-id", "1")),
			grpc.SetTrailer(ctx, metadata.Pairs("x-end", "2")))
	})
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer t"), time.Minute)
	defer cancel()
	var header, trailer metadata.MD
	if _, err := client.GetZone(ctx, &vmhostv1.GetZoneRequest{}, grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
		t.Fatal(err)
	}
	if header.Get("x-request-id")[0] != "1" || trailer.Get("x-end")[0] != "2" {
		t.Errorf("header = %v, trailer = %v", header, trailer)
	}
}

func TestMessagesAreCopiedBothWays(t *testing.T) {
	kept := &vmhostv1.Zone{Name: "zones/a"}
	client := connect(nil, func(_ context.Context, req *vmhostv1.GetZoneRequest) (*vmhostv1.Zone, error) {
		req.Name = "changed"
		return kept, nil
	})
	req := &vmhostv1.GetZoneRequest{Name: "zones/a"}
	got, err := client.GetZone(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	got.Name = "changed"
	if req.GetName() != "zones/a" || kept.GetName() != "zones/a" {
		t.Errorf("request %q and kept answer %q are shared", req.GetName(), kept.GetName())
	}
}

func TestErrorsArriveAsStatuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		err    error
		code   codes.Code
		reason vmhostv1.ErrorReason
	}{
		{"with a reason", apierror.NotFound("zones/a"), codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND},
		{"plain", errors.New("plain"), codes.Unknown, 0},
		{"deadline", context.DeadlineExceeded, codes.DeadlineExceeded, 0},
	} {
		client := connect(nil, func(context.Context, *vmhostv1.GetZoneRequest) (*vmhostv1.Zone, error) { return nil, tt.err })
		_, err := client.GetZone(t.Context(), &vmhostv1.GetZoneRequest{})
		if status.Code(err) != tt.code || apierror.Reason(err) != tt.reason {
			t.Errorf("%s: %v, want %s %s", tt.name, err, tt.code, tt.reason)
		}
		if errors.Is(err, tt.err) {
			t.Errorf("%s: the handler's own error came through", tt.name)
		}
	}
	called := false
	client := connect(nil, func(context.Context, *vmhostv1.GetZoneRequest) (*vmhostv1.Zone, error) {
		called = true
		return &vmhostv1.Zone{}, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.GetZone(ctx, &vmhostv1.GetZoneRequest{}); status.Code(err) != codes.Canceled || called {
		t.Errorf("a cancelled call = %v, called %v", err, called)
	}
}

func TestTheInterceptorRunsFirstAndCanRefuse(t *testing.T) {
	var order []string
	note := func(name string) grpc.UnaryServerInterceptor {
		return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			order = append(order, name+" "+info.FullMethod)
			if name == "refuse" {
				return nil, status.Error(codes.PermissionDenied, "no")
			}
			return next(ctx, req)
		}
	}
	handler := func(context.Context, *vmhostv1.GetZoneRequest) (*vmhostv1.Zone, error) {
		order = append(order, "handler")
		return &vmhostv1.Zone{}, nil
	}
	const name = vmhostv1.ZoneService_GetZone_FullMethodName
	if _, err := connect(note("a"), handler).GetZone(t.Context(), &vmhostv1.GetZoneRequest{}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"a " + name, "handler"}; !slices.Equal(order, want) {
		t.Errorf("order = %q, want %q", order, want)
	}
	order = nil
	_, err := connect(note("refuse"), handler).GetZone(t.Context(), &vmhostv1.GetZoneRequest{})
	if status.Code(err) != codes.PermissionDenied || len(order) != 1 {
		t.Errorf("refused call = %v after %q", err, order)
	}
}

// elsewhere is a connection that remembers what came over it.
type elsewhere struct{ seen []string }

func (e *elsewhere) Invoke(_ context.Context, name string, _, _ any, _ ...grpc.CallOption) error {
	e.seen = append(e.seen, name)
	return nil
}

func (e *elsewhere) NewStream(_ context.Context, _ *grpc.StreamDesc, name string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	e.seen = append(e.seen, name)
	return nil, status.Error(codes.Unavailable, "elsewhere")
}

func TestStreamsAndUnknownMethodsGoElsewhere(t *testing.T) {
	other := &elsewhere{}
	conn := direct.New(other, nil)
	if _, err := vmhostv1.NewZoneServiceClient(conn).GetZone(t.Context(), &vmhostv1.GetZoneRequest{}); err != nil {
		t.Fatal(err)
	}
	_, err := vmhostv1.NewEventServiceClient(conn).WatchEvents(t.Context(), &vmhostv1.WatchEventsRequest{})
	want := []string{vmhostv1.ZoneService_GetZone_FullMethodName, vmhostv1.EventService_WatchEvents_FullMethodName}
	if status.Code(err) != codes.Unavailable || !slices.Equal(other.seen, want) {
		t.Errorf("went elsewhere: %q, %v, want %q", other.seen, err, want)
	}
}
