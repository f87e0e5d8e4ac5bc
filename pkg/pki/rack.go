package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// RackRequest makes a certificate request for a rack's key. It says nothing but
// the key: who the rack is, the region decides.
func RackRequest(key *ecdsa.PrivateKey) (csrDER []byte, err error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return der, nil
}

// RackCertificate issues the certificate of a rack for the key of a certificate
// request. Nothing else is taken from the request. The chain has the
// authority's certificate as its second element.
func (a *Authority) RackCertificate(csrDER []byte, deployment, rackUID string, ttl time.Duration) (chain [][]byte, serial []byte, err error) {
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		return nil, nil, fmt.Errorf("parse certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, nil, fmt.Errorf("check certificate request: %w", err)
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, nil, errors.New("check certificate request: key is not ECDSA P-256")
	}
	id, err := rackID(deployment, rackUID)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: rackUID},
		URIs:        []*url.URL{id},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := a.sign(template, key, ttl)
	if err != nil {
		return nil, nil, err
	}
	return [][]byte{der, a.cert.Raw}, template.SerialNumber.Bytes(), nil
}

// RackIdentity reads who a rack is from its certificate, which the caller has
// verified against the authority.
func RackIdentity(cert *x509.Certificate) (deployment, rackUID string, err error) {
	if len(cert.URIs) != 1 {
		return "", "", fmt.Errorf("rack certificate has %d identities, want 1", len(cert.URIs))
	}
	u := cert.URIs[0]
	uid, ok := strings.CutPrefix(u.Path, "/rack/")
	if !ok {
		return "", "", fmt.Errorf("certificate identity %q is not a rack's", u)
	}
	// Made again and compared, so that exactly one spelling is accepted.
	id, err := rackID(u.Host, uid)
	if err != nil {
		return "", "", err
	}
	if id.String() != u.String() {
		return "", "", fmt.Errorf("certificate identity %q is not a rack's", u)
	}
	return u.Host, uid, nil
}

func rackID(deployment, rackUID string) (*url.URL, error) {
	for _, s := range []string{deployment, rackUID} {
		if !plainID(s) {
			return nil, fmt.Errorf("rack identity: %q is not a plain id", s)
		}
	}
	return &url.URL{Scheme: "spiffe", Host: deployment, Path: "/rack/" + rackUID}, nil
}

// plainID allows what needs no escaping in a SPIFFE id.
func plainID(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return s != "" && len(s) <= 128
}
