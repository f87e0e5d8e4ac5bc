package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

func TestFiftyComposesAgainstRoomForTenMakeExactlyTen_P1(t *testing.T) {
	for _, n := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d regions", n), func(t *testing.T) {
			ledgers, stores := regions(t, n)
			s := stores[0]
			addHost(t, s, "h", 10, 1<<20)
			var mu sync.Mutex
			var wg sync.WaitGroup
			made, refused := 0, 0
			for i := range 50 {
				wg.Go(func() {
					req := small()
					req.VmHost = "vmHosts/h"
					_, err := ledgers[i%n].Compose(t.Context(), "alice", req)
					mu.Lock()
					defer mu.Unlock()
					switch {
					case err == nil:
						made++
					case apierror.Reason(err) != vmhostv1.ErrorReason_NO_CAPACITY:
						t.Errorf("compose: %v", err)
					default:
						refused++
						for _, want := range []string{"0 cores free", "limit 10", "ratio 1"} {
							if !strings.Contains(err.Error(), want) {
								t.Errorf("%q does not say %q", err, want)
							}
						}
						if got := apierror.FromStatus(err).Metadata["refusal_1"]; !strings.Contains(got, "filter=cores requested=1 free=0 limit=10 ratio=1") &&
							!strings.Contains(apierror.FromStatus(err).Metadata["refused_cores"], "1") {
							t.Errorf("metadata %q", got)
						}
					}
				})
			}
			wg.Wait()
			if made != 10 || refused != 40 {
				t.Errorf("made %d, refused %d; want 10 and 40", made, refused)
			}
			if led := checkBooks(t, s, "h"); led.GetTotal().GetCores() != 10 || led.GetMachines() != 10 {
				t.Errorf("ledger %v", led)
			}
		})
	}
}

func TestARequestIDMakesOneMachineHoweverManyAskAtOnce_P2(t *testing.T) {
	ledgers, stores := regions(t, 2)
	addHost(t, stores[0], "h", 100, 1<<20)
	req := small()
	req.RequestId = uuid.NewString()
	names := make(chan string, 40)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			op, err := ledgers[i%2].Compose(t.Context(), "alice", proto.CloneOf(req))
			if err != nil {
				t.Error(err)
			}
			names <- op.GetName()
		})
	}
	wg.Wait()
	close(names)
	first := ""
	for n := range names {
		if first == "" {
			first = n
		}
		if n != first || n == "" {
			t.Errorf("operations %q and %q", first, n)
		}
	}
	if led := checkBooks(t, stores[0], "h"); led.GetMachines() != 1 {
		t.Errorf("%d machines", led.GetMachines())
	}
	other := proto.CloneOf(req)
	other.Cores = 2
	if _, err := ledgers[0].Compose(t.Context(), "alice", other); apierror.Reason(err) != vmhostv1.ErrorReason_REQUEST_ID_REUSED {
		t.Errorf("another body gave %v", err)
	}
	if op, err := ledgers[0].Compose(t.Context(), "bob", proto.CloneOf(req)); err != nil || op.GetName() == first {
		t.Errorf("another principal got %v, %v", op.GetName(), err)
	}
}

