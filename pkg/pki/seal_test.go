package pki_test

import (
	"bytes"
	"testing"

	"github.com/vmhost-project/vmhost/pkg/pki"
)

func TestWhatIsSealedOpensOnlyForItsKeyAndPurpose(t *testing.T) {
	key, err := pki.NewSealKey()
	if err != nil {
		t.Fatal(err)
	}
	aad, secret := []byte("host 1"), []byte("a private key")
	sealed, err := pki.Seal(key.Public(), aad, secret)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, secret) {
		t.Fatal("the secret can be read")
	}
	private, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := pki.LoadSealKey(private)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := loaded.Open(aad, sealed); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("Open = %q, %v, want %q", got, err, secret)
	}

	other, err := pki.NewSealKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open(aad, sealed); err == nil {
		t.Error("another key opened it")
	}
	if _, err := key.Open([]byte("host 2"), sealed); err == nil {
		t.Error("it was opened for another host")
	}
	for i := range sealed {
		damaged := bytes.Clone(sealed)
		damaged[i] ^= 1
		if _, err := key.Open(aad, damaged); err == nil {
			t.Fatalf("it was opened with byte %d changed", i)
		}
		if _, err := key.Open(aad, sealed[:i]); err == nil {
			t.Fatalf("it was opened with %d bytes only", i)
		}
	}
	if _, err := pki.Seal([]byte("short"), aad, secret); err == nil {
		t.Error("it was sealed to no key")
	}
}
