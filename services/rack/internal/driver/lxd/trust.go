package lxd

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
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
}

func newLogin(target hypervisor.Target, now time.Time) (*login, error) {
	pin, err := parsePin(target.HostKey)
	if err != nil {
		return nil, err
	}
	id, err := readIdentity(target.Credential, now)
	if err != nil {
		return nil, err
	}
	c := target.Credential.GetLxd()
	l := &login{pin: pin, identity: id, token: strings.TrimSpace(c.GetTrustToken()), password: c.GetTrustPassword()}
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
			Hint: "make a token on this server: lxc config trust add --name " + id.name(),
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
	if l.token != "" {
		return l.untrusted(fmt.Errorf("the server does not take the trust token, which works once and for a limited time: %w", err))
	}
	return l.untrusted(fmt.Errorf("the server does not take the trust password: %w", err))
}

// untrusted says exactly what to type.
func (l *login) untrusted(err error) error {
	return &hypervisor.Error{Class: hypervisor.ErrAuth, Op: opLogin, Err: valid(err), Hint: l.trustLine()}
}

// trustLine is what makes a server trust us, to be typed on it: one line.
func (l *login) trustLine() string {
	return "type on the server: printf %b '" + strings.ReplaceAll(l.identity.pem(), "\n", `\n`) + "' | lxc config trust add - --name " + l.identity.name()
}
