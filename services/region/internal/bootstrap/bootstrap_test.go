package bootstrap

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmhost-project/vmhost/services/region/internal/secret"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
	"github.com/vmhost-project/vmhost/services/region/internal/token"
)

func keyset(t *testing.T) *secret.Keyset {
	t.Helper()
	k, err := secret.OpenOrGenerate(filepath.Join(t.TempDir(), "keyset"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func config(s *store.Store, k *secret.Keyset, file string) Config {
	return Config{Store: s, Secrets: k, AdminTokenFile: file, Log: slog.New(slog.DiscardHandler)}
}

// good says whether the token in a file opens the deployment's doors.
func good(t *testing.T, s *store.Store, file string) bool {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	id, sent, ok := token.Parse(strings.TrimSpace(string(text)))
	if !ok {
		t.Fatalf("%s holds no token", file)
	}
	r, found := store.Tokens.Get(s.Cached(), id)
	return found && token.Verify(r.Value, sent, time.Now())
}

func TestRegionsOnSeveralMachinesMakeOneDeploymentAndOneGoodToken(t *testing.T) {
	client, k := storetest.Client(t), keyset(t)
	const regions = 3
	var files [regions]string
	var got [regions]*Deployment
	var stores [regions]*store.Store
	for i := range regions {
		files[i], stores[i] = filepath.Join(t.TempDir(), "admin.token"), storetest.On(t, client)
	}
	var wg sync.WaitGroup
	for i := range regions {
		wg.Go(func() {
			d, err := Ensure(t.Context(), config(stores[i], k, files[i]))
			if err != nil {
				t.Error(err)
			}
			got[i] = d
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	left := 0
	for i := range regions {
		if got[i].UID != got[0].UID || !bytes.Equal(got[i].CAPEM(), got[0].CAPEM()) {
			t.Error("several deployments")
		}
		a, errA := got[i].Key("x")
		b, errB := got[0].Key("x")
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Error("the regions derive other keys")
		}
		if _, err := os.Stat(files[i]); err == nil {
			left++
			if !good(t, stores[i], files[i]) {
				t.Error("a token is left that is worth nothing")
			}
		}
	}
	if left != 1 {
		t.Errorf("%d token files, want 1", left)
	}
	v := stores[0].Cached()
	if _, ok := store.Zones.Get(v, "default"); !ok {
		t.Error("no default zone")
	}
	if _, ok := store.ResourcePools.Get(v, "default"); !ok {
		t.Error("no default pool")
	}
}

func TestRegionsThatShareTheFileShareItsToken(t *testing.T) {
	for range 10 { // who loses to whom is a matter of luck
		client, k, file := storetest.Client(t), keyset(t), filepath.Join(t.TempDir(), "admin.token")
		s := storetest.On(t, client)
		var wg sync.WaitGroup
		for range 4 {
			own := storetest.On(t, client)
			wg.Go(func() {
				if _, err := Ensure(t.Context(), config(own, k, file)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if _, err := s.View(t.Context()); err != nil || !good(t, s, file) {
			t.Fatalf("the file's token is worth nothing: %v", err)
		}
	}
}

func TestATokenFromBeforeTheCrashIsMadeGood(t *testing.T) {
	s, file := storetest.New(t), filepath.Join(t.TempDir(), "admin.token")
	k := keyset(t)
	// A start that was killed between the file and the transaction.
	if _, err := putAdminToken(store.NewTxn(), file); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(file)
	for range 2 {
		if _, err := Ensure(t.Context(), config(s, k, file)); err != nil {
			t.Fatal(err)
		}
	}
	after, _ := os.ReadFile(file)
	if !bytes.Equal(before, after) || !good(t, s, file) {
		t.Error("the token was replaced, or is worth nothing")
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestATokenFileThatIsNoneIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		mode os.FileMode
	}{"no token": {"hello", 0o600}, "readable by others": {"", 0o644}} {
		file := filepath.Join(t.TempDir(), "admin.token")
		if err := os.WriteFile(file, []byte(tc.text), tc.mode); err != nil {
			t.Fatal(err)
		}
		s := storetest.New(t)
		if _, err := Ensure(t.Context(), config(s, keyset(t), file)); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", name, err)
		}
		if _, ok := store.Deployment.Get(s.Cached()); ok {
			t.Errorf("%s: a deployment was made without a token", name)
		}
	}
}

func TestAnotherKeysetOpensNothing_P8(t *testing.T) {
	s := storetest.New(t)
	d, err := Ensure(t.Context(), config(s, keyset(t), ""))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Ensure(t.Context(), config(s, keyset(t), "")); err == nil || !strings.Contains(err.Error(), "decrypt") {
		t.Errorf("got %v", err)
	}
	der, err := d.Authority.KeyDER()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	scalar, err := parsed.(*ecdsa.PrivateKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if dump := storetest.Dump(t, s); bytes.Contains(dump, scalar) || !bytes.Contains(dump, d.Authority.CertDER()) {
		t.Error("the authority's key is in the store")
	}
}