func TestOneBatchHoldsARequestTwiceAndANameTwice_P2(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addHost(t, s, "h", 100, 1<<20)
	same, name := small(), small()
	same.RequestId, name.Hostname = uuid.NewString(), "web"
	mac := small()
	mac.Interfaces = []*vmhostv1.InterfaceRequest{{Mac: "52:54:00:AA:bb:01"}}
	l.turn <- struct{}{} // everybody waits, then all are of one batch
	var wg sync.WaitGroup
	var mu sync.Mutex
	ops, taken, macs := map[string]bool{}, 0, 0
	for range 4 {
		wg.Go(func() {
			op, err := l.Compose(t.Context(), "alice", proto.CloneOf(same))
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			ops[op.GetName()] = true
		})
		wg.Go(func() {
			_, err := l.Compose(t.Context(), "alice", proto.CloneOf(name))
			mu.Lock()
			defer mu.Unlock()
			if apierror.Reason(err) == vmhostv1.ErrorReason_ALREADY_EXISTS {
				taken++
			} else if err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			_, err := l.Compose(t.Context(), "alice", proto.CloneOf(mac))
			mu.Lock()
			defer mu.Unlock()
			if apierror.Reason(err) == vmhostv1.ErrorReason_INVALID_FIELD {
				macs++
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.queue) == 12
	})
	<-l.turn
	wg.Wait()
	if len(ops) != 1 || taken != 3 || macs != 3 {
		t.Errorf("operations %v, names refused %d, MACs refused %d", ops, taken, macs)
	}
	if led := checkBooks(t, s, "h"); led.GetMachines() != 3 {
		t.Errorf("%d machines", led.GetMachines())
	}
}

func TestEveryDecisionIsInTheRecords(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addHost(t, s, "h", 8, 8192)
	op, err := l.Compose(t.Context(), "alice", &vmhostv1.ComposeMachineRequest{
		Hostname: "web", Cores: 2, MemoryMib: 512, Start: true, Autostart: true, Tags: []string{"blue"},
		Disks: []*vmhostv1.DiskRequest{{SizeBytes: 3_000_001}, {SizeBytes: 4096}}, RequestId: uuid.NewString(),
	})
	if err != nil {
		t.Fatal(err)
	}
	v, _ := s.View(t.Context())
	uid := strings.TrimPrefix(op.GetTarget(), "machines/")
	rec, _ := store.Machines.Get(v, uid)
	m := rec.Value.GetResource()
	want := &vmhostv1.Machine{
		Name: "machines/" + uid, Uid: uid, Hostname: "web", Origin: vmhostv1.MachineOrigin_MACHINE_ORIGIN_COMPOSED, VmHost: "vmHosts/h",
		Zone: "zones/default", ResourcePool: "resourcePools/default", HypervisorName: "web", HypervisorUuid: uid, Architecture: "x86_64",
		Cores: 2, MemoryMib: 512, Tags: []string{"blue"}, Phase: vmhostv1.MachinePhase_MACHINE_PHASE_COMPOSING, Operation: op.GetName(),
		Disks: []*vmhostv1.MachineDisk{
			{StoragePool: "default", Volume: "vmhost-" + uid + "-0", SizeBytes: 3_000_320, Boot: true},
			{StoragePool: "default", Volume: "vmhost-" + uid + "-1", SizeBytes: 4096},
		},
		Interfaces: []*vmhostv1.MachineInterface{{Source: "default", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK, Mac: m.GetInterfaces()[0].GetMac(), Boot: true}},
		Type:       vmhostv1.MachineType_MACHINE_TYPE_VIRTUAL_MACHINE, Autostart: true,
	}
	if diff := cmp.Diff(want, m, protocmp.Transform(), protocmp.IgnoreFields(&vmhostv1.Machine{}, "create_time", "update_time")); diff != "" {
		t.Errorf("machine (-want +got):\n%s", diff)
	}
	if mac := m.GetInterfaces()[0].GetMac(); !strings.HasPrefix(mac, "52:54:00:") || len(mac) != 17 {
		t.Errorf("MAC %q", mac)
	}
	stored, _ := store.Operations.Get(v, strings.TrimPrefix(op.GetName(), "operations/"))
	plan := stored.Value.GetPlan()
	if len(plan) != 2 || plan[0].GetCreateMachine().GetMachine().GetUid() != uid || !plan[0].GetCreateMachine().GetAutostart() ||
		plan[1].GetSetPower().GetAction() != rackv1.PowerAction_POWER_ACTION_START || plan[0].GetVmHostUid() != "uid-h" {
		t.Errorf("plan %v", plan)
	}
	if name, ok := store.Names.Get(v, "default", "web"); !ok || name.Value.GetUid() != uid {
		t.Errorf("name %v", name)
	}
	checkBooks(t, s, "h")
}

func TestReleaseGivesEverythingBack_P4(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addHost(t, s, "h", 8, 8192)
	var uids []string
	for range 3 {
		op, err := l.Compose(t.Context(), "alice", small())
		if err != nil {
			t.Fatal(err)
		}
		uids = append(uids, strings.TrimPrefix(op.GetTarget(), "machines/"))
	}
	for _, uid := range uids {
		if err := l.WithTurn(t.Context(), func() error {
			tx := store.NewTxn()
			if Release(tx, s.Cached(), uid) != 1 {
				return errors.New("no such machine")
			}
			_, err := s.Commit(t.Context(), tx)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		checkBooks(t, s, "h")
	}
	v, _ := s.View(t.Context())
	led, _ := store.Ledgers.Get(v, "h")
	if led.Value.GetMachines() != 0 || led.Value.GetTotal().GetCores() != 0 || len(led.Value.GetTotal().GetStorageBytes()) != 0 {
		t.Errorf("left over: %v", led.Value)
	}
	for name := range store.Names.All(v) {
		t.Errorf("name %s is left", name)
	}
	for ref := range store.References.All(v) {
		t.Errorf("reference %s is left", ref)
	}
	if Release(store.NewTxn(), v, uids[0]) != 0 {
		t.Error("released twice")
	}
}

const container = vmhostv1.MachineType_MACHINE_TYPE_CONTAINER

func TestBadRequestsAreRefusedWithTheirField(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addHost(t, s, "h", 8, 8192)
	tx := store.NewTxn()
	store.Put(tx, store.Seen, &storev1.StoredSeenMachine{Observation: &rackv1.MachineObservation{
		Uuid: "u1", Name: "legacy", Interfaces: []*vmhostv1.MachineInterface{{Mac: "52:54:00:00:00:01"}},
	}}, "h", "u1")
	commit(t, s, tx)
	eventually(t, func() bool {
		return l.index.macOwner(s.Cached(), "52:54:00:00:00:01") != ""
	})
	for _, tt := range []struct {
		name   string
		req    *vmhostv1.ComposeMachineRequest
		reason vmhostv1.ErrorReason
		field  string
	}{
		{"unknown pool", &vmhostv1.ComposeMachineRequest{ResourcePool: "resourcePools/x"}, vmhostv1.ErrorReason_NOT_FOUND, "resource_pool"},
		{"unknown zone", &vmhostv1.ComposeMachineRequest{Zone: "zones/x"}, vmhostv1.ErrorReason_NOT_FOUND, "zone"},
		{"unknown host", &vmhostv1.ComposeMachineRequest{VmHost: "vmHosts/x"}, vmhostv1.ErrorReason_NOT_FOUND, "vm_host"},
		{"malformed pool", &vmhostv1.ComposeMachineRequest{ResourcePool: "default"}, vmhostv1.ErrorReason_INVALID_FIELD, "resource_pool"},
		{"malformed host", &vmhostv1.ComposeMachineRequest{VmHost: "vmHosts/a/b"}, vmhostv1.ErrorReason_INVALID_FIELD, "vm_host"},
		{"diskless with disks", &vmhostv1.ComposeMachineRequest{Diskless: true, Disks: []*vmhostv1.DiskRequest{{SizeBytes: 1 << 20}}}, vmhostv1.ErrorReason_INVALID_FIELD, "diskless"},
		{"negative disk", &vmhostv1.ComposeMachineRequest{Disks: []*vmhostv1.DiskRequest{{SizeBytes: -1}}}, vmhostv1.ErrorReason_INVALID_FIELD, "disks[0].size_bytes"},
		{"MAC twice", &vmhostv1.ComposeMachineRequest{Interfaces: []*vmhostv1.InterfaceRequest{{Mac: "52:54:00:00:00:0a"}, {Mac: "52:54:00:00:00:0A"}}}, vmhostv1.ErrorReason_INVALID_FIELD, "interfaces[1].mac"},
		{"MAC of many", nic(&vmhostv1.InterfaceRequest{Mac: "01:00:5e:00:00:01"}), vmhostv1.ErrorReason_INVALID_FIELD, "interfaces[0].mac"},
		{"address outside its subnet", nic(&vmhostv1.InterfaceRequest{SubnetCidr: "10.0.0.0/24", IpAddress: "10.0.1.5"}), vmhostv1.ErrorReason_INVALID_FIELD, "interfaces[0].ip_address"},
		{"address of many", nic(&vmhostv1.InterfaceRequest{IpAddress: "224.0.0.1"}), vmhostv1.ErrorReason_INVALID_FIELD, "interfaces[0].ip_address"},
		{"address twice", nic(&vmhostv1.InterfaceRequest{IpAddress: "10.0.0.5"}, &vmhostv1.InterfaceRequest{IpAddress: "10.0.0.5"}), vmhostv1.ErrorReason_INVALID_FIELD, "interfaces[1].ip_address"},
		{"two interfaces to boot by", nic(&vmhostv1.InterfaceRequest{Boot: true}, &vmhostv1.InterfaceRequest{Boot: true}), vmhostv1.ErrorReason_INVALID_FIELD, "interfaces[1].boot"},
		{"two roots", &vmhostv1.ComposeMachineRequest{Disks: []*vmhostv1.DiskRequest{{SizeBytes: 1 << 20, Boot: true}, {SizeBytes: 1 << 20, Boot: true}}}, vmhostv1.ErrorReason_INVALID_FIELD, "disks[1].boot"},
		{"secure boot with BIOS", &vmhostv1.ComposeMachineRequest{SecureBoot: true, Firmware: vmhostv1.Firmware_FIRMWARE_BIOS}, vmhostv1.ErrorReason_INVALID_FIELD, "secure_boot"},
		{"container without image", &vmhostv1.ComposeMachineRequest{Type: container}, vmhostv1.ErrorReason_INVALID_FIELD, "image"},
		{"container with firmware", &vmhostv1.ComposeMachineRequest{Type: container, Image: "x", Firmware: vmhostv1.Firmware_FIRMWARE_UEFI}, vmhostv1.ErrorReason_INVALID_FIELD, "firmware"},
		{"container with secure boot", &vmhostv1.ComposeMachineRequest{Type: container, Image: "x", SecureBoot: true}, vmhostv1.ErrorReason_INVALID_FIELD, "secure_boot"},
		{"container with huge pages", &vmhostv1.ComposeMachineRequest{Type: container, Image: "x", Hugepages: true}, vmhostv1.ErrorReason_INVALID_FIELD, "hugepages"},
		{"container without a disk", &vmhostv1.ComposeMachineRequest{Type: container, Image: "x", Diskless: true}, vmhostv1.ErrorReason_INVALID_FIELD, "diskless"},
		{"container with its root behind", &vmhostv1.ComposeMachineRequest{Type: container, Image: "x", Disks: []*vmhostv1.DiskRequest{{SizeBytes: 1 << 20}, {SizeBytes: 1 << 20, Boot: true}}}, vmhostv1.ErrorReason_INVALID_FIELD, "disks[1].boot"},
		{"pinned to too few cores", &vmhostv1.ComposeMachineRequest{Cores: 3, PinnedCores: []int32{0, 1}}, vmhostv1.ErrorReason_INVALID_FIELD, "pinned_cores"},
		{"pinned to one core twice", &vmhostv1.ComposeMachineRequest{PinnedCores: []int32{1, 1}}, vmhostv1.ErrorReason_INVALID_FIELD, "pinned_cores[1]"},
		{"container where none run", &vmhostv1.ComposeMachineRequest{Type: container, Image: "x"}, vmhostv1.ErrorReason_NO_CAPACITY, ""},
		{"MAC of a foreign machine", &vmhostv1.ComposeMachineRequest{Interfaces: []*vmhostv1.InterfaceRequest{{Mac: "52:54:00:00:00:01"}}}, vmhostv1.ErrorReason_INVALID_FIELD, "interfaces[0].mac"},
		{"name of a foreign machine", &vmhostv1.ComposeMachineRequest{Hostname: "legacy"}, vmhostv1.ErrorReason_NO_CAPACITY, ""},
		{"too large", &vmhostv1.ComposeMachineRequest{Cores: 9}, vmhostv1.ErrorReason_NO_CAPACITY, ""},
	} {
		_, err := l.Compose(t.Context(), "alice", tt.req)
		e := apierror.FromStatus(err)
		if err == nil || e.Reason != tt.reason || (tt.field != "" && (len(e.Fields) == 0 || e.Fields[0].GetField() != tt.field)) {
			t.Errorf("%s: %v (%v), fields %v", tt.name, err, apierror.Reason(err), e)
		}
	}
	v, _ := s.View(t.Context())
	for uid := range store.Machines.All(v) {
		t.Errorf("machine %s was recorded", uid)
	}
}

func TestPlanExplainsAndRecordsNothing(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addHost(t, s, "a", 2, 8192)
	addHost(t, s, "b", 8, 8192)
	before := s.Cached().Revision
	plan, err := l.Plan(t.Context(), &vmhostv1.ComposeMachineRequest{Cores: 4})
	if err != nil {
		t.Fatal(err)
	}
	if p := plan.GetPlacement(); p.GetVmHost() != "vmHosts/b" || len(p.GetRefusals()) != 1 || p.GetRefusals()[0].GetFilter() != "cores" || p.GetConsidered() != 2 {
		t.Errorf("placement %v", p)
	}
	if plan, err = l.Plan(t.Context(), &vmhostv1.ComposeMachineRequest{Cores: 40}); err != nil || plan.GetMachine() != nil || plan.GetPlacement().GetVmHost() != "" || len(plan.GetPlacement().GetRefusals()) != 2 {
		t.Errorf("plan %v, %v", plan, err)
	}
	if v, _ := s.View(t.Context()); v.Revision != before {
		t.Errorf("revision went from %d to %d", before, v.Revision)
	}
}

func TestACallThatEndsLeavesTheQueue(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addHost(t, s, "h", 8, 8192)
	l.turn <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Compose(ctx, "alice", small()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-l.turn
	if len(l.queue) != 0 {
		t.Error("it is still in the queue")
	}
}
