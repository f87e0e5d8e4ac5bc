package ledgerbench

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Host is a host that can fill up.
type Host struct {
	// ID and Zone are ids.
	ID, Zone string
	Tags     []string
	// Cores, MemoryMiB and DiskBytes are physical.
	Cores                int32
	MemoryMiB, DiskBytes int64
	Overcommit           *vmhostv1.OvercommitRatios
}

// hostsPerTxn is how many hosts are recorded at once.
const hostsPerTxn = 500

// StartWith is Start with these hosts.
func StartWith(ctx context.Context, client *store.Client, hosts []Host) (*Ledger, error) {
	return start(ctx, client, func(ctx context.Context, l *Ledger) error { return l.record(ctx, hosts) })
}

func (l *Ledger) record(ctx context.Context, hosts []Host) error {
	tx := store.NewTxn()
	store.Put(tx, store.ResourcePools, &storev1.StoredResourcePool{Resource: &vmhostv1.ResourcePool{Name: "resourcePools/default"}}, "default")
	zones := map[string]bool{}
	for part := range slices.Chunk(hosts, hostsPerTxn) {
		for _, h := range part {
			if !zones[h.Zone] {
				zones[h.Zone] = true
				store.Put(tx, store.Zones, &storev1.StoredZone{Resource: &vmhostv1.Zone{Name: "zones/" + h.Zone}}, h.Zone)
			}
			store.Put(tx, store.VmHosts, &storev1.StoredVmHost{Resource: &vmhostv1.VmHost{
				Name: "vmHosts/" + h.ID, Uid: h.ID, Zone: "zones/" + h.Zone, ResourcePool: "resourcePools/default", Tags: h.Tags,
				Type: vmhostv1.VmHostType_VM_HOST_TYPE_FAKE, Address: "fake://" + h.ID, Overcommit: h.Overcommit,
			}}, h.ID)
			store.Put(tx, store.Observed, &storev1.StoredVmHostObservation{
				State: vmhostv1.VmHostState_VM_HOST_STATE_READY,
				Observation: &vmhostv1.VmHostObservation{
					ObserveTime: timestamppb.Now(), Cores: h.Cores, MemoryMib: h.MemoryMiB, Architectures: []string{"x86_64"},
					StoragePools: []*vmhostv1.StoragePool{{Name: "default", Type: "dir", CapacityBytes: h.DiskBytes, AvailableBytes: h.DiskBytes, Active: true, Thin: true}},
					Networks:     []*vmhostv1.HostNetwork{{Name: "default", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK, Dhcp: true, Active: true}},
				},
			}, h.ID)
		}
		if _, err := l.store.Commit(ctx, tx); err != nil {
			return fmt.Errorf("record %d hosts: %w", len(part), err)
		}
		tx = store.NewTxn()
	}
	return nil
}

// Compose places and commits one machine.
func (l *Ledger) Compose(ctx context.Context, req *vmhostv1.ComposeMachineRequest) (*vmhostv1.Operation, error) {
	return l.ledger.Compose(ctx, "bench", req)
}
