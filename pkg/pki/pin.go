package pki

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"time"
)

// ErrPinMismatch means that the peer's chain does not end in the pinned authority.
var ErrPinMismatch = errors.New("server is not certified by the pinned authority")

// SPKIHash is the pin of a certificate: the SHA-256 of its public key, base64url.
func SPKIHash(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// PinnedConfig is a client's configuration that trusts one authority, known only
// by its pin. The server must send the authority's certificate with its own. Its
// name, validity and purpose are checked as always.
//
// Who dials an IP address sets ServerName on the returned value, not on a clone:
// crypto/tls tells VerifyConnection no name that it did not send, and IP
// addresses are not sent. Without a name the connection is refused.
func PinnedConfig(spkiHash string) *tls.Config {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// What the library would verify against, the authority's certificate, is
		// known only once the server has sent it; VerifyConnection does all of it,
		// on resumed connections as well.
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection verifies
	}
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		name := state.ServerName
		if name == "" {
			name = cfg.ServerName
		}
		now := time.Now()
		if cfg.Time != nil {
			now = cfg.Time()
		}
		return verifyPinned(state.PeerCertificates, name, spkiHash, now)
	}
	return cfg
}

func verifyPinned(chain []*x509.Certificate, name, spkiHash string, now time.Time) error {
	if len(chain) == 0 {
		return errors.New("verify server: no certificate")
	}
	if name == "" { // VerifyOptions with an empty name would check none
		return errors.New("verify server: no server name to check")
	}
	roots := x509.NewCertPool()
	found := false
	for _, cert := range chain[1:] {
		if cert.IsCA && subtle.ConstantTimeCompare([]byte(SPKIHash(cert)), []byte(spkiHash)) == 1 {
			roots.AddCert(cert)
			found = true
		}
	}
	if !found {
		return ErrPinMismatch
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		CurrentTime:   now,
		DNSName:       name,
		Roots:         roots,
		Intermediates: x509.NewCertPool(), // the authority signs directly
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return fmt.Errorf("verify server: %w", err)
	}
	return nil
}
