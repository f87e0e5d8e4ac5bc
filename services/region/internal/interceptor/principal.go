package interceptor

import (
	"context"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
)

// Principal is who calls.
type Principal struct {
	// Name is what the token stands for, or the rack's name.
	Name string
	// Role is what they may do; unspecified for racks.
	Role storev1.Role
}

type principalKey struct{}

// WithPrincipal is a context of a call by p.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		c.caller = p.Name
	}
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalFrom is who calls; the zero Principal when nobody was authenticated.
func PrincipalFrom(ctx context.Context) Principal {
	p, _ := ctx.Value(principalKey{}).(Principal)
	return p
}
