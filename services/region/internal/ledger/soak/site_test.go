package soak

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"google.golang.org/protobuf/proto"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

const (
	mib        = 1 << 20
	pool       = "default"
	legacyEach = 2 // machines of others on each host

	// All hosts share one more pool. Whether something fits into it is no question of
	// one host, so refusals for it are not looked at host by host.
	nas         = "nas"
	nasIdentity = "nfs://nas/vm"
	nasMiB      = 2 << 20
)

// shapes are hosts that cores, memory and storage fill up first, in turn; two
// cores of each are reserved.
func shape(i int) amount {
	return [...]amount{
		{18, 1 << 19, 1 << 24},
		{128, 32 << 10, 1 << 24},
		{128, 1 << 19, 640 << 10},
		{34, 64 << 10, 1 << 20},
	}[i%4]
}

const reservedCores = 2

// region is a region's store and ledger, with a connection of its own.
type region struct {
	store  *store.Store
	ledger *ledger.Ledger
}

func hostID(i int) string { return fmt.Sprintf("h%03d", i) }

// start is a running region.
func start(t testing.TB, client *store.Client) *region {
	t.Helper()
	s := storetest.On(t, client)
	r := &region{store: s, ledger: ledger.New(s, slog.New(slog.DiscardHandler))}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.ledger.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

// furnish records the hosts, each with machines that nobody composed.
func furnish(t testing.TB, s *store.Store, hosts int) {
	t.Helper()
	tx := store.NewTxn()
	store.Put(tx, store.Zones, &storev1.StoredZone{Resource: &vmhostv1.Zone{Name: "zones/default"}}, "default")
	store.Put(tx, store.ResourcePools, &storev1.StoredResourcePool{Resource: &vmhostv1.ResourcePool{Name: "resourcePools/default"}}, "default")
	for i := range hosts {
		id, has := hostID(i), shape(i)
		store.Put(tx, store.VmHosts, &storev1.StoredVmHost{Resource: &vmhostv1.VmHost{
			Name: "vmHosts/" + id, Uid: "uid-" + id, ResourcePool: "resourcePools/default", Zone: "zones/default", Address: "fake://" + id,
			Type: vmhostv1.VmHostType_VM_HOST_TYPE_FAKE, ReservedCores: reservedCores,
		}}, id)
		o := &vmhostv1.VmHostObservation{
			Architectures: []string{"x86_64"}, Cores: int32(has.cores), MemoryMib: has.memoryMiB,
			StoragePools: []*vmhostv1.StoragePool{
				{Name: pool, CapacityBytes: has.diskMiB * mib, Active: true},
				{Name: nas, CapacityBytes: nasMiB * mib, Active: true, Shared: nasIdentity},
			},
			Networks: []*vmhostv1.HostNetwork{{Name: "default", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK, Active: true, Dhcp: true}},
			Foreign:  &vmhostv1.ForeignUsage{},
		}
		for n := range legacyEach {
			m := legacy(id, n)
			addForeign(o, m, 1)
			store.Put(tx, store.Seen, &storev1.StoredSeenMachine{Observation: m}, id, m.GetUuid())
		}
		store.Put(tx, store.Observed, &storev1.StoredVmHostObservation{
			State: vmhostv1.VmHostState_VM_HOST_STATE_READY, VmHostUid: "uid-" + id, Observation: o,
		}, id)
		store.Put(tx, store.Ledgers, &storev1.StoredLedger{SharedPools: map[string]string{nas: nasIdentity}}, id)
	}
	if _, err := s.Commit(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
}

// legacy is a machine that was on the host before vmhost.
func legacy(host string, n int) *rackv1.MachineObservation {
	name := fmt.Sprintf("legacy-%s-%d", host, n)
	return &rackv1.MachineObservation{Uuid: name, Name: name, Cores: int32(n + 1), MemoryMib: 512}
}

func addForeign(o *vmhostv1.VmHostObservation, m *rackv1.MachineObservation, sign int32) {
	f := o.GetForeign()
	f.Machines += sign
	f.Cores += sign * m.GetCores()
	f.MemoryMib += int64(sign) * m.GetMemoryMib()
}

// changeSides adopts a machine of others, or lets go of it again: what is foreign
// and what is committed change by the same in one transaction.
func (r *region) changeSides(ctx context.Context, host string, n int) (revision int64, err error) {
	seen := legacy(host, n)
	err = r.ledger.WithTurn(ctx, func() error {
		v, err := r.store.View(ctx)
		if err != nil {
			return err
		}
		tx := store.NewTxn()
		observed, _ := store.Observed.Get(v, host)
		tx.IfRevision(store.Observed.Key(host), observed.Revision)
		next := proto.CloneOf(observed.Value)
		if ledger.LetGo(tx, v, seen.GetUuid()) == 1 {
			addForeign(next.GetObservation(), seen, 1)
		} else {
			addForeign(next.GetObservation(), seen, -1)
			if err := ledger.Adopt(tx, v, &storev1.StoredMachine{
				Resource: &vmhostv1.Machine{
					Name: "machines/" + seen.GetUuid(), Uid: seen.GetUuid(), Hostname: seen.GetName(), HypervisorUuid: seen.GetUuid(),
					VmHost: "vmHosts/" + host, ResourcePool: "resourcePools/default", Origin: vmhostv1.MachineOrigin_MACHINE_ORIGIN_ADOPTED,
				},
				Commitment: &storev1.Commitment{Cores: seen.GetCores(), MemoryMib: seen.GetMemoryMib()},
			}); err != nil {
				return err
			}
		}
		store.Put(tx, store.Observed, next, host)
		revision, err = r.store.Commit(ctx, tx)
		return err
	})
	return revision, err
}

// change changes a host as the API does: only if nobody else has meanwhile.
func (r *region) change(ctx context.Context, host string, fn func(*vmhostv1.VmHost)) (revision int64, err error) {
	v, err := r.store.View(ctx)
	if err != nil {
		return 0, err
	}
	rec, _ := store.VmHosts.Get(v, host)
	next := proto.CloneOf(rec.Value)
	fn(next.GetResource())
	tx := store.NewTxn()
	tx.IfRevision(store.VmHosts.Key(host), rec.Revision)
	store.Put(tx, store.VmHosts, next, host)
	return r.store.Commit(ctx, tx)
}

// remove deletes machines as the end of their operations does, without the
// operations.
func (r *region) remove(ctx context.Context, machines []machine) (revision int64, err error) {
	err = r.ledger.WithTurn(ctx, func() error {
		v, err := r.store.View(ctx)
		if err != nil {
			return err
		}
		tx := store.NewTxn()
		var uids []string
		for _, m := range machines {
			uids = append(uids, m.uid)
			tx.Delete(store.Operations.Key(m.operation))
		}
		if n := ledger.Release(tx, v, uids...); n != len(uids) {
			return fmt.Errorf("%d of the %d machines %v are recorded", n, len(uids), uids)
		}
		revision, err = r.store.Commit(ctx, tx)
		return err
	})
	return revision, err
}

// registerOf is a host as it is recorded.
func registerOf(v *store.View, host string) register {
	spec, _ := store.VmHosts.Get(v, host)
	observed, _ := store.Observed.Get(v, host)
	led, _ := store.Ledgers.Get(v, host)
	return register{
		limit: limitOf(spec.Value, observed.Value), used: committedOf(led.Value).plus(foreignOf(observed.Value)),
		cordoned: spec.Value.GetResource().GetCordoned(),
	}
}

func limitOf(spec *storev1.StoredVmHost, observed *storev1.StoredVmHostObservation) amount {
	r := tenths{10, 10, 10}
	if o := spec.GetResource().GetOvercommit(); o != nil {
		r = tenths{tenth(o.GetCores()), tenth(o.GetMemory()), tenth(o.GetStorage())}
	}
	o := observed.GetObservation()
	has := amount{cores: int64(o.GetCores() - spec.GetResource().GetReservedCores()), memoryMiB: o.GetMemoryMib()}
	for _, p := range o.GetStoragePools() {
		if p.GetName() == pool {
			has.diskMiB += p.GetCapacityBytes() / mib
		}
	}
	return r.of(has)
}

func foreignOf(observed *storev1.StoredVmHostObservation) amount {
	f := observed.GetObservation().GetForeign()
	return amount{cores: int64(f.GetCores()), memoryMiB: f.GetMemoryMib()}
}

func committedOf(l *storev1.StoredLedger) amount { return amountOf(l.GetTotal()) }

func amountOf(c *storev1.Commitment) amount {
	return amount{int64(c.GetCores()), c.GetMemoryMib(), c.GetStorageBytes()[pool] / mib}
}
