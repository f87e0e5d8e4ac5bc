package libvirt

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

const pinPrefix = "SHA256:"

// pinOf is the form that host_key takes for TLS.
func pinOf(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return pinPrefix + base64.RawStdEncoding.EncodeToString(sum[:])
}

// dialTLS connects to libvirtd's own TLS listener.
func dialTLS(ctx context.Context, target hypervisor.Target) (*guardedConn, error) {
	config, err := tlsConfig(target)
	if err != nil {
		return nil, err
	}
	var dialer net.Dialer
	raw, err := dialer.DialContext(ctx, "tcp", target.Address.HostPort())
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	conn := tls.Client(raw, config)
	if err = conn.HandshakeContext(ctx); err == nil {
		err = admitted(conn)
	}
	if !stop() || err != nil {
		_ = raw.Close()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("TLS handshake: %w", ctx.Err())
		}
		return nil, tlsError(err)
	}
	// tls.Conn's own Close waits up to five seconds to say good-bye.
	return guard(conn, raw.Close), nil
}

var errNotAdmitted = errors.New("the server closed the connection instead of admitting the client certificate")

// admitted reads the byte that libvirtd sends once it has accepted the client's
// certificate. Otherwise it closes the connection: with TLS 1.3 the handshake has
// then already succeeded on this side.
func admitted(conn io.Reader) error {
	var b [1]byte
	if _, err := io.ReadFull(conn, b[:]); errors.Is(err, io.EOF) {
		return errNotAdmitted
	} else if err != nil {
		return err
	}
	if b[0] != 1 {
		return errNotAdmitted
	}
	return nil
}

func tlsConfig(target hypervisor.Target) (*tls.Config, error) {
	credential := target.Credential.GetTls()
	refuse := func(text, hint string) error {
		return &hypervisor.Error{Class: hypervisor.ErrAuth, Op: "log in by TLS", Err: errors.New(text), Hint: hint}
	}
	if credential == nil {
		return nil, refuse("no TLS client certificate is stored for the host", "send certificate, key and CA with the host's credential")
	}
	// The parser's words are left out: they may quote the key.
	cert, err := tls.X509KeyPair([]byte(credential.GetCertificatePem()), []byte(credential.GetPrivateKeyPem()))
	if err != nil {
		return nil, refuse("the client certificate and key cannot be read, or do not belong together", "send both in PEM format")
	}
	var roots *x509.CertPool
	if pem := credential.GetCaPem(); pem != "" {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(pem)) {
			return nil, refuse("the CA cannot be read", "send it in PEM format")
		}
	}
	pin := strings.TrimRight(strings.TrimSpace(target.HostKey), "=")
	if pin != "" && !strings.HasPrefix(pin, pinPrefix) {
		return nil, &hypervisor.Error{
			Class: hypervisor.ErrHostKey, Op: "verify the server's certificate", Err: errors.New("the confirmed key is no SHA256: fingerprint"),
			Hint: "store the fingerprint that `vmhostctl vm-host check` shows as host_key",
		}
	}
	verifier := &serverVerifier{host: target.Address.Host, roots: roots, pin: pin}
	return &tls.Config{
		// libvirtd's TLS is GnuTLS, which may be old enough to have no 1.3.
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{cert},
		ServerName:   target.Address.Host,
		// Not less verification but more: VerifyConnection checks the chain and
		// the name against the CA, and the certificate against the pin.
		InsecureSkipVerify: true, //nolint:gosec // see VerifyConnection
		VerifyConnection:   verifier.verify,
	}, nil
}

// serverVerifier decides whether a server is the confirmed one. Where there are
// a CA and a pin, both must hold; where there is neither, nothing does.
type serverVerifier struct {
	host  string
	roots *x509.CertPool
	pin   string
}

func (v *serverVerifier) verify(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the server presents no certificate")
	}
	leaf := state.PeerCertificates[0]
	presented := pinOf(leaf)
	refuse := func(err error) error {
		return &hypervisor.Error{
			Class: hypervisor.ErrHostKey, Op: "verify the server's certificate", Err: err, PresentedHostKey: presented,
			Hint: "if the host's certificate was renewed, confirm the new one; if not, somebody may be answering in its place",
		}
	}
	if v.pin == "" && v.roots == nil {
		return refuse(errors.New("neither a CA nor a confirmed certificate is known for this host"))
	}
	if v.pin != "" && subtle.ConstantTimeCompare([]byte(v.pin), []byte(presented)) != 1 {
		return refuse(fmt.Errorf("the server presents %s, confirmed is %s", presented, v.pin))
	}
	if v.roots == nil {
		return nil
	}
	options := x509.VerifyOptions{Roots: v.roots, DNSName: v.host, Intermediates: x509.NewCertPool()}
	for _, c := range state.PeerCertificates[1:] {
		options.Intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(options); err != nil {
		return refuse(err)
	}
	return nil
}

// tlsError tells a refused certificate from an unreachable server.
func tlsError(err error) error {
	if e, ok := errors.AsType[*hypervisor.Error](err); ok {
		return e
	}
	// An alert that the server sent is a tls.AlertError inside a net.OpError; all
	// that a libvirtd sends during or right after the handshake are about the
	// client's certificate or the TLS version.
	_, alert := errors.AsType[tls.AlertError](err)
	op, remote := errors.AsType[*net.OpError](err)
	if errors.Is(err, errNotAdmitted) || alert || (remote && op.Op == "remote error") {
		return &hypervisor.Error{
			Class: hypervisor.ErrAuth, Op: "log in by TLS", Err: err,
			Hint: "check that the server's CA signed the client certificate and that tls_allowed_dn_list, if set, has its name",
		}
	}
	return err
}

var errSeen = errors.New("the certificate was seen")

// tlsPin reads the server's certificate and ends the handshake there: nothing of
// ours was sent.
func tlsPin(ctx context.Context, address hypervisor.Address) (string, error) {
	var dialer net.Dialer
	raw, err := dialer.DialContext(ctx, "tcp", address.HostPort())
	if err != nil {
		return "", err
	}
	defer func() { _ = raw.Close() }()
	var pin string
	conn := tls.Client(raw, &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         address.Host,
		InsecureSkipVerify: true, //nolint:gosec // the certificate is only shown, and nothing is sent
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) > 0 {
				pin = pinOf(state.PeerCertificates[0])
			}
			return errSeen
		},
	})
	if err := conn.HandshakeContext(ctx); pin == "" {
		return "", fmt.Errorf("TLS handshake: %w", err)
	}
	return pin, nil
}
