package rack_test

import (
	"strings"
	"testing"
	"time"

	"github.com/vmhost-project/vmhost/pkg/config"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	"github.com/vmhost-project/vmhost/services/rack"
)

func TestDefaultsAreValid(t *testing.T) {
	cfg := rack.Default()
	if err := cfg.Validate(); err != nil {
		t.Error(err)
	}
}

func TestFaultsOfTheConfigurationNameTheirKey(t *testing.T) {
	for key, spoil := range map[string]func(*rack.Config){
		"data_dir":           func(c *rack.Config) { c.DataDir = "" },
		"join_token":         func(c *rack.Config) { c.JoinToken, c.JoinTokenFile = "a", "b" },
		"regions":            func(c *rack.Config) { c.Regions = []string{"host"} },
		"drivers":            func(c *rack.Config) { c.Drivers = []string{"vmware"} },
		"local_sockets":      func(c *rack.Config) { c.LocalSockets = map[string]string{"../x": "/s"} },
		"lxd_sockets":        func(c *rack.Config) { c.LXDSockets = map[string]string{"l1": ""} },
		"fake.hosts":         func(c *rack.Config) { c.Fake.Hosts = []fake.HostSpec{{Name: "A"}} },
		"steps_per_host":     func(c *rack.Config) { c.StepsPerHost = 0 },
		"inventory_interval": func(c *rack.Config) { c.InventoryInterval = 0 },
		"outside 1s to 1m":   func(c *rack.Config) { c.InventoryInterval = 61 * time.Second },
		"drain_timeout":      func(c *rack.Config) { c.DrainTimeout = 0 },
	} {
		cfg := rack.Default()
		spoil(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestConfigurationIsReadFromAFileAndPrintedWithoutSecrets(t *testing.T) {
	file := `
data_dir: /data
join_token: top-secret
drivers: [fake]
local_sockets: {h1: /run/h1.sock}
lxd_sockets: {l1: /run/l1.sock}
fake:
  hosts:
    - {name: h, count: 3, cores: 4, password: hidden, pools: [{name: ssd, capacity_bytes: 5, thin: true}], networks: [{name: br0, bridge: true}]}
`
	cfg := rack.Default()
	err := config.Load(&cfg, config.Options{
		Name: "vmhost-rack", EnvPrefix: "VMHOST_RACK", Args: []string{"--config", "f", "--steps-per-host", "8"},
		Getenv:   func(k string) string { return map[string]string{"VMHOST_RACK_REGIONS": "a:1,b:2"}[k] },
		ReadFile: func(string) ([]byte, error) { return []byte(file), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	h := cfg.Fake.Hosts[0]
	if cfg.StepsPerHost != 8 || len(cfg.Regions) != 2 || h.Count != 3 || !h.Pools[0].Thin || !h.Networks[0].Bridge || cfg.LocalSockets["h1"] != "/run/h1.sock" || cfg.LXDSockets["l1"] != "/run/l1.sock" {
		t.Errorf("configuration %+v", cfg)
	}
	var out strings.Builder
	if err := config.Print(&out, &cfg); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); strings.Contains(text, "top-secret") || strings.Contains(text, "hidden") || !strings.Contains(text, "/run/h1.sock") {
		t.Errorf("printed:\n%s", text)
	}
}
