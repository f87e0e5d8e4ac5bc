package enroll

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// rackService is the rack's service: the session, consoles, and renewal.
type rackService struct {
	rackv1.UnimplementedRackServiceServer
	*Server
	Connecter
	Consoler
}

// Console is one console of one machine.
func (s *rackService) Console(stream rackv1.RackService_ConsoleServer) error {
	return s.Consoler.Console(stream)
}

// Connect is the session.
func (s *rackService) Connect(stream rackv1.RackService_ConnectServer) error {
	return s.Connecter.Connect(stream)
}

// RenewCertificate issues a certificate for a new key. The present one stays
// good until the new one is used: the answer may not arrive.
func (s *rackService) RenewCertificate(ctx context.Context, req *rackv1.RenewCertificateRequest) (*rackv1.RenewCertificateResponse, error) {
	who, ok := IdentityFrom(ctx)
	if !ok {
		return nil, noCertificate()
	}
	if len(req.GetCsr()) == 0 || len(req.GetCsr()) > maxCSR {
		return nil, apierror.InvalidField("csr", "must be of 1 to %d bytes", maxCSR)
	}
	chain, serial, err := s.deployment.Authority.RackCertificate(req.GetCsr(), s.deployment.UID, who.UID, certificateTTL)
	if err != nil {
		return nil, apierror.InvalidField("csr", "is not accepted: %s", err)
	}
	if err := s.recordRenewal(ctx, who, serial); err != nil {
		return nil, err
	}
	return &rackv1.RenewCertificateResponse{Certificates: chain, CaCertificates: [][]byte{s.deployment.Authority.CertDER()}}, nil
}

func (s *Server) recordRenewal(ctx context.Context, who Identity, serial []byte) error {
	for try := 1; ; try++ {
		view, err := s.store.View(ctx)
		if err != nil {
			return err
		}
		r, ok := store.Racks.Get(view, who.ID)
		if !ok || r.Value.GetResource().GetUid() != who.UID {
			return revoked(who.UID)
		}
		if !accepts(r.Value.GetCertificateSerials(), who.serial) {
			return mustEnroll()
		}
		renewed := proto.CloneOf(r.Value)
		renewed.CertificateSerials = [][]byte{who.serial, serial}
		renewed.Resource.CertificateExpireTime = timestamppb.New(time.Now().Add(certificateTTL))
		tx := store.NewTxn()
		tx.IfRevision(store.Racks.Key(who.ID), r.Revision)
		store.Put(tx, store.Racks, renewed, who.ID)
		if _, err := s.store.Commit(ctx, tx); err == nil || !errors.Is(err, store.ErrConflict) || try == commitTries {
			return err
		}
	}
}

// retire ends the certificates before the one that is used now. When that does
// not succeed it is done at a later call; until then they end by their time.
func (s *Server) retire(ctx context.Context, who Identity) {
	r, ok := store.Racks.Get(s.store.Cached(), who.ID)
	serials := r.Value.GetCertificateSerials()
	if !ok || len(serials) < 2 || !bytes.Equal(serials[len(serials)-1], who.serial) {
		return
	}
	used := proto.CloneOf(r.Value)
	used.CertificateSerials = [][]byte{who.serial}
	tx := store.NewTxn()
	tx.IfRevision(store.Racks.Key(who.ID), r.Revision)
	store.Put(tx, store.Racks, used, who.ID)
	_, _ = s.store.Commit(ctx, tx)
}

func accepts(serials [][]byte, serial []byte) bool {
	for _, s := range serials {
		if bytes.Equal(s, serial) {
			return true
		}
	}
	return false
}

// split is a resource name's collection and id.
func split(name string) (collection, id string) {
	collection, id, _ = strings.Cut(name, "/")
	return collection, id
}
