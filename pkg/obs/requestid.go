package obs

import (
	"context"
	"crypto/rand"
)

// RequestIDHeader carries the request id, as an HTTP header and as gRPC metadata.
const RequestIDHeader = "x-request-id"

type requestIDKey struct{}

// WithRequestID gives the context a request id.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestID is the context's request id, empty when it has none.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// NewRequestID makes an id that nobody has used.
func NewRequestID() string { return rand.Text() }

// ValidRequestID says whether an id that came from outside may be logged and sent
// on: 1 to 64 letters, digits, and any of "-_.".
func ValidRequestID(id string) bool {
	for _, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return id != "" && len(id) <= 64
}
