package enroll

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/vmhost-project/vmhost/pkg/backoff"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

// Region renews certificates over the connection that is up.
type Region interface {
	// RenewCertificate fails while no connection is up.
	RenewCertificate(ctx context.Context, request *rackv1.RenewCertificateRequest) (*rackv1.RenewCertificateResponse, error)
}

// Tries to renew come this far apart; half of a day is left for them.
const (
	firstRetry = time.Second
	lastRetry  = 10 * time.Minute
	renewLimit = 30 * time.Second
)

// Renew replaces the certificate and its key about half-way through its life,
// again and again, until ctx ends.
func (s *Store) Renew(ctx context.Context, region Region, log *slog.Logger) error {
	for {
		id := s.current()
		if id == nil {
			return ErrNotEnrolled
		}
		if err := backoff.Wait(ctx, time.Until(renewAt(id.chain.Leaf))); err != nil {
			return nil //nolint:nilerr // the end of ctx is the end of the work
		}
		tries := backoff.Backoff{Min: firstRetry, Max: lastRetry}
		for {
			err := s.renewOnce(ctx, region)
			if err == nil {
				log.InfoContext(ctx, "renewed the certificate", "expire_time", s.Expiry())
				break
			}
			if ctx.Err() != nil {
				return nil //nolint:nilerr // the end of ctx is the end of the work
			}
			log.WarnContext(ctx, "could not renew the certificate, will try again", "expire_time", s.Expiry(), "error", err)
			if err := backoff.Wait(ctx, tries.Next()); err != nil {
				return nil //nolint:nilerr // the end of ctx is the end of the work
			}
		}
	}
}

// renewAt is half of the certificate's life from its begin, ten percent of that
// more or less, so that racks that enrolled together do not renew together.
func renewAt(leaf *x509.Certificate) time.Time {
	half := leaf.NotAfter.Sub(leaf.NotBefore) / 2
	jitter := time.Duration((rand.Float64()*0.2 - 0.1) * float64(half)) //nolint:gosec // jitter is no secret
	return leaf.NotBefore.Add(half + jitter)
}

func (s *Store) renewOnce(ctx context.Context, region Region) error {
	id := s.current()
	if id == nil {
		return ErrNotEnrolled
	}
	key, csr, err := newKey()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, renewLimit)
	defer cancel()
	response, err := region.RenewCertificate(ctx, &rackv1.RenewCertificateRequest{Csr: csr})
	if err != nil {
		return fmt.Errorf("renew certificate: %w", err)
	}
	r := id.record
	r.Certificates, r.CAs = response.GetCertificates(), response.GetCaCertificates()
	if len(r.CAs) == 0 {
		return errors.New("renew certificate: the region named no CA")
	}
	if r.Key, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		return errors.New("encode key")
	}
	if err := s.replace(r); err != nil {
		return fmt.Errorf("renew certificate: %w", err)
	}
	return nil
}
