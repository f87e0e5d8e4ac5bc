package pki_test

import (
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/vmhost-project/vmhost/pkg/pki"
)

// handshake lets a client with the configuration meet a server with the certificate.
func handshake(t *testing.T, cert tls.Certificate, cfg *tls.Config) error {
	t.Helper()
	server, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := server.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("x")) // shakes hands first
	}()
	defer func() { server.Close(); <-done }()
	conn, err := net.Dial("tcp", server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = tls.Client(conn, cfg).Read(make([]byte, 1))
	return err
}

func TestAPinTrustsItsAuthorityAndNobodyElse(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	pin := pki.SPKIHash(a.Certificate())
	issue := func(a *pki.Authority, names ...string) tls.Certificate {
		cert, err := a.ServerCertificate(names, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	good := issue(a, "region.test", "127.0.0.1")
	bare := good
	bare.Certificate = good.Certificate[:1]
	// An impostor can send our authority's public certificate; it signed nothing of his.
	impostor := issue(other, "region.test")
	impostor.Certificate = append(impostor.Certificate, a.CertDER())

	rackKey := newKey(t)
	csr, err := pki.RackRequest(rackKey)
	if err != nil {
		t.Fatal(err)
	}
	chain, _, err := a.RackCertificate(csr, deployment, rackUID, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	rack := tls.Certificate{Certificate: chain, PrivateKey: rackKey}

	for _, tt := range []struct {
		name, serverName string
		cert             tls.Certificate
		ok               bool
	}{
		{"the pinned authority", "region.test", good, true},
		{"by address", "127.0.0.1", good, true},
		{"another name", "else.test", good, false},
		{"another address", "127.0.0.2", good, false},
		{"no name", "", good, false},
		{"another authority", "region.test", issue(other, "region.test"), false},
		{"chain without the authority", "region.test", bare, false},
		{"our authority in an impostor's chain", "region.test", impostor, false},
		{"a rack that plays region", "region.test", rack, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := pki.PinnedConfig(pin)
			cfg.ServerName = tt.serverName
			if err := handshake(t, tt.cert, cfg); (err == nil) != tt.ok {
				t.Errorf("handshake = %v, want success %v", err, tt.ok)
			}
		})
	}

	cfg := pki.PinnedConfig(pki.SPKIHash(other.Certificate()))
	cfg.ServerName = "region.test"
	if err := handshake(t, good, cfg); !errors.Is(err, pki.ErrPinMismatch) {
		t.Errorf("handshake with another pin = %v, want %v", err, pki.ErrPinMismatch)
	}
}

func TestAnExpiredServerIsRefused(t *testing.T) {
	a := newAuthority(t)
	cert, err := a.ServerCertificate([]string{"region.test"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cfg := pki.PinnedConfig(pki.SPKIHash(a.Certificate()))
	cfg.ServerName = "region.test"
	cfg.Time = func() time.Time { return time.Now().Add(2 * time.Hour) }
	if err := handshake(t, cert, cfg); err == nil {
		t.Error("a certificate was accepted an hour after its end")
	}
}

func TestAServerNeedsANameAndALifetime(t *testing.T) {
	a := newAuthority(t)
	if _, err := a.ServerCertificate(nil, time.Hour); err == nil {
		t.Error("a certificate without a name was issued")
	}
	if _, err := a.ServerCertificate([]string{"x"}, 0); err == nil {
		t.Error("a certificate without a lifetime was issued")
	}
}
