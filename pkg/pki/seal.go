package pki

import (
	"crypto/ecdh"
	"crypto/hpke"
	"fmt"
)

// sealInfo binds what is sealed to its purpose.
const sealInfo = "vmhost credential v1"

// SealKey opens what was sealed to its public half.
type SealKey struct{ key hpke.PrivateKey }

// NewSealKey makes a key (DHKEM X25519, HKDF-SHA256).
func NewSealKey() (*SealKey, error) {
	key, err := sealKEM().GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("make seal key: %w", err)
	}
	return &SealKey{key: key}, nil
}

// LoadSealKey reads what Bytes gave.
func LoadSealKey(private []byte) (*SealKey, error) {
	key, err := sealKEM().NewPrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("load seal key: %w", err)
	}
	return &SealKey{key: key}, nil
}

// Public is the half that others seal with.
func (k *SealKey) Public() []byte { return k.key.PublicKey().Bytes() }

// Bytes is the half to be kept secret.
func (k *SealKey) Bytes() ([]byte, error) {
	b, err := k.key.Bytes()
	if err != nil {
		return nil, fmt.Errorf("marshal seal key: %w", err)
	}
	return b, nil
}

// Open gives back the plaintext; aad must be what it was sealed with.
func (k *SealKey) Open(aad, sealed []byte) ([]byte, error) {
	size := len(k.Public()) // of X25519, the encapsulated key is a public key
	if len(sealed) < size {
		return nil, fmt.Errorf("open sealed: %d bytes are too few", len(sealed))
	}
	r, err := hpke.NewRecipient(sealed[:size], k.key, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(sealInfo))
	if err != nil {
		return nil, fmt.Errorf("open sealed: %w", err)
	}
	plaintext, err := r.Open(aad, sealed[size:])
	if err != nil {
		return nil, fmt.Errorf("open sealed: %w", err)
	}
	return plaintext, nil
}

// Seal encrypts plaintext so that only the holder of the private half of
// publicKey can read it, and only with the same aad, which says what it is for
// (such as the host's uid).
func Seal(publicKey, aad, plaintext []byte) ([]byte, error) {
	key, err := sealKEM().NewPublicKey(publicKey)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	enc, s, err := hpke.NewSender(key, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(sealInfo))
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	ciphertext, err := s.Seal(aad, plaintext)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return append(enc, ciphertext...), nil
}

func sealKEM() hpke.KEM { return hpke.DHKEM(ecdh.X25519()) }
