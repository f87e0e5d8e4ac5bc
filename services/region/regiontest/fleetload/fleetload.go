// Package fleetload writes a large fleet into etcd in batches, as a region and
// racks would have left it there: racks that are connected, hosts that were added
// and reported, each with machines that were composed and are seen. It is for benchmarks that need a
// fleet and not how it came about. The same seed makes the same fleet.
//
// The package starts goroutines for as long as Load runs.
package fleetload

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Fleet is how large it is.
type Fleet struct {
	Hosts, MachinesPerHost int
	Seed                   uint64
}

const (
	batchOps     = 120 // etcd takes 128
	writers      = 8
	hostsPerRack = 10
)

// loader collects puts and writes them in batches.
type loader struct {
	client *clientv3.Client
	random *rand.Rand
	now    *timestamppb.Timestamp
	batch  []clientv3.Op
	todo   chan []clientv3.Op
	err    error
}

// Load writes the fleet. A region must have made the deployment there before, and
// none should run.
func Load(ctx context.Context, client *store.Client, f Fleet) error {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], f.Seed)
	l := &loader{
		client: client, random: rand.New(rand.NewChaCha8(seed)),
		now: timestamppb.New(time.Now().Truncate(time.Second)), todo: make(chan []clientv3.Op, writers),
	}
	group, gctx := errgroup.WithContext(ctx)
	for range writers {
		group.Go(func() error {
			for ops := range l.todo {
				if _, err := client.Txn(gctx).Then(ops...).Commit(); err != nil {
					return fmt.Errorf("write the fleet: %w", err)
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		defer close(l.todo)
		for i := range f.Hosts {
			if err := l.host(gctx, i, f.MachinesPerHost); err != nil {
				return err
			}
		}
		return l.flush(gctx)
	})
	return group.Wait()
}

// HostID is the id of a host.
func HostID(i int) string { return fmt.Sprintf("host-%05d", i) }

func (l *loader) uuid() string {
	id, err := uuid.NewRandomFromReader(chacha{l.random})
	if err != nil {
		l.err = err
	}
	return id.String()
}

// chacha makes bytes of a source of numbers.
type chacha struct{ *rand.Rand }

// Read never fails.
func (c chacha) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(c.Uint32())
	}
	return len(p), nil
}

func put[T proto.Message](ctx context.Context, l *loader, f store.Family[T], value T, parts ...string) {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(value)
	if err != nil {
		l.err = fmt.Errorf("encode a record: %w", err)
		return
	}
	if l.batch = append(l.batch, clientv3.OpPut(f.Key(parts...), string(data))); len(l.batch) == batchOps {
		l.err = l.flush(ctx)
	}
}

