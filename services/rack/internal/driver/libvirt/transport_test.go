package libvirt

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// sshServer is an SSH server in this process that forwards to a unix socket.
type sshServer struct {
	listener net.Listener
	keys     []ssh.Signer
	wg       sync.WaitGroup
	mu       sync.Mutex
	conns    map[net.Conn]bool
	to       string
	reject   ssh.RejectionReason
	tried    atomic.Int32 // logins
	mute     atomic.Bool
}

func newSSHServer(t testing.TB, to string, keys ...ssh.Signer) *sshServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &sshServer{listener: l, keys: keys, to: to, conns: map[net.Conn]bool{}}
	s.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[conn] = true
			s.mu.Unlock()
			s.wg.Go(func() {
				s.serve(conn)
				_ = conn.Close()
				s.mu.Lock()
				delete(s.conns, conn)
				s.mu.Unlock()
			})
		}
	})
	t.Cleanup(s.stop)
	return s
}

func (s *sshServer) stop() {
	_ = s.listener.Close()
	s.mu.Lock()
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *sshServer) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func (s *sshServer) serve(conn net.Conn) {
	if s.mute.Load() {
		_, _ = io.Copy(io.Discard, conn)
		return
	}
	config := &ssh.ServerConfig{PasswordCallback: func(_ ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
		s.tried.Add(1)
		if string(password) != "secret" {
			return nil, errors.New("no")
		}
		return &ssh.Permissions{}, nil
	}}
	for _, k := range s.keys {
		config.AddHostKey(k)
	}
	server, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	defer server.Close()
	s.wg.Go(func() { ssh.DiscardRequests(requests) })
	for n := range channels {
		if n.ChannelType() != "direct-streamlocal@openssh.com" || s.reject != 0 {
			_ = n.Reject(s.reject, "no")
			continue
		}
		channel, requests, err := n.Accept()
		if err != nil {
			return
		}
		s.wg.Go(func() { ssh.DiscardRequests(requests) })
		socket, err := net.Dial("unix", s.to)
		if err != nil {
			_ = channel.Close()
			continue
		}
		s.wg.Go(func() { _, _ = io.Copy(socket, channel); _ = socket.Close() })
		s.wg.Go(func() { _, _ = io.Copy(channel, socket); _ = channel.Close() })
	}
}

func (s *sshServer) target(t testing.TB, hostKey, password string) hypervisor.Target {
	t.Helper()
	return hypervisor.Target{
		Address: mustParse(t, "qemu+ssh://root@"+s.listener.Addr().String()+"/system"), HostKey: hostKey,
		Credential: &vmhostv1.Credential{Kind: &vmhostv1.Credential_Password{Password: password}},
	}
}

func TestAnyConfirmedKeyOfAServerWithSeveralIsKnown(t *testing.T) {
	keys := newSigners(t)
	s := newSSHServer(t, newFakeLibvirtd(t).path(), keys...)
	o := NewOpener(Config{})
	for _, k := range keys {
		for _, confirmed := range []string{
			authorizedKey(k.PublicKey()), authorizedKey(k.PublicKey()) + " a comment\n",
			ssh.FingerprintSHA256(k.PublicKey()), ssh.FingerprintSHA256(k.PublicKey()) + "=",
		} {
			d, err := o.Open(timeout(t, 10*time.Second), s.target(t, confirmed, "secret"))
			if err != nil {
				t.Errorf("%s, confirmed as %q: %v", k.PublicKey().Type(), confirmed, err)
				continue
			}
			_ = d.Close()
		}
	}
}

