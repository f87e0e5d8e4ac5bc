package interceptor

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/vmhost-project/vmhost/pkg/obs"
)

type callKey struct{}

func withCall(ctx context.Context, c *call) context.Context {
	return context.WithValue(ctx, callKey{}, c)
}

// requestID takes over the caller's id, or gives the call one. Every line that
// is logged with the call's context has it.
func requestID(ctx context.Context, c *call, next func(context.Context) error) error {
	if sent := metadata.ValueFromIncomingContext(ctx, obs.RequestIDHeader); len(sent) == 1 && obs.ValidRequestID(sent[0]) {
		c.requestID = sent[0]
	} else {
		c.requestID = obs.NewRequestID()
	}
	c.setHeader(ctx, obs.RequestIDHeader, c.requestID)
	return next(obs.WithRequestID(ctx, c.requestID))
}

// A header that cannot be set is one that was sent already, or a caller that
// has gone: nothing is lost in either case.

func setUnaryHeader(ctx context.Context, key, value string) {
	_ = grpc.SetHeader(ctx, metadata.Pairs(key, value))
}

func setStreamHeader(ss grpc.ServerStream) func(context.Context, string, string) {
	return func(_ context.Context, key, value string) { _ = ss.SetHeader(metadata.Pairs(key, value)) }
}
