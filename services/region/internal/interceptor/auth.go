package interceptor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/token"
)

func authenticate(a Authenticator) layer {
	return func(ctx context.Context, c *call, next func(context.Context) error) error {
		ctx, err := a.Authenticate(ctx, c.method)
		if err != nil {
			return err
		}
		return next(ctx)
	}
}

// BearerTokens authenticates callers of the API by bearer tokens from the store
// and authorizes them by the policy table.
type BearerTokens struct {
	store  *store.Store
	policy Policy
}

// NewBearerTokens makes an authenticator.
func NewBearerTokens(s *store.Store, policy Policy) *BearerTokens {
	return &BearerTokens{store: s, policy: policy}
}

// Authenticate finds who calls and refuses who may not.
func (b *BearerTokens) Authenticate(ctx context.Context, method string) (context.Context, error) {
	need, ok := b.policy[method]
	if !ok {
		// A method without a row is one that nobody thought about.
		return nil, apierror.New(codes.PermissionDenied, vmhostv1.ErrorReason_PERMISSION_DENIED, "%s is not open to anybody", method)
	}
	if need == Public {
		return ctx, nil
	}
	p, err := b.principal(ctx)
	if err != nil {
		return nil, err
	}
	ctx = WithPrincipal(ctx, p)
	if p.Role < need {
		return nil, apierror.New(codes.PermissionDenied, vmhostv1.ErrorReason_PERMISSION_DENIED, "%s needs the role %s; %s has %s",
			method[strings.LastIndexByte(method, '/')+1:], roleName(need), p.Name, roleName(p.Role)).
			With("role", roleName(p.Role)).With("required_role", roleName(need)).
			WithHint("ask an administrator for a token with that role")
	}
	return ctx, nil
}

func (b *BearerTokens) principal(ctx context.Context) (Principal, error) {
	sent := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(sent) != 1 {
		return Principal{}, unauthenticated("no bearer token was sent")
	}
	scheme, text, _ := strings.Cut(sent[0], " ")
	id, secret, ok := token.Parse(strings.TrimSpace(text))
	if !strings.EqualFold(scheme, "bearer") || !ok {
		return Principal{}, unauthenticated("what was sent as authorization is no bearer token of vmhost")
	}
	record, ok := store.Tokens.Get(b.store.Cached(), id)
	if !ok {
		// A token made a moment ago may not have arrived here yet.
		view, err := b.store.View(ctx)
		if err != nil {
			return Principal{}, fmt.Errorf("look the token up: %w", err)
		}
		record, ok = store.Tokens.Get(view, id)
	}
	if !ok {
		// The same work as for a token that is known, so that answers take the same
		// time.
		token.Verify(&storev1.StoredToken{}, secret, time.Now())
		return Principal{}, unauthenticated("the token is not known here")
	}
	if !token.Verify(record.Value, secret, time.Now()) {
		return Principal{}, unauthenticated("the token is not good, or not any more")
	}
	return Principal{Name: record.Value.GetPrincipal(), Role: record.Value.GetRole()}, nil
}

func unauthenticated(message string) error {
	return apierror.New(codes.Unauthenticated, vmhostv1.ErrorReason_UNAUTHENTICATED, "%s", message).
		WithHint("send `authorization: Bearer TOKEN`; an administrator makes tokens with `vmhost-region token create`")
}

func roleName(r storev1.Role) string {
	return strings.ToLower(strings.TrimPrefix(r.String(), "ROLE_"))
}
