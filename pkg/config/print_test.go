package config_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmhost-project/vmhost/pkg/config"
)

func TestWhatIsPrintedCanBeLoadedAndShowsNoSecret(t *testing.T) {
	cfg := defaults()
	cfg.Secret = "hunter2"
	cfg.Labels = map[string]string{"k": "v"}
	cfg.Peers = []peer{{Name: "p", Token: "hunter2"}, {Name: "q"}}
	var out strings.Builder
	if err := config.Print(&out, cfg); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "hunter2") {
		t.Fatalf("a secret is shown:\n%s", out.String())
	}
	got := &settings{}
	if err := config.Load(got, options(out.String(), nil, "--config=f.yaml")); err != nil {
		t.Fatal(err)
	}
	cfg.Secret = "REDACTED"
	cfg.Peers[0].Token = "REDACTED"
	if diff := cmp.Diff(cfg, got); diff != "" {
		t.Errorf("printed and loaded (-want +got):\n%s", diff)
	}
}

func TestFlagsDefaultsHelpAndReferenceAgree(t *testing.T) {
	const want = "| key | flag | environment | default | meaning |\n" +
		"|---|---|---|---|---|\n" +
		"| `log.level` | `--log-level` | `PROG_LOG_LEVEL` | `info` | least level that is logged |\n" +
		"| `listen_port` | `--listen-port` | `PROG_LISTEN_PORT` | `80` | where to listen |\n" +
		"| `names` | `--names` | `PROG_NAMES` | `a` | names to serve |\n" +
		"| `labels` | `--labels` | `PROG_LABELS` |  | labels to add |\n" +
		"| `grace` | `--grace` | `PROG_GRACE` | `1s` | how long to wait |\n" +
		"| `retries` | `--retries` | `PROG_RETRIES` | `0` | how often to try |\n" +
		"| `ratio` | `--ratio` | `PROG_RATIO` | `1` | a ratio |\n" +
		"| `debug` | `--debug` | `PROG_DEBUG` | `false` | say more |\n" +
		"| `secret` |  | `PROG_SECRET` |  | a password |\n" +
		"| `peers` |  |  |  | others |\n"
	var reference strings.Builder
	if err := config.Reference(&reference, defaults(), options("", nil)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, reference.String()); diff != "" {
		t.Errorf("reference (-want +got):\n%s", diff)
	}

	var help strings.Builder
	if done, err := config.Command(defaults(), options("", nil, "--help"), &help); !done || err != nil {
		t.Fatalf("--help = %v, %v", done, err)
	}
	for row := range strings.Lines(reference.String()) {
		cells := strings.Split(row, "|")
		if len(cells) < 6 || !strings.HasPrefix(cells[1], " `") {
			continue
		}
		name, def, usage := strings.Trim(cells[2], " `"), strings.Trim(cells[4], " `"), strings.TrimSpace(cells[5])
		if name == "" {
			continue
		}
		line := "  " + name
		if def != "" && def != "false" {
			line += " (default " + def + ")"
		}
		if !strings.Contains(help.String(), line+"\n        "+usage+"\n") {
			t.Errorf("help does not say %q, %q:\n%s", line, usage, help.String())
		}
		value := def // its own default must be a value that the flag takes
		if value == "" {
			value = "a=b"
		}
		if err := config.Load(defaults(), options("", nil, name+"="+value)); err != nil {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
}

func TestTheConfigCommandPrints(t *testing.T) {
	var out strings.Builder
	done, err := config.Command(defaults(), options("", nil, "config", "print", "--ratio=3"), &out)
	if !done || err != nil || !strings.Contains(out.String(), "ratio: 3\n") {
		t.Errorf("config print = %v, %v:\n%s", done, err, out.String())
	}
	if done, err := config.Command(defaults(), options("", nil, "config", "burn"), &out); !done || err == nil {
		t.Error("an unknown command was accepted")
	}
	if done, err := config.Command(defaults(), options("", nil), &out); done || err != nil {
		t.Errorf("serving = %v, %v, want to go on", done, err)
	}
}
