package main

import (
	"strings"
	"testing"
)

func TestTheCommandHelpsPrintsAndRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		out  string
		err  string
	}{
		{"help", []string{"--help"}, "--region-ca-spki", ""},
		{"print", []string{"config", "print", "--listen=127.0.0.1:1"}, "listen: 127.0.0.1:1\n", ""},
		{"reference", []string{"config", "reference"}, "| `listen` | `--listen` | `VMHOST_GATEWAY_LISTEN` |", ""},
		{"environment", []string{"config", "print"}, "level: debug\n", ""},
		{"unknown flag", []string{"--lisen=x"}, "", "lisen"},
		{"no certificate", nil, "", "tls.cert_file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			getenv := func(key string) string { return map[string]string{"VMHOST_GATEWAY_LOG_LEVEL": "debug"}[key] }
			err := run(t.Context(), tt.args, getenv, &out)
			if (err != nil) != (tt.err != "") || (err != nil && !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("run = %v, want %q", err, tt.err)
			}
			if !strings.Contains(out.String(), tt.out) {
				t.Errorf("output has no %q:\n%s", tt.out, out.String())
			}
		})
	}
}
