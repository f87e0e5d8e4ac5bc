package enroll

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/pki"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// ErrTokenInvalid says that the region does not take the join token, which no
// further try changes.
var ErrTokenInvalid = errors.New("the region does not accept the join token: it is unknown, used or expired; make a new one with `vmhostctl rack token create`")

// Enroll trades a join token for an identity, at the first of the token's
// endpoints that answers, and keeps it. Options are added to every dial.
func (s *Store) Enroll(ctx context.Context, token pki.JoinToken, options ...grpc.DialOption) error {
	// The token works once: find out before that the identity can be kept.
	if err := writeFile(s.path+".try", nil); err != nil {
		return fmt.Errorf("prepare data folder: %w", err)
	}
	if err := os.Remove(s.path + ".try"); err != nil {
		return fmt.Errorf("prepare data folder: %w", err)
	}
	key, csr, err := newKey()
	if err != nil {
		return err
	}
	seal, err := pki.NewSealKey()
	if err != nil {
		return err
	}
	request := &rackv1.EnrollRequest{TokenId: token.ID, Secret: token.Secret, Csr: csr, HpkePublicKey: seal.Public()}
	var failures []error
	for _, endpoint := range token.Endpoints {
		response, err := enrollAt(ctx, endpoint, token.CASPKI, request, options)
		if apierror.Reason(err) == vmhostv1.ErrorReason_JOIN_TOKEN_INVALID {
			return fmt.Errorf("enroll at %s: %w", endpoint, ErrTokenInvalid)
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("enroll at %s: %w", endpoint, err))
			continue
		}
		return s.keep(response, token, key, seal)
	}
	return errors.Join(failures...)
}

func enrollAt(ctx context.Context, endpoint, pin string, request *rackv1.EnrollRequest, options []grpc.DialOption) (*rackv1.EnrollResponse, error) {
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		return nil, fmt.Errorf("read endpoint: %w", err)
	}
	config := pki.PinnedConfig(pin)
	config.ServerName = host
	conn, err := grpc.NewClient("passthrough:///"+endpoint, append([]grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
	}, options...)...)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	defer func() { _ = conn.Close() }()
	return rackv1.NewEnrollmentServiceClient(conn).Enroll(ctx, request)
}

func (s *Store) keep(response *rackv1.EnrollResponse, token pki.JoinToken, key *ecdsa.PrivateKey, seal *pki.SealKey) error {
	r := record{
		Rack: response.GetRack(), Endpoints: token.Endpoints,
		Certificates: response.GetCertificates(), CAs: response.GetCaCertificates(),
	}
	var err error
	if r.Key, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		return errors.New("encode key")
	}
	if r.SealKey, err = seal.Bytes(); err != nil {
		return err
	}
	pinned := false
	for _, der := range r.CAs {
		ca, err := x509.ParseCertificate(der)
		pinned = pinned || err == nil && pki.SPKIHash(ca) == token.CASPKI
	}
	if !pinned {
		return fmt.Errorf("check identity: %w", pki.ErrPinMismatch)
	}
	if err := s.replace(r); err != nil {
		return fmt.Errorf("check identity: %w", err)
	}
	return nil
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	csr, err := pki.RackRequest(key)
	if err != nil {
		return nil, nil, err
	}
	return key, csr, nil
}

// Retryable says whether a failed Enroll may work later with the same token.
func Retryable(err error) bool {
	if err == nil || errors.Is(err, ErrTokenInvalid) || errors.Is(err, pki.ErrPinMismatch) || errors.Is(err, os.ErrPermission) {
		return false
	}
	switch apierror.FromStatus(err).Code {
	case codes.InvalidArgument, codes.Unimplemented:
		return false
	default:
		return true
	}
}
