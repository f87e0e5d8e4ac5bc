// Package jsonapi is the public API as JSON over HTTP: the same calls, errors and
// checks as over gRPC, in lowerCamelCase. The region decides everything; this
// package translates.
//
// It is strict where translation could lose what the caller meant: unknown fields
// in bodies and queries, queries where there is a body, and bodies where there is
// none are refused before anything is called, with the field's name. Of the
// request's headers, authorization, x-request-id, idempotency-key and
// last-event-id have a meaning, and no others reach the region.
//
// Every error is a google.rpc.Status as JSON, `{"code", "message", "details"}`
// with an ErrorInfo in the details, and the HTTP status of its code as gRPC maps
// them (INVALID_ARGUMENT and FAILED_PRECONDITION are 400, ABORTED and
// ALREADY_EXISTS 409, RESOURCE_EXHAUSTED, which is NO_CAPACITY, 429). Only what
// HTTP itself knows better differs: 405 for a method and 413 for a large body.
//
// The package keeps no state. A watch has one goroutine, which ends with it.
package jsonapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const (
	// maxBody is more than any request needs; cloud-init data is the largest part.
	maxBody = 1 << 20
	// bodyTimeout is how long a client may take to send it.
	bodyTimeout = 30 * time.Second
)

// API answers the paths below /v1/.
type API struct {
	log      *slog.Logger
	mux      *runtime.ServeMux
	events   vmhostv1.EventServiceClient
	machines vmhostv1.MachineServiceClient
	bindings map[string]*binding

	drainOnce sync.Once
	draining  chan struct{}
}

// New makes the API over a connection to a region.
func New(ctx context.Context, conn grpc.ClientConnInterface, log *slog.Logger) (*API, error) {
	bindings, err := bindings()
	if err != nil {
		return nil, err
	}
	conn = &strictConn{ClientConnInterface: conn, bindings: bindings}
	a := &API{log: log, events: vmhostv1.NewEventServiceClient(conn), machines: vmhostv1.NewMachineServiceClient(conn), bindings: bindings, draining: make(chan struct{})}
	a.mux = runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, codec{}),
		runtime.WithErrorHandler(func(ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
			method, _ := runtime.RPCMethod(ctx)
			a.fail(ctx, w, a.explain(ctx, method, err), 0)
		}),
		runtime.WithRoutingErrorHandler(a.routingError),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithWriteContentLength(),
		runtime.WithOutgoingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithOutgoingTrailerMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithIncomingHeaderMatcher(func(string) (string, bool) { return "", false }),
	)
	if err := register(ctx, a.mux, conn); err != nil {
		return nil, fmt.Errorf("register API: %w", err)
	}
	return a, nil
}

// register adds every service of the public API; a test looks for forgotten ones.
func register(ctx context.Context, mux *runtime.ServeMux, conn grpc.ClientConnInterface) error {
	return errors.Join(
		vmhostv1.RegisterEventServiceHandlerClient(ctx, mux, vmhostv1.NewEventServiceClient(conn)),
		vmhostv1.RegisterMachineServiceHandlerClient(ctx, mux, vmhostv1.NewMachineServiceClient(conn)),
		vmhostv1.RegisterOperationServiceHandlerClient(ctx, mux, vmhostv1.NewOperationServiceClient(conn)),
		vmhostv1.RegisterRackServiceHandlerClient(ctx, mux, vmhostv1.NewRackServiceClient(conn)),
		vmhostv1.RegisterPlacementServiceHandlerClient(ctx, mux, vmhostv1.NewPlacementServiceClient(conn)),
		vmhostv1.RegisterPlacementPolicyServiceHandlerClient(ctx, mux, vmhostv1.NewPlacementPolicyServiceClient(conn)),
		vmhostv1.RegisterReservationServiceHandlerClient(ctx, mux, vmhostv1.NewReservationServiceClient(conn)),
		vmhostv1.RegisterResourcePoolServiceHandlerClient(ctx, mux, vmhostv1.NewResourcePoolServiceClient(conn)),
		vmhostv1.RegisterVmHostServiceHandlerClient(ctx, mux, vmhostv1.NewVmHostServiceClient(conn)),
		vmhostv1.RegisterZoneServiceHandlerClient(ctx, mux, vmhostv1.NewZoneServiceClient(conn)),
	)
}

// Drain ends all streams, now and in future; clients resume them elsewhere.
func (a *API) Drain() { a.drainOnce.Do(func() { close(a.draining) }) }

// ServeHTTP answers one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := readBody(w, r)
	if err != nil {
		code := 0
		if errors.As(err, new(*http.MaxBytesError)) {
			code = http.StatusRequestEntityTooLarge
			err = apierror.InvalidField("body", "has more than %d bytes", maxBody)
		} else {
			err = apierror.InvalidField("body", "could not be read: %s", err)
		}
		a.fail(r.Context(), w, err, code)
		return
	}
	ctx := withCall(r.Context(), r, body)
	if r.Method == http.MethodGet && r.URL.Path == watchPath {
		a.watch(ctx, w, r)
		return
	}
	switch machine, method := machineMethod(r.URL.Path); {
	case method == consoleLogMethod && r.Method == http.MethodGet:
		a.consoleLog(ctx, w, r, machine)
		return
	case method == attachMethod:
		a.attachConsole(ctx, w)
		return
	}
	a.mux.ServeHTTP(w, forMux(ctx, r, body))
}

// readBody reads the whole body, so that an API call is never held open by a
// client that sends slowly.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	control := http.NewResponseController(w)
	// Writers that have no deadlines are those of tests.
	_ = control.SetReadDeadline(time.Now().Add(bodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		_ = control.SetReadDeadline(time.Time{})
	}
	return body, err
}

// forMux is the request with nothing in it that grpc-gateway could take for
// metadata, a deadline or another method.
func forMux(ctx context.Context, r *http.Request, body []byte) *http.Request {
	out := r.WithContext(ctx)
	out.Header = http.Header{}
	out.Body = newReader(body)
	return out
}

// routingError answers for a path or method that is not in the API.
func (a *API) routingError(ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, code int) {
	if code == http.StatusMethodNotAllowed {
		a.fail(ctx, w, methodNotAllowed(r.Method), code)
		return
	}
	a.fail(ctx, w, noSuchPath(), http.StatusNotFound)
}

// NotFound answers for every path that nobody serves.
func (a *API) NotFound(w http.ResponseWriter, r *http.Request) {
	a.fail(r.Context(), w, noSuchPath(), http.StatusNotFound)
}
