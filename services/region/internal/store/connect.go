package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Client is an etcd client, so that who wires a region need not import etcd's.
type Client = clientv3.Client

// Endpoints say where etcd is and how it is known.
type Endpoints struct {
	// URLs are the members, for example `https://etcd1:2379`.
	URLs []string
	// CertFile and KeyFile authenticate this process; both or none.
	CertFile, KeyFile string
	// CAFile is the authority of the members; empty: those of the system.
	CAFile string
}

const (
	dialTimeout = 5 * time.Second
	// keepAlive finds a member that is gone without a word.
	keepAlive = 10 * time.Second
)

// Connect makes a client. It does not wait for a member to answer.
func Connect(ctx context.Context, e Endpoints) (*Client, error) {
	if len(e.URLs) == 0 {
		return nil, errors.New("connect to etcd: no endpoint")
	}
	cfg := clientv3.Config{
		Endpoints: e.URLs, DialTimeout: dialTimeout, DialKeepAliveTime: keepAlive, DialKeepAliveTimeout: dialTimeout,
		Logger:  zap.NewNop(),               // what it says is in the errors of the calls
		Context: context.WithoutCancel(ctx), // it lives until Close
	}
	if e.CertFile != "" || e.CAFile != "" {
		var err error
		if cfg.TLS, err = e.tls(); err != nil {
			return nil, fmt.Errorf("connect to etcd: %w", err)
		}
	}
	client, err := clientv3.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	return client, nil
}

func (e Endpoints) tls() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12} // etcd is configured by the operator
	if e.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(e.CertFile, e.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the client certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	if e.CAFile != "" {
		data, err := os.ReadFile(e.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the authority: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("read the authority: %s holds no certificate", e.CAFile)
		}
	}
	return cfg, nil
}
