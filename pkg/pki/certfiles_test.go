package pki_test

import (
	"crypto/tls"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmhost-project/vmhost/pkg/pki"
)

func TestAChangedCertificateIsReadAndABrokenOneIsNot(t *testing.T) {
	ca, err := pki.NewAuthority("d")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write := func(age time.Duration) {
		t.Helper()
		cert, err := ca.ServerCertificate([]string{"gateway.test"}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		certPEM, keyPEM, err := pki.EncodeCertificate(cert)
		if err != nil {
			t.Fatal(err)
		}
		for file, data := range map[string][]byte{certFile: certPEM, keyFile: keyPEM} {
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, file := range []string{certFile, keyFile} {
			stamp := time.Now().Add(-age)
			if err := os.Chtimes(file, stamp, stamp); err != nil {
				t.Fatal(err)
			}
		}
	}
	synctest.Test(t, func(t *testing.T) {
		write(time.Hour)
		c, err := pki.LoadCertificateFiles(certFile, keyFile, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		get := func() *tls.Certificate {
			t.Helper()
			cert, err := c.Get(&tls.ClientHelloInfo{})
			if err != nil {
				t.Fatal(err)
			}
			return cert
		}
		first := get()
		write(time.Minute)
		if get() != first {
			t.Error("the files were looked at again at once")
		}
		time.Sleep(10 * time.Second) //nolint:forbidigo // fake clock
		second := get()
		if second == first {
			t.Error("the changed certificate was not read")
		}
		if err := os.WriteFile(certFile, []byte("broken"), 0o600); err != nil {
			t.Fatal(err)
		}
		stamp := time.Now()
		if err := os.Chtimes(certFile, stamp, stamp); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second) //nolint:forbidigo // fake clock
		if get() != second {
			t.Error("the old certificate was not kept")
		}
	})
	if _, err := pki.LoadCertificateFiles("none", "none", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("missing files were read")
	}
}
