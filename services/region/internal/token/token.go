// Package token makes and reads API tokens: `vmh_<id>_<secret>`, where id finds
// the record and secret proves that the bearer was given the token. Only the
// SHA-256 of the secret is stored. The package reads no store and starts no
// goroutine.
package token

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
)

const (
	prefix      = "vmh_"
	idBytes     = 6
	secretBytes = 32
)

// principalName is what a token can stand for: fit for a key, a log and a label.
var principalName = regexp.MustCompile(`^[a-zA-Z0-9]([-a-zA-Z0-9_.@]{0,62}[a-zA-Z0-9])?$`)

// New makes a token for a principal. text is shown once; record is stored under
// id.
func New(principal string, role storev1.Role, ttl time.Duration) (text, id string, record *storev1.StoredToken, err error) {
	if !principalName.MatchString(principal) {
		return "", "", nil, fmt.Errorf("principal %q must be of 1 to 64 letters, digits, -, _, . and @, and begin and end with a letter or digit", principal)
	}
	if _, known := storev1.Role_name[int32(role)]; !known || role == storev1.Role_ROLE_UNSPECIFIED {
		return "", "", nil, errors.New("role must be viewer, composer, operator or admin")
	}
	raw := make([]byte, idBytes+secretBytes)
	if _, err := rand.Read(raw); err != nil {
		return "", "", nil, fmt.Errorf("make a token: %w", err)
	}
	id = hex.EncodeToString(raw[:idBytes])
	secret := raw[idBytes:]
	hash := sha256.Sum256(secret)
	now := time.Now()
	record = &storev1.StoredToken{SecretSha256: hash[:], Principal: principal, Role: role, CreateTime: timestamppb.New(now)}
	if ttl > 0 {
		record.ExpireTime = timestamppb.New(now.Add(ttl))
	}
	return prefix + id + "_" + base64.RawURLEncoding.EncodeToString(secret), id, record, nil
}

// Parse splits a token. It says only whether the form is right: nothing of a
// token may end in an error text.
func Parse(text string) (id string, secret []byte, ok bool) {
	rest, found := strings.CutPrefix(text, prefix)
	if !found {
		return "", nil, false
	}
	id, encoded, found := strings.Cut(rest, "_")
	if !found || len(id) != 2*idBytes {
		return "", nil, false
	}
	if _, err := hex.DecodeString(id); err != nil || strings.ToLower(id) != id {
		return "", nil, false
	}
	secret, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil || len(secret) != secretBytes {
		return "", nil, false
	}
	return id, secret, true
}

// Verify says whether the secret is the record's and the token still good.
func Verify(record *storev1.StoredToken, secret []byte, now time.Time) bool {
	hash := sha256.Sum256(secret)
	if subtle.ConstantTimeCompare(hash[:], record.GetSecretSha256()) != 1 {
		return false
	}
	return record.GetExpireTime() == nil || now.Before(record.GetExpireTime().AsTime())
}

// ParseRole reads `viewer`, `composer`, `operator` or `admin`.
func ParseRole(s string) (storev1.Role, error) {
	if r := storev1.Role(storev1.Role_value["ROLE_"+strings.ToUpper(s)]); r != storev1.Role_ROLE_UNSPECIFIED {
		return r, nil
	}
	return 0, fmt.Errorf("role %q is none of viewer, composer, operator and admin", s)
}
