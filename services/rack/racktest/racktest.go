// Package racktest runs a rack in the process of a test.
//
// The goroutines of a rack end with its test.
package racktest

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	"github.com/vmhost-project/vmhost/services/rack"
)

// Options say what the rack is like.
type Options struct {
	// JoinToken enrols it. Not needed with the DataDir of a rack that enrolled.
	JoinToken string
	// Fleet are the hosts it drives, as `fake://NAME`; nil gives it no fake driver.
	Fleet *fake.Fleet
	// Libvirt gives it the libvirt driver as well.
	Libvirt bool
	// LocalSockets are paths of libvirt sockets by name.
	LocalSockets map[string]string
	// LXDSockets are paths of LXD sockets by name.
	LXDSockets map[string]string
	// Regions are used instead of the token's endpoints.
	Regions []string
	// DataDir is used again, to restart a rack; empty is a new one.
	DataDir string
	// Configure changes anything else.
	Configure func(*rack.Config)
	// Log gets what the rack logs; nil is nowhere.
	Log *slog.Logger
}

// Start runs a rack until the test ends. The test fails when it ends with an
// error before.
func Start(t testing.TB, o Options) *rack.Rack {
	t.Helper()
	r, stop := Launch(t, o)
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("rack: %v", err)
		}
	})
	return r
}

// Launch runs a rack until stop, which returns what Run returned and may be
// called again.
func Launch(t testing.TB, o Options) (r *rack.Rack, stop func() error) {
	t.Helper()
	cfg := rack.Default()
	cfg.JoinToken, cfg.Regions, cfg.DataDir = o.JoinToken, o.Regions, o.DataDir
	cfg.LocalSockets, cfg.LXDSockets = o.LocalSockets, o.LXDSockets
	cfg.Drivers, cfg.OpsListen, cfg.DrainTimeout = nil, "", time.Second
	if o.Libvirt {
		cfg.Drivers = append(cfg.Drivers, rack.DriverLibvirt)
	}
	if o.Fleet != nil || !o.Libvirt {
		cfg.Drivers = append(cfg.Drivers, rack.DriverFake)
	}
	if cfg.DataDir == "" {
		cfg.DataDir = t.TempDir()
	}
	if o.Configure != nil {
		o.Configure(&cfg)
	}
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r, err := rack.NewWith(t.Context(), cfg, rack.Deps{Log: log, Registry: prometheus.NewRegistry(), Fleet: o.Fleet})
	if err != nil {
		t.Fatalf("open rack: %v", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var result error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		result = r.Run(ctx)
	}()
	stop = func() error {
		cancel()
		<-ended
		return result
	}
	t.Cleanup(func() { _ = stop() })
	return r, stop
}

// Await waits until a rack has a session with a region.
func Await(t testing.TB, r *rack.Rack) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for r.Ready(ctx) != nil {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("rack has no session: %v", r.Ready(t.Context()))
		}
	}
}
