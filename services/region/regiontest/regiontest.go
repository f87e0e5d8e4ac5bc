// Package regiontest runs a region in a test's process, over a real etcd: the
// server, its listeners with TLS, and everything behind them.
//
//	r := regiontest.Start(t, regiontest.Options{})
//	host, err := r.Admin.VmHosts.CreateVmHost(ctx, …)
//
// Everything ends with the test.
package regiontest

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmhost-project/vmhost/pkg/client"
	"github.com/vmhost-project/vmhost/services/region"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// Etcd is a key space on the test process's etcd, for one or several regions,
// one after another or at once.
type Etcd struct {
	client *store.Client
	dir    string
}

// NewEtcd makes an empty key space.
func NewEtcd(tb testing.TB) *Etcd {
	tb.Helper()
	return &Etcd{client: storetest.Client(tb), dir: tb.TempDir()}
}

// EtcdAt is the etcd at some URLs, which a test runs by itself and which holds
// nothing else. Its client is made as a region makes its own.
func EtcdAt(tb testing.TB, urls ...string) *Etcd {
	tb.Helper()
	client, err := store.Connect(tb.Context(), store.Endpoints{URLs: urls})
	if err != nil {
		tb.Fatalf("connect to etcd: %v", err)
	}
	tb.Cleanup(func() { _ = client.Close() })
	return &Etcd{client: client, dir: tb.TempDir()}
}

// Options say how a region differs from a fresh one of its own.
type Options struct {
	// Etcd is where the state is; nil: an empty one.
	Etcd *Etcd
	// Configure changes the configuration before it is used.
	Configure func(cfg *region.Config)
}

// Region is a running region.
type Region struct {
	*region.Region
	// Admin calls the API as the administrator.
	Admin *client.Client
	// AdminToken is the administrator's token.
	AdminToken string
	// Endpoint is where the API answers, host:port.
	Endpoint string
	// RackEndpoint is where racks connect, host:port.
	RackEndpoint string
	// Config is what it runs with.
	Config region.Config

	tb   testing.TB
	logs *logs
	stop func()
}

// logs collects what a region logs.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write appends.
func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Start starts a region and waits until it answers.
func Start(tb testing.TB, o Options) *Region {
	tb.Helper()
	if o.Etcd == nil {
		o.Etcd = NewEtcd(tb)
	}
	cfg := region.Default()
	cfg.APIListen, cfg.RackListen, cfg.OpsListen = "127.0.0.1:0", "127.0.0.1:0", ""
	// Regions of one key space share the files, as those of a deployment do.
	cfg.SecretKeyFile = filepath.Join(o.Etcd.dir, "secret.key")
	cfg.AdminTokenFile = filepath.Join(o.Etcd.dir, "admin.token")
	cfg.GenerateSecretKey = true
	cfg.RackGrace, cfg.DrainTimeout = 2*time.Second, 2*time.Second
	if o.Configure != nil {
		o.Configure(&cfg)
	}
	r := &Region{tb: tb, Config: cfg, logs: &logs{}}
	log := slog.New(slog.NewJSONHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var err error
	if r.Region, err = region.NewWith(ctx, cfg, region.Deps{Etcd: o.Etcd.client, Log: log}); err != nil {
		tb.Fatalf("open the region: %v\n%s", err, r.logs)
	}
	r.run()
	r.Endpoint, r.RackEndpoint = r.APIAddr().String(), r.RackAddr().String()
	text, err := os.ReadFile(cfg.AdminTokenFile)
	if err != nil {
		tb.Fatalf("read the administrator's token: %v", err)
	}
	r.AdminToken = strings.TrimSpace(string(text))
	r.Admin = r.Client(r.AdminToken)
	return r
}

// run serves until Stop or the end of the test.
func (r *Region) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			r.tb.Errorf("the region ended with: %v", err)
		}
	})
	r.tb.Cleanup(func() {
		r.stop()
		if r.tb.Failed() {
			r.tb.Logf("log of the region:\n%s", r.logs)
		}
	})
}

// Stop stops the region as a signal would, and waits for its end.
func (r *Region) Stop() { r.stop() }

// Logs is all that the region has logged so far.
func (r *Region) Logs() string { return r.logs.String() }

// Client calls the API with a token.
func (r *Region) Client(token string) *client.Client {
	r.tb.Helper()
	c, err := client.Dial(client.Options{Endpoint: r.Endpoint, Token: token, CAPEM: r.CACertPEM()})
	if err != nil {
		r.tb.Fatalf("dial the region: %v", err)
	}
	r.tb.Cleanup(func() { _ = c.Close() })
	return c
}

// Token makes an API token for a principal, with a role of `viewer`,
// `composer`, `operator` or `admin`.
func (r *Region) Token(principal, role string) string {
	r.tb.Helper()
	text, err := r.CreateToken(r.tb.Context(), principal, role, time.Hour)
	if err != nil {
		r.tb.Fatalf("make a token: %v", err)
	}
	return text
}

// Join makes a join token for a rack of the default zone.
func (r *Region) Join(rack string) string {
	r.tb.Helper()
	token, err := r.JoinToken(r.tb.Context(), rack, "", time.Hour)
	if err != nil {
		r.tb.Fatalf("make a join token: %v", err)
	}
	return token
}

// Revision is that of the state as etcd has it: it goes up with every write.
func (e *Etcd) Revision(tb testing.TB) int64 {
	tb.Helper()
	resp, err := e.client.Get(tb.Context(), "any")
	if err != nil {
		tb.Fatalf("read the revision: %v", err)
	}
	return resp.Header.GetRevision()
}
