package trust_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/secret"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
	"github.com/vmhost-project/vmhost/services/region/internal/trust"
)

// fixture is a host whose credential has a trust token still.
type fixture struct {
	*testing.T
	store  *store.Store
	keyset *secret.Keyset
}

func start(t *testing.T) *fixture {
	t.Helper()
	keyset, err := secret.OpenOrGenerate(filepath.Join(t.TempDir(), "keyset.json"))
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t, storetest.New(t), keyset}
	plain, err := proto.Marshal(&vmhostv1.Credential{Kind: &vmhostv1.Credential_Lxd{Lxd: &vmhostv1.LxdCredential{
		CertificatePem: "certificate", PrivateKeyPem: "key", TrustToken: "token",
	}}})
	if err != nil {
		t.Fatal(err)
	}
	ciphertext, err := keyset.Encrypt(store.Secrets.Key("vmHosts", "h"), plain)
	if err != nil {
		t.Fatal(err)
	}
	tx := store.NewTxn()
	store.Put(tx, store.VmHosts, &storev1.StoredVmHost{
		Resource: &vmhostv1.VmHost{
			Name: "vmHosts/h", Uid: "u", CredentialKind: "lxd", CredentialInfo: &vmhostv1.CredentialInfo{CertificatePem: "certificate", TrustSecretStored: true},
		},
		ConnectionVersion: "second", ForgetTrustSecret: true,
	}, "h")
	store.Put(tx, store.Secrets, &storev1.StoredSecret{Ciphertext: ciphertext}, "vmHosts", "h")
	f.commit(tx)
	return f
}

func (f *fixture) commit(tx *store.Txn) {
	f.Helper()
	if _, err := f.store.Commit(f.Context(), tx); err != nil {
		f.Fatal(err)
	}
}

// reached records that the host was reached with a connection.
func (f *fixture) reached(uid, connection string) {
	f.Helper()
	tx := store.NewTxn()
	store.Put(tx, store.Observed, &storev1.StoredVmHostObservation{VmHostUid: uid, ConnectionVersion: connection}, "h")
	f.commit(tx)
}

func (f *fixture) credential() *vmhostv1.LxdCredential {
	f.Helper()
	rec, _ := store.Secrets.Get(f.store.Cached(), "vmHosts", "h")
	plain, err := f.keyset.Decrypt(store.Secrets.Key("vmHosts", "h"), rec.Value.GetCiphertext())
	if err != nil {
		f.Fatal(err)
	}
	c := &vmhostv1.Credential{}
	if err := proto.Unmarshal(plain, c); err != nil {
		f.Fatal(err)
	}
	return c.GetLxd()
}

// run lets the forgetter run until the host's record changes, or until it has
// seen the present state.
func (f *fixture) run(until func(h *storev1.StoredVmHost) bool) {
	f.Helper()
	ctx, cancel := context.WithCancel(f.Context())
	sub := f.store.Subscribe(ctx)
	done := make(chan error, 1)
	go func() { done <- trust.New(f.store, f.keyset, slog.New(slog.DiscardHandler)).Run(ctx) }()
	for {
		if h, _ := store.VmHosts.Get(f.store.Cached(), "h"); until(h.Value) {
			break
		}
		<-sub.C
	}
	cancel()
	if err := <-done; err != nil {
		f.Fatal(err)
	}
}

func TestP8ATrustTokenIsForgottenOnceTheHostWasReachedWithItsCertificate(t *testing.T) {
	f := start(t)
	f.reached("u", "second")
	f.run(func(h *storev1.StoredVmHost) bool { return !h.GetForgetTrustSecret() })
	if c := f.credential(); c.GetTrustToken() != "" || c.GetCertificatePem() != "certificate" || c.GetPrivateKeyPem() != "key" {
		t.Errorf("credential %q", strings.Join([]string{c.GetTrustToken(), c.GetCertificatePem(), c.GetPrivateKeyPem()}, " "))
	}
	h, _ := store.VmHosts.Get(f.store.Cached(), "h")
	if h.Value.GetResource().GetCredentialInfo().GetTrustSecretStored() || h.Value.GetConnectionVersion() != "second" {
		t.Errorf("host %v", h.Value)
	}
}

func TestATrustTokenStaysUntilItsOwnConnectionWasGood(t *testing.T) {
	for name, reached := range map[string]struct{ uid, connection string }{
		"reached with the credential before":   {"u", "first"},
		"the host that had the id before this": {"other", "second"},
		"not reached":                          {"u", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			f.reached(reached.uid, reached.connection)
			if err := trust.New(f.store, f.keyset, slog.New(slog.DiscardHandler)).Look(t.Context(), "h"); err != nil {
				t.Fatal(err)
			}
			h, _ := store.VmHosts.Get(f.store.Cached(), "h")
			if !h.Value.GetForgetTrustSecret() || f.credential().GetTrustToken() != "token" {
				t.Error("forgotten too early")
			}
		})
	}
}
