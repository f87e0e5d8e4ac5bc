package pki

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

const (
	joinTokenPrefix  = "vmhj1."
	joinSecretSize   = 32
	maxJoinTokenSize = 4096
)

// JoinToken lets one rack join once. It carries what the rack needs to find the
// region and to know it, and the secret that proves the invitation.
type JoinToken struct {
	// Endpoints are where racks reach the region, host:port.
	Endpoints []string
	// CASPKI is the pin of the deployment's authority, see SPKIHash.
	CASPKI string
	// ID names the token; it is no secret.
	ID string
	// Secret is 32 random bytes.
	Secret []byte
}

type joinTokenJSON struct {
	Endpoints []string `json:"endpoints"`
	CASPKI    string   `json:"ca_spki_sha256"`
	ID        string   `json:"id"`
	Secret    []byte   `json:"secret"`
}

// String is the token as the user carries it, secret included.
func (t JoinToken) String() string {
	b, _ := json.Marshal(joinTokenJSON(t)) //nolint:errchkjson,gosec // strings and bytes always marshal; the secret is the token
	return joinTokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// LogValue keeps the secret out of logs.
func (t JoinToken) LogValue() slog.Value { return slog.StringValue("join token " + t.ID) }

// ParseJoinToken reads a token, forgiving white space around it only. Errors
// never show the token.
func ParseJoinToken(s string) (JoinToken, error) {
	encoded, ok := strings.CutPrefix(strings.TrimSpace(s), joinTokenPrefix)
	if !ok || len(encoded) > maxJoinTokenSize {
		return JoinToken{}, fmt.Errorf("join token does not begin with %q", joinTokenPrefix)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return JoinToken{}, errors.New("join token is damaged: not base64url")
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var t joinTokenJSON
	if err := dec.Decode(&t); err != nil {
		return JoinToken{}, errors.New("join token is damaged: not the expected JSON")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return JoinToken{}, errors.New("join token is damaged: trailing data")
	}
	pin, err := base64.RawURLEncoding.DecodeString(t.CASPKI)
	switch {
	case len(t.Endpoints) == 0:
		return JoinToken{}, errors.New("join token has no endpoint")
	case err != nil || len(pin) != 32:
		return JoinToken{}, errors.New("join token has no valid pin")
	case t.ID == "":
		return JoinToken{}, errors.New("join token has no id")
	case len(t.Secret) != joinSecretSize:
		return JoinToken{}, errors.New("join token has no valid secret")
	}
	return JoinToken(t), nil
}
