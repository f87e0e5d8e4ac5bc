package ctl_test

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/pki"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/clictx"
)

const fakeToken = "vmh_0123456789ab_secret"

// fakeRegion answers the API from memory over real gRPC and TLS, and does what a
// test says: faults is what the next calls of a method answer with, hold keeps
// operations from ending, failing is how they end.
type fakeRegion struct {
	vmhostv1.UnimplementedVmHostServiceServer
	vmhostv1.UnimplementedMachineServiceServer
	vmhostv1.UnimplementedOperationServiceServer
	vmhostv1.UnimplementedZoneServiceServer
	vmhostv1.UnimplementedResourcePoolServiceServer
	vmhostv1.UnimplementedRackServiceServer
	vmhostv1.UnimplementedEventServiceServer
	vmhostv1.UnimplementedPlacementServiceServer
	vmhostv1.UnimplementedPlacementPolicyServiceServer
	vmhostv1.UnimplementedReservationServiceServer

	endpoint, caFile, tokenFile, caPin string

	mu         sync.Mutex
	faults     map[string][]error
	received   map[string][]proto.Message
	traces     []string
	maxPage    int
	hold       bool
	failing    *vmhostv1.OperationError
	changed    chan struct{} // closed and renewed whenever an operation changes
	hosts      []*vmhostv1.VmHost
	newState   vmhostv1.VmHostState
	machines   []*vmhostv1.Machine
	operations []*vmhostv1.Operation
	responses  map[string]proto.Message // of operations that have not ended
	zones      []*vmhostv1.Zone
	pools      []*vmhostv1.ResourcePool
	racks      []*vmhostv1.Rack
	events     []*vmhostv1.Event
	placement  *vmhostv1.Placement
	place      *fakePlacement
	held       []*vmhostv1.Reservation
	check      *vmhostv1.CheckVmHostResult

	planQuota    *vmhostv1.ResourceQuota
	refused      map[string]bool            // machines that batches refuse
	drainHeld    vmhostv1.DrainVmHostResult // places on every host
	consoleLog   string
	consoleTaken chan struct{} // closed to take the console away; nil while nobody has it
	typed        string        // on a console
}

func newFakeRegion(t testing.TB, dir string) *fakeRegion {
	t.Helper()
	ca, err := pki.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.ServerCertificate([]string{"127.0.0.1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeRegion{
		caFile: filepath.Join(dir, "ca.pem"), tokenFile: filepath.Join(dir, "token"), caPin: pki.SPKIHash(ca.Certificate()),
		faults: map[string][]error{}, received: map[string][]proto.Message{}, responses: map[string]proto.Message{},
		changed: make(chan struct{}), refused: map[string]bool{}, maxPage: 1000, newState: vmhostv1.VmHostState_VM_HOST_STATE_READY,
	}
	f.fill()
	f.place = newFakePlacement()
	for file, data := range map[string][]byte{
		f.caFile:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.CertDER()}),
		f.tokenFile: []byte(fakeToken + "\n"),
	} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.endpoint = listener.Addr().String()
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := f.admit(ctx, path.Base(info.FullMethod), req.(proto.Message)); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}))
	vmhostv1.RegisterVmHostServiceServer(server, f)
	vmhostv1.RegisterMachineServiceServer(server, f)
	vmhostv1.RegisterOperationServiceServer(server, f)
	vmhostv1.RegisterZoneServiceServer(server, f)
	vmhostv1.RegisterResourcePoolServiceServer(server, f)
	vmhostv1.RegisterRackServiceServer(server, f)
	vmhostv1.RegisterEventServiceServer(server, f)
	vmhostv1.RegisterPlacementServiceServer(server, f)
	vmhostv1.RegisterPlacementPolicyServiceServer(server, f)
	vmhostv1.RegisterReservationServiceServer(server, f)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return f
}

// context is how to reach the fake region.
func (f *fakeRegion) context() clictx.Context {
	return clictx.Context{Name: "fake", Endpoint: f.endpoint, CAFile: f.caFile, TokenFile: f.tokenFile}
}

