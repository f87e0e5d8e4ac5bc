// Package storetest gives tests a store on a real etcd: one embedded server for
// a test process, one key space for a test.
package storetest

import (
	"context"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// server is the process's etcd while any test uses it.
type server struct {
	mu    sync.Mutex
	etcd  *embed.Etcd
	dir   string
	users int
	space int
}

//nolint:gochecknoglobals // one server for the process is the purpose
var shared server

// acquire starts the server for the first user and stops it after the last, so
// that nothing is left on disk. Starting takes some 50 ms.
func (s *server) acquire(tb testing.TB) (addr string, space int) {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users == 0 {
		if err := s.start(); err != nil {
			tb.Fatalf("start etcd: %v", err)
		}
	}
	s.users++
	s.space++
	tb.Cleanup(s.release)
	return s.etcd.Clients[0].Addr().String(), s.space
}

func (s *server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 {
		s.etcd.Close()
		_ = os.RemoveAll(s.dir)
	}
}

func (s *server) start() error {
	dir, err := os.MkdirTemp("", "storetest-")
	if err != nil {
		return err
	}
	free, err := url.Parse("http://127.0.0.1:0")
	if err != nil {
		return err
	}
	cfg := embed.NewConfig()
	cfg.Dir = dir
	cfg.UnsafeNoFsync = true
	cfg.TickMs, cfg.ElectionMs = 10, 50
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	urls := []url.URL{*free}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = urls, urls
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = urls, urls
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	<-e.Server.ReadyNotify()
	s.etcd, s.dir = e, dir
	return nil
}

// Client is an etcd client with a key space of its own.
func Client(tb testing.TB) *clientv3.Client {
	tb.Helper()
	addr, space := shared.acquire(tb)
	return clientTo(tb, addr, space)
}

func clientTo(tb testing.TB, addr string, space int) *clientv3.Client {
	tb.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + addr}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		tb.Fatalf("connect to etcd: %v", err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	prefix := "test" + strconv.Itoa(space) + "/"
	c.KV = namespace.NewKV(c.KV, prefix)
	c.Watcher = namespace.NewWatcher(c.Watcher, prefix)
	c.Lease = namespace.NewLease(c.Lease, prefix)
	return c
}

// New is a running store with a key space of its own. It ends with the test.
func New(tb testing.TB) *store.Store {
	tb.Helper()
	return On(tb, Client(tb))
}

// On is a running store over a client: a second one over the same client is
// like a second region.
func On(tb testing.TB, client *clientv3.Client) *store.Store {
	tb.Helper()
	s := store.New(client, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx)
	}()
	tb.Cleanup(func() { cancel(); <-done })
	select {
	case <-s.Ready():
	case <-time.After(20 * time.Second):
		tb.Fatal("store not ready after 20 s")
	}
	return s
}
