package pki_test

import (
	"crypto/tls"
	"testing"
	"time"

	"github.com/vmhost-project/vmhost/pkg/pki"
)

func TestAClientCertificateIsOneOfAKindAndGoodForItsTime(t *testing.T) {
	certPEM, keyPEM, err := pki.NewClientCertificate("vmhost-h1", 48*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatalf("certificate and key do not belong together: %v", err)
	}
	if pair.Leaf.Subject.CommonName != "vmhost-h1" || time.Until(pair.Leaf.NotAfter) < 47*time.Hour || time.Until(pair.Leaf.NotAfter) > 49*time.Hour {
		t.Errorf("certificate of %q until %v", pair.Leaf.Subject.CommonName, pair.Leaf.NotAfter)
	}
	if err := pair.Leaf.CheckSignature(pair.Leaf.SignatureAlgorithm, pair.Leaf.RawTBSCertificate, pair.Leaf.Signature); err != nil {
		t.Errorf("not signed by itself: %v", err)
	}
	other, _, err := pki.NewClientCertificate("vmhost-h1", time.Hour)
	if err != nil || string(other) == string(certPEM) {
		t.Errorf("two certificates are the same, or %v", err)
	}
}
