package lxd

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	lxdapi "github.com/canonical/lxd/shared/api"
	"github.com/google/uuid"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/lxdtest"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// stranger is a target with a certificate that the server does not know.
func stranger(t *testing.T, s lxdtest.Server) (hypervisor.Target, *vmhostv1.LxdCredential) {
	t.Helper()
	c := newCertificate(t, "vmhost-stranger", time.Now().Add(time.Hour))
	distrust(t, s, c)
	return hypervisor.Target{Name: "vmHosts/" + s.Name, Address: mustParse(t, s.URL), HostKey: pinPrefix + s.Fingerprint, Credential: credential(c)}, c
}

func open(t *testing.T, target hypervisor.Target) error {
	t.Helper()
	d, err := NewOpener(Config{}).Open(timeout(t, 20*time.Second), target)
	if err == nil {
		_ = d.Close()
	}
	return err
}

func TestRealTokenMakesTheServerTrustUsOnceAndNamesItsCertificate(t *testing.T) {
	s := lxdtest.Devhost(t, "lxd1")
	target, c := stranger(t, s)
	c.TrustToken = s.Token(t)
	target.HostKey = "" // the token vouches for it
	if err := open(t, target); err != nil {
		t.Fatal(err)
	}
	if err := open(t, target); err != nil {
		t.Errorf("open again, with the token that was used: %v", err)
	}
	used := c.GetTrustToken()
	c.TrustToken = ""
	target.HostKey = pinPrefix + s.Fingerprint
	if err := open(t, target); err != nil {
		t.Errorf("open again, without: %v", err)
	}
	other, c2 := stranger(t, s)
	c2.TrustToken = used
	err := open(t, other)
	wantClass(t, err, hypervisor.ErrAuth)
	if err == nil || strings.Contains(err.Error(), used) || !strings.Contains(err.Error(), "token") {
		t.Errorf("a token that was used: %v", err)
	}
}

func TestRealPasswordMakesTheServerTrustUs(t *testing.T) {
	s := lxdtest.Devhost(t, "lxd2")
	target, c := stranger(t, s)
	c.TrustPassword = "not the password"
	err := open(t, target)
	wantClass(t, err, hypervisor.ErrAuth)
	if err != nil && strings.Contains(err.Error(), "not the password") {
		t.Errorf("the password is shown: %v", err)
	}
	c.TrustPassword = s.Password
	if err := open(t, target); err != nil {
		t.Fatal(err)
	}
	c.TrustPassword = ""
	if err := open(t, target); err != nil {
		t.Errorf("already trusted: %v", err)
	}
}

