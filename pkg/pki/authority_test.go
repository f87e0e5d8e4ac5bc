package pki_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/vmhost-project/vmhost/pkg/pki"
)

const (
	deployment = "01980000-0000-7000-8000-000000000001"
	rackUID    = "01980000-0000-7000-8000-000000000002"
)

func newAuthority(t *testing.T) *pki.Authority {
	t.Helper()
	a, err := pki.NewAuthority(deployment)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func parse(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestAnAuthorityLoadsFromWhatItGave(t *testing.T) {
	a := newAuthority(t)
	key, err := a.KeyDER()
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := pki.LoadAuthority(a.CertDER(), key)
	if err != nil {
		t.Fatal(err)
	}
	if pki.SPKIHash(loaded.Certificate()) != pki.SPKIHash(a.Certificate()) {
		t.Error("loaded authority has another pin")
	}
	if _, err := pki.LoadAuthority(newAuthority(t).CertDER(), key); err == nil {
		t.Error("a certificate with another authority's key was loaded")
	}
	server, err := a.ServerCertificate([]string{"localhost"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.LoadAuthority(server.Certificate[0], key); err == nil {
		t.Error("a server's certificate was loaded as an authority")
	}
}

func TestARackCertificateSaysWhoTheRackIsAndNothingElse(t *testing.T) {
	a := newAuthority(t)
	key := newKey(t)
	csr, err := pki.RackRequest(key)
	if err != nil {
		t.Fatal(err)
	}
	chain, serial, err := a.RackCertificate(csr, deployment, rackUID, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert := parse(t, chain[0])
	roots := x509.NewCertPool()
	roots.AddCert(parse(t, chain[1]))
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("verify as a client: %v", err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		t.Error("a rack's certificate may act as a server")
	}
	gotDeployment, gotRack, err := pki.RackIdentity(cert)
	if err != nil || gotDeployment != deployment || gotRack != rackUID {
		t.Errorf("RackIdentity = %s, %s, %v", gotDeployment, gotRack, err)
	}
	if !bytes.Equal(serial, cert.SerialNumber.Bytes()) {
		t.Errorf("serial = %x, want %x", serial, cert.SerialNumber.Bytes())
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		t.Error("certificate is for another key")
	}
	if left := time.Until(cert.NotAfter); left < 23*time.Hour || left > 24*time.Hour {
		t.Errorf("certificate is valid for %s, want 24h", left)
	}
}

func TestRackCertificatesAreRefused(t *testing.T) {
	a := newAuthority(t)
	good, err := pki.RackRequest(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	otherCurve, err := pki.RackRequest(p384)
	if err != nil {
		t.Fatal(err)
	}
	forged := bytes.Clone(good)
	forged[len(forged)-1] ^= 1
	for _, tt := range []struct {
		name       string
		csr        []byte
		deployment string
		rack       string
		ttl        time.Duration
	}{
		{"no request", nil, deployment, rackUID, time.Hour},
		{"signature broken", forged, deployment, rackUID, time.Hour},
		{"another curve", otherCurve, deployment, rackUID, time.Hour},
		{"path in the rack's id", good, deployment, "a/b", time.Hour},
		{"no deployment", good, "", rackUID, time.Hour},
		{"no lifetime", good, deployment, rackUID, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, _, err := a.RackCertificate(tt.csr, tt.deployment, tt.rack, tt.ttl); err == nil {
				t.Error("a certificate was issued")
			}
		})
	}
}

func TestOnlyARacksIdentityIsARackIdentity(t *testing.T) {
	for _, tt := range []struct{ name, uris string }{
		{"none", ""},
		{"two", "spiffe://d/rack/a spiffe://d/rack/b"},
		{"region", "spiffe://d/region/a"},
		{"other scheme", "https://d/rack/a"},
		{"query", "spiffe://d/rack/a?x=1"},
		{"user", "spiffe://u@d/rack/a"},
		{"port", "spiffe://d:1/rack/a"},
		{"deeper path", "spiffe://d/rack/a/b"},
		{"escaped slash", "spiffe://d/rack/a%2Fb"},
		{"upper case", "spiffe://d/rack/A"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var cert x509.Certificate
			for s := range strings.FieldsSeq(tt.uris) {
				u, err := url.Parse(s)
				if err != nil {
					t.Fatal(err)
				}
				cert.URIs = append(cert.URIs, u)
			}
			if d, r, err := pki.RackIdentity(&cert); err == nil {
				t.Errorf("RackIdentity = %q, %q, want an error", d, r)
			}
		})
	}
}
