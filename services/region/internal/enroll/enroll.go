// Package enroll gives racks their identity: a certificate for a join token, and
// a new certificate for the present one. It is also what every other call of a
// rack is authenticated by.
//
// A rack is who its certificate says, never who it says it is. A certificate is
// good while the rack's record names its serial number: removing the record, or
// enrolling anew, ends all that were issued before. A join token is redeemed in
// one transaction, so that it works once, whoever tries at the same time.
//
// The package starts no goroutine.
package enroll

import (
	"context"
	"crypto/ecdh"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/bootstrap"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

const (
	// certificateTTL is short: a removed rack that is restored from a backup of
	// the store is a matter of a day.
	certificateTTL = 24 * time.Hour
	// enrolments is how many a second are looked at, by anybody who reaches the
	// listener; enrolBurst is a site being set up.
	enrolments = 20
	enrolBurst = 100
	// maxCSR bounds what is parsed for somebody who is not authenticated yet.
	maxCSR        = 8 << 10
	maxTokenID    = 64
	joinSecretLen = 32
	// commitTries is how often a change is decided anew when the same records
	// changed meanwhile.
	commitTries = 8
)

// Connecter is the session half of the rack's service.
type Connecter interface {
	Connect(stream grpc.BidiStreamingServer[rackv1.ConnectRequest, rackv1.ConnectResponse]) error
}

// Consoler is the console half of the rack's service.
type Consoler interface {
	Console(stream grpc.BidiStreamingServer[rackv1.ConsoleRequest, rackv1.ConsoleResponse]) error
}

// Server enrols racks, renews their certificates and authenticates them.
type Server struct {
	rackv1.UnimplementedEnrollmentServiceServer
	store      *store.Store
	deployment *bootstrap.Deployment
	limit      *rate.Limiter
}

// New makes a server.
func New(s *store.Store, d *bootstrap.Deployment) *Server {
	return &Server{store: s, deployment: d, limit: rate.NewLimiter(enrolments, enrolBurst)}
}

// Register registers both services of the rack listener; sessions does Connect,
// consoles Console.
func (s *Server) Register(r grpc.ServiceRegistrar, sessions Connecter, consoles Consoler) {
	rackv1.RegisterEnrollmentServiceServer(r, s)
	rackv1.RegisterRackServiceServer(r, &rackService{Server: s, Connecter: sessions, Consoler: consoles})
}

// Enroll trades a join token for a certificate.
func (s *Server) Enroll(ctx context.Context, req *rackv1.EnrollRequest) (*rackv1.EnrollResponse, error) {
	if !s.limit.Allow() {
		return nil, apierror.New(codes.ResourceExhausted, vmhostv1.ErrorReason_CONFLICT, "too many racks enrol at once").WithHint("try again in a moment")
	}
	if err := checkEnroll(req); err != nil {
		return nil, err
	}
	uid, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("make a uid: %w", err)
	}
	chain, serial, err := s.deployment.Authority.RackCertificate(req.GetCsr(), s.deployment.UID, uid.String(), certificateTTL)
	if err != nil {
		return nil, apierror.InvalidField("csr", "is not accepted: %s", err)
	}
	rack, err := s.redeem(ctx, req, uid.String(), serial)
	if err != nil {
		return nil, err
	}
	return &rackv1.EnrollResponse{Rack: rack, Certificates: chain, CaCertificates: [][]byte{s.deployment.Authority.CertDER()}}, nil
}

// redeem trades the token for the rack's record, in one transaction.
func (s *Server) redeem(ctx context.Context, req *rackv1.EnrollRequest, uid string, serial []byte) (name string, err error) {
	for try := 1; ; try++ {
		view, err := s.store.View(ctx)
		if err != nil {
			return "", err
		}
		// Of many who try with one token, all but one find it gone here or lose the
		// race and find it gone the next time.
		token, err := s.token(view, req)
		if err != nil {
			return "", err
		}
		rack := token.Value.GetResource()
		if _, zone := split(rack.GetZone()); !exists(view, zone) {
			return "", apierror.NotFound(rack.GetZone()).WithHint("make a join token for a zone that exists")
		}
		tokenKey := store.JoinTokens.Key(store.EscapeID(req.GetTokenId()))
		tx := store.NewTxn()
		tx.IfRevision(tokenKey, token.Revision)
		tx.Delete(tokenKey)
		putRack(view, tx, &storev1.StoredRack{
			Resource: &vmhostv1.Rack{
				Name: rack.GetRack(), Uid: uid, Zone: rack.GetZone(), CreateTime: timestamppb.Now(),
				CertificateExpireTime: timestamppb.New(time.Now().Add(certificateTTL)),
			},
			CertificateSerials: [][]byte{serial},
			HpkePublicKey:      req.GetHpkePublicKey(),
		})
		store.AddEvent(tx, &vmhostv1.Event{Type: "rack.enrolled", Resource: rack.GetRack(), Message: rack.GetRack() + " enrolled"})
		if _, err = s.store.Commit(ctx, tx); err == nil {
			return rack.GetRack(), nil
		}
		if !errors.Is(err, store.ErrConflict) || try == commitTries {
			return "", err
		}
	}
}

func exists(view *store.View, zone string) bool {
	_, ok := store.Zones.Get(view, zone)
	return ok
}

func checkEnroll(req *rackv1.EnrollRequest) error {
	switch {
	case len(req.GetCsr()) == 0 || len(req.GetCsr()) > maxCSR:
		return apierror.InvalidField("csr", "must be of 1 to %d bytes", maxCSR)
	case len(req.GetTokenId()) > maxTokenID || len(req.GetSecret()) > joinSecretLen:
		return tokenInvalid()
	}
	if _, err := ecdh.X25519().NewPublicKey(req.GetHpkePublicKey()); err != nil {
		return apierror.InvalidField("hpke_public_key", "must be an X25519 public key of 32 bytes")
	}
	return nil
}

// token finds the join token. Whether the id or the secret is wrong is not said.
func (s *Server) token(view *store.View, req *rackv1.EnrollRequest) (store.Record[*storev1.StoredJoinToken], error) {
	r, ok := store.JoinTokens.Get(view, store.EscapeID(req.GetTokenId()))
	hash := sha256.Sum256(req.GetSecret())
	right := subtle.ConstantTimeCompare(hash[:], r.Value.GetSecretSha256()) == 1
	if !ok || !right || !time.Now().Before(r.Value.GetResource().GetExpireTime().AsTime()) {
		return r, tokenInvalid()
	}
	return r, nil
}

func tokenInvalid() error {
	return apierror.New(codes.Unauthenticated, vmhostv1.ErrorReason_JOIN_TOKEN_INVALID, "the join token is unknown, used or expired").
		WithHint("make a new one with `vmhostctl rack token create`")
}

// putRack records a rack in the place of the one that had its id, if any.
func putRack(view *store.View, tx *store.Txn, rack *storev1.StoredRack) {
	_, id := split(rack.GetResource().GetName())
	_, zone := split(rack.GetResource().GetZone())
	before, ok := store.Racks.Get(view, id)
	tx.IfRevision(store.Racks.Key(id), before.Revision)
	if ok && before.Value.GetResource().GetZone() != rack.GetResource().GetZone() {
		_, old := split(before.Value.GetResource().GetZone())
		tx.Delete(store.References.Key("zones", old, "racks", id))
	}
	tx.IfPresent(store.Zones.Key(zone))
	store.Put(tx, store.Racks, rack, id)
	store.Put(tx, store.References, &storev1.StoredReference{}, "zones", zone, "racks", id)
}