func (l *loader) flush(ctx context.Context) error {
	if l.err != nil || len(l.batch) == 0 {
		return l.err
	}
	select {
	case l.todo <- l.batch:
		l.batch = nil
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// rack writes a rack with a session at another region: its hosts are reached, and
// the region that is measured has nothing to do for them.
func (l *loader) rack(ctx context.Context, id string) {
	put(ctx, l, store.Racks, &storev1.StoredRack{Resource: &vmhostv1.Rack{Name: "racks/" + id, Uid: l.uuid(), CreateTime: l.now, Zone: "zones/default"}}, id)
	put(ctx, l, store.Sessions, &storev1.StoredSession{Region: "elsewhere", Session: l.uuid(), ConnectTime: l.now, Drivers: []string{"fake"}}, id)
}

// host writes a host and its machines.
func (l *loader) host(ctx context.Context, i, machines int) error {
	id, uid := HostID(i), l.uuid()
	spec := &vmhostv1.VmHost{
		Name: "vmHosts/" + id, Uid: uid, CreateTime: l.now, UpdateTime: l.now, Type: vmhostv1.VmHostType_VM_HOST_TYPE_FAKE,
		Address: "fake://" + id, Zone: "zones/default", ResourcePool: "resourcePools/default", Tags: []string{fmt.Sprintf("row-%d", i%16)},
	}
	put(ctx, l, store.VmHosts, &storev1.StoredVmHost{Resource: spec, ConnectionVersion: l.uuid()}, id)
	put(ctx, l, store.Addresses, &storev1.StoredAddress{VmHost: id}, store.EscapeID(spec.GetAddress()))
	for _, kind := range []string{"zones", "pools"} {
		put(ctx, l, store.References, &storev1.StoredReference{}, kind, "default", "vmHosts", id)
	}
	rack := fmt.Sprintf("rack-%05d", i/hostsPerRack)
	if i%hostsPerRack == 0 {
		l.rack(ctx, rack)
	}
	put(ctx, l, store.Assignments, &storev1.StoredAssignment{Rack: rack, VmHostUid: uid}, id)
	fleet := fake.NewFleet()
	h := fleet.AddHost(fake.HostSpec{Name: id, Cores: 64, MemoryMiB: 256 << 10})
	total := &storev1.Commitment{StorageBytes: map[string]int64{}}
	for range machines {
		m := l.machine(spec)
		c := m.GetCommitment()
		total.Cores += c.GetCores()
		total.MemoryMib += c.GetMemoryMib()
		total.StorageBytes["default"] += c.GetStorageBytes()["default"]
		seen := observation(m.GetResource())
		h.Put(seen)
		put(ctx, l, store.Machines, m, m.GetResource().GetUid())
		put(ctx, l, store.Names, &storev1.StoredName{Uid: m.GetResource().GetUid()}, "default", m.GetResource().GetHostname())
		put(ctx, l, store.Seen, &storev1.StoredSeenMachine{Observation: seen, FirstSeenTime: l.now, ChangeTime: l.now}, id, seen.GetUuid())
	}
	if machines > 0 {
		put(ctx, l, store.Ledgers, &storev1.StoredLedger{Total: total, Machines: int32(machines)}, id)
	}
	o, err := observe(ctx, fleet, spec.GetAddress())
	if err != nil {
		return err
	}
	o.Foreign, o.ObserveTime = &vmhostv1.ForeignUsage{}, l.now
	put(ctx, l, store.Observed, &storev1.StoredVmHostObservation{
		Observation: o, State: vmhostv1.VmHostState_VM_HOST_STATE_READY, VmHostUid: uid,
		Conditions: []*vmhostv1.Condition{{Type: "Reachable", Status: true, Reason: "REACHED", Message: "the rack reaches the host", TransitionTime: l.now}},
	}, id)
	return l.err
}

// observe is what the fake driver says of a host.
func observe(ctx context.Context, fleet *fake.Fleet, address string) (*vmhostv1.VmHostObservation, error) {
	a, err := hypervisor.ParseAddress(address)
	if err != nil {
		return nil, fmt.Errorf("look at a fake host: %w", err)
	}
	d, err := fleet.Open(ctx, hypervisor.Target{Address: a})
	if err != nil {
		return nil, fmt.Errorf("look at a fake host: %w", err)
	}
	defer func() { _ = d.Close() }()
	o, _, err := d.Inventory(ctx)
	if err != nil {
		return nil, fmt.Errorf("look at a fake host: %w", err)
	}
	return o, nil
}

// machine is one that was composed: what compose and the end of its operation
// leave of it.
func (l *loader) machine(host *vmhostv1.VmHost) *storev1.StoredMachine {
	uid := l.uuid()
	cores, memory, disk := int32(1+l.random.IntN(4)), int64(1+l.random.IntN(8))<<10, int64(8+l.random.IntN(32))<<30
	hostname := "m-" + uid[:13]
	return &storev1.StoredMachine{
		Resource: &vmhostv1.Machine{
			Name: "machines/" + uid, Uid: uid, CreateTime: l.now, UpdateTime: l.now, Hostname: hostname,
			Origin: vmhostv1.MachineOrigin_MACHINE_ORIGIN_COMPOSED, VmHost: host.GetName(), Zone: host.GetZone(), ResourcePool: host.GetResourcePool(),
			HypervisorName: hostname, HypervisorUuid: uid, Architecture: "x86_64", Cores: cores, MemoryMib: memory,
			Phase: vmhostv1.MachinePhase_MACHINE_PHASE_READY, Type: vmhostv1.MachineType_MACHINE_TYPE_VIRTUAL_MACHINE,
			Disks: []*vmhostv1.MachineDisk{{StoragePool: "default", Volume: "vmhost-" + uid + "-0", SizeBytes: disk, Boot: true}},
			Interfaces: []*vmhostv1.MachineInterface{{
				Mac:    fmt.Sprintf("52:54:00:%02x:%02x:%02x", l.random.IntN(256), l.random.IntN(256), l.random.IntN(256)),
				Source: "default", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK,
			}},
		},
		Commitment: &storev1.Commitment{Cores: cores, MemoryMib: memory, StorageBytes: map[string]int64{"default": disk}},
	}
}

// observation is the same as its hypervisor shows it.
func observation(m *vmhostv1.Machine) *rackv1.MachineObservation {
	return &rackv1.MachineObservation{
		Uuid: m.GetHypervisorUuid(), Uid: m.GetUid(), Name: m.GetHypervisorName(), PowerState: vmhostv1.PowerState_POWER_STATE_ON, Cores: m.GetCores(),
		MemoryMib: m.GetMemoryMib(), Architecture: m.GetArchitecture(), Disks: m.GetDisks(), Interfaces: m.GetInterfaces(), Type: m.GetType(),
	}
}
