package libvirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// algorithmsOf says which signature algorithms can present a key of a type, in
// the order of preference for showing a key to a person. A server is asked for
// one type per connection: asked for all it picks one, and that need not be the
// confirmed one.
var algorithmsOf = []struct {
	keyType    string
	algorithms []string
}{
	{ssh.KeyAlgoED25519, []string{ssh.KeyAlgoED25519}},
	{ssh.KeyAlgoECDSA256, []string{ssh.KeyAlgoECDSA256}},
	{ssh.KeyAlgoECDSA384, []string{ssh.KeyAlgoECDSA384}},
	{ssh.KeyAlgoECDSA521, []string{ssh.KeyAlgoECDSA521}},
	{ssh.KeyAlgoRSA, []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}},
}

// hostKey is a confirmed SSH key: whole, or by its fingerprint only.
type hostKey struct {
	key         ssh.PublicKey // nil where only the fingerprint is known
	fingerprint string
}

// parseHostKey reads a confirmed key, `ssh-ed25519 AAAA…` or `SHA256:…`.
func parseHostKey(s string) (hostKey, error) {
	s = strings.TrimSpace(s)
	bad := func(text string) error {
		return &hypervisor.Error{
			Class: hypervisor.ErrHostKey, Op: "verify the SSH host key", Err: errors.New(text),
			Hint: "read the presented key with `vmhostctl vm-host check`, compare it, and store it as host_key",
		}
	}
	switch {
	case s == "":
		return hostKey{}, bad("no host key is confirmed for this host")
	case strings.HasPrefix(s, "SHA256:"):
		return hostKey{fingerprint: strings.TrimRight(s, "=")}, nil
	}
	key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(s))
	if err != nil || len(rest) > 0 {
		return hostKey{}, bad("the confirmed host key is neither a public key nor a SHA256: fingerprint")
	}
	return hostKey{key: key, fingerprint: ssh.FingerprintSHA256(key)}, nil
}

// matches is an exact comparison.
func (h hostKey) matches(presented ssh.PublicKey) bool {
	if h.key != nil {
		return bytes.Equal(h.key.Marshal(), presented.Marshal())
	}
	return h.fingerprint == ssh.FingerprintSHA256(presented)
}

// algorithms are the sets to ask a server for, one after the other.
func (h hostKey) algorithms() [][]string {
	var out [][]string
	for _, a := range algorithmsOf {
		if h.key == nil || h.key.Type() == a.keyType {
			out = append(out, a.algorithms)
		}
	}
	if len(out) == 0 {
		out = [][]string{{h.key.Type()}}
	}
	return out
}

var errKeyMismatch = errors.New("the presented host key is not the confirmed one")

// keyWatch keeps the key that one handshake presented. The handshake has a
// goroutine of its own, which may outlive a context that ends.
type keyWatch struct {
	want hostKey
	mu   sync.Mutex
	key  ssh.PublicKey
}

func (w *keyWatch) check(_ string, _ net.Addr, key ssh.PublicKey) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.key = key
	if !w.want.matches(key) {
		return errKeyMismatch
	}
	return nil
}

// seen is the key that was presented, nil when it did not come to that.
func (w *keyWatch) seen() (key ssh.PublicKey, matched bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.key, w.key != nil && w.want.matches(w.key)
}

// presentedKey reads the server's most preferred key. The handshake is ended as
// soon as the key is seen, before any login is tried.
func presentedKey(ctx context.Context, address hypervisor.Address) (ssh.PublicKey, error) {
	var last error
	for _, a := range algorithmsOf {
		watch := &keyWatch{}
		client, err := sshHandshake(ctx, address, watch, a.algorithms, nil)
		if client != nil {
			_ = client.Close()
		}
		if key, _ := watch.seen(); key != nil {
			return key, nil
		}
		if last = err; !noCommonAlgorithm(err) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("the server has no host key of a known type: %w", last)
}

func sshHostKey(ctx context.Context, address hypervisor.Address) (key, fingerprint string, err error) {
	k, err := presentedKey(ctx, address)
	if err != nil {
		return "", "", err
	}
	return authorizedKey(k), ssh.FingerprintSHA256(k), nil
}

// authorizedKey is one line without a comment, the form that host_key takes.
func authorizedKey(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// noCommonAlgorithm says that a server has no key of the type it was asked for.
func noCommonAlgorithm(err error) bool {
	e, ok := errors.AsType[*ssh.AlgorithmNegotiationError](err)
	return ok && e.What == "host key"
}
