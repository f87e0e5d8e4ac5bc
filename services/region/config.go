package region

import (
	"errors"
	"fmt"
	"net"
	"time"
)

// Config is how a region runs.
type Config struct {
	// APIListen is where the API answers.
	APIListen string `yaml:"api_listen" usage:"address of the gRPC API (TLS)"`
	// RackListen is where racks connect.
	RackListen string `yaml:"rack_listen" usage:"address that racks connect to (mutual TLS)"`
	// OpsListen is where health, readiness and metrics are served.
	OpsListen string `yaml:"ops_listen" usage:"loopback address of health, readiness and metrics (plain HTTP); empty: none"`
	// Names are what server certificates are for, beside those of loopback.
	Names []string `yaml:"names" usage:"DNS names and IP addresses by which clients and racks reach this region"`
	// RackEndpoints are what a join token tells a rack.
	RackEndpoints []string `yaml:"rack_endpoints" usage:"host:port of every region's rack listener, told to racks; empty: the first of names, or loopback, with this one's port"`
	// RackAdvertise is where racks reach this region.
	RackAdvertise string `yaml:"rack_advertise" usage:"host:port by which every rack reaches this region's rack listener, for consoles of racks whose session is with another region; empty: the first of names, or the listener's address if it is a single one, with its port"`
	// Etcd is where the state is.
	Etcd EtcdConfig `yaml:"etcd"`
	// SecretKeyFile is the keyset that secrets are encrypted with.
	SecretKeyFile string `yaml:"secret_key_file" usage:"Tink keyset that secrets in etcd are encrypted with; made by init, the same in every region, back it up"`
	// GenerateSecretKey makes the keyset when there is none.
	GenerateSecretKey bool `yaml:"generate_secret_key" usage:"make secret_key_file when it is missing; only for a deployment with a single region"`
	// AdminTokenFile gets the administrator's first token.
	AdminTokenFile string `yaml:"admin_token_file" usage:"file that gets the administrator's token at the very first start; empty: none is made"`
	// TLS are certificates of the API that the operator brings.
	TLS TLSConfig `yaml:"tls"`
	// RackGrace is how long a host waits for its rack.
	RackGrace time.Duration `yaml:"rack_grace" usage:"how long a rack may be gone before its hosts go to another"`
	// DrainTimeout is how long calls may take to end at a stop.
	DrainTimeout time.Duration `yaml:"drain_timeout" usage:"how long calls may go on after the region was told to stop"`
	// LogLevel is the least level that is logged.
	LogLevel string `yaml:"log_level" usage:"debug, info, warn or error"`
	// LogFormat is how it is logged.
	LogFormat string `yaml:"log_format" usage:"json, text, or auto: text on a terminal"`
}

// EtcdConfig says where etcd is.
type EtcdConfig struct {
	// Endpoints are the members.
	Endpoints []string `yaml:"endpoints" usage:"URLs of the etcd members"`
	// CertFile is this region's certificate.
	CertFile string `yaml:"cert_file" usage:"client certificate for etcd"`
	// KeyFile is its key.
	KeyFile string `yaml:"key_file" usage:"key of the client certificate for etcd"`
	// CAFile is the authority of etcd.
	CAFile string `yaml:"ca_file" usage:"authority that etcd's certificates are checked against"`
}

// TLSConfig is a certificate in files.
type TLSConfig struct {
	// CertFile is the chain.
	CertFile string `yaml:"cert_file" usage:"certificate chain of the API; empty: issued by the deployment's own authority"`
	// KeyFile is the key.
	KeyFile string `yaml:"key_file" usage:"key of the API's certificate"`
}

// Default is a region on loopback with an etcd on loopback.
func Default() Config {
	return Config{ //nolint:gosec // names of files, no credentials
		APIListen:      "127.0.0.1:7443",
		RackListen:     "127.0.0.1:7444",
		OpsListen:      "127.0.0.1:7445",
		Etcd:           EtcdConfig{Endpoints: []string{"http://127.0.0.1:2379"}},
		SecretKeyFile:  "/var/lib/vmhost/secret.key",
		AdminTokenFile: "/var/lib/vmhost/admin.token",
		RackGrace:      30 * time.Second,
		DrainTimeout:   10 * time.Second,
		LogLevel:       "info",
		LogFormat:      "auto",
	}
}

// Validate says all that is wrong.
func (c *Config) Validate() error {
	var faults []error
	for key, addr := range map[string]string{"api_listen": c.APIListen, "rack_listen": c.RackListen} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", key, err))
		}
	}
	for _, e := range c.RackEndpoints {
		if _, _, err := net.SplitHostPort(e); err != nil {
			faults = append(faults, fmt.Errorf("rack_endpoints: %w", err))
		}
	}
	if _, _, err := net.SplitHostPort(c.RackAdvertise); c.RackAdvertise != "" && err != nil {
		faults = append(faults, fmt.Errorf("rack_advertise: %w", err))
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		faults = append(faults, errors.New("tls.cert_file and tls.key_file belong together"))
	}
	if (c.Etcd.CertFile == "") != (c.Etcd.KeyFile == "") {
		faults = append(faults, errors.New("etcd.cert_file and etcd.key_file belong together"))
	}
	if c.SecretKeyFile == "" {
		faults = append(faults, errors.New("secret_key_file is empty"))
	}
	if c.RackGrace <= 0 {
		faults = append(faults, errors.New("rack_grace is not positive"))
	}
	if c.DrainTimeout <= 0 {
		faults = append(faults, errors.New("drain_timeout is not positive"))
	}
	return errors.Join(faults...)
}

// endpoints are what racks are told, for a listener that got its port.
func (c *Config) endpoints(listening net.Addr) []string {
	if len(c.RackEndpoints) > 0 {
		return c.RackEndpoints
	}
	host, port, err := net.SplitHostPort(listening.String())
	if err != nil {
		return nil
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	if len(c.Names) > 0 {
		host = c.Names[0]
	}
	return []string{net.JoinHostPort(host, port)}
}

// advertised is where racks reach this region; empty when that is not known.
func (c *Config) advertised(listening net.Addr) string {
	if c.RackAdvertise != "" {
		return c.RackAdvertise
	}
	host, port, err := net.SplitHostPort(listening.String())
	if err != nil {
		return ""
	}
	if len(c.Names) > 0 {
		return net.JoinHostPort(c.Names[0], port)
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		return ""
	}
	return net.JoinHostPort(host, port)
}

// certificateNames are what server certificates are for.
func (c *Config) certificateNames() []string {
	names := []string{"localhost", "127.0.0.1", "::1"}
	for _, addr := range []string{c.APIListen, c.RackListen} {
		host, _, err := net.SplitHostPort(addr)
		if ip := net.ParseIP(host); err == nil && host != "" && (ip == nil || !ip.IsUnspecified()) {
			names = appendNew(names, host)
		}
	}
	for _, name := range c.Names {
		names = appendNew(names, name)
	}
	for _, e := range append([]string{c.RackAdvertise}, c.RackEndpoints...) {
		if host, _, err := net.SplitHostPort(e); err == nil {
			names = appendNew(names, host)
		}
	}
	return names
}

func appendNew(names []string, name string) []string {
	for _, n := range names {
		if n == name {
			return names
		}
	}
	return append(names, name)
}
