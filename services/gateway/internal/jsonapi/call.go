package jsonapi

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"

	"google.golang.org/grpc/metadata"

	"github.com/vmhost-project/vmhost/pkg/obs"
)

type callKey struct{}

// call is what must be known about an HTTP request when its gRPC call is made.
type call struct {
	query          string
	body           []byte
	metadata       metadata.MD
	idempotencyKey string
	// reached says that the region was called, so that it is the region's error.
	reached bool
}

// withCall attaches a call, made of the headers that have a meaning.
func withCall(ctx context.Context, r *http.Request, body []byte) context.Context {
	md := metadata.MD{}
	// With none or several, the region says that a token is missing.
	if v := r.Header["Authorization"]; len(v) == 1 && printable(v[0]) {
		md["authorization"] = v
	}
	if id := obs.RequestID(ctx); id != "" {
		md[obs.RequestIDHeader] = []string{id}
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		md["x-forwarded-for"] = []string{host}
	}
	return context.WithValue(ctx, callKey{}, &call{
		query: r.URL.RawQuery, body: body, metadata: md, idempotencyKey: r.Header.Get("Idempotency-Key"),
	})
}

func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// outgoing replaces whatever metadata there is by the call's own: the list of
// what reaches the region is here and nowhere else.
func (c *call) outgoing(ctx context.Context) context.Context {
	return metadata.NewOutgoingContext(ctx, c.metadata)
}

// printable says whether gRPC can carry the value.
func printable(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

func newReader(body []byte) io.ReadCloser {
	if len(body) == 0 {
		return http.NoBody
	}
	return io.NopCloser(bytes.NewReader(body))
}
