package process

import (
	"context"
	"fmt"
	"net/url"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

// Etcd is a raw etcd member in this process: what a standalone vmhost has its
// state in, and nothing of ours around it. Every write is synced to disk.
type Etcd struct {
	server *embed.Etcd
	// Calls is a client by function calls, as standalone's is; Wire one over
	// loopback, as the regions of a site have it.
	Calls, Wire *clientv3.Client
}

// StartEtcd starts a member with its state in dir.
func StartEtcd(ctx context.Context, dir string) (*Etcd, error) {
	loopback := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = "floor", dir
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{loopback}, []url.URL{loopback}
	cfg.ListenPeerUrls = nil
	cfg.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "localhost:0"}}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.QuotaBackendBytes = 8 << 30
	cfg.Logger, cfg.LogLevel = "zap", "fatal" // what it says at its end is noise
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("start etcd in %s: %w", dir, err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	select {
	case <-server.Server.ReadyNotify():
	case <-ctx.Done():
		server.Close()
		return nil, fmt.Errorf("wait for etcd in %s: %w", dir, context.Cause(ctx))
	}
	wire, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Clients[0].Addr().String()}, DialTimeout: 10 * time.Second})
	if err != nil {
		server.Close()
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	return &Etcd{server: server, Calls: v3client.New(server.Server), Wire: wire}, nil
}

// Close ends the member and its clients.
func (e *Etcd) Close() {
	_ = e.Calls.Close() // says that it was cancelled, having no connection
	_ = e.Wire.Close()
	e.server.Close()
}

// CompareAndPut makes a key that must not be there, as the raw floor of a
// commit.
func CompareAndPut(ctx context.Context, c *clientv3.Client, key, value string) error {
	resp, err := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, value)).Commit()
	if err != nil {
		return fmt.Errorf("compare and put %s: %w", key, err)
	}
	if !resp.Succeeded {
		return fmt.Errorf("compare and put %s: it is there already", key)
	}
	return nil
}
