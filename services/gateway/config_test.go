package gateway_test

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/vmhost-project/vmhost/pkg/config"
	"github.com/vmhost-project/vmhost/pkg/config/configtest"
	"github.com/vmhost-project/vmhost/pkg/pki"
	"github.com/vmhost-project/vmhost/services/gateway"
)

func TestTheDefaultsAreValidAndDescribed(t *testing.T) {
	cfg := gateway.Default()
	if err := config.Load(&cfg, config.Options{Name: "g", EnvPrefix: "G", Getenv: func(string) string { return "" }}); err != nil {
		t.Fatal(err)
	}
	configtest.Reference(t, "services/gateway", "vmhost-gateway", "VMHOST_GATEWAY", &cfg, *update)
}

func TestFaultyConfigurationsAreRefused(t *testing.T) {
	for name, change := range map[string]func(*gateway.Config){
		"no port":             func(c *gateway.Config) { c.Listen = "127.0.0.1" },
		"key without chain":   func(c *gateway.Config) { c.TLS.KeyFile = "k" },
		"pin and authorities": func(c *gateway.Config) { c.Region.CAFile, c.Region.CASPKI = "f", "p" },
		"endpoint":            func(c *gateway.Config) { c.Region.Endpoints = []string{"region"} },
		"no endpoint":         func(c *gateway.Config) { c.Region.Endpoints = nil },
		"no authority file":   func(c *gateway.Config) { c.Region.CAFile = "/nonexistent" },
		"no grace":            func(c *gateway.Config) { c.Grace = 0 },
		"log level":           func(c *gateway.Config) { c.Log.Level = "loud" },
	} {
		cfg := gateway.Default()
		change(&cfg)
		var log *slog.Logger
		if cfg.Log.Level != "loud" {
			log = slog.New(slog.DiscardHandler)
		}
		if _, err := gateway.New(t.Context(), cfg, gateway.Deps{Certificate: noCertificate, Log: log}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := gateway.New(t.Context(), gateway.Default(), gateway.Deps{Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("a gateway without a certificate was made")
	}
}

func noCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, io.EOF }

func TestAGatewayFromItsConfigurationTakesTurnsBetweenRegions(t *testing.T) {
	ca, err := pki.NewAuthority("d")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.ServerCertificate([]string{"127.0.0.1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	regions := []*region{newRegion(), newRegion()}
	cfg := gateway.Default()
	cfg.Listen, cfg.Ops.Listen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Region = gateway.RegionConfig{CASPKI: pki.SPKIHash(ca.Certificate())}
	dir := t.TempDir()
	cfg.TLS = gateway.TLSConfig{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	gateway.WriteCertificate(t, cfg.TLS, cert)
	for _, r := range regions {
		srv := r.server(grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}})))
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		cfg.Region.Endpoints = append(cfg.Region.Endpoints, ln.Addr().String())
		served := make(chan struct{})
		go func() { defer close(served); _ = srv.Serve(ln) }()
		t.Cleanup(func() { srv.Stop(); <-served })
	}
	g, err := gateway.New(t.Context(), cfg, gateway.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	run(t, g)

	pinned := pki.PinnedConfig(cfg.Region.CASPKI)
	pinned.ServerName = "127.0.0.1"
	transport := &http.Transport{TLSClientConfig: pinned}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
	deadline := time.Now().Add(20 * time.Second)
	for {
		resp, err := client.Get("https://" + g.Addr().String() + "/v1/zones/a")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		a, _, _ := regions[0].last()
		b, _, _ := regions[1].last()
		if resp.StatusCode == http.StatusOK && a > 0 && b > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("answer = %s; calls: %d and %d, want some at each region", resp.Status, a, b)
		}
	}
}
