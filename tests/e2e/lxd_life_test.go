package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// What an operator does with LXD hosts, over the CLI, on one vmhost. Each part
// has a project of its own.
func TestLXDHostsByCLI(t *testing.T) {
	t.Parallel()
	s := newStandalone(t)
	for name, part := range map[string]func(t *testing.T, s *standalone){
		"P5 P8 a container lives and its server is as before":      aContainerLives,
		"P8 P9 every way to be trusted, and not to be":             everyWayToBeTrusted,
		"P9 a changed server certificate stops the host":           aChangedCertificate,
		"P5 what others made is byte for byte the same":            lxdOfOthers,
		"P4 P5 a host is removed by decompose, forget and abandon": lxdRemoval,
		"P4 quotas, networks, overcommitted and missing":           lxdQuotasAndNetworks,
		"P1 machines follow their instances in a cluster":          cluster,
		"P9 a check says what to type":                             lxdCheck,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			part(t, s.in(t))
		})
	}
}

func aContainerLives(t *testing.T, s *standalone) {
	h := lxdProject(t, "lxd3", "lives")
	h.init(t, "foreign", "limits.cpu=1", "limits.memory=32MiB", "user.note=of somebody else")
	before := h.everything(t)

	// The key that is uploaded is one that the test knows and can look for.
	cert, key := clientCertificate(t)
	token := h.Token(t)
	s.mustCtl("vm-host", "add", h.name, h.URL, "--project", h.project, "--trust-token", secretFile(t, token), "--tls-cert", cert, "--tls-key", key,
		"--overcommit", "cores=10,memory=10")
	same(t, "adding the host", before, h.everything(t))
	parameters := s.mustCtl("vm-host", "parameters", h.name)
	says(t, "vm-host parameters", parameters, h.Fingerprint, h.project)
	if info := s.vmHost(h.name).GetCredentialInfo(); info.GetTrustSecretStored() || info.GetCertificateFingerprint() == "" || strings.Contains(parameters, "Trust secret") {
		t.Errorf("the token is not forgotten: %v\n%s", info, parameters)
	}

	name := s.container(h, "lives", "--cores", "2", "--memory", "256MiB", "--disk", "20MB@btrfs", "--start")
	says(t, "lxc config show", h.shown(t, "lives"), `limits.cpu: "2"`, "limits.memory: 256MiB", "user.vmhost.uid: "+strings.TrimPrefix(name, "machines/"), "pool: btrfs")
	if got := h.Run(t, h.project, "lives", "nproc"); got != "2" && s.vmHost(h.name).GetObservation().GetCores() >= 2 {
		t.Errorf("the container has %s cores", got)
	}
	address := ""
	await(t, 60*time.Second, "the container's address", func(context.Context) error {
		for _, a := range s.machine(name).GetAddresses() { //nolint:contextcheck // the test's ends it as well
			if strings.HasPrefix(a, "192.168.") {
				address = a
				return nil
			}
		}
		return errors.New("no address yet")
	})
	says(t, "machine get", s.mustCtl("machine", "get", "lives"), address)
	says(t, "lxc list", h.lxc(t, "list", "--format", "csv", "--columns", "n4"), address)
	await(t, 30*time.Second, "the container's words in its console log", func(context.Context) error {
		if log := s.mustCtl("machine", "console-log", "lives"); !strings.Contains(log, "TINY READY") || !strings.Contains(log, "TINY IP eth0 "+address) { //nolint:contextcheck // the test's ends it as well
			return errors.New(log)
		}
		return nil
	})
	converse(t, s, h, "lives")

	state := func(verb, want string, more ...string) {
		t.Helper()
		s.mustCtl(append([]string{"machine", verb, "lives"}, more...)...)
		if got := h.instances(t); !strings.Contains(got, "lives,"+want) {
			t.Errorf("after %s: %s", verb, got)
		}
	}
	state("pause", "FROZEN")
	state("resume", "RUNNING")
	was := h.pid(t, "lives")
	state("cycle", "RUNNING")
	if h.pid(t, "lives") == was {
		t.Error("cycle did not start it anew")
	}
	// Asked too early a guest hears nothing.
	await(t, 30*time.Second, "the container to run after its cycle", func(context.Context) error {
		if log := s.mustCtl("machine", "console-log", "lives", "--tail", "1KiB"); !strings.Contains(log, "TINY READY") { //nolint:contextcheck // the test's ends it as well
			return errors.New(log)
		}
		return nil
	})
	state("stop", "STOPPED", "--soft")

	s.mustCtl("machine", "delete", "lives", "--yes")
	same(t, "the life of a container", before, h.everything(t))
	s.mustCtl("vm-host", "remove", h.name, "--yes")
	same(t, "removing the host", before, h.everything(t))
	nowhere(t, s, token, key)
}

