package main

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

func TestCertificatesAreOfOneAuthorityThatStays(t *testing.T) {
	authority, region, gateway := t.TempDir(), t.TempDir(), t.TempDir()
	args := []string{"certificates", "--authority", authority, region + "=region,localhost", gateway + "=gateway,127.0.0.1"}
	var first []byte
	for range 2 {
		if err := run(t.Context(), args, io.Discard); err != nil {
			t.Fatal(err)
		}
		ca, err := os.ReadFile(filepath.Join(gateway, "ca.pem"))
		if err != nil {
			t.Fatal(err)
		}
		if first != nil && string(first) != string(ca) {
			t.Error("the second run made another authority")
		}
		first = ca
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(first)
	for dir, name := range map[string]string{region: "region", gateway: "127.0.0.1"} {
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls.pem"), filepath.Join(dir, "tls.key"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots}); err != nil {
			t.Errorf("certificate in %s for %s: %v", dir, name, err)
		}
		info, err := os.Stat(filepath.Join(dir, "tls.key"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("key in %s: %v, %v, want mode 0600", dir, info.Mode(), err)
		}
	}
}

func TestAProbeFailsUnlessTheAnswerIs200(t *testing.T) {
	code := http.StatusOK
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }))
	defer s.Close()
	if err := run(t.Context(), []string{"probe", s.URL}, io.Discard); err != nil {
		t.Errorf("probe of 200: %v", err)
	}
	code = http.StatusServiceUnavailable
	if err := run(t.Context(), []string{"probe", s.URL}, io.Discard); err == nil {
		t.Error("probe of 503 succeeded")
	}
	s.Close()
	if err := run(t.Context(), []string{"probe", s.URL}, io.Discard); err == nil {
		t.Error("probe of nobody succeeded")
	}
}