// admit checks the token, records the request, and answers with the next fault
// of the method if there is one.
func (f *fakeRegion) admit(ctx context.Context, method string, req proto.Message) error {
	md, _ := metadata.FromIncomingContext(ctx)
	if got := md.Get("authorization"); len(got) != 1 || got[0] != "Bearer "+fakeToken {
		return apierror.New(codes.Unauthenticated, vmhostv1.ErrorReason_UNAUTHENTICATED, "the token is not valid")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.traces = append(f.traces, md.Get("x-request-id")...)
	f.received[method] = append(f.received[method], proto.Clone(req))
	if queue := f.faults[method]; len(queue) > 0 {
		f.faults[method] = queue[1:]
		return queue[0]
	}
	return nil
}

// requests are those received of a method, one JSON per line.
func (f *fakeRegion) requests(method string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out strings.Builder
	for _, m := range f.received[method] {
		data, err := protojson.Marshal(m)
		if err != nil {
			return "", err
		}
		// protojson puts spaces in at random.
		out.WriteString(strings.ReplaceAll(strings.ReplaceAll(string(data), ", ", ","), `": `, `":`) + "\n")
	}
	return out.String(), nil
}

func (f *fakeRegion) fault(method string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults[method] = append(f.faults[method], err)
}

// begin records an operation. It ends at once unless operations are held.
func (f *fakeRegion) begin(verb vmhostv1.OperationVerb, target, host, requestID string, response proto.Message) *vmhostv1.Operation {
	op := &vmhostv1.Operation{
		Name: fmt.Sprintf("operations/0197-%04d", len(f.operations)+1), Verb: verb, Target: target, VmHost: host, RequestId: requestID,
		Phase: vmhostv1.OperationPhase_OPERATION_PHASE_RUNNING, Principal: "admin", CreateTime: timestamppb.Now(), ProgressPercent: 50,
		Message: "asking the rack", Steps: []*vmhostv1.OperationStep{{Verb: "create"}},
	}
	f.operations = append(f.operations, op)
	f.responses[op.GetName()] = response
	if !f.hold {
		f.end(op)
	}
	return proto.CloneOf(op)
}

func (f *fakeRegion) end(op *vmhostv1.Operation) {
	op.EndTime, op.Message, op.ProgressPercent = timestamppb.Now(), "", 100
	switch {
	case op.GetCancelRequested():
		op.Phase = vmhostv1.OperationPhase_OPERATION_PHASE_CANCELLED
	case f.failing != nil:
		op.Phase, op.Error = vmhostv1.OperationPhase_OPERATION_PHASE_FAILED, f.failing
		if op.GetVerb() == vmhostv1.OperationVerb_OPERATION_VERB_REMOVE || op.GetVerb() == vmhostv1.OperationVerb_OPERATION_VERB_DRAIN {
			op.Response = anyOf(f.responses[op.GetName()])
		}
	default:
		op.Phase = vmhostv1.OperationPhase_OPERATION_PHASE_SUCCEEDED
		op.Response = anyOf(f.responses[op.GetName()])
		op.Steps[0].Done = true
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

// release lets held operations end.
func (f *fakeRegion) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hold = false
	for _, op := range f.operations {
		if !op.GetEndTime().IsValid() {
			f.end(op)
		}
	}
}

func (f *fakeRegion) find(name string) (*vmhostv1.Operation, error) {
	for _, op := range f.operations {
		if op.GetName() == name {
			return op, nil
		}
	}
	return nil, apierror.NotFound(name)
}

func (f *fakeRegion) GetOperation(_ context.Context, r *vmhostv1.GetOperationRequest) (*vmhostv1.Operation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	op, err := f.find(r.GetName())
	return proto.CloneOf(op), err
}

func (f *fakeRegion) ListOperations(_ context.Context, r *vmhostv1.ListOperationsRequest) (*vmhostv1.ListOperationsResponse, error) {
	items, next, err := page(f, f.operations, r)
	return &vmhostv1.ListOperationsResponse{Operations: items, NextPageToken: next}, err
}

func (f *fakeRegion) WaitOperation(ctx context.Context, r *vmhostv1.WaitOperationRequest) (*vmhostv1.Operation, error) {
	timer := time.NewTimer(r.GetTimeout().AsDuration())
	defer timer.Stop()
	for over := false; ; {
		f.mu.Lock()
		op, err := f.find(r.GetName())
		op, changed := proto.CloneOf(op), f.changed
		f.mu.Unlock()
		if err != nil || over || op.GetEndTime().IsValid() {
			return op, err
		}
		select {
		case <-changed:
		case <-timer.C:
			over = true
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (f *fakeRegion) CancelOperation(_ context.Context, r *vmhostv1.CancelOperationRequest) (*vmhostv1.Operation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	op, err := f.find(r.GetName())
	if err == nil && !op.GetEndTime().IsValid() {
		op.CancelRequested = true
		f.end(op)
	}
	return proto.CloneOf(op), err
}
