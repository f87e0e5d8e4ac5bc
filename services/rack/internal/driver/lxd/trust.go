package lxd

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	lxdapi "github.com/canonical/lxd/shared/api"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

const opLogin = "log in to LXD"

// login is how a server is made to trust us. nil for unix sockets, where the
// right to open the socket is all.
type login struct {
	pin      string
	identity *identity
	token    string
	password string
	host     string // its id; empty while a host is checked that is not there yet
	address  string
	project  string
	refusals *refusals
}

func newLogin(target hypervisor.Target, refusals *refusals, now time.Time) (*login, error) {
	pin, err := parsePin(target.HostKey)
	if err != nil {
		return nil, err
	}
	id, err := readIdentity(target.Credential, now)
	if err != nil {
		return nil, err
	}
	c := target.Credential.GetLxd()
	l := &login{
		pin: pin, identity: id, token: strings.TrimSpace(c.GetTrustToken()), password: c.GetTrustPassword(),
		host: strings.TrimPrefix(target.Name, "vmHosts/"), address: target.Address.HostPort(), project: projectOf(target.Project), refusals: refusals,
	}
	if l.token == "" {
		return l, nil
	}
	token, err := parseToken(l.token)
	if err != nil {
		return nil, err
	}
	switch {
	case l.pin == "":
		// Whoever gave the operator the token vouches for the certificate in it.
		l.pin = strings.ToLower(token.Fingerprint)
	case subtle.ConstantTimeCompare([]byte(l.pin), []byte(strings.ToLower(token.Fingerprint))) != 1:
		return nil, &hypervisor.Error{
			Class: hypervisor.ErrAuth, Op: opLogin,
			Err:  fmt.Errorf("the trust token is for the server with the certificate %s, confirmed is %s", token.Fingerprint, l.pin),
			Hint: "make a token on this server: lxc config trust add --name " + l.options(),
		}
	}
	return l, nil
}

// parseToken reads what `lxc config trust add` prints.
func parseToken(text string) (*lxdapi.CertificateAddToken, error) {
	refuse := func(what string) error {
		return &hypervisor.Error{
			Class: hypervisor.ErrAuth, Op: opLogin, Err: errors.New("the trust token " + what),
			Hint: "send the whole token that `lxc config trust add` printed on the server",
		}
	}
	// Neither the token nor the words of the decoders, which may quote it, are
	// shown.
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, refuse("cannot be read")
	}
	var out lxdapi.CertificateAddToken
	if err := json.Unmarshal(b, &out); err != nil || out.Secret == "" || !pinForm.MatchString(strings.ToLower(out.Fingerprint)) {
		return nil, refuse("is none of LXD's")
	}
	return &out, nil
}

// server reads what the server says of itself to who it trusts, and makes it
// trust us where it does not and a token or password is given.
func (l *login) server(ctx context.Context, c *conn) (*lxdapi.Server, error) {
	server, err := get[lxdapi.Server](ctx, c, opLogin, "/1.0")
	if err != nil || trusts(&server) || l == nil {
		return &server, err
	}
	if l.token == "" && l.password == "" {
		return nil, l.untrusted(errors.New("the server does not trust the host's certificate"))
	}
	// A secret that the server refused is refused again; sending it each time the
	// server is tried looks like somebody who guesses.
	if err := l.refusals.of(l); err != nil {
		return nil, err
	}
	if err := l.ask(ctx, c, &server); err != nil {
		return nil, err
	}
	if server, err = get[lxdapi.Server](ctx, c, opLogin, "/1.0"); err != nil {
		return nil, err
	}
	if !trusts(&server) {
		return nil, l.untrusted(errors.New("the server does not trust the host's certificate, though it took the token or password"))
	}
	return &server, nil
}

func trusts(s *lxdapi.Server) bool { return s.Auth != "untrusted" }

// trustRequest is what of api.CertificatesPost is said; its password is what LXD
// 5.0 needs and newer clients call deprecated.
type trustRequest struct {
	Name       string `json:"name"`
	Type       string `json:"type"`
	Password   string `json:"password,omitempty"`
	TrustToken string `json:"trust_token,omitempty"`
}

// ask makes the server trust us, by the secret that is used once.
func (l *login) ask(ctx context.Context, c *conn, server *lxdapi.Server) error {
	post := trustRequest{Name: l.identity.name(), Type: "client", Password: l.password}
	if l.token != "" {
		// Servers before 5.21 take the token for a password and know no other field.
		if post.Password = l.token; slices.Contains(server.APIExtensions, "explicit_trust_token") {
			post.Password, post.TrustToken = "", l.token
		}
	}
	_, _, err := c.api.query(ctx, http.MethodPost, "/1.0/certificates", post, "")
	switch status, answered := lxdapi.StatusErrorMatch(err); {
	case err == nil:
		return nil
	case !answered:
		return c.refused(ctx, opLogin, err)
	case status == http.StatusConflict:
		// Somebody was first, or the certificate is there with fewer rights.
		return nil
	}
	what := "password"
	if l.token != "" {
		what = "token, which works once and for a limited time"
	}
	out := l.untrusted(fmt.Errorf("the server does not take the trust %s: %w", what, err))
	if lxdapi.StatusErrorCheck(err, http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound) {
		l.refusals.note(l, out)
	}
	return out
}

// untrusted says exactly what to type.
func (l *login) untrusted(err error) error {
	hint := "on the server, `lxc config trust add --name " + l.options() + "` prints a trust token to give"
	if l.host != "" {
		hint = "have the server trust the host's certificate, fingerprint " + fingerprint(l.identity.leaf.Raw) + ": `vmhostctl vm-host parameters " + l.host +
			" --certificate > " + l.host + ".crt`, then on the server `lxc config trust add " + l.host + ".crt --name " + l.options() + "`"
	}
	return &hypervisor.Error{Class: hypervisor.ErrAuth, Op: opLogin, Err: valid(err), Hint: hint}
}

// options are the name and the rights that a server is to give us, for its shell:
// no more than the host's project, where it has one of its own.
func (l *login) options() string {
	out := l.identity.name()
	if l.project != projectOf("") {
		out += " --restricted --projects " + quote(l.project)
	}
	return out
}

var plainWord = regexp.MustCompile(`^[-\w.:@]+$`)

func quote(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// refusals remembers the secrets that servers refused, by what they were sent
// with: another credential is another try. It holds no secret.
type refusals struct {
	mu  sync.Mutex
	had map[[sha256.Size]byte]error
}

// mostRefusals bounds what is remembered; what is forgotten costs one request.
const mostRefusals = 1024

func (l *login) key() [sha256.Size]byte {
	secret := sha256.Sum256([]byte(l.token + "\x00" + l.password))
	return sha256.Sum256(slices.Concat([]byte(l.address+"\x00"), secret[:], l.identity.leaf.Raw))
}

// of is how the server refused the login's secret, nil when it did not.
func (r *refusals) of(l *login) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.had[l.key()]
}

func (r *refusals) note(l *login, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.had) >= mostRefusals {
		clear(r.had)
	}
	r.had[l.key()] = err
}