func TestAnotherHostKeyIsRefusedShownAndToldNothing(t *testing.T) {
	keys := newSigners(t)
	other := newSigners(t)
	s := newSSHServer(t, "/nonexistent", keys...)
	o := NewOpener(Config{})
	for _, confirmed := range []string{
		authorizedKey(other[0].PublicKey()), authorizedKey(other[1].PublicKey()), authorizedKey(other[2].PublicKey()),
		ssh.FingerprintSHA256(other[2].PublicKey()), "SHA256:", "", "nonsense",
	} {
		_, err := o.Open(timeout(t, 10*time.Second), s.target(t, confirmed, "secret"))
		wantClass(t, err, hypervisor.ErrHostKey)
		e, ok := errors.AsType[*hypervisor.Error](err)
		if !ok || e.Hint == "" {
			t.Errorf("%q: no hint in %v", confirmed, err)
		}
		if strings.Contains(confirmed, " ") || len(confirmed) > 20 {
			if _, err := parseHostKey(e.PresentedHostKey); err != nil || e.PresentedHostKey == confirmed {
				t.Errorf("%q: presented key is shown as %q", confirmed, e.PresentedHostKey)
			}
		}
	}
	// A server that has lost the confirmed type shows what it has.
	one := newSSHServer(t, "/nonexistent", keys[2])
	_, err := o.Open(timeout(t, 10*time.Second), one.target(t, authorizedKey(keys[0].PublicKey()), "secret"))
	wantClass(t, err, hypervisor.ErrHostKey)
	if e, _ := errors.AsType[*hypervisor.Error](err); e.PresentedHostKey != authorizedKey(keys[2].PublicKey()) {
		t.Errorf("presented key is shown as %q", e.PresentedHostKey)
	}
	if s.tried.Load()+one.tried.Load() != 0 {
		t.Error("a password was sent to a server that is not the confirmed one (P8)")
	}
}

func TestTheHostKeyIsReadWithoutLoggingIn(t *testing.T) {
	keys := newSigners(t) // rsa, ecdsa, ed25519
	for n := 1; n <= len(keys); n++ {
		s := newSSHServer(t, "/nonexistent", keys[:n]...)
		key, fingerprint, err := NewOpener(Config{}).HostKey(timeout(t, 10*time.Second), s.target(t, "", "").Address)
		want := keys[n-1].PublicKey()
		if err != nil || key != authorizedKey(want) || fingerprint != ssh.FingerprintSHA256(want) {
			t.Errorf("of %d keys %q %q is shown, error %v; want %s", n, key, fingerprint, err, want.Type())
		}
		if s.tried.Load() != 0 {
			t.Error("a login was tried")
		}
		eventually(t, "the connection is closed", func() bool { return s.open() == 0 })
	}
}

func TestSSHFailuresAreClassed(t *testing.T) {
	key := newSigner(t)
	confirmed := authorizedKey(key.PublicKey())
	s := newSSHServer(t, "/nonexistent", key)
	o := NewOpener(Config{DialTimeout: 300 * time.Millisecond})
	open := func(target hypervisor.Target) error {
		t.Helper()
		began := time.Now()
		_, err := o.Open(t.Context(), target)
		if time.Since(began) > 3*time.Second {
			t.Errorf("took %v", time.Since(began))
		}
		return err
	}
	wantClass(t, open(s.target(t, confirmed, "wrong")), hypervisor.ErrAuth)
	for _, credential := range []*vmhostv1.Credential{
		nil, {Kind: &vmhostv1.Credential_SshPrivateKey{SshPrivateKey: "-----BEGIN SECRET-----"}}, selfSigned(t),
	} {
		target := s.target(t, confirmed, "")
		target.Credential = credential
		err := open(target)
		wantClass(t, err, hypervisor.ErrAuth)
		if strings.Contains(err.Error(), "BEGIN") {
			t.Errorf("the credential is in %v (P8)", err)
		}
	}
	s.reject = ssh.Prohibited
	wantClass(t, open(s.target(t, confirmed, "secret")), hypervisor.ErrRefused)
	s.reject = ssh.ConnectionFailed
	wantClass(t, open(s.target(t, confirmed, "secret")), hypervisor.ErrUnreachable)
	s.mute.Store(true)
	wantClass(t, open(s.target(t, confirmed, "secret")), hypervisor.ErrUnreachable)
	_, _, err := o.HostKey(t.Context(), s.target(t, "", "").Address)
	wantClass(t, err, hypervisor.ErrUnreachable)
	s.stop()
	wantClass(t, open(s.target(t, confirmed, "secret")), hypervisor.ErrUnreachable)
}

