package jsonapi

import (
	"bytes"
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/services/gateway/internal/front"
)

// strictConn is the connection to the region as the generated handlers see it:
// the last place where the HTTP request and the message made of it are both
// known, and so where it is checked that nothing was lost between them.
type strictConn struct {
	grpc.ClientConnInterface

	bindings map[string]*binding
}

// Invoke makes a unary call.
func (c *strictConn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	ctx, call, err := c.begin(ctx, method)
	if err != nil {
		return err
	}
	if m, ok := args.(proto.Message); ok && call.idempotencyKey != "" {
		setRequestID(m.ProtoReflect(), call.idempotencyKey)
	}
	call.reached = true
	return c.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
}

// NewStream starts a streaming call.
func (c *strictConn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx, call, err := c.begin(ctx, method)
	if err != nil {
		return nil, err
	}
	call.reached = true
	return c.ClientConnInterface.NewStream(ctx, desc, method, opts...)
}

func (c *strictConn) begin(ctx context.Context, method string) (context.Context, *call, error) {
	call, b := callOf(ctx), c.bindings[method]
	front.SetRoute(ctx, b.pattern)
	if err := b.checkQuery(call.query); err != nil {
		return nil, nil, err
	}
	if b.body == "" && len(bytes.TrimSpace(call.body)) > 0 {
		return nil, nil, apierror.InvalidField("body", "must be empty; this method takes query parameters")
	}
	return call.outgoing(ctx), call, nil
}

// setRequestID takes an Idempotency-Key for the request's id, if it has none.
func setRequestID(m protoreflect.Message, key string) {
	field := m.Descriptor().Fields().ByName("request_id")
	if field != nil && field.Kind() == protoreflect.StringKind && m.Get(field).String() == "" {
		m.Set(field, protoreflect.ValueOfString(key))
	}
}
