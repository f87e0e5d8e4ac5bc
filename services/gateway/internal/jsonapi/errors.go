package jsonapi

import (
	"context"
	"errors"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/obs"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/gateway/internal/front"
)

// fail answers with an error. code is the HTTP status; 0 takes that of the
// error's code.
func (a *API) fail(ctx context.Context, w http.ResponseWriter, err error, code int) {
	st := a.status(ctx, err)
	if code == 0 {
		code = runtime.HTTPStatusFromCode(codes.Code(st.GetCode()))
	}
	body, err := protojson.Marshal(st)
	if err != nil { // details of a type that this build does not know
		st.Details = nil
		body, _ = protojson.Marshal(st) // plain fields always marshal
	}
	if code == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(body) //nolint:gosec // JSON, said so and not sniffed; a client that hung up is not our failure
}

// status makes sure that every error has a reason.
func (a *API) status(ctx context.Context, err error) *spb.Status {
	st, _ := status.FromError(err)
	for _, detail := range st.Details() {
		if _, ok := detail.(*errdetails.ErrorInfo); ok {
			return st.Proto()
		}
	}
	// It comes from gRPC itself and not from the region's handlers.
	var e *apierror.Error
	switch st.Code() {
	case codes.Unavailable:
		e = apierror.New(codes.Unavailable, vmhostv1.ErrorReason_STORE_UNAVAILABLE, "the region does not answer").
			WithHint("try again; if it stays so, see whether a region runs and the gateway reaches it")
	case codes.DeadlineExceeded:
		e = apierror.New(codes.DeadlineExceeded, vmhostv1.ErrorReason_DEADLINE, "the region did not answer in time")
	case codes.Canceled:
		e = apierror.New(codes.Canceled, vmhostv1.ErrorReason_CANCELLED, "the request was cancelled")
	case codes.Unimplemented:
		e = apierror.New(codes.Unimplemented, vmhostv1.ErrorReason_UNSUPPORTED, "the region does not know this method").
			WithHint("the region is older than the gateway; upgrade it")
	default:
		e = apierror.New(st.Code(), vmhostv1.ErrorReason_INTERNAL, "the call failed at the gateway (request %s)", obs.RequestID(ctx)).
			WithHint("look for the request id in the gateway's log")
	}
	if st.Code() != codes.Canceled {
		a.log.WarnContext(ctx, "a call failed without a reason", "error", err)
	}
	return e.GRPCStatus().Proto()
}

// explain finds out what is wrong with a request that grpc-gateway did not
// understand; errors of the region stay what they are.
func (a *API) explain(ctx context.Context, method string, err error) error {
	b, c := a.bindings[method], callOf(ctx)
	if b != nil {
		front.SetRoute(ctx, b.pattern)
	}
	if b == nil || c == nil || c.reached || errors.As(err, new(*apierror.Error)) {
		return err
	}
	if fault := b.diagnose(c); fault != nil {
		return fault
	}
	return apierror.InvalidField("request", "cannot be read: %s", status.Convert(err).Message())
}

func methodNotAllowed(method string) error {
	return apierror.New(codes.Unimplemented, vmhostv1.ErrorReason_INVALID_FIELD, "this path has no method %.16q", method).
		WithHint("see /openapi.json for the methods of each path")
}

func noSuchPath() error {
	return apierror.New(codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND, "there is nothing at this path").
		WithHint("see /openapi.json for all paths")
}