func TestSSHConnectionsLeaveNothingBehind(t *testing.T) {
	f, key := newFakeLibvirtd(t), newSigner(t)
	s := newSSHServer(t, f.path(), key)
	before := goleak.IgnoreCurrent()
	o := NewOpener(Config{})
	for range 10 {
		d, err := o.Open(timeout(t, 10*time.Second), s.target(t, authorizedKey(key.PublicKey()), "secret"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Events(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all sessions are closed", func() bool { return s.open() == 0 && f.open() == 0 })
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
}

// tlsServer is libvirtd's way of TLS in front of a unix socket.
func tlsServer(t testing.TB, to string, admit byte) (address string, certificate *vmhostv1.TlsCredential) {
	t.Helper()
	certificate = selfSigned(t).GetTls()
	pair, err := tls.X509KeyPair([]byte(certificate.GetCertificatePem()), []byte(certificate.GetPrivateKeyPem()))
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Second)
				defer cancel()
				if conn.(*tls.Conn).HandshakeContext(ctx) != nil || admit == 0 {
					return
				}
				_, _ = conn.Write([]byte{admit})
				socket, err := net.Dial("unix", to)
				if err != nil {
					return
				}
				wg.Go(func() { _, _ = io.Copy(socket, conn); _ = socket.Close() })
				_, _ = io.Copy(conn, socket)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return "qemu+tls://" + l.Addr().String() + "/system", certificate
}

func TestTLSServersAreVerifiedByPinOrCA(t *testing.T) {
	f := newFakeLibvirtd(t)
	t.Cleanup(f.stop) // before the server waits for its connections
	address, certificate := tlsServer(t, f.path(), 1)
	o := NewOpener(Config{})
	pin, fingerprint, err := o.HostKey(timeout(t, 5*time.Second), mustParse(t, address))
	if err != nil || pin != fingerprint || !strings.HasPrefix(pin, "SHA256:") {
		t.Fatalf("pin %q, fingerprint %q, error %v", pin, fingerprint, err)
	}
	byName := strings.Replace(address, "127.0.0.1", "localhost", 1)
	other := "SHA256:" + strings.Repeat("A", 43)
	for _, c := range []struct {
		name, address, pin, ca string
		class                  error
	}{
		{"pin", address, pin, "", nil},
		{"pin with padding", address, pin + "=", "", nil},
		{"another pin", address, other, "", hypervisor.ErrHostKey},
		{"no key but a word", address, "yes", "", hypervisor.ErrHostKey},
		{"neither", address, "", "", hypervisor.ErrHostKey},
		{"CA and name", byName, "", certificate.GetCertificatePem(), nil},
		{"CA of another name", address, "", certificate.GetCertificatePem(), hypervisor.ErrHostKey},
		{"another CA", byName, "", selfSigned(t).GetTls().GetCertificatePem(), hypervisor.ErrHostKey},
		{"CA and pin", byName, pin, certificate.GetCertificatePem(), nil},
		{"CA and another pin", byName, other, certificate.GetCertificatePem(), hypervisor.ErrHostKey},
		{"pin and another CA", byName, pin, selfSigned(t).GetTls().GetCertificatePem(), hypervisor.ErrHostKey},
		{"CA that is none", byName, "", "nonsense", hypervisor.ErrAuth},
	} {
		t.Run(c.name, func(t *testing.T) {
			credential := selfSigned(t)
			credential.GetTls().CaPem = c.ca
			d, err := o.Open(timeout(t, 5*time.Second), hypervisor.Target{Address: mustParse(t, c.address), HostKey: c.pin, Credential: credential})
			if err == nil {
				_ = d.Close()
			}
			if !errors.Is(err, c.class) {
				t.Errorf("error %v, want class %v", err, c.class)
			}
			if e, _ := errors.AsType[*hypervisor.Error](err); errors.Is(c.class, hypervisor.ErrHostKey) && c.pin != "yes" && e.PresentedHostKey != pin {
				t.Errorf("presented is shown as %q, want %q", e.PresentedHostKey, pin)
			}
		})
	}
}

func TestTLSServerThatDoesNotAdmitTheClient(t *testing.T) {
	for _, admit := range []byte{0, 2} {
		address, _ := tlsServer(t, "/nonexistent", admit)
		o := NewOpener(Config{})
		pin, _, err := o.HostKey(timeout(t, 5*time.Second), mustParse(t, address))
		if err != nil {
			t.Fatal(err)
		}
		_, err = o.Open(timeout(t, 5*time.Second), hypervisor.Target{Address: mustParse(t, address), HostKey: pin, Credential: selfSigned(t)})
		wantClass(t, err, hypervisor.ErrAuth)
		_, err = o.Open(timeout(t, 5*time.Second), hypervisor.Target{Address: mustParse(t, address), HostKey: pin})
		wantClass(t, err, hypervisor.ErrAuth)
	}
}
