// Package direct calls the unary methods of gRPC services in the same process
// without a transport between: the services' own interceptors and handlers run in
// the caller's goroutine, on copies of the messages. An in-memory connection
// would still frame, compress headers and switch goroutines six times a call.
//
// What handlers see is what they would see of a transport: incoming metadata, a
// peer, deadline and cancellation of the caller, and a place for headers.
// Streams, and methods that are not registered, go over an ordinary connection.
// The package starts no goroutine.
package direct

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Conn is a connection to services of this process. Register all services before
// the first call; after that it is safe for use by several goroutines at once.
type Conn struct {
	grpc.ClientConnInterface // for streams

	interceptor grpc.UnaryServerInterceptor
	methods     map[string]method
}

type method struct {
	service any
	handler grpc.MethodHandler
}

var (
	_ grpc.ClientConnInterface = (*Conn)(nil)
	_ grpc.ServiceRegistrar    = (*Conn)(nil)
)

// New makes a connection without services. streams is the connection for all that
// is not unary; interceptor may be nil, and is the server's chain otherwise.
func New(streams grpc.ClientConnInterface, interceptor grpc.UnaryServerInterceptor) *Conn {
	return &Conn{ClientConnInterface: streams, interceptor: interceptor, methods: map[string]method{}}
}

// RegisterService adds a service, as generated Register functions do.
func (c *Conn) RegisterService(desc *grpc.ServiceDesc, service any) {
	for _, m := range desc.Methods {
		c.methods["/"+desc.ServiceName+"/"+m.MethodName] = method{service, m.Handler}
	}
}

// Invoke makes a unary call.
func (c *Conn) Invoke(ctx context.Context, name string, args, reply any, opts ...grpc.CallOption) error {
	m, ok := c.methods[name]
	if !ok {
		return c.ClientConnInterface.Invoke(ctx, name, args, reply, opts...)
	}
	request, isMessage := args.(proto.Message)
	answer, isAnswer := reply.(proto.Message)
	if !isMessage || !isAnswer {
		return status.Errorf(codes.Internal, "call %s: %T and %T are no messages", name, args, reply)
	}
	if err := ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	call := &call{method: name}
	defer call.report(opts)
	got, err := m.handler(m.service, call.context(ctx), func(in any) error {
		into, ok := in.(proto.Message)
		if !ok {
			return status.Errorf(codes.Internal, "call %s: %T is no message", name, in)
		}
		proto.Merge(into, request) // a copy: handlers may change what they get
		return nil
	}, c.interceptor)
	if err != nil {
		return asStatus(err)
	}
	sent, ok := got.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "call %s: answer %T is no message", name, got)
	}
	proto.Reset(answer)
	proto.Merge(answer, sent) // a copy: services answer with what they keep
	return nil
}

// asStatus does to a handler's error what a server does before it sends it.
func asStatus(err error) error {
	st, ok := status.FromError(err)
	if !ok {
		st = status.FromContextError(err) // codes.Unknown for any other error
	}
	return st.Err()
}

// call is the transport stream of one call: handlers set headers on it.
type call struct {
	method          string
	header, trailer metadata.MD
}

// context turns what the caller sends into what the handler receives.
func (c *call) context(ctx context.Context) context.Context {
	sent, _ := metadata.FromOutgoingContext(ctx)
	ctx = metadata.NewOutgoingContext(ctx, nil) // a handler's own calls do not inherit it
	ctx = metadata.NewIncomingContext(ctx, sent)
	ctx = peer.NewContext(ctx, &peer.Peer{Addr: addr{}})
	return grpc.NewContextWithServerTransportStream(ctx, c)
}

// report gives the headers to callers that asked for them.
func (c *call) report(opts []grpc.CallOption) {
	for _, opt := range opts {
		switch opt := opt.(type) {
		case grpc.HeaderCallOption:
			*opt.HeaderAddr = c.header
		case grpc.TrailerCallOption:
			*opt.TrailerAddr = c.trailer
		}
	}
}

// Method is the full name.
func (c *call) Method() string { return c.method }

// SetHeader adds to the header.
func (c *call) SetHeader(md metadata.MD) error {
	c.header = metadata.Join(c.header, md)
	return nil
}

// SendHeader adds to the header; there is nothing to send ahead of the answer.
func (c *call) SendHeader(md metadata.MD) error { return c.SetHeader(md) }

// SetTrailer adds to the trailer.
func (c *call) SetTrailer(md metadata.MD) error {
	c.trailer = metadata.Join(c.trailer, md)
	return nil
}

// addr is where callers of the same process come from.
type addr struct{}

var _ net.Addr = addr{}

// Network is no network.
func (addr) Network() string { return "direct" }

// String is the same for all callers.
func (addr) String() string { return "in process" }
