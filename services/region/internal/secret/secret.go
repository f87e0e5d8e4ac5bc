// Package secret encrypts what must not be read from the state store: credentials
// of hypervisors and the CA's key (promise P8).
//
// It is Tink AEAD with a keyset from a file that only the region's user may read.
// The additional data is the key in etcd, so that a ciphertext copied to another
// key does not decrypt. The keyset file is the one thing besides etcd that has to
// be backed up; every region of a deployment has the same.
//
// The package keeps no state but the keyset, owns no goroutine and logs nothing.
package secret

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// ErrDecrypt says that a ciphertext was not made with this keyset for this key.
var ErrDecrypt = errors.New("does not decrypt: the keyset file is not the one it was encrypted with, or the value was copied from another key")

// Keyset encrypts and decrypts. It may be used by several goroutines.
type Keyset struct{ aead tink.AEAD }

// Generate makes a new keyset file with mode 0600. A file that exists is never
// overwritten: what was encrypted with it would be lost.
func Generate(path string) error {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return fmt.Errorf("make a keyset: %w", err)
	}
	var buf bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&buf)); err != nil {
		return fmt.Errorf("encode the keyset: %w", err)
	}
	// Written aside and linked into place: a reader never sees half of it, and of
	// two that generate at once one wins.
	tmp, err := os.CreateTemp(filepath.Dir(path), ".keyset-*") // mode 0600
	if err != nil {
		return fmt.Errorf("create the keyset file: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // what is in place is the link
	_, err = tmp.Write(buf.Bytes())
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err != nil {
		return fmt.Errorf("write the keyset file: %w", err)
	}
	if err := os.Link(tmp.Name(), path); err != nil {
		return fmt.Errorf("put the keyset file in place: %w", err)
	}
	return nil
}

// Open reads a keyset file. One that others may read is refused.
func Open(path string) (*Keyset, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open the keyset file: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("keyset file %s has mode %#o and may be read by others; make it 0600", path, mode)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the keyset file: %w", err)
	}
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(data)))
	if err != nil {
		return nil, fmt.Errorf("read the keyset of %s: it is not a Tink keyset in JSON", path) // the cause could quote key material
	}
	primitive, err := aead.New(handle)
	if err != nil {
		return nil, fmt.Errorf("use the keyset of %s: %w", path, err)
	}
	return &Keyset{aead: primitive}, nil
}

// OpenOrGenerate opens the keyset file and makes it first when there is none.
func OpenOrGenerate(path string) (*Keyset, error) {
	if err := Generate(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return Open(path)
}

// Encrypt encrypts for one key of the store, for example `/vmhost/v1/secrets/ca`.
func (k *Keyset) Encrypt(key string, plaintext []byte) ([]byte, error) {
	out, err := k.aead.Encrypt(plaintext, []byte(key))
	if err != nil {
		return nil, fmt.Errorf("encrypt %s: %w", key, err)
	}
	return out, nil
}

// Decrypt decrypts what Encrypt made for the same key.
func (k *Keyset) Decrypt(key string, ciphertext []byte) ([]byte, error) {
	out, err := k.aead.Decrypt(ciphertext, []byte(key))
	if err != nil {
		return nil, fmt.Errorf("%s %w", key, ErrDecrypt)
	}
	return out, nil
}
