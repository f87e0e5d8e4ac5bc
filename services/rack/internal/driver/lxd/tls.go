package lxd

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"time"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const pinPrefix = "SHA256:"

var pinForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// fingerprint is what LXD's own tools show of a certificate.
func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// parsePin reads a confirmed host key. It takes LXD's own form as well.
func parsePin(hostKey string) (string, error) {
	pin := strings.ToLower(strings.TrimPrefix(strings.TrimSpace(hostKey), pinPrefix))
	if pin != "" && !pinForm.MatchString(pin) {
		return "", &hypervisor.Error{
			Class: hypervisor.ErrHostKey, Op: "verify the server's certificate", Err: errors.New("the confirmed key is no SHA256: and 64 hexadecimal digits"),
			Hint: "store the fingerprint that `vmhostctl vm-host check` shows as host_key",
		}
	}
	return pin, nil
}

// identity is what we log in with.
type identity struct {
	certificate tls.Certificate
	leaf        *x509.Certificate
}

// readIdentity reads the client certificate of a credential.
func readIdentity(credential *vmhostv1.Credential, now time.Time) (*identity, error) {
	refuse := func(text, hint string) error {
		return &hypervisor.Error{Class: hypervisor.ErrAuth, Op: "log in to LXD", Err: errors.New(text), Hint: hint}
	}
	c := credential.GetLxd()
	if c == nil || c.GetCertificatePem() == "" || c.GetPrivateKeyPem() == "" {
		return nil, refuse("no client certificate is given",
			"`vmhostctl vm-host add` makes one, and shows the line `lxc config trust add …` to type on the server; or give your own: --tls-cert FILE --tls-key FILE")
	}
	// The parser's words are left out: they may quote the key.
	pair, err := tls.X509KeyPair([]byte(c.GetCertificatePem()), []byte(c.GetPrivateKeyPem()))
	if err != nil {
		return nil, refuse("the client certificate and key cannot be read, or do not belong together", "send both in PEM format, the key without a passphrase")
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, refuse("the client certificate cannot be read", "send it in PEM format")
	}
	const again = "update the host with a credential that has a new certificate, or none: then one is generated"
	if now.After(leaf.NotAfter) {
		return nil, refuse("the client certificate expired on "+leaf.NotAfter.UTC().Format(time.RFC3339), again)
	}
	if now.Before(leaf.NotBefore) {
		return nil, refuse("the client certificate is not valid before "+leaf.NotBefore.UTC().Format(time.RFC3339), "check the clock of the rack's machine, or "+again)
	}
	return &identity{certificate: pair, leaf: leaf}, nil
}

// name is what the server's list of trusted certificates will call us.
func (i *identity) name() string {
	if i.leaf.Subject.CommonName != "" {
		return i.leaf.Subject.CommonName
	}
	return "vmhost"
}

// clientTLS is the configuration of connections to one server. pin may be empty:
// then no server is good, and the error shows the certificate that was presented.
func clientTLS(host, pin string, id *identity) *tls.Config {
	config := &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: host,
		// Not less verification but more: a certificate of LXD is made by the server
		// for itself, with names that seldom fit; it is the confirmed one or none.
		InsecureSkipVerify: true, //nolint:gosec // see VerifyConnection
		VerifyConnection:   func(state tls.ConnectionState) error { return verify(state, pin) },
		NextProtos:         []string{"http/1.1"},
	}
	if id != nil {
		config.Certificates = []tls.Certificate{id.certificate}
	}
	return config
}

func verify(state tls.ConnectionState, pin string) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the server presents no certificate")
	}
	presented := fingerprint(state.PeerCertificates[0].Raw)
	refuse := func(err error, hint string) error {
		return &hypervisor.Error{
			Class: hypervisor.ErrHostKey, Op: "verify the server's certificate", Err: err, PresentedHostKey: pinPrefix + presented, Hint: hint,
		}
	}
	if pin == "" {
		return refuse(errors.New("no certificate is confirmed for this host"), "compare "+presented+" with what `lxc info` shows on the server, and confirm it")
	}
	if subtle.ConstantTimeCompare([]byte(pin), []byte(presented)) != 1 {
		return refuse(fmt.Errorf("the server presents %s, confirmed is %s", presented, pin),
			"if the server's certificate was renewed or it joined a cluster, confirm the new one; if not, somebody may be answering in its place")
	}
	return nil
}

// dialTLS connects and makes sure that it is the confirmed server.
func dialTLS(ctx context.Context, address string, config *tls.Config) (net.Conn, error) {
	var dialer net.Dialer
	raw, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	conn := tls.Client(raw, config)
	err = conn.HandshakeContext(ctx)
	if !stop() || err != nil {
		_ = raw.Close()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("TLS handshake: %w", ctx.Err())
		}
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return &tlsConn{Conn: conn, raw: raw}, nil
}

// tlsConn closes what is below: tls.Conn's own Close waits up to five seconds to
// say good-bye.
type tlsConn struct {
	*tls.Conn
	raw net.Conn
}

// Close never waits.
func (c *tlsConn) Close() error { return c.raw.Close() }

var errSeen = errors.New("the certificate was seen")

// presentedPin reads the server's certificate and ends the handshake there:
// nothing of ours was sent.
func presentedPin(ctx context.Context, address hypervisor.Address) (string, error) {
	var pin string
	config := clientTLS(address.Host, "", nil)
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) > 0 {
			pin = fingerprint(state.PeerCertificates[0].Raw)
		}
		return errSeen
	}
	conn, err := dialTLS(ctx, address.HostPort(), config)
	if conn != nil {
		_ = conn.Close()
	}
	if pin == "" {
		return "", err
	}
	return pin, nil
}
