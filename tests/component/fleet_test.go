package component

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/vmhost-project/vmhost/pkg/client"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region"
	"github.com/vmhost-project/vmhost/services/region/regiontest"
)

// limit ends a broken run; nothing here takes nearly as long.
const limit = time.Minute

// await tries until it works.
func await(t *testing.T, what string, try func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited %v for %s: %v", limit, what, err)
		case <-tick.C:
		}
	}
}

// records is a log that a test reads.
type records struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write appends.
func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *records) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(r, nil)) }

func (r *records) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// start starts a region that gives up a rack soon.
func start(t *testing.T, etcd *regiontest.Etcd) *regiontest.Region {
	t.Helper()
	return regiontest.Start(t, regiontest.Options{Etcd: etcd, Configure: func(cfg *region.Config) { cfg.RackGrace = 200 * time.Millisecond }})
}

// addHost adds a fake host and waits until a rack has it ready.
func addHost(t *testing.T, api *client.Client, h *fake.Host, rack string) *vmhostv1.VmHost {
	t.Helper()
	if _, err := api.VmHosts.CreateVmHost(t.Context(), &vmhostv1.CreateVmHostRequest{
		VmHostId: h.Name(), VmHost: &vmhostv1.VmHost{Address: h.Address()},
	}); err != nil {
		t.Fatal(err)
	}
	return ready(t, api, h, rack, nil)
}

// ready waits until a rack has reported the host, and has done so after an
// earlier report, if there is one.
func ready(t *testing.T, api *client.Client, h *fake.Host, rack string, before *vmhostv1.VmHost) (host *vmhostv1.VmHost) {
	t.Helper()
	await(t, h.Name()+" to be ready at "+rack, func(ctx context.Context) (err error) {
		if host, err = api.VmHosts.GetVmHost(ctx, &vmhostv1.GetVmHostRequest{Name: "vmHosts/" + h.Name()}); err != nil {
			return err
		}
		if host.GetState() != vmhostv1.VmHostState_VM_HOST_STATE_READY || host.GetAssignedRack() != "racks/"+rack {
			return fmt.Errorf("it is %v at %q", host.GetState(), host.GetAssignedRack())
		}
		if !observed(host).After(observed(before)) {
			return errors.New("the rack has not reported it yet")
		}
		return nil
	})
	return host
}

func observed(h *vmhostv1.VmHost) time.Time { return h.GetObservation().GetObserveTime().AsTime() }

// order is a compose of a small machine.
func order(hostname string) *vmhostv1.ComposeMachineRequest {
	return &vmhostv1.ComposeMachineRequest{
		Hostname: hostname, Cores: 1, MemoryMib: 64, RequestId: uuid.NewString(), Disks: []*vmhostv1.DiskRequest{{SizeBytes: 1 << 20}},
	}
}

// finish waits for the end of an operation.
func finish(t *testing.T, api *client.Client, name string) (op *vmhostv1.Operation) {
	t.Helper()
	await(t, name+" to end", func(ctx context.Context) (err error) {
		if op, err = api.Operations.GetOperation(ctx, &vmhostv1.GetOperationRequest{Name: name}); err != nil {
			return err
		}
		if op.GetEndTime() == nil {
			return fmt.Errorf("it is %v: %s", op.GetPhase(), op.GetMessage())
		}
		return nil
	})
	return op
}

// succeed waits for the end of an operation and says if it is not a good one.
func succeed(t *testing.T, api *client.Client, name string) *vmhostv1.Operation {
	t.Helper()
	op := finish(t, api, name)
	if op.GetPhase() != vmhostv1.OperationPhase_OPERATION_PHASE_SUCCEEDED {
		t.Errorf("%s of %s: %v, %v", name, op.GetTarget(), op.GetPhase(), op.GetError())
	}
	return op
}

// called waits until a method of a host was called that often.
func called(t *testing.T, h *fake.Host, m fake.Method, times int) {
	t.Helper()
	await(t, fmt.Sprintf("%s to be called %d times", m, times), func(context.Context) error {
		if n := h.Calls(m); n < times {
			return fmt.Errorf("it was called %d times", n)
		}
		return nil
	})
}

// agree says if records, hypervisor and ledger do not have exactly these
// machines, all on one host.
func agree(t *testing.T, api *client.Client, h *fake.Host, want []string) {
	t.Helper()
	agreeOn(t, api, want, h)
}

// agreeOn says if records, hypervisors and ledgers do not have exactly these
// machines, each on one of the hosts.
func agreeOn(t *testing.T, api *client.Client, want []string, hosts ...*fake.Host) {
	t.Helper()
	want = slices.Sorted(slices.Values(want))
	list, err := api.Machines.ListMachines(t.Context(), &vmhostv1.ListMachinesRequest{PageSize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	var recorded []string
	on, cores := map[string][]string{}, map[string]int64{} // by host
	for _, m := range list.GetMachines() {
		recorded = append(recorded, m.GetName())
		on[m.GetVmHost()] = append(on[m.GetVmHost()], m.GetName())
		cores[m.GetVmHost()] += int64(m.GetCores())
		if m.GetPhase() != vmhostv1.MachinePhase_MACHINE_PHASE_READY {
			t.Errorf("%s is %v", m.GetHostname(), m.GetPhase())
		}
	}
	slices.Sort(recorded)
	if !slices.Equal(recorded, want) {
		t.Errorf("recorded are %v, want %v", recorded, want)
	}
	for _, h := range hosts {
		name := "vmHosts/" + h.Name()
		here := slices.Sorted(slices.Values(on[name]))
		var made []string
		for _, m := range h.All() {
			made = append(made, "machines/"+m.GetUuid())
		}
		slices.Sort(made)
		if !slices.Equal(made, here) {
			t.Errorf("on the hypervisor of %s are %v, recorded there are %v", name, made, here)
		}
		if volumes := h.Volumes("default"); len(volumes) != len(here) {
			t.Errorf("%s has %d volumes for %d machines: %v", name, len(volumes), len(here), volumes)
		}
		host, err := api.VmHosts.GetVmHost(t.Context(), &vmhostv1.GetVmHostRequest{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		if u := host.GetUsage(); int(u.GetMachines()) != len(here) || u.GetCores().GetCommitted() != cores[name] {
			t.Errorf("the ledger of %s says %v, want %d machines with %d cores", name, u, len(here), cores[name])
		}
		delete(on, name)
	}
	if len(on) > 0 {
		t.Errorf("recorded on other hosts: %v", on)
	}
}

var errNotYet = errors.New("not yet")
