package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// statEvery is how often files are looked at for a change: soon enough for a
// renewal, seldom enough for many handshakes.
const statEvery = 10 * time.Second

// CertificateFiles serves a certificate out of files that the operator keeps
// fresh, and reads them again when they change. Should the new ones be
// unreadable, the old certificate stays.
type CertificateFiles struct {
	certFile, keyFile string
	log               *slog.Logger

	mu      sync.Mutex
	cert    *tls.Certificate
	looked  time.Time
	changed time.Time
}

// LoadCertificateFiles reads a chain and its key, both PEM.
func LoadCertificateFiles(certFile, keyFile string, log *slog.Logger) (*CertificateFiles, error) {
	c := &CertificateFiles{certFile: certFile, keyFile: keyFile, log: log}
	if err := c.read(c.modified()); err != nil {
		return nil, err
	}
	c.looked = time.Now()
	return c, nil
}

// Get is a tls.Config's GetCertificate.
func (c *CertificateFiles) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.looked) >= statEvery {
		c.looked = now
		if changed := c.modified(); changed.After(c.changed) {
			if err := c.read(changed); err != nil {
				c.log.WarnContext(hello.Context(), "the changed certificate cannot be read; the old one is kept", "error", err)
			}
		}
	}
	return c.cert, nil
}

// modified is when the younger of the files changed.
func (c *CertificateFiles) modified() time.Time {
	var newest time.Time
	for _, name := range []string{c.certFile, c.keyFile} {
		if info, err := os.Stat(name); err == nil && info.ModTime().After(newest) {
			newest = info.ModTime()
		}
	}
	return newest
}

func (c *CertificateFiles) read(changed time.Time) error {
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("read certificate: %w", err)
	}
	c.cert, c.changed = &cert, changed
	return nil
}

// EncodeCertificate is a certificate's chain and its key in PEM, as
// LoadCertificateFiles reads them.
func EncodeCertificate(cert tls.Certificate) (certPEM, keyPEM []byte, err error) {
	for _, der := range cert.Certificate {
		certPEM = append(certPEM, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the key: %w", err)
	}
	return certPEM, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
