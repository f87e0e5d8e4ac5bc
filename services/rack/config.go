package rack

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"time"

	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
)

// Drivers that a rack can have.
const (
	// DriverLibvirt drives libvirt.
	DriverLibvirt = "libvirt"
	// DriverLXD drives LXD.
	DriverLXD = "lxd"
	// DriverFake drives hosts that exist in the rack's memory only.
	DriverFake = "fake"
)

// Config is how a rack runs.
type Config struct {
	// DataDir keeps the identity and the journal.
	DataDir string `yaml:"data_dir" usage:"private folder of the identity and the journal"`
	// JoinToken enrols a rack that has no identity.
	JoinToken string `yaml:"join_token" usage:"one-time token to enroll with, from vmhostctl rack token create" secret:"true"`
	// JoinTokenFile holds a join token; it is read whenever one is needed.
	JoinTokenFile string `yaml:"join_token_file" usage:"file with the one-time token to enroll with"`
	// Regions are the addresses of regions, instead of those of the join token.
	Regions []string `yaml:"regions" usage:"host:port of every region; empty: what the join token named"`
	// Drivers are the drivers to offer.
	Drivers []string `yaml:"drivers" usage:"drivers to offer: libvirt, lxd, fake"`
	// LocalSockets are libvirt sockets of this machine, by the name that an
	// address uses for them.
	LocalSockets map[string]string `yaml:"local_sockets" usage:"paths of libvirt sockets by the NAME of qemu+unix://NAME/system"`
	// LXDSockets are LXD sockets of this machine, by the name that an address uses
	// for them.
	LXDSockets map[string]string `yaml:"lxd_sockets" usage:"paths of LXD sockets by the NAME of lxd+unix://NAME"`
	// Fake are the hosts of the fake driver.
	Fake FakeConfig `yaml:"fake"`
	// StepsPerHost is how many steps run at once on a host.
	StepsPerHost int `yaml:"steps_per_host" usage:"how many steps run at once on a host"`
	// InventoryInterval is how often a host is read whole, at most a minute.
	InventoryInterval time.Duration `yaml:"inventory_interval" usage:"how often a host is read whole, besides its events"`
	// DrainTimeout is how long steps may take to end at a stop.
	DrainTimeout time.Duration `yaml:"drain_timeout" usage:"how long steps may go on after the rack was told to stop"`
	// OpsListen is where health, readiness and metrics are served.
	OpsListen string `yaml:"ops_listen" usage:"loopback address of health, readiness and metrics (plain HTTP); empty: none"`
	// LogLevel is the least level that is logged.
	LogLevel string `yaml:"log_level" usage:"debug, info, warn or error"`
	// LogFormat is how it is logged.
	LogFormat string `yaml:"log_format" usage:"json, text, or auto: text on a terminal"`
}

// FakeConfig is the fake driver's fleet.
type FakeConfig struct {
	// Hosts are its hosts.
	Hosts []fake.HostSpec `yaml:"hosts" usage:"fake hosts"`
	// StateFile keeps their machines over restarts.
	StateFile string `yaml:"state_file" usage:"file that keeps the fake hosts' machines over restarts; empty: in memory"`
}

// Default is a rack for the libvirt and LXD hosts it can reach.
func Default() Config {
	return Config{
		DataDir:           "/var/lib/vmhost-rack",
		Drivers:           []string{DriverLibvirt, DriverLXD},
		StepsPerHost:      4,
		InventoryInterval: time.Minute,
		DrainTimeout:      10 * time.Second,
		OpsListen:         "127.0.0.1:7447",
		LogLevel:          "info",
		LogFormat:         "auto",
	}
}

// Validate says all that is wrong.
func (c *Config) Validate() error {
	var faults []error
	if c.DataDir == "" {
		faults = append(faults, errors.New("data_dir is empty"))
	}
	if c.JoinToken != "" && c.JoinTokenFile != "" {
		faults = append(faults, errors.New("join_token and join_token_file exclude one another"))
	}
	for _, r := range c.Regions {
		if host, port, err := net.SplitHostPort(r); err != nil || host == "" || port == "" {
			faults = append(faults, fmt.Errorf("regions: %q is not host:port", r))
		}
	}
	if len(c.Drivers) == 0 {
		faults = append(faults, errors.New("drivers is empty"))
	}
	for _, d := range c.Drivers {
		if d != DriverLibvirt && d != DriverLXD && d != DriverFake {
			faults = append(faults, fmt.Errorf("drivers: %q is none of libvirt, lxd, fake", d))
		}
	}
	socket := regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	for key, sockets := range map[string]map[string]string{"local_sockets": c.LocalSockets, "lxd_sockets": c.LXDSockets} {
		for name, path := range sockets {
			if !socket.MatchString(name) || path == "" {
				faults = append(faults, fmt.Errorf("%s: %q=%q is not the name of a socket and its path", key, name, path))
			}
		}
	}
	for _, h := range c.Fake.Hosts {
		if !socket.MatchString(h.Name) {
			faults = append(faults, fmt.Errorf("fake.hosts: %q is no name of a host", h.Name))
		}
	}
	if c.StepsPerHost < 1 || c.StepsPerHost > 64 {
		faults = append(faults, errors.New("steps_per_host is outside 1 to 64"))
	}
	if c.InventoryInterval < time.Second || c.InventoryInterval > time.Minute {
		// A region counts on a report of every host every minute, and after three
		// that did not come it takes the host for lost.
		faults = append(faults, errors.New("inventory_interval is outside 1s to 1m"))
	}
	if c.DrainTimeout <= 0 {
		faults = append(faults, errors.New("drain_timeout is not positive"))
	}
	return errors.Join(faults...)
}

func (c *Config) has(driver string) bool { return slices.Contains(c.Drivers, driver) }
