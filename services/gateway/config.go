package gateway

import (
	"errors"
	"fmt"
	"net"
	"time"
)

// Config is what an operator can set.
type Config struct {
	// Listen is where clients come in.
	Listen string `yaml:"listen" usage:"address of the HTTPS listener, host:port"`
	// TLS is the certificate clients see.
	TLS TLSConfig `yaml:"tls"`
	// Region is whom the gateway asks.
	Region RegionConfig `yaml:"region"`
	// Ops is the listener for operators.
	Ops OpsConfig `yaml:"ops"`
	// Log is the log.
	Log LogConfig `yaml:"log"`
	// Grace is the time requests get to end.
	Grace time.Duration `yaml:"grace" usage:"how long requests may go on when the gateway stops; streams end at once"`
}

// TLSConfig names the files of the certificate.
type TLSConfig struct {
	// CertFile is the chain, PEM.
	CertFile string `yaml:"cert_file" usage:"PEM file with the certificate chain; read again when it changes"`
	// KeyFile is the key, PEM.
	KeyFile string `yaml:"key_file" usage:"PEM file with the key of the certificate"`
}

// RegionConfig says how regions are reached and known.
type RegionConfig struct {
	// Endpoints are all replicas.
	Endpoints []string `yaml:"endpoints" usage:"addresses of the region's API, host:port each; calls take turns"`
	// CAFile is trusted to certify them.
	CAFile string `yaml:"ca_file" usage:"PEM file with the authorities that certify regions; with no ca_spki either: the system's"`
	// CASPKI is the pin instead.
	CASPKI string `yaml:"ca_spki" usage:"pin of the deployment's authority, instead of ca_file"`
}

// OpsConfig is the operators' listener.
type OpsConfig struct {
	// Listen is a loopback address.
	Listen string `yaml:"listen" usage:"loopback address of health, readiness and metrics; empty: none"`
}

// LogConfig is the log.
type LogConfig struct {
	// Level is the least level that is logged.
	Level string `yaml:"level" usage:"least level that is logged: debug, info, warn, error"`
	// Format is that of the records.
	Format string `yaml:"format" usage:"json, text, or auto: text on a terminal"`
}

// Default is the configuration before anything is set.
func Default() Config {
	return Config{
		Listen: "127.0.0.1:7480",
		Region: RegionConfig{Endpoints: []string{"127.0.0.1:7443"}},
		Ops:    OpsConfig{Listen: "127.0.0.1:7446"},
		Log:    LogConfig{Level: "info", Format: "auto"},
		Grace:  15 * time.Second,
	}
}

// Validate joins all faults.
func (c *Config) Validate() error {
	var faults []error
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		faults = append(faults, fmt.Errorf("listen: %w", err))
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		faults = append(faults, errors.New("tls: cert_file and key_file go together"))
	}
	if c.Region.CAFile != "" && c.Region.CASPKI != "" {
		faults = append(faults, errors.New("region: ca_file and ca_spki exclude each other"))
	}
	for _, endpoint := range c.Region.Endpoints {
		if _, _, err := net.SplitHostPort(endpoint); err != nil {
			faults = append(faults, fmt.Errorf("region.endpoints: %w", err))
		}
	}
	if c.Grace <= 0 {
		faults = append(faults, errors.New("grace: must be more than 0"))
	}
	return errors.Join(faults...)
}
