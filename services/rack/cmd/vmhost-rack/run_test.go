package main

import (
	"flag"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmhost-project/vmhost/pkg/config/configtest"
	"github.com/vmhost-project/vmhost/services/rack"
	"github.com/vmhost-project/vmhost/services/rack/internal/stubregion"
)

func TestCommands(t *testing.T) {
	region, dir := stubregion.Start(t), t.TempDir()
	token := region.Token("t1").String()
	for _, test := range []struct {
		name string
		args []string
		env  map[string]string
		out  string
		err  string
	}{
		{name: "version", args: []string{"version"}, out: "unknown"},
		{name: "config print", args: []string{"config", "print"}, env: map[string]string{"VMHOST_RACK_JOIN_TOKEN": "secret"}, out: "ops_listen: 127.0.0.1:7447"},
		{name: "enroll without a token", args: []string{"enroll"}, err: "vmhostctl rack token create"},
		{name: "enroll with something else", args: []string{"enroll", "token", "--data-dir", dir}, err: "join token"},
		{name: "enroll", args: []string{"enroll", token, "--data-dir", dir}, out: "enrolled as racks/r1"},
		{name: "enroll with the same token", args: []string{"enroll", token, "--data-dir", dir}, err: "unknown, used or expired"},
		{name: "serve without identity", args: []string{"--data-dir", filepath.Join(dir, "other"), "--ops-listen", "", "--drivers", "fake"}, err: "not enrolled"},
		{name: "a key that is not there", args: []string{"--no-such-flag"}, err: "no-such-flag"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out strings.Builder
			err := run(t.Context(), test.args, func(k string) string { return test.env[k] }, &out)
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
			if !strings.Contains(out.String(), test.out) || strings.Contains(out.String(), "secret\n") {
				t.Errorf("output %q, want %q in it", out.String(), test.out)
			}
			if err != nil && strings.Contains(err.Error(), token) {
				t.Errorf("P8: error %q shows the token", err)
			}
		})
	}
}

var update = flag.Bool("update", false, "write golden files anew")

func TestTheDefaultsAreValidAndDescribed(t *testing.T) {
	cfg := rack.Default()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	configtest.Reference(t, "services/rack/cmd/vmhost-rack", "vmhost-rack", "VMHOST_RACK", &cfg, *update)
}
