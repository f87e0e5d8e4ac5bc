package secret

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestASecretDecryptsOnlyUnderItsOwnKey_P8(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyset")
	if err := Generate(path); err != nil {
		t.Fatal(err)
	}
	k, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	plain := []byte("-----BEGIN PRIVATE KEY-----")
	ciphertext, err := k.Encrypt("/vmhost/v1/secrets/ca", plain)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(ciphertext, plain[:8]) {
		t.Error("the ciphertext holds the plaintext")
	}
	again, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := again.Decrypt("/vmhost/v1/secrets/ca", ciphertext)
	if err != nil || !bytes.Equal(got, plain) {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := again.Decrypt("/vmhost/v1/secrets/h1", ciphertext); !errors.Is(err, ErrDecrypt) {
		t.Errorf("a copied value gave %v", err)
	}
}

func TestAKeysetFileIsPrivateAndNeverOverwritten_P8(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyset")
	if err := Generate(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	before, _ := os.ReadFile(path)
	if err := Generate(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("generating again gave %v", err)
	}
	if _, err := OpenOrGenerate(path); err != nil {
		t.Error(err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the keyset was changed")
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "0600") {
		t.Errorf("a readable keyset gave %v", err)
	}
}

func TestAFaultyKeysetFileIsRefusedWithoutItsContent_P8(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyset")
	if err := os.WriteFile(path, []byte(`{"hush":"hush"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || strings.Contains(err.Error(), "hush") {
		t.Errorf("got %v", err)
	}
}
