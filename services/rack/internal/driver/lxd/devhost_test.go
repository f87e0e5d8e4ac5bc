package lxd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/lxdtest"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func mustParse(t testing.TB, s string) hypervisor.Address {
	t.Helper()
	a, err := hypervisor.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func timeout(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func wantClass(t testing.TB, err, class error) {
	t.Helper()
	if !errors.Is(err, class) || err.Error() == class.Error() {
		t.Errorf("error is %v, want one of class %q with words of its own", err, class)
	}
}

// newCertificate is a client certificate that no server knows.
func newCertificate(t testing.TB, name string, until time.Time) *vmhostv1.LxdCredential {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: until.Add(-48 * time.Hour), NotAfter: until, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &vmhostv1.LxdCredential{
		CertificatePem: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		PrivateKeyPem:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})),
	}
}

func fingerprintOf(t testing.TB, c *vmhostv1.LxdCredential) string {
	t.Helper()
	id, err := readIdentity(credential(c), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return fingerprint(id.leaf.Raw)
}

func credential(c *vmhostv1.LxdCredential) *vmhostv1.Credential {
	return &vmhostv1.Credential{Kind: &vmhostv1.Credential_Lxd{Lxd: c}}
}

// distrust makes a server forget a certificate at the end of the test.
func distrust(t testing.TB, s lxdtest.Server, c *vmhostv1.LxdCredential) {
	t.Helper()
	id := fingerprintOf(t, c)
	t.Cleanup(func() { _, _ = s.TryLxc("config", "trust", "remove", id[:12]) })
}

// trusted is a certificate that a server trusts, by its own tools.
func trusted(t testing.TB, s lxdtest.Server, args ...string) *vmhostv1.LxdCredential {
	t.Helper()
	c := newCertificate(t, "vmhost-"+strings.ToLower(strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())), time.Now().Add(24*time.Hour))
	file := filepath.Join(t.TempDir(), "client.crt")
	if err := os.WriteFile(file, []byte(c.GetCertificatePem()), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Lxc(t, append([]string{"config", "trust", "add", file}, args...)...)
	distrust(t, s, c)
	return c
}

// targetOf is a server by HTTPS, with a certificate that it trusts.
func targetOf(t testing.TB, s lxdtest.Server) hypervisor.Target {
	t.Helper()
	return hypervisor.Target{
		Name: "vmHosts/" + s.Name, Address: mustParse(t, s.URL), HostKey: pinPrefix + s.Fingerprint, Credential: credential(trusted(t, s)),
	}
}

func openTarget(t testing.TB, o *Opener, target hypervisor.Target) *Driver {
	t.Helper()
	d, err := o.Open(timeout(t, 20*time.Second), target)
	if err != nil {
		t.Fatalf("open %s: %v", target.Address, err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d.(*Driver)
}

// overSocket is a driver over a server's unix socket.
func overSocket(t testing.TB, s lxdtest.Server, project string) *Driver {
	t.Helper()
	o := NewOpener(Config{LocalSockets: map[string]string{"here": s.Socket}})
	return openTarget(t, o, hypervisor.Target{Name: "vmHosts/" + s.Name, Address: mustParse(t, "lxd+unix://here"), Project: project})
}
