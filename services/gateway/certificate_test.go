package gateway

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
	cfg := TLSConfig{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	write := func(age time.Duration) {
		t.Helper()
		cert, err := ca.ServerCertificate([]string{"gateway.test"}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		WriteCertificate(t, cfg, cert)
		for _, file := range []string{cfg.CertFile, cfg.KeyFile} {
			stamp := time.Now().Add(-age)
			if err := os.Chtimes(file, stamp, stamp); err != nil {
				t.Fatal(err)
			}
		}
	}
	synctest.Test(t, func(t *testing.T) {
		write(time.Hour)
		c, err := loadCertificate(cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		get := func() *tls.Certificate {
			t.Helper()
			cert, err := c.get(&tls.ClientHelloInfo{})
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
		time.Sleep(statEvery) //nolint:forbidigo // fake clock
		second := get()
		if second == first {
			t.Error("the changed certificate was not read")
		}
		if err := os.WriteFile(cfg.CertFile, []byte("broken"), 0o600); err != nil {
			t.Fatal(err)
		}
		stamp := time.Now()
		if err := os.Chtimes(cfg.CertFile, stamp, stamp); err != nil {
			t.Fatal(err)
		}
		time.Sleep(statEvery) //nolint:forbidigo // fake clock
		if get() != second {
			t.Error("the old certificate was not kept")
		}
	})
	if _, err := loadCertificate(TLSConfig{CertFile: "none", KeyFile: "none"}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("missing files were read")
	}
}
