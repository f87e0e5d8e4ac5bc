package interceptor

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// retryAfter is when a caller may try again after an answer that asks for it.
const retryAfter = time.Second

// answer makes every error one that may be answered.
func answer(ctx context.Context, c *call, next func(context.Context) error) error {
	err := next(ctx)
	if err == nil {
		return nil
	}
	e, cause := classify(ctx, err, c.requestID)
	c.cause = cause
	st := e.GRPCStatus()
	if e.Code == codes.Unavailable || e.Code == codes.Aborted && e.Reason == vmhostv1.ErrorReason_CONFLICT {
		if with, derr := st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(retryAfter)}); derr == nil {
			st = with
		}
	}
	return st.Err()
}

// classify finds the answer to an error, and the cause that is only logged.
func classify(ctx context.Context, err error, requestID string) (answer *apierror.Error, cause error) {
	if e, ok := errors.AsType[*apierror.Error](err); ok {
		if e.Code == codes.Internal || e.Unwrap() != nil {
			cause = err
		}
		return e, cause
	}
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return apierror.New(codes.Canceled, vmhostv1.ErrorReason_CANCELLED, "the caller went away"), nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return apierror.New(codes.DeadlineExceeded, vmhostv1.ErrorReason_DEADLINE, "the call did not end in its time").
			WithHint("give it more time, or try again"), err
	case errors.Is(err, store.ErrConflict):
		return apierror.New(codes.Aborted, vmhostv1.ErrorReason_CONFLICT, "others changed the same state meanwhile").
			WithHint("try again"), nil
	case unavailable(err):
		return apierror.New(codes.Unavailable, vmhostv1.ErrorReason_STORE_UNAVAILABLE, "the state store does not answer").
			WithHint("try again; if it goes on, look at etcd"), err
	case status.Code(err) == codes.Unimplemented:
		return apierror.New(codes.Unimplemented, vmhostv1.ErrorReason_UNSUPPORTED, "this region does not know the method"), nil
	}
	return apierror.New(codes.Internal, vmhostv1.ErrorReason_INTERNAL, "a fault of vmhost; the region's log has it under request_id %s", requestID).
		With("request_id", requestID).WithHint("report it with the lines of the log"), err
}

// unavailable says whether the store did not answer. The call's own context is
// alive then: a time limit that ran out was that of a request to the store.
func unavailable(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return true
	}
	code := codes.OK
	if coded, ok := errors.AsType[interface { // etcd's own errors
		error
		Code() codes.Code
	}](err); ok {
		code = coded.Code()
	} else if wire, ok := errors.AsType[interface {
		error
		GRPCStatus() *status.Status
	}](err); ok {
		code = wire.GRPCStatus().Code()
	}
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.ResourceExhausted:
		return true
	default:
		return false
	}
}

// recovery makes a panic an error of this call alone.
func recovery(ctx context.Context, _ *call, next func(context.Context) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return next(ctx)
}
