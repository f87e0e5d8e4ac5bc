package query

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
)

const macSize = 16

// Pager signs and verifies page tokens. Every region of a deployment has the
// same key, so that a list can go on at another region.
type Pager struct {
	key []byte
}

// NewPager makes a pager with the key of the deployment.
func NewPager(key []byte) *Pager { return &Pager{key: key} }

// sign makes the token that goes on after c. It is bound to the method, filter
// and order, since it means nothing in another list.
func (p *Pager) sign(bound []string, c cursor) string {
	payload, err := json.Marshal(c)
	if err != nil { // a struct of bytes and a string always encodes
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(append(p.mac(bound, payload), payload...))
}

var errPageToken = errors.New("is not a token of this list")

func (p *Pager) verify(bound []string, token string) (cursor, error) {
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(raw) < macSize {
		return cursor{}, errPageToken
	}
	payload := raw[macSize:]
	if !hmac.Equal(raw[:macSize], p.mac(bound, payload)) {
		return cursor{}, errPageToken
	}
	var c cursor
	if err := json.Unmarshal(payload, &c); err != nil || c.Name == "" {
		return cursor{}, errPageToken
	}
	return c, nil
}

func (p *Pager) mac(bound []string, payload []byte) []byte {
	h := hmac.New(sha256.New, p.key)
	for _, b := range append(bound[:len(bound):len(bound)], string(payload)) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write([]byte(b))
	}
	return h.Sum(nil)[:macSize]
}
