package store

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// LeaseID names a lease, so that who puts keys under one need not import etcd's
// client.
type LeaseID = clientv3.LeaseID

// Lease is kept alive until Close, or until it is lost.
type Lease struct {
	// ID is what keys are put under.
	ID clientv3.LeaseID
	// Lost is closed when the lease ended without Close: keys under it are gone or
	// will be soon, and what they stood for must stop.
	Lost <-chan struct{}

	client *clientv3.Client
	cancel context.CancelFunc
}

// Lease makes a lease and keeps it alive. ttl is rounded up to seconds.
func (s *Store) Lease(ctx context.Context, ttl time.Duration) (*Lease, error) {
	resp, err := s.client.Grant(ctx, int64((ttl+time.Second-1)/time.Second))
	if err != nil {
		return nil, fmt.Errorf("grant a lease: %w", err)
	}
	kctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	alive, err := s.client.KeepAlive(kctx, resp.ID)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("keep a lease alive: %w", err)
	}
	lost := make(chan struct{})
	go func() { // ends with kctx, or when the client gives the lease up
		defer close(lost)
		for range alive { // only the end of the channel matters
			continue
		}
	}()
	return &Lease{ID: resp.ID, Lost: lost, client: s.client, cancel: cancel}, nil
}

// Close ends the lease and removes the keys under it.
func (l *Lease) Close(ctx context.Context) error {
	l.cancel()
	if _, err := l.client.Revoke(ctx, l.ID); err != nil {
		return fmt.Errorf("revoke a lease: %w", err)
	}
	return nil
}

// GrantOnce makes a lease that nobody keeps alive: keys under it live for ttl.
func (s *Store) GrantOnce(ctx context.Context, ttl time.Duration) (clientv3.LeaseID, error) {
	resp, err := s.client.Grant(ctx, int64((ttl+time.Second-1)/time.Second))
	if err != nil {
		return 0, fmt.Errorf("grant a lease: %w", err)
	}
	return resp.ID, nil
}