func TestRealWhatIsTypedOnTheServerMakesItTrustUs(t *testing.T) {
	s := lxdtest.Devhost(t, "lxd1")
	for _, project := range []string{"", "trust-" + uuid.NewString()[:8]} {
		target, c := stranger(t, s)
		target.Project = project
		restricted := project != ""
		if restricted {
			s.Lxc(t, "project", "create", project)
			t.Cleanup(func() { s.Lxc(t, "project", "delete", project) })
		}
		err := open(t, target)
		wantClass(t, err, hypervisor.ErrAuth)
		e, ok := errors.AsType[*hypervisor.Error](err)
		if !ok {
			t.Fatal(err)
		}
		block, _ := pem.Decode([]byte(c.GetCertificatePem()))
		if !strings.Contains(e.Hint, fingerprint(block.Bytes)) || !strings.Contains(e.Hint, "`vmhostctl vm-host parameters lxd1 --certificate > lxd1.crt`") {
			t.Errorf("the hint is %q", e.Hint)
		}
		_, line, _ := strings.Cut(e.Hint, "on the server `")
		line = strings.TrimSuffix(line, "`")
		if strings.Contains(line, "--restricted --projects "+project) != restricted {
			t.Errorf("for the project %q: %q", project, line)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "sh", "-c", line)
		cmd.Dir = t.TempDir()
		if err := os.WriteFile(filepath.Join(cmd.Dir, "lxd1.crt"), []byte(c.GetCertificatePem()), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(cmd.Environ(), "LXD_DIR="+filepath.Dir(s.Socket), "LXD_CONF="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
		if err := open(t, target); err != nil {
			t.Errorf("after that: %v", err)
		}
	}
}

func TestRealBadCredentialsAreToldApart(t *testing.T) {
	s, other := lxdtest.Devhost(t, "lxd1"), lxdtest.Devhost(t, "lxd2")
	for _, test := range []struct {
		name  string
		spoil func(target *hypervisor.Target, c *vmhostv1.LxdCredential)
		class error
		word  string
	}{
		{"a token that is none", func(_ *hypervisor.Target, c *vmhostv1.LxdCredential) { c.TrustToken = "no token" }, hypervisor.ErrAuth, "cannot be read"},
		{"a token of another server", func(_ *hypervisor.Target, c *vmhostv1.LxdCredential) { c.TrustToken = other.Token(t) }, hypervisor.ErrAuth, "confirmed is"},
		{"a token that was made up", func(_ *hypervisor.Target, c *vmhostv1.LxdCredential) {
			b, err := json.Marshal(lxdapi.CertificateAddToken{ClientName: "x", Fingerprint: s.Fingerprint, Secret: "made-up"})
			if err != nil {
				t.Fatal(err)
			}
			c.TrustToken = base64.StdEncoding.EncodeToString(b)
		}, hypervisor.ErrAuth, "does not take the trust token"},
		{"an expired certificate", func(target *hypervisor.Target, _ *vmhostv1.LxdCredential) {
			target.Credential = credential(newCertificate(t, "vmhost-old", time.Now().Add(-time.Hour)))
		}, hypervisor.ErrAuth, "expired on"},
		{"no certificate", func(target *hypervisor.Target, _ *vmhostv1.LxdCredential) {
			target.Credential = credential(&vmhostv1.LxdCredential{})
		}, hypervisor.ErrAuth, "no client certificate"},
		{"another kind of credential", func(target *hypervisor.Target, _ *vmhostv1.LxdCredential) {
			target.Credential = &vmhostv1.Credential{Kind: &vmhostv1.Credential_Password{Password: "x"}}
		}, hypervisor.ErrAuth, "no client certificate"},
		{"no host key", func(target *hypervisor.Target, _ *vmhostv1.LxdCredential) { target.HostKey = "" }, hypervisor.ErrHostKey, "no certificate is confirmed"},
		{"a host key that is none", func(target *hypervisor.Target, _ *vmhostv1.LxdCredential) { target.HostKey = "ssh-ed25519 AAAA" }, hypervisor.ErrHostKey, "64 hexadecimal"},
		{"another server", func(target *hypervisor.Target, _ *vmhostv1.LxdCredential) {
			target.HostKey = pinPrefix + other.Fingerprint
		}, hypervisor.ErrHostKey, "presents"},
		{"a member where there is no cluster", func(target *hypervisor.Target, _ *vmhostv1.LxdCredential) {
			target.Credential, target.ClusterMember = credential(trusted(t, s)), "m1"
		}, hypervisor.ErrRefused, "not clustered"},
		{"nobody answers", func(target *hypervisor.Target, _ *vmhostv1.LxdCredential) { target.Address.Port = 1 }, hypervisor.ErrUnreachable, "refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			target, c := stranger(t, s)
			test.spoil(&target, c)
			err := open(t, target)
			wantClass(t, err, test.class)
			if err == nil || !strings.Contains(err.Error(), test.word) {
				t.Errorf("error %q, want %q in it", err, test.word)
			}
		})
	}
}

func TestRealHostKeyIsTheServersFingerprint(t *testing.T) {
	s := lxdtest.Devhost(t, "lxd1")
	key, shown, err := NewOpener(Config{}).HostKey(timeout(t, 10*time.Second), mustParse(t, s.URL))
	if err != nil || key != pinPrefix+s.Fingerprint || shown != s.Fingerprint {
		t.Errorf("%q, %q, error %v; want %s", key, shown, err, s.Fingerprint)
	}
}

func TestRealServerThatCeasesToTrustUsSaysSo(t *testing.T) {
	s := lxdtest.Devhost(t, "lxd1")
	target := targetOf(t, s)
	d := openTarget(t, NewOpener(Config{}), target)
	if _, err := d.Machines(timeout(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	s.Lxc(t, "config", "trust", "remove", fingerprintOf(t, target.Credential.GetLxd())[:12])
	_, err := d.Machines(timeout(t, 10*time.Second))
	wantClass(t, err, hypervisor.ErrAuth)
}

func TestRealMissingProjectIsMadeAndARestrictedCertificateWorksInItAlone(t *testing.T) {
	s := lxdtest.Devhost(t, "lxd1")
	const name = "vmhost-test-made"
	t.Cleanup(func() { _, _ = s.TryLxc("project", "delete", name) })
	target := targetOf(t, s)
	target.Project = name
	d := openTarget(t, NewOpener(Config{}), target)
	o, err := d.Probe(timeout(t, 20*time.Second))
	if err != nil || o.GetProject() != name || len(o.GetImages()) == 0 || len(o.GetProblems()) > 0 {
		t.Errorf("project %q, images %v, problems %v, error %v", o.GetProject(), o.GetImages(), o.GetProblems(), err)
	}
	if text := s.Lxc(t, "project", "show", name); !strings.Contains(text, projectDescription) {
		t.Errorf("the project is %s", text)
	}
	_ = d.Close()

	restricted := credential(trusted(t, s, "--restricted", "--projects", name))
	target.Credential = restricted
	d = openTarget(t, NewOpener(Config{}), target)
	o, list, err := d.Inventory(timeout(t, 20*time.Second))
	if err != nil || len(list) != 0 || len(o.GetProblems()) == 0 || len(o.GetStoragePools()) == 0 || o.GetCores() == 0 {
		t.Errorf("%v, machines %v, error %v; want all but what it may not see, and that said", o, list, err)
	}
	uid := checkContainer(t, d, "lxdbr0")
	t.Logf("made %s, problems %q", uid, o.GetProblems())

	for _, other := range []string{"default", "vmhost-test-other"} {
		target.Project = other
		err := open(t, target)
		wantClass(t, err, hypervisor.ErrRefused)
		e, ok := errors.AsType[*hypervisor.Error](err)
		if !ok || !strings.Contains(e.Error(), name) || !strings.Contains(e.Hint, "lxc config trust edit") {
			t.Errorf("project %s: %v, hint %q", other, err, e.Hint)
		}
	}
}