// converse types a line into a container's console, where a shell reads it, and
// sees its answer.
func converse(t *testing.T, s *standalone, h lxdHost, name string) {
	t.Helper()
	limited, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := s.command("machine", "console", name)
	context.AfterFunc(limited, func() { _ = cmd.Process.Kill() })
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	shell := make(chan error, 1)
	go func() {
		_, err := h.try("exec", name, "--", "sh", "-c", "exec </dev/console >/dev/console; n=0; until read -t 1 word || [ $n -gt 50 ]; do n=$((n+1)); echo shell listens; done; echo it was $word")
		shell <- err
	}()
	lines := bufio.NewScanner(out)
	heard := func(want string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), want) {
				return
			}
		}
		t.Errorf("the console ended before %q: %v", want, lines.Err())
	}
	heard("shell listens")
	if _, err := in.Write([]byte("rosebud\n")); err != nil {
		t.Error(err)
	}
	heard("it was rosebud")
	if err := <-shell; err != nil {
		t.Error(err)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("leaving the console: %v", err)
	}
}

// clientCertificate is one that the user brings.
func clientCertificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "e2e"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return secretFile(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		secretFile(t, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

// nowhere looks for a trust token and a private key in all that vmhost keeps on
// disk, etcd's files with its whole history among them, and in its log.
func nowhere(t *testing.T, s *standalone, token, keyFile string) {
	t.Helper()
	key, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(key)
	secrets := map[string][]byte{
		"the token": []byte(token), "the key": block.Bytes, "the key's text": []byte(strings.Split(string(key), "\n")[1]),
	}
	decoded, err := base64.StdEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	var parts struct {
		Secret string `json:"secret"`
	}
	if err := json.Unmarshal(decoded, &parts); err != nil || parts.Secret == "" {
		t.Fatalf("the token has no secret: %v", err)
	}
	secrets["the token's secret"] = []byte(parts.Secret)
	look := func(where string, in []byte) {
		for what, secret := range secrets {
			if bytes.Contains(in, secret) {
				t.Errorf("%s is in %s", what, where)
			}
		}
	}
	look("the log", []byte(s.log.String()))
	files, sawHost := 0, false
	err = filepath.WalkDir(filepath.Join(s.dir, "data"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		sawHost = sawHost || bytes.Contains(b, []byte("hosts/lives"))
		look(path, b)
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if !sawHost {
		t.Errorf("nothing of the host was found in %d files, so that looking there proves nothing", files)
	}
}

func everyWayToBeTrusted(t *testing.T, s *standalone) {
	h := lxdProject(t, "lxd3", "trust")
	key := "SHA256:" + h.Fingerprint
	ready := func(host string) {
		t.Helper()
		if v := s.vmHost(host); v.GetState() != vmhostv1.VmHostState_VM_HOST_STATE_READY || v.GetCredentialInfo().GetTrustSecretStored() {
			t.Errorf("%s is %v, its trust secret kept: %v", host, v.GetState(), v.GetCredentialInfo().GetTrustSecretStored())
		}
	}
	add := func(host, in string, more ...string) (string, int) {
		t.Helper()
		_, errs, code := s.ctlIn(in, append([]string{"vm-host", "add", host, h.URL, "--project", h.project, "--overcommit", "cores=10,memory=10"}, more...)...)
		return errs, code
	}

	// The certificate of the server is shown, and nothing is added before it is
	// confirmed.
	errs, code := add("unseen", "")
	if code != 7 {
		t.Errorf("a server whose certificate nobody has confirmed: exit code %d", code)
	}
	says(t, "the refusal", errs, "HOST_KEY_REQUIRED", h.Fingerprint, "--host-key '"+key+"'")
	if _, _, code := s.ctl("vm-host", "get", "unseen"); code != 6 {
		t.Errorf("it was added all the same: exit code %d", code)
	}

	errs, code = add("wrongpassword", "not it", "--host-key", key, "--trust-password-stdin")
	if code != 1 || strings.Contains(errs, "not it") {
		t.Errorf("a wrong password: exit code %d\n%s", code, errs)
	}
	says(t, "the failure", errs, "AUTH_FAILED", "trust password")
	s.mustCtl("vm-host", "remove", "wrongpassword", "--yes") // one project is one host

	if errs, code = add("password", h.Password, "--host-key", key, "--trust-password-stdin"); code != 0 {
		t.Errorf("by password: exit code %d\n%s", code, errs)
	}
	ready("password")
	if strings.Contains(s.log.String(), h.Password) {
		t.Error("the trust password is in the log")
	}
	s.mustCtl("vm-host", "remove", "password", "--yes")

	// Not trusted: the lines that are printed are typed, and the host is ready.
	errs, code = add("typed", "", "--host-key", key)
	if code != 1 {
		t.Errorf("a server that does not trust us: exit code %d", code)
	}
	file := filepath.Join(t.TempDir(), "typed.crt")
	says(t, "the failure", errs, "HOST_AUTH_FAILED", "vmhostctl vm-host parameters typed --certificate > typed.crt",
		"lxc config trust add typed.crt --name vmhost-typed --restricted --projects "+h.project, "vmhostctl vm-host refresh typed")
	if err := os.WriteFile(file, []byte(s.mustCtl("vm-host", "parameters", "typed", "--certificate")), 0o600); err != nil {
		t.Fatal(err)
	}
	h.Lxc(t, "config", "trust", "add", file, "--name", "vmhost-typed", "--restricted", "--projects", h.project)
	s.mustCtl("vm-host", "refresh", "typed")
	ready("typed")
	// The restricted certificate makes and removes machines.
	as := h
	as.name = "typed"
	s.container(as, "restricted")
	s.mustCtl("machine", "delete", "restricted", "--yes")
	s.mustCtl("vm-host", "remove", "typed", "--yes")

	// Trusted before it is added.
	cert, private := clientCertificate(t)
	h.Lxc(t, "config", "trust", "add", cert, "--name", "e2e-before")
	if errs, code = add("before", "", "--host-key", key, "--tls-cert", cert, "--tls-key", private); code != 0 {
		t.Errorf("trusted before: exit code %d\n%s", code, errs)
	}
	ready("before")
	s.mustCtl("vm-host", "remove", "before", "--yes")

	used := h.Token(t)
	if errs, code = add("once", "", "--trust-token", secretFile(t, used)); code != 0 {
		t.Errorf("by token: exit code %d\n%s", code, errs)
	}
	s.mustCtl("vm-host", "remove", "once", "--yes")
	errs, code = add("twice", "", "--trust-token", secretFile(t, used))
	if code != 1 || strings.Contains(errs, used) {
		t.Errorf("a token that was used: exit code %d\n%s", code, errs)
	}
	says(t, "the failure", errs, "HOST_AUTH_FAILED", "works once", "lxc config trust add")
	errs, code = add("nonsense", "", "--trust-token", secretFile(t, "nonsense"))
	if code != 2 {
		t.Errorf("a token that is none: exit code %d\n%s", code, errs)
	}
	says(t, "the refusal", errs, "trust_token")
}

// aChangedCertificate puts another server in the place of the one that was
// confirmed.
func aChangedCertificate(t *testing.T, s *standalone) {
	h := lxdProject(t, "lxd3", "changed")
	other := lxdProject(t, "lxd1", "changed")
	proxy := newTCPProxy(t, h.IP+":8443")
	address := "https://" + proxy.addr
	s.mustCtl("vm-host", "add", h.name, address, "--project", h.project, "--trust-token", secretFile(t, h.Token(t)), "--host-key", "SHA256:"+h.Fingerprint,
		"--overcommit", "cores=10,memory=10")
	s.container(h, "behind")
	state := func(want vmhostv1.VmHostState) *vmhostv1.VmHost {
		t.Helper()
		var v *vmhostv1.VmHost
		await(t, 90*time.Second, "the host to be "+want.String(), func(context.Context) error {
			if v = s.vmHost(h.name); v.GetState() != want { //nolint:contextcheck // the test's ends it as well
				return fmt.Errorf("it is %v", v.GetState())
			}
			return nil
		})
		return v
	}
	proxy.turn(other.IP + ":8443")
	v := state(vmhostv1.VmHostState_VM_HOST_STATE_HOST_KEY_CHANGED)
	i := slices.IndexFunc(v.GetConditions(), func(c *vmhostv1.Condition) bool { return strings.Contains(c.GetMessage(), other.Fingerprint) })
	if i < 0 || v.GetConditions()[i].GetHint() == "" {
		t.Errorf("no condition says what is presented and what to do: %v", v.GetConditions())
	}
	if _, errs, code := s.ctl("machine", "start", "behind", "--wait", "2s"); code == 0 {
		t.Errorf("a machine of a host with a changed certificate was started: %s", errs)
	}
	if got, err := other.try("list", "--format", "csv"); err != nil || got != "" {
		t.Errorf("the other server has %q, %v", got, err)
	}
	// Whose certificate is accepted need not trust ours.
	s.mustCtl("vm-host", "update", h.name, "--accept-host-key")
	state(vmhostv1.VmHostState_VM_HOST_STATE_AUTH_FAILED)
	proxy.turn(h.IP + ":8443")
	if _, errs, code := s.ctl("vm-host", "refresh", h.name); code == 0 || !strings.Contains(errs, "HOST_KEY_CHANGED") {
		t.Errorf("with the certificate of before: exit code %d\n%s", code, errs)
	}
	s.mustCtl("vm-host", "update", h.name, "--accept-host-key")
	state(vmhostv1.VmHostState_VM_HOST_STATE_READY)
	s.mustCtl("machine", "delete", "behind", "--yes")
}
