package component

import (
	"fmt"
	"sync"
	"testing"

	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack/racktest"
)

// P1, P3: a host is drained to one that shares its storage pool. Every machine arrives
// with its disk as it was, which is copied nowhere, and the pool holds all of them at any
// time, each once.
func TestP1P3AHostIsDrainedToOneThatSharesItsPool(t *testing.T) {
	t.Parallel()
	const machines, disk = 4, int64(1 << 30)
	pool := func(name string) []fake.PoolSpec {
		return []fake.PoolSpec{{Name: name, CapacityBytes: 10 * machines * disk, Shared: "nfs://nas/vm"}}
	}
	r := start(t, nil)
	fleet := fake.NewFleet(fake.HostSpec{Name: "h1", Pools: pool("vm")}, fake.HostSpec{Name: "h2", Pools: pool("images")})
	h1, h2 := fleet.Host("h1"), fleet.Host("h2")
	k, _ := racktest.Launch(t, racktest.Options{JoinToken: r.Join("r1"), Fleet: fleet, DataDir: t.TempDir()})
	racktest.Await(t, k)
	addHost(t, r.Admin, h1, "r1")
	addHost(t, r.Admin, h2, "r1")
	volumes := map[string]string{}
	for i := range machines {
		req := order(fmt.Sprintf("m%d", i))
		req.VmHost, req.Start, req.Disks = "vmHosts/h1", i%2 == 0, []*vmhostv1.DiskRequest{{SizeBytes: disk}}
		op, err := r.Admin.Machines.ComposeMachine(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		m, err := r.Admin.Machines.GetMachine(t.Context(), &vmhostv1.GetMachineRequest{Name: succeed(t, r.Admin, op.GetName()).GetTarget()})
		if err != nil {
			t.Fatal(err)
		}
		volume := m.GetDisks()[0].GetVolume()
		volumes[volume] = m.GetHostname()
		h1.Write("vm", volume, "of "+m.GetHostname())
	}
	drain, err := r.Admin.VmHosts.DrainVmHost(t.Context(), &vmhostv1.DrainVmHostRequest{Name: "vmHosts/h1", AllowOffline: true, MaxParallel: 2})
	if err != nil {
		t.Fatal(err)
	}
	// All the while somebody looks at the pool.
	looked, done := 0, make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			for host, name := range map[string]string{"h1": "vm", "h2": "images"} {
				h, err := r.Admin.VmHosts.GetVmHost(t.Context(), &vmhostv1.GetVmHostRequest{Name: "vmHosts/" + host})
				if err != nil {
					t.Error(err)
					return
				}
				if u := h.GetUsage().GetStorageBytes()[name]; u.GetCommitted() != machines*disk {
					t.Errorf("%s counts %v in the pool", host, u)
				}
				looked++
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	op := finish(t, r.Admin, drain.GetName())
	close(done)
	wg.Wait()
	result := &vmhostv1.DrainVmHostResult{}
	if op.GetPhase() != vmhostv1.OperationPhase_OPERATION_PHASE_SUCCEEDED || op.GetResponse().UnmarshalTo(result) != nil || result.GetMoved() != machines {
		t.Fatalf("the drain ended as %v", op)
	}
	for _, m := range result.GetMachines() {
		if m.GetStayingDisks() != 1 || m.GetCopiedDisks() != 0 {
			t.Errorf("moved as %v", m)
		}
	}
	if looked == 0 || len(h1.All()) != 0 || len(h2.All()) != machines {
		t.Errorf("%d machines on h1 and %d on h2 (%d looks)", len(h1.All()), len(h2.All()), looked)
	}
	if all := h2.Volumes("images"); len(all) != machines {
		t.Errorf("the pool has %v", all)
	}
	for volume, hostname := range volumes {
		if got, there := h2.Read("images", volume); !there || got != "of "+hostname {
			t.Errorf("the disk of %s has %q (there: %v)", hostname, got, there)
		}
	}
}
