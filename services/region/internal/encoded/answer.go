package encoded

import (
	"context"

	"google.golang.org/grpc"
)

// Options make a server send Messages, on streams and as answers to unary calls.
// Interceptors that are set by grpc.UnaryInterceptor see those answers in place of
// what the service answered with.
func Options() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ForceServerCodecV2(Codec()), grpc.ChainUnaryInterceptor(unary)}
}

type answerKey struct{}

// answer is a place for a handler's Message: what generated code calls a handler
// by has no other way than the call's context.
type answer struct{ message *Message }

func unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	var a answer
	resp, err := handler(context.WithValue(ctx, answerKey{}, &a), req)
	if err != nil || a.message == nil {
		return resp, err
	}
	return a.message, nil
}

// Wanted says whether the call's handler can Answer.
func Wanted(ctx context.Context) bool { return answerOf(ctx) != nil }

// Answer makes a Message the answer to the call, instead of what its handler then
// answers with. The call must be one that Wanted says yes of.
func Answer(ctx context.Context, m *Message) { answerOf(ctx).message = m }

func answerOf(ctx context.Context) *answer {
	a, _ := ctx.Value(answerKey{}).(*answer)
	return a
}
