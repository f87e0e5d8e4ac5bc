package lxd

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	lxdapi "github.com/canonical/lxd/shared/api"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// enter logs in to the fake as if it were reached by HTTPS.
func (f *fakeLXD) enter(t *testing.T, o *Opener, target hypervisor.Target) error {
	t.Helper()
	ctx := timeout(t, 10*time.Second)
	l, err := newLogin(target, &o.refusals, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c := newConn(o.cfg, true, func(ctx context.Context) (net.Conn, error) { return dialUnix(ctx, f.path) })
	d, err := o.enter(ctx, c, l, target)
	if err == nil {
		t.Cleanup(func() { _ = d.Close() })
		return nil
	}
	c.fail(errClosed)
	return err
}

func TestASecretThatWasRefusedIsNotSentAgainUntilTheCredentialChanges(t *testing.T) {
	f := newFakeLXD(t)
	trusted := f.answers["GET /1.0"]
	const ask = "POST /1.0/certificates"
	f.set("GET /1.0", lxdapi.Server{ServerUntrusted: lxdapi.ServerUntrusted{Auth: "untrusted"}})
	c := newCertificate(t, "vmhost-l1", time.Now().Add(time.Hour))
	c.TrustPassword = "wrong"
	target := hypervisor.Target{Name: "vmHosts/l1", Address: mustParse(t, "https://127.0.0.1:8443"), Project: "lab", Credential: credential(c)}
	o := NewOpener(Config{})
	try := func(what string, sent int) {
		t.Helper()
		err := f.enter(t, o, target)
		wantClass(t, err, hypervisor.ErrAuth)
		if got := f.count(ask); got != sent {
			t.Errorf("%s: sent %d times, want %d; %v", what, got, sent, err)
		}
		if err == nil || !strings.Contains(err.Error(), "no trust today") || strings.Contains(err.Error(), "wrong") {
			t.Errorf("%s: %v, want the server's words and not the secret", what, err)
		}
	}
	f.set(ask, refusal{http.StatusInternalServerError, "no trust today"})
	try("an error that says nothing of the secret", 1)
	try("after that", 2)
	f.set(ask, refusal{http.StatusForbidden, "no trust today"})
	try("a refusal", 3)
	try("after that", 3)
	c.TrustPassword = "wrong again"
	try("another password", 4)
	try("after that", 4)
	target.Address.Port = 8444
	try("another server", 5)
	// Whoever makes the server trust us needs no secret for it.
	f.set("GET /1.0", trusted)
	f.set("GET /1.0/projects/lab", lxdapi.Project{Name: "lab"})
	if err := f.enter(t, o, target); err != nil {
		t.Error(err)
	}
}
