// Package pki holds the keys and certificates of a deployment: its authority,
// the certificates of its servers and racks, pins of the authority, the token
// with which a rack joins, and the sealing of credentials to one rack.
//
// Keys are ECDSA P-256, connections TLS 1.3. Everything is a value: the package
// reads and writes no file, keeps no state and starts no goroutine. Keeping the
// authority's key secret, and knowing which serials are still good, is the
// region's work.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// skew is how far back certificates reach, for peers whose clock is behind.
const skew = 5 * time.Minute

// authorityLife is long, since an authority cannot be replaced without telling
// everybody who pinned it.
const authorityLife = 20 * 365 * 24 * time.Hour

// Authority signs the certificates of one deployment. It is safe for use by
// several goroutines at once.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes an authority with a new key.
func NewAuthority(deployment string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority key: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: "vmhost " + deployment},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign authority certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse authority certificate: %w", err)
	}
	return &Authority{cert: cert, key: key}, nil
}

// LoadAuthority reads what CertDER and KeyDER gave.
func LoadAuthority(certDER, keyDER []byte) (*Authority, error) {
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, fmt.Errorf("parse authority certificate: %w", err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return nil, fmt.Errorf("parse authority key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	switch {
	case !ok:
		return nil, fmt.Errorf("authority key is a %T, want ECDSA", parsed)
	case !cert.IsCA:
		return nil, errors.New("certificate is not an authority's")
	case !key.PublicKey.Equal(cert.PublicKey):
		return nil, errors.New("authority key and certificate do not belong together")
	}
	return &Authority{cert: cert, key: key}, nil
}

// CertDER is the certificate, which may be shown to anybody.
func (a *Authority) CertDER() []byte { return a.cert.Raw }

// Certificate is the certificate, not to be modified.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// KeyDER is the key in PKCS #8, to be kept secret.
func (a *Authority) KeyDER() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return nil, fmt.Errorf("marshal authority key: %w", err)
	}
	return der, nil
}

// sign issues a certificate that outlives the authority in no case.
func (a *Authority) sign(template *x509.Certificate, public any, ttl time.Duration) ([]byte, error) {
	if ttl <= 0 {
		return nil, fmt.Errorf("lifetime %s is not positive", ttl)
	}
	now := time.Now()
	template.SerialNumber = newSerial()
	template.NotBefore = now.Add(-skew)
	template.NotAfter = now.Add(ttl)
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return der, nil
}

// newSerial makes a positive serial of 127 random bits (RFC 5280 allows 20 bytes).
func newSerial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, says crypto/rand
	b[0] &= 0x7f
	b[15] |= 1
	return new(big.Int).SetBytes(b[:])
}
