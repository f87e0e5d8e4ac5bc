package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmhost-project/vmhost/pkg/config/configtest"
	"github.com/vmhost-project/vmhost/services/region"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

func noEnvironment(string) string { return "" }

func command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := run(t.Context(), args, noEnvironment, &out)
	return out.String(), err
}

func TestInitMakesADeploymentOnceAndTokensCanBeMade(t *testing.T) {
	endpoint, dir := storetest.Endpoint(t), t.TempDir()
	common := []string{"--etcd-endpoints", endpoint, "--secret-key-file", filepath.Join(dir, "secret.key"), "--log-level", "error"}
	if _, err := command(t, append([]string{"token", "create", "--principal", "alice"}, common...)...); err == nil || !strings.Contains(err.Error(), "no deployment") {
		t.Errorf("a token before there is a deployment: %v", err)
	}
	initArgs := append([]string{"init", "--out", dir, "--gateway-name", "gw.example,10.0.0.1"}, common...)
	if _, err := command(t, initArgs...); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for _, name := range []string{"admin.token", "gateway.key", "secret.key"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if !strings.Contains(read("gateway.crt"), "BEGIN CERTIFICATE") || !strings.Contains(read("gateway.key"), "BEGIN PRIVATE KEY") {
		t.Error("no certificate for the gateway")
	}
	token, ca := read("admin.token"), read("ca.pem")
	if _, err := command(t, initArgs...); err != nil {
		t.Fatal(err)
	}
	if read("admin.token") != token || read("ca.pem") != ca {
		t.Error("done again it made another deployment")
	}
	out, err := command(t, append([]string{"token", "create", "--role", "viewer", "--principal", "alice"}, common...)...)
	if err != nil || !strings.HasPrefix(out, "vmh_") {
		t.Errorf("got %q, %v", out, err)
	}
	if _, err = command(t, append([]string{"token", "create", "--role", "king", "--principal", "alice"}, common...)...); err == nil || !strings.Contains(err.Error(), "king") {
		t.Errorf("an unknown role: %v", err)
	}
}

func TestTheConfigurationIsPrintedAndWhatIsWrongIsSaid(t *testing.T) {
	out, err := command(t, "config", "print", "--api-listen", "127.0.0.1:1")
	if err != nil || !strings.Contains(out, "api_listen: 127.0.0.1:1") {
		t.Errorf("got %q, %v", out, err)
	}
	if out, err := command(t, "version"); err != nil || out == "" {
		t.Errorf("version: %q, %v", out, err)
	}
	for want, args := range map[string][]string{
		"api_listen":      {"--api-listen", "nowhere"},
		"tls.cert_file":   {"--tls-cert-file", "x"},
		"etcd.cert_file":  {"--etcd-key-file", "x"},
		"secret_key_file": {"--secret-key-file", ""},
		"rack_grace":      {"--rack-grace", "-1s"},
		"drain_timeout":   {"--drain-timeout", "0s"},
		"rack_endpoints":  {"--rack-endpoints", "x"},
	} {
		if _, err := command(t, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v does not name %s", args, err, want)
		}
	}
}

var update = flag.Bool("update", false, "write golden files")

func TestTheDefaultsAreValidAndDescribed(t *testing.T) {
	cfg := region.Default()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	configtest.Reference(t, "services/region/cmd/vmhost-region", "vmhost-region", envPrefix, &cfg, *update)
}
