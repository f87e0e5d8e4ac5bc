// Package interceptor is what every call to a region goes through, in this
// order, the same for unary calls and streams:
//
//	request id → log and metrics → errors → recovery → authentication and
//	authorization → validation → the service
//
// Invariants: every answer that is not OK carries an ErrorInfo with a public
// reason; a fault of ours is answered with the id to look for in the log and
// nothing of its cause; one line is logged per call. The package starts no
// goroutine and knows no service.
package interceptor

import (
	"context"
	"log/slog"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc"
)

// Authenticator decides who calls and whether they may. It answers with a
// context that carries the caller.
type Authenticator interface {
	Authenticate(ctx context.Context, method string) (context.Context, error)
}

// Config is what a chain is made of.
type Config struct {
	// Log gets one line per call.
	Log *slog.Logger
	// Metrics count the calls; nil counts nothing.
	Metrics *Metrics
	// Auth decides who may call.
	Auth Authenticator
	// Validator checks requests against the rules in the contract; nil for
	// services without any.
	Validator protovalidate.Validator
}

// layer is one part of the chain. It calls next at most once.
type layer func(ctx context.Context, c *call, next func(context.Context) error) error

// Interceptors are a chain in the two forms that gRPC knows.
type Interceptors struct {
	// Unary is the chain for calls with one request and one answer.
	Unary grpc.UnaryServerInterceptor
	// Stream is the same chain for streams.
	Stream grpc.StreamServerInterceptor
}

// Options put the chain into a server.
func (i Interceptors) Options() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.UnaryInterceptor(i.Unary), grpc.StreamInterceptor(i.Stream)}
}

// Chain makes the interceptors of a server.
func Chain(cfg Config) Interceptors {
	layers := []layer{
		requestID,
		observe(cfg.Log, cfg.Metrics),
		answer,
		recovery,
		authenticate(cfg.Auth),
	}
	return Interceptors{Unary: unary(layers, cfg.Validator), Stream: stream(layers, cfg.Validator)}
}

// call is what the layers tell each other about one call.
type call struct {
	method    string
	begin     time.Time
	requestID string
	// caller is who was authenticated.
	caller string
	// cause is what lies behind the answer and is only for the log.
	cause error
	// setHeader sends metadata ahead of the answer.
	setHeader func(ctx context.Context, key, value string)
}

func run(ctx context.Context, c *call, layers []layer, end func(context.Context) error) error {
	if len(layers) == 0 {
		return end(ctx)
	}
	return layers[0](ctx, c, func(ctx context.Context) error { return run(ctx, c, layers[1:], end) })
}

func unary(layers []layer, validator protovalidate.Validator) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		c := &call{method: info.FullMethod, begin: time.Now(), setHeader: setUnaryHeader}
		var resp any
		err := run(withCall(ctx, c), c, layers, func(ctx context.Context) error {
			if err := validate(validator, req); err != nil {
				return err
			}
			var err error
			resp, err = handler(ctx, req)
			return err
		})
		if err != nil {
			return nil, err
		}
		return resp, nil
	}
}

func stream(layers []layer, validator protovalidate.Validator) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		c := &call{method: info.FullMethod, begin: time.Now(), setHeader: setStreamHeader(ss)}
		return run(withCall(ss.Context(), c), c, layers, func(ctx context.Context) error {
			return handler(srv, &serverStream{ServerStream: ss, ctx: ctx, validator: validator})
		})
	}
}

// serverStream carries the context of the chain and checks what arrives.
type serverStream struct {
	grpc.ServerStream
	ctx       context.Context //nolint:containedctx // grpc.ServerStream hands its context out by a method
	validator protovalidate.Validator
}

// Context is the call's context with the caller in it.
func (s *serverStream) Context() context.Context { return s.ctx }

// RecvMsg receives and validates a message.
func (s *serverStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return validate(s.validator, m)
}
