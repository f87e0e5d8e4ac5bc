package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"

	"google.golang.org/grpc/credentials"

	"github.com/vmhost-project/vmhost/pkg/pki"
)

// Credentials are TLS 1.3 credentials for a region or any other server of a
// deployment. They trust the authority with the pin, else the authorities in
// caPEM, else the system's.
func Credentials(caPEM []byte, caSPKI string) (credentials.TransportCredentials, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS13}
	switch {
	case caSPKI != "" && len(caPEM) > 0:
		return nil, errors.New("both a pin and certificates of authorities are given")
	case caSPKI != "":
		return pinned{credentials.NewTLS(cfg), caSPKI}, nil
	case len(caPEM) > 0:
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(caPEM) {
			return nil, errors.New("no certificate among the authorities given as PEM")
		}
	}
	return credentials.NewTLS(cfg), nil
}

// pinned makes a configuration per handshake, since pki.PinnedConfig must know
// the name that was dialled, and gRPC tells it only then.
type pinned struct {
	credentials.TransportCredentials // for everything but the handshake

	spki string
}

func (p pinned) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	cfg := pki.PinnedConfig(p.spki)
	cfg.ServerName = hostOf(authority)
	return credentials.NewTLS(cfg).ClientHandshake(ctx, authority, conn)
}

func (p pinned) Clone() credentials.TransportCredentials {
	return pinned{p.TransportCredentials.Clone(), p.spki}
}

func hostOf(authority string) string {
	host, _, err := net.SplitHostPort(authority)
	if err != nil {
		host = authority
	}
	return strings.Trim(host, "[]")
}

// bearer sends a token with every call, over TLS only.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }
