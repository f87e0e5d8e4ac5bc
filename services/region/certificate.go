package region

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/vmhost-project/vmhost/pkg/pki"
)

// serverTTL is how long a server certificate of our own is good. It is replaced
// at half of that, while connections come in.
const serverTTL = 30 * 24 * time.Hour

// issued is a server certificate of the deployment's authority.
type issued struct {
	authority *pki.Authority
	names     []string

	mu    sync.Mutex
	cert  *tls.Certificate
	renew time.Time
}

func (i *issued) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if now := time.Now(); i.cert == nil || now.After(i.renew) {
		cert, err := i.authority.ServerCertificate(i.names, serverTTL)
		if err != nil {
			return nil, fmt.Errorf("issue the server's certificate: %w", err)
		}
		i.cert, i.renew = &cert, now.Add(serverTTL/2)
	}
	return i.cert, nil
}

// fromFiles is a certificate that the operator keeps fresh: it is read again
// when its file has changed. A pair that is being replaced is not used by half.
type fromFiles struct {
	TLSConfig

	mu      sync.Mutex
	cert    *tls.Certificate
	changed time.Time
}

func (f *fromFiles) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.CertFile)
	if err == nil && f.cert != nil && info.ModTime().Equal(f.changed) {
		return f.cert, nil
	}
	if err == nil {
		var cert tls.Certificate
		if cert, err = tls.LoadX509KeyPair(f.CertFile, f.KeyFile); err == nil {
			f.cert, f.changed = &cert, info.ModTime()
		}
	}
	if f.cert == nil {
		return nil, fmt.Errorf("read the server's certificate: %w", err)
	}
	return f.cert, nil
}

type certificate interface {
	get(hello *tls.ClientHelloInfo) (*tls.Certificate, error)
}

// apiTLS is for the API: the caller proves itself by a bearer token.
func apiTLS(cert certificate) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: cert.get}
}

// rackTLS is for racks: a certificate that is sent must be the deployment's.
// Whether one is needed is decided per call, since a rack enrols without.
func rackTLS(cert certificate, authority *pki.Authority) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(authority.Certificate())
	return &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: cert.get, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool}
}

func encodeKey(key any) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// CertificateSource gives the certificate of another server in this process, for
// the same names as the region's own, and replaces it in time.
func (r *Region) CertificateSource() func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return (&issued{authority: r.deployment.Authority, names: r.cfg.certificateNames()}).get
}
