package gateway_test

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// region is a fake: it remembers what it was asked and answers from memory.
type region struct {
	vmhostv1.UnimplementedEventServiceServer
	vmhostv1.UnimplementedMachineServiceServer
	vmhostv1.UnimplementedVmHostServiceServer
	vmhostv1.UnimplementedZoneServiceServer

	health *health.Server
	// watched gets what a watch was asked for; sends is what it answers with.
	watched chan *vmhostv1.WatchEventsRequest
	sends   chan *vmhostv1.WatchEventsResponse
	fails   chan error
	// ended gets a value when a watch has ended.
	ended chan struct{}

	mu       sync.Mutex
	calls    int
	request  proto.Message
	metadata metadata.MD
}

func newRegion() *region {
	return &region{
		health:  health.NewServer(),
		watched: make(chan *vmhostv1.WatchEventsRequest, 10),
		sends:   make(chan *vmhostv1.WatchEventsResponse, 10),
		fails:   make(chan error, 1),
		ended:   make(chan struct{}, 10),
	}
}

func (r *region) server(opts ...grpc.ServerOption) *grpc.Server {
	srv := grpc.NewServer(append(opts, grpc.UnaryInterceptor(r.intercept))...)
	vmhostv1.RegisterEventServiceServer(srv, r)
	vmhostv1.RegisterMachineServiceServer(srv, r)
	vmhostv1.RegisterVmHostServiceServer(srv, r)
	vmhostv1.RegisterZoneServiceServer(srv, r)
	healthpb.RegisterHealthServer(srv, r.health)
	return srv
}

func (r *region) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if info.FullMethod != healthpb.Health_Check_FullMethodName {
		r.remember(ctx, req.(proto.Message))
	}
	return next(ctx, req)
}

func (r *region) remember(ctx context.Context, req proto.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	r.request = req
	r.metadata, _ = metadata.FromIncomingContext(ctx)
}

// last is what was asked last, and how often there was a call.
func (r *region) last() (int, proto.Message, metadata.MD) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls, r.request, r.metadata
}

func (r *region) GetZone(_ context.Context, req *vmhostv1.GetZoneRequest) (*vmhostv1.Zone, error) {
	switch req.GetName() {
	case "zones/a":
		return &vmhostv1.Zone{Name: "zones/a", Uid: "u-1", CreateTime: timestamppb.New(time.Unix(1700000000, 0))}, nil
	case "zones/plain-error":
		return nil, status.Error(codes.Unavailable, "10.0.0.1:7443: connection refused")
	case "zones/text":
		return nil, status.Error(codes.Unknown, "internal words")
	}
	return nil, apierror.NotFound(req.GetName()).WithHint("list the zones")
}

func (r *region) CreateZone(_ context.Context, req *vmhostv1.CreateZoneRequest) (*vmhostv1.Zone, error) {
	return &vmhostv1.Zone{Name: "zones/" + req.GetZoneId(), Description: req.GetZone().GetDescription()}, nil
}

func (r *region) UpdateZone(_ context.Context, req *vmhostv1.UpdateZoneRequest) (*vmhostv1.Zone, error) {
	return req.GetZone(), nil
}

func (r *region) DeleteZone(context.Context, *vmhostv1.DeleteZoneRequest) (*vmhostv1.DeleteZoneResponse, error) {
	return &vmhostv1.DeleteZoneResponse{}, nil
}

func (r *region) ListZones(context.Context, *vmhostv1.ListZonesRequest) (*vmhostv1.ListZonesResponse, error) {
	return &vmhostv1.ListZonesResponse{}, nil
}

func (r *region) ComposeMachine(_ context.Context, req *vmhostv1.ComposeMachineRequest) (*vmhostv1.Operation, error) {
	if req.GetHostname() == "too-big" {
		return nil, apierror.New(codes.ResourceExhausted, vmhostv1.ErrorReason_NO_CAPACITY, "no host fits").
			With("vmHosts/h1", "memory: 4096 MiB asked, 2048 MiB free of 8192 MiB (ratio 1)").WithHint("ask for less")
	}
	return &vmhostv1.Operation{Name: "operations/1"}, nil
}

func (r *region) StopMachine(context.Context, *vmhostv1.StopMachineRequest) (*vmhostv1.Operation, error) {
	return nil, apierror.New(codes.Aborted, vmhostv1.ErrorReason_MACHINE_BUSY, "operations/2 is under way")
}

func (r *region) CreateVmHost(_ context.Context, req *vmhostv1.CreateVmHostRequest) (*vmhostv1.VmHost, error) {
	return req.GetVmHost(), nil
}

func (r *region) WatchEvents(req *vmhostv1.WatchEventsRequest, stream vmhostv1.EventService_WatchEventsServer) error {
	r.remember(stream.Context(), req)
	defer func() { r.ended <- struct{}{} }()
	r.watched <- req
	if req.GetResumeToken() == "expired" {
		return apierror.New(codes.OutOfRange, vmhostv1.ErrorReason_RESUME_TOKEN_EXPIRED, "the token is too old").WithHint("list again")
	}
	for {
		select {
		case msg := <-r.sends:
			if err := stream.Send(msg); err != nil {
				return err
			}
		case err := <-r.fails:
			return err
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// ReadConsoleLog sends two parts, and fails for some machines.
func (r *region) ReadConsoleLog(req *vmhostv1.ReadConsoleLogRequest, stream vmhostv1.MachineService_ReadConsoleLogServer) error {
	r.remember(stream.Context(), req)
	off := apierror.New(codes.Unavailable, vmhostv1.ErrorReason_HOST_UNREACHABLE, "it is not reached").WithHint("wait")
	switch req.GetName() {
	case "machines/silent":
		return nil
	case "machines/unreachable":
		return off
	}
	for _, part := range []string{"one\r\n", "two"} {
		if err := stream.Send(&vmhostv1.ReadConsoleLogResponse{Data: []byte(part)}); err != nil {
			return err
		}
	}
	if req.GetName() == "machines/breaks" {
		return off
	}
	return nil
}
