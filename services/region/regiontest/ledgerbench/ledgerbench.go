// Package ledgerbench lets a benchmark outside of this module commit machines to
// a ledger over an etcd of its own: the store, placement and the transaction of a
// compose, without the API around them and without anything that makes the
// machines. The hosts are records that no rack ever reported.
//
// Start owns two goroutines, the store's and the ledger's, which Close ends.
package ledgerbench

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Ledger is a ledger with hosts that never fill up.
type Ledger struct {
	ledger *ledger.Ledger
	store  *store.Store
	close  func()
}

const startLimit = 20 * time.Second

// Start uses an etcd that nothing of vmhost is in yet, and records hosts. The
// client stays the caller's.
func Start(ctx context.Context, client *store.Client, hosts int) (*Ledger, error) {
	return start(ctx, client, func(ctx context.Context, l *Ledger) error { return l.hosts(ctx, hosts) })
}

func start(ctx context.Context, client *store.Client, furnish func(context.Context, *Ledger) error) (*Ledger, error) {
	log := slog.New(slog.DiscardHandler)
	s := store.New(client, log)
	l := &Ledger{ledger: ledger.New(s, log), store: s}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	var group sync.WaitGroup
	l.close = func() {
		stop()
		group.Wait()
	}
	group.Go(func() { _ = s.Run(running) }) // ends with running, and only then
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	select {
	case <-s.Ready():
	case <-ctx.Done():
		l.Close()
		return nil, fmt.Errorf("wait for the store: %w", context.Cause(ctx))
	}
	group.Go(func() { _ = l.ledger.Run(running) })
	if err := furnish(ctx, l); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Close ends it.
func (l *Ledger) Close() { l.close() }

func (l *Ledger) hosts(ctx context.Context, n int) error {
	tx := store.NewTxn()
	store.Put(tx, store.ResourcePools, &storev1.StoredResourcePool{Resource: &vmhostv1.ResourcePool{Name: "resourcePools/default"}}, "default")
	store.Put(tx, store.Zones, &storev1.StoredZone{Resource: &vmhostv1.Zone{Name: "zones/default"}}, "default")
	for i := range n {
		id := "h" + strconv.Itoa(i)
		store.Put(tx, store.VmHosts, &storev1.StoredVmHost{Resource: &vmhostv1.VmHost{
			Name: "vmHosts/" + id, Uid: id, Zone: "zones/default", ResourcePool: "resourcePools/default",
			Type: vmhostv1.VmHostType_VM_HOST_TYPE_FAKE, Address: "fake://" + id,
		}}, id)
		store.Put(tx, store.Observed, &storev1.StoredVmHostObservation{
			State: vmhostv1.VmHostState_VM_HOST_STATE_READY,
			Observation: &vmhostv1.VmHostObservation{
				ObserveTime: timestamppb.Now(), Cores: 1 << 30, MemoryMib: 1 << 40, Architectures: []string{"x86_64"},
				StoragePools: []*vmhostv1.StoragePool{{Name: "default", Type: "dir", CapacityBytes: 1 << 60, AvailableBytes: 1 << 60, Active: true, Thin: true}},
				Networks:     []*vmhostv1.HostNetwork{{Name: "default", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK, Dhcp: true, Active: true}},
			},
		}, id)
	}
	if _, err := l.store.Commit(ctx, tx); err != nil {
		return fmt.Errorf("record %d hosts: %w", n, err)
	}
	return nil
}

// Commit places and commits one machine of the name, which must be free.
func (l *Ledger) Commit(ctx context.Context, hostname string) error {
	_, err := l.ledger.Compose(ctx, "bench", &vmhostv1.ComposeMachineRequest{
		Hostname: hostname, Cores: 1, MemoryMib: 128, Disks: []*vmhostv1.DiskRequest{{SizeBytes: 1 << 20}},
	})
	if err != nil {
		return fmt.Errorf("compose %s: %w", hostname, err)
	}
	return nil
}
