package libvirt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/crypto/ssh"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Where libvirtd listens on the far side; some systems have no /var/run.
var remoteSockets = []string{defaultSocket, "/run/libvirt/libvirt-sock"}

// dialSSH logs in and reaches libvirt's socket through the login, with nothing
// of ours and no helper program on the far side. Closing what it answers closes
// the login as well.
func dialSSH(ctx context.Context, target hypervisor.Target) (*guardedConn, error) {
	auth, err := sshAuth(target.Credential)
	if err != nil {
		return nil, err
	}
	want, err := parseHostKey(target.HostKey)
	if err != nil {
		return nil, err
	}
	client, err := sshLogin(ctx, target.Address, want, auth)
	if err != nil {
		return nil, err
	}
	channel, err := openSocket(ctx, client, target.Address.User)
	if err != nil {
		_ = client.Close()
		return nil, err
	}
	// The channel's own Close would wait to send a message to the peer.
	return guard(channel, client.Close), nil
}

// sshLogin tries the algorithms that can present the confirmed key, one
// connection each, since a server shows one key per connection.
func sshLogin(ctx context.Context, address hypervisor.Address, want hostKey, auth []ssh.AuthMethod) (*ssh.Client, error) {
	var presented ssh.PublicKey
	for _, algorithms := range want.algorithms() {
		watch := &keyWatch{want: want}
		client, err := sshHandshake(ctx, address, watch, algorithms, auth)
		if err == nil {
			return client, nil
		}
		switch key, matched := watch.seen(); {
		case matched:
			return nil, sshAuthError(err)
		case key != nil:
			if presented == nil {
				presented = key
			}
		case !noCommonAlgorithm(err):
			return nil, err
		}
	}
	if presented == nil {
		// The server has no key of the confirmed type any more; say which it has.
		if key, err := presentedKey(ctx, address); err == nil {
			presented = key
		}
	}
	out := &hypervisor.Error{
		Class: hypervisor.ErrHostKey, Op: "verify the SSH host key of " + address.HostPort(),
		Err:  errors.New("the server presents no key, or none that is the confirmed one"),
		Hint: "if the host was installed anew, confirm the new key; if not, somebody may be answering in its place",
	}
	if presented != nil {
		out.PresentedHostKey = authorizedKey(presented)
		out.Err = fmt.Errorf("the server presents %s %s, confirmed is %s", presented.Type(), ssh.FingerprintSHA256(presented), want.fingerprint)
	}
	return nil, out
}

// sshHandshake does one connection up to the end of logging in. The library's
// handshake has no deadline, so the connection has.
func sshHandshake(ctx context.Context, address hypervisor.Address, watch *keyWatch, algorithms []string, auth []ssh.AuthMethod) (*ssh.Client, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address.HostPort())
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	c, channels, requests, err := ssh.NewClientConn(conn, address.HostPort(), &ssh.ClientConfig{
		User: address.User, Auth: auth, HostKeyCallback: watch.check, HostKeyAlgorithms: algorithms, ClientVersion: "SSH-2.0-vmhost",
	})
	if !stop() || err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("SSH handshake: %w", ctx.Err())
		}
		return nil, err
	}
	return ssh.NewClient(c, channels, requests), nil
}

func openSocket(ctx context.Context, client *ssh.Client, user string) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = client.Close() })
	defer stop()
	var errs []error
	for _, path := range remoteSockets {
		conn, err := client.Dial("unix", path)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", path, err))
		if open, ok := errors.AsType[*ssh.OpenChannelError](err); ok && open.Reason == ssh.Prohibited {
			return nil, &hypervisor.Error{
				Class: hypervisor.ErrRefused, Op: "reach libvirt's socket through SSH", Err: err,
				Hint: "the server's sshd must allow it: AllowStreamLocalForwarding yes",
			}
		}
	}
	return nil, &hypervisor.Error{
		Class: hypervisor.ErrUnreachable, Op: "reach libvirt's socket through SSH", Err: errors.Join(errs...),
		Hint: "check that libvirtd runs there and that " + user + " may use its socket, on Debian by being in the group libvirt",
	}
}

func sshAuth(credential *vmhostv1.Credential) ([]ssh.AuthMethod, error) {
	refuse := func(text, hint string) error {
		return &hypervisor.Error{Class: hypervisor.ErrAuth, Op: "log in by SSH", Err: errors.New(text), Hint: hint}
	}
	switch credential.GetKind().(type) {
	case *vmhostv1.Credential_SshPrivateKey:
		// The parser's words are left out: they may quote the key.
		signer, err := ssh.ParsePrivateKey([]byte(credential.GetSshPrivateKey()))
		if _, locked := errors.AsType[*ssh.PassphraseMissingError](err); locked {
			return nil, refuse("the private key has a passphrase", "send a key without one")
		}
		if err != nil {
			return nil, refuse("the private key cannot be read", "send it in PEM or OpenSSH format")
		}
		return []ssh.AuthMethod{ssh.PublicKeys(signer)}, nil
	case *vmhostv1.Credential_Password:
		password := credential.GetPassword()
		return []ssh.AuthMethod{
			ssh.Password(password),
			// How sshd asks when PAM is in charge.
			ssh.KeyboardInteractive(func(_, _ string, questions []string, echos []bool) ([]string, error) {
				answers := make([]string, len(questions))
				for i, echo := range echos {
					if !echo {
						answers[i] = password
					}
				}
				return answers, nil
			}),
		}, nil
	default:
		return nil, refuse("no SSH key or password is stored for the host", "send one with the host's credential")
	}
}

// sshAuthError is for failures after the host key was accepted: what is left of
// the handshake is logging in. Only the network tells otherwise.
func sshAuthError(err error) error {
	if _, network := errors.AsType[net.Error](err); network || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return &hypervisor.Error{
		Class: hypervisor.ErrAuth, Op: "log in by SSH", Err: err,
		Hint: "check the user, and that the key or password is accepted there",
	}
}
