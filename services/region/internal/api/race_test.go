package api_test

import (
	"fmt"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// together runs calls at the same moment.
func together(calls ...func()) {
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for _, call := range calls {
		wg.Go(func() { <-begin; call() })
	}
	close(begin)
	wg.Wait()
}

func TestAZoneIsNeverRemovedFromUnderAHost(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	for i := range 20 {
		zone, host := fmt.Sprintf("z%d", i), fmt.Sprintf("h%d", i)
		if _, err := f.zones.CreateZone(ctx, &vmhostv1.CreateZoneRequest{ZoneId: zone, Zone: &vmhostv1.Zone{}}); err != nil {
			t.Fatal(err)
		}
		var added, removed error
		together(
			func() {
				_, added = f.hosts.CreateVmHost(ctx, &vmhostv1.CreateVmHostRequest{VmHostId: host, VmHost: &vmhostv1.VmHost{Address: "fake://" + host, Zone: "zones/" + zone}})
			},
			func() { _, removed = f.zones.DeleteZone(ctx, &vmhostv1.DeleteZoneRequest{Name: "zones/" + zone}) },
		)
		switch {
		case added == nil && apierror.Reason(removed) == vmhostv1.ErrorReason_IN_USE:
		case removed == nil && apierror.Reason(added) == vmhostv1.ErrorReason_NOT_FOUND:
		default:
			t.Errorf("adding gave %v, removing %v", added, removed)
		}
	}
}

func TestAHostIsNeverRemovedFromUnderAMachine(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	for i := range 20 {
		h := f.addHost(ctx, fmt.Sprintf("h%d", i))
		f.ready(h)
		var removed error
		var composed error
		together(
			func() {
				_, composed = f.mach.ComposeMachine(ctx, &vmhostv1.ComposeMachineRequest{Cores: 1, MemoryMib: 256, VmHost: h.GetName()})
			},
			func() {
				_, removed = f.hosts.DeleteVmHost(ctx, &vmhostv1.DeleteVmHostRequest{Name: h.GetName()})
			},
		)
		switch {
		case composed == nil && apierror.Reason(removed) == vmhostv1.ErrorReason_IN_USE:
		case removed == nil && composed != nil:
			if _, ok := store.Ledgers.Get(f.store.Cached(), fmt.Sprintf("h%d", i)); ok {
				t.Error("a ledger without its host stayed behind")
			}
		default:
			t.Errorf("composing gave %v, removing %v", composed, removed)
		}
	}
}

func TestARequestThatIsSentTwiceAtOnceIsDoneOnce_P2(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	for i := range 10 {
		req := &vmhostv1.CreateZoneRequest{ZoneId: fmt.Sprintf("z%d", i), Zone: &vmhostv1.Zone{}, RequestId: fmt.Sprintf("00000000-0000-4000-8000-%012d", i)}
		var zones [4]*vmhostv1.Zone
		var calls []func()
		for j := range zones {
			calls = append(calls, func() {
				var err error
				if zones[j], err = f.zones.CreateZone(ctx, req); err != nil {
					t.Error(err)
				}
			})
		}
		together(calls...)
		for _, z := range zones[1:] {
			if !proto.Equal(z, zones[0]) {
				t.Errorf("answers differ: %v, %v", z, zones[0])
			}
		}
	}
}

func TestAMachineThatIsNotReadyIsNotStarted(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	f.ready(f.addHost(ctx, "h1"))
	name := f.compose(ctx, "a").GetTarget()
	f.settle(name)
	uid := name[len("machines/"):]
	m, _ := store.Machines.Get(f.store.Cached(), uid)
	failed := proto.CloneOf(m.Value)
	failed.Resource.Phase = vmhostv1.MachinePhase_MACHINE_PHASE_FAILED
	tx := store.NewTxn()
	store.Put(tx, store.Machines, failed, uid)
	f.commit(tx)
	for _, validateOnly := range []bool{true, false} {
		_, err := f.mach.StartMachine(ctx, &vmhostv1.StartMachineRequest{Name: name, ValidateOnly: validateOnly})
		wantReason(t, "start", err, codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE)
	}
}
