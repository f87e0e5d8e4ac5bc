package gateway

import (
	"crypto/tls"
	"os"
	"testing"

	"github.com/vmhost-project/vmhost/pkg/pki"
)

// WriteCertificate writes a certificate's files.
func WriteCertificate(t *testing.T, cfg TLSConfig, cert tls.Certificate) {
	t.Helper()
	certPEM, keyPEM, err := pki.EncodeCertificate(cert)
	if err != nil {
		t.Fatal(err)
	}
	for file, data := range map[string][]byte{
		cfg.CertFile: certPEM, cfg.KeyFile: keyPEM,
	} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
