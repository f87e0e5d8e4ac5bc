package pki_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/vmhost-project/vmhost/pkg/pki"
)

func TestAJoinTokenReadsAsItWasWritten(t *testing.T) {
	bytes32 := rapid.SliceOfN(rapid.Byte(), 32, 32)
	rapid.Check(t, func(t *rapid.T) {
		want := pki.JoinToken{
			Endpoints: rapid.SliceOfN(rapid.StringMatching(`[a-z0-9.:\[\]-]{1,40}`), 1, 4).Draw(t, "endpoints"),
			CASPKI:    base64.RawURLEncoding.EncodeToString(bytes32.Draw(t, "pin")),
			ID:        rapid.StringMatching(`[0-9a-f]{1,36}`).Draw(t, "id"),
			Secret:    bytes32.Draw(t, "secret"),
		}
		got, err := pki.ParseJoinToken(" " + want.String() + "\n")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("token (-want +got):\n%s", diff)
		}
	})
}

func TestDamagedJoinTokensAreRefusedWithoutShowingThem(t *testing.T) {
	pin := base64.RawURLEncoding.EncodeToString(make([]byte, 32))
	secret := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	encode := func(s string) string { return "vmhj1." + base64.RawURLEncoding.EncodeToString([]byte(s)) }
	full := fmt.Sprintf(`{"endpoints":["a:1"],"ca_spki_sha256":%q,"id":"i","secret":%q}`, pin, secret)
	if _, err := pki.ParseJoinToken(encode(full)); err != nil {
		t.Fatalf("the whole token: %v", err)
	}
	for name, in := range map[string]string{
		"empty":          "",
		"other prefix":   "vmhj2." + encode(full)[6:],
		"not base64":     "vmhj1.***",
		"cut":            encode(full)[:len(encode(full))-8],
		"too long":       "vmhj1." + strings.Repeat("A", 5000),
		"unknown field":  encode(strings.Replace(full, `{`, `{"x":1,`, 1)),
		"trailing data":  encode(full + "{}"),
		"no endpoints":   encode(strings.Replace(full, `["a:1"]`, `[]`, 1)),
		"short pin":      encode(strings.Replace(full, pin, pin[:8], 1)),
		"no id":          encode(strings.Replace(full, `"id":"i"`, `"id":""`, 1)),
		"short secret":   encode(strings.Replace(full, secret, "BwcH", 1)),
		"a number as id": encode(strings.Replace(full, `"id":"i"`, `"id":7`, 1)),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := pki.ParseJoinToken(in)
			if err == nil {
				t.Fatal("token was read")
			}
			if strings.Contains(err.Error(), secret) || (len(in) > 20 && strings.Contains(err.Error(), in[6:20])) {
				t.Errorf("error shows the token: %v", err)
			}
		})
	}
}

func TestAJoinTokenInALogHasNoSecret(t *testing.T) {
	token := pki.JoinToken{Endpoints: []string{"a:1"}, ID: "the-id", Secret: bytes.Repeat([]byte{7}, 32)}
	var out strings.Builder
	slog.New(slog.NewTextHandler(&out, nil)).Info("token", "token", token)
	if got := out.String(); !strings.Contains(got, "the-id") || strings.Contains(got, token.String()[6:]) {
		t.Errorf("log line = %q", got)
	}
}
