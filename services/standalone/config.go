package standalone

import (
	"path/filepath"
	"time"

	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
)

// Config says where a standalone vmhost keeps its state and what it listens on.
// Every listener is on loopback unless told otherwise.
type Config struct {
	// DataDir holds everything: state, keys, the admin's token.
	DataDir string `yaml:"data_dir" usage:"folder for state, keys and the admin's token; made with mode 0700"`
	// APIListen is where the gRPC API answers.
	APIListen string `yaml:"api_listen" usage:"address of the gRPC API (TLS)"`
	// RackListen is where further racks connect.
	RackListen string `yaml:"rack_listen" usage:"address that further racks connect to (mutual TLS)"`
	// GatewayListen is where JSON is served.
	GatewayListen string `yaml:"gateway_listen" usage:"address of the JSON API (HTTPS)"`
	// OpsListen is where health, readiness and metrics are served.
	OpsListen string `yaml:"ops_listen" usage:"loopback address of health, readiness and metrics (plain HTTP)"`
	// Names are DNS names and IP addresses that the server certificates are for,
	// beside those of loopback.
	Names []string `yaml:"names" usage:"further names and IP addresses that clients and racks use to reach this machine"`
	// LocalSockets are libvirt sockets that addresses may name, beside the
	// machine's own.
	LocalSockets map[string]string `yaml:"local_sockets" usage:"libvirt sockets of this machine by name, for addresses qemu+unix://NAME/system"`
	// LXDSockets are LXD sockets that addresses may name, beside the machine's own.
	LXDSockets map[string]string `yaml:"lxd_sockets" usage:"LXD sockets of this machine by name, for addresses lxd+unix://NAME"`
	// Drivers are the hypervisors that the local rack drives.
	Drivers []string `yaml:"drivers" usage:"drivers of the local rack: libvirt, lxd, fake"`
	// FakeHosts are the hosts of the fake driver.
	FakeHosts []fake.HostSpec `yaml:"fake_hosts" usage:"hosts of the fake driver, which exist in this process only"`
	// InventoryInterval is how often the local rack reads a host whole, at most a
	// minute.
	InventoryInterval time.Duration `yaml:"inventory_interval" usage:"how often the local rack reads a host whole, besides its events"`
	// CLIContext says whether a context for vmhostctl is made ready.
	CLIContext bool `yaml:"cli_context" usage:"make a context named standalone for vmhostctl and use it"`
	// LogLevel is the least level that is logged.
	LogLevel string `yaml:"log_level" usage:"debug, info, warn or error"`
	// LogFormat is how it is logged.
	LogFormat string `yaml:"log_format" usage:"json, text, or auto: text on a terminal"`
}

// Default is a vmhost for one machine.
func Default() Config {
	return Config{
		DataDir:       "/var/lib/vmhost",
		APIListen:     "127.0.0.1:7443",
		RackListen:    "127.0.0.1:7444",
		GatewayListen: "127.0.0.1:7480",
		OpsListen:     "127.0.0.1:7445",
		Drivers:       []string{"libvirt", "lxd"},

		InventoryInterval: time.Minute,

		CLIContext: true,
		LogLevel:   "info",
		LogFormat:  "auto",
	}
}

func (c Config) path(name string) string { return filepath.Join(c.DataDir, name) }
