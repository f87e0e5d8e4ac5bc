package interceptor

import (
	"context"
	"regexp"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// requestIDKey is the metadata key of a call's id, both ways.
const requestIDKey = "x-request-id"

// plainID is what is taken over from a caller: it ends in logs and answers.
var plainID = regexp.MustCompile(`^[-a-zA-Z0-9_.]{1,64}$`)

type callKey struct{}

func withCall(ctx context.Context, c *call) context.Context {
	return context.WithValue(ctx, callKey{}, c)
}

// RequestID is the id of the call that ctx belongs to, as in the log; empty
// outside of a call.
func RequestID(ctx context.Context) string {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c.requestID
	}
	return ""
}

func requestID(ctx context.Context, c *call, next func(context.Context) error) error {
	if sent := metadata.ValueFromIncomingContext(ctx, requestIDKey); len(sent) == 1 && plainID.MatchString(sent[0]) {
		c.requestID = sent[0]
	} else {
		c.requestID = uuid.NewString()
	}
	c.setHeader(ctx, requestIDKey, c.requestID)
	return next(ctx)
}

// A header that cannot be set is one that was sent already, or a caller that
// has gone: nothing is lost in either case.

func setUnaryHeader(ctx context.Context, key, value string) {
	_ = grpc.SetHeader(ctx, metadata.Pairs(key, value))
}

func setStreamHeader(ss grpc.ServerStream) func(context.Context, string, string) {
	return func(_ context.Context, key, value string) { _ = ss.SetHeader(metadata.Pairs(key, value)) }
}
