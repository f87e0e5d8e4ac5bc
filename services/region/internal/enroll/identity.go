package enroll

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/pki"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/interceptor"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Identity is which rack calls.
type Identity struct {
	// ID is the last part of its name, UID tells it from a rack of that id before.
	ID, UID string

	serial []byte
}

type identityKey struct{}

// IdentityFrom is the rack that a call was authenticated as.
func IdentityFrom(ctx context.Context) (Identity, bool) {
	who, ok := ctx.Value(identityKey{}).(Identity)
	return who, ok
}

// Authenticate finds which rack calls. Only Enroll is open to callers without a
// certificate.
func (s *Server) Authenticate(ctx context.Context, method string) (context.Context, error) {
	if method == rackv1.EnrollmentService_Enroll_FullMethodName {
		return ctx, nil
	}
	who, err := s.certified(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.find(s.store.Cached(), &who); err != nil {
		// A rack that enrolled at another region a moment ago is not refused.
		view, viewErr := s.store.View(ctx)
		if viewErr != nil {
			return nil, viewErr
		}
		if err := s.find(view, &who); err != nil {
			return nil, err
		}
	}
	s.retire(ctx, who)
	ctx = context.WithValue(ctx, identityKey{}, who)
	return interceptor.WithPrincipal(ctx, interceptor.Principal{Name: "racks/" + who.ID}), nil
}

// certified reads the uid and serial from the certificate that TLS has verified.
func (s *Server) certified(ctx context.Context) (Identity, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Identity{}, noCertificate()
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return Identity{}, noCertificate()
	}
	leaf := info.State.VerifiedChains[0][0]
	deployment, uid, err := pki.RackIdentity(leaf)
	if err != nil || deployment != s.deployment.UID {
		return Identity{}, apierror.New(codes.Unauthenticated, vmhostv1.ErrorReason_RACK_MUST_ENROLL, "the certificate is not that of a rack of this deployment")
	}
	return Identity{UID: uid, serial: leaf.SerialNumber.Bytes()}, nil
}

// find finds the rack's id and refuses certificates that are not good any more.
func (s *Server) find(v *store.View, who *Identity) error {
	for id, r := range store.Racks.All(v) {
		if r.Value.GetResource().GetUid() != who.UID {
			continue
		}
		if !accepts(r.Value.GetCertificateSerials(), who.serial) {
			return mustEnroll()
		}
		who.ID = id
		return nil
	}
	return revoked(who.UID)
}

func noCertificate() error {
	return apierror.New(codes.Unauthenticated, vmhostv1.ErrorReason_UNAUTHENTICATED, "a rack's certificate is needed").
		WithHint("enrol with a join token first")
}

func revoked(uid string) error {
	return apierror.New(codes.PermissionDenied, vmhostv1.ErrorReason_RACK_REVOKED, "the rack %s was removed", uid).
		WithHint("to have it back, make a join token with `vmhostctl rack token create` and enrol again")
}

func mustEnroll() error {
	return apierror.New(codes.Unauthenticated, vmhostv1.ErrorReason_RACK_MUST_ENROLL, "the rack's certificate is not accepted any more").
		WithHint("make a join token with `vmhostctl rack token create` and enrol again")
}
