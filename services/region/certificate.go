package region

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
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

// certificate is a tls.Config's GetCertificate.
type certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// apiTLS is for the API: the caller proves itself by a bearer token.
func apiTLS(cert certificate) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: cert}
}

// rackTLS is for racks: a certificate that is sent must be the deployment's.
// Whether one is needed is decided per call, since a rack enrols without.
func rackTLS(cert certificate, authority *pki.Authority) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(authority.Certificate())
	return &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: cert, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool}
}

// CertificateSource gives the certificate of another server in this process, for
// the same names as the region's own, and replaces it in time.
func (r *Region) CertificateSource() func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return (&issued{authority: r.deployment.Authority, names: r.cfg.certificateNames()}).get
}
