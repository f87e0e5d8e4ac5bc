// Package stubregion is the region's side of enrolment and session, for tests of
// the rack: real TLS, real certificates, and a script instead of a state.
//
// It owns the goroutines of its gRPC server; they end with the test.
package stubregion

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/pki"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Region is a running stub.
type Region struct {
	rackv1.UnimplementedEnrollmentServiceServer
	rackv1.UnimplementedRackServiceServer

	// Address is where it listens.
	Address string
	// Authority signs its certificates and those of racks.
	Authority *pki.Authority

	mu      sync.Mutex
	ttl     time.Duration
	secrets map[string][]byte
	sealTo  []byte
	renewed int
	session func(stream rackv1.RackService_ConnectServer) error
}

// Start runs a stub until the test ends.
func Start(t testing.TB) *Region {
	t.Helper()
	authority, err := pki.NewAuthority("deployment")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := authority.ServerCertificate([]string{"127.0.0.1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(authority.CertDER())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	lis, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // ends with the server
	if err != nil {
		t.Fatal(err)
	}
	r := &Region{Address: lis.Addr().String(), Authority: authority, ttl: 24 * time.Hour, secrets: map[string][]byte{}}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool,
	})))
	rackv1.RegisterEnrollmentServiceServer(server, r)
	rackv1.RegisterRackServiceServer(server, r)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(lis)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-served
	})
	return r
}

// Token makes a join token that works once.
func (r *Region) Token(id string) pki.JoinToken {
	r.mu.Lock()
	defer r.mu.Unlock()
	secret := make([]byte, 32)
	copy(secret, id)
	r.secrets[id] = secret
	ca, _ := x509.ParseCertificate(r.Authority.CertDER())
	return pki.JoinToken{Endpoints: []string{r.Address}, CASPKI: pki.SPKIHash(ca), ID: id, Secret: secret}
}

// SetTTL is how long certificates last from now on.
func (r *Region) SetTTL(ttl time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ttl = ttl
}

// Renewals is how often a certificate was renewed.
func (r *Region) Renewals() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.renewed
}

// Seal seals a credential to the rack that enrolled last.
func (r *Region) Seal(t testing.TB, aad, plaintext []byte) []byte {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	sealed, err := pki.Seal(r.sealTo, aad, plaintext)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

// Script is what happens on the streams that racks open from now on.
func (r *Region) Script(session func(stream rackv1.RackService_ConnectServer) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.session = session
}

// Enroll takes a token once.
func (r *Region) Enroll(_ context.Context, request *rackv1.EnrollRequest) (*rackv1.EnrollResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if secret, ok := r.secrets[request.GetTokenId()]; !ok || string(secret) != string(request.GetSecret()) {
		return nil, apierror.New(codes.PermissionDenied, vmhostv1.ErrorReason_JOIN_TOKEN_INVALID, "no such token")
	}
	delete(r.secrets, request.GetTokenId())
	chain, _, err := r.Authority.RackCertificate(request.GetCsr(), "deployment", "rack-uid", r.ttl)
	if err != nil {
		return nil, err
	}
	r.sealTo = request.GetHpkePublicKey()
	return &rackv1.EnrollResponse{Rack: "racks/r1", Certificates: chain, CaCertificates: [][]byte{r.Authority.CertDER()}}, nil
}

// RenewCertificate gives a new certificate to who has one.
func (r *Region) RenewCertificate(ctx context.Context, request *rackv1.RenewCertificateRequest) (*rackv1.RenewCertificateResponse, error) {
	if err := identified(ctx); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	chain, _, err := r.Authority.RackCertificate(request.GetCsr(), "deployment", "rack-uid", r.ttl)
	if err != nil {
		return nil, err
	}
	r.renewed++
	return &rackv1.RenewCertificateResponse{Certificates: chain, CaCertificates: [][]byte{r.Authority.CertDER()}}, nil
}

// Connect runs the script.
func (r *Region) Connect(stream rackv1.RackService_ConnectServer) error {
	if err := identified(stream.Context()); err != nil {
		return err
	}
	r.mu.Lock()
	session := r.session
	r.mu.Unlock()
	if session == nil {
		return apierror.New(codes.Unavailable, vmhostv1.ErrorReason_STORE_UNAVAILABLE, "nothing is scripted")
	}
	return session(stream)
}

func identified(ctx context.Context) error {
	p, _ := peer.FromContext(ctx)
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return apierror.New(codes.Unauthenticated, vmhostv1.ErrorReason_RACK_MUST_ENROLL, "no certificate")
	}
	if _, _, err := pki.RackIdentity(info.State.PeerCertificates[0]); err != nil {
		return apierror.New(codes.Unauthenticated, vmhostv1.ErrorReason_RACK_MUST_ENROLL, "%v", err)
	}
	return nil
}
