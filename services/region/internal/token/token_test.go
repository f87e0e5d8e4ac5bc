package token

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
)

func TestATokenProvesItselfAndNoOther(t *testing.T) {
	text, id, record, err := New("alice@example.org", storev1.Role_ROLE_COMPOSER, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	gotID, secret, ok := Parse(text)
	if !ok || gotID != id || !Verify(record, secret, time.Now()) {
		t.Errorf("parse: %q %v", gotID, ok)
	}
	if Verify(record, secret, time.Now().Add(2*time.Hour)) {
		t.Error("good after its end")
	}
	other, _, _, err := New("alice", storev1.Role_ROLE_COMPOSER, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, wrong, _ := Parse(other)
	if Verify(record, wrong, time.Now()) || Verify(&storev1.StoredToken{}, nil, time.Now()) {
		t.Error("another secret is good as well")
	}
	if strings.Contains(record.String(), text[20:]) {
		t.Error("the record holds the secret")
	}
}

func TestNothingElseIsAToken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringMatching(`vmh_[0-9a-f]{0,14}_?[-_A-Za-z0-9]{0,50}`)).Draw(t, "text")
		id, secret, ok := Parse(text)
		if ok && (len(id) != 12 || len(secret) != 32 || strings.ContainsAny(id, "/.")) {
			t.Fatalf("%q gave %q of %d bytes", text, id, len(secret))
		}
	})
}

func TestPrincipalsAndRolesAreChecked(t *testing.T) {
	for _, name := range []string{"", " ", "a b", "a/b", "-a", "ä", strings.Repeat("a", 65)} {
		if _, _, _, err := New(name, storev1.Role_ROLE_ADMIN, 0); err == nil {
			t.Errorf("%q is a principal", name)
		}
	}
	for _, role := range []storev1.Role{0, 99} {
		if _, _, _, err := New("a", role, 0); err == nil {
			t.Errorf("%v is a role", role)
		}
	}
	if r, err := ParseRole("operator"); err != nil || r != storev1.Role_ROLE_OPERATOR {
		t.Errorf("%v, %v", r, err)
	}
	for _, word := range []string{"", "root", "unspecified", "ROLE_ADMIN"} {
		if r, err := ParseRole(word); err == nil {
			t.Errorf("%q is %v", word, r)
		}
	}
}
