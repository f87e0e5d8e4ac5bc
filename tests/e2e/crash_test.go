package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// P2, P3, P6: kill -9 in the middle of composing twenty machines. After a new
// start every acknowledged machine exists once, no domain and no volume is
// without a record, and all operations end. Asking again with the same request
// ids makes nothing twice.
func TestP2P3P6KillInTheMiddleOfComposingTwenty(t *testing.T) {
	for _, moment := range []struct {
		name  string
		comes func(t *testing.T, h devHost, acknowledged int) bool
	}{
		{"when the first is acknowledged", func(_ *testing.T, _ devHost, acknowledged int) bool { return acknowledged > 0 }},
		{"when all are acknowledged", func(_ *testing.T, _ devHost, acknowledged int) bool { return acknowledged == 20 }},
		{"when some volumes are made", func(t *testing.T, h devHost, _ int) bool { return len(ours(h.volumes(t))) > 3 }},
		{"when some machines are made", func(t *testing.T, h devHost, _ int) bool { return len(h.domains(t)) > 5 }},
	} {
		t.Run(moment.name, func(t *testing.T) {
			killWhileComposing(t, func(h devHost, acknowledged int) bool { return moment.comes(t, h, acknowledged) })
		})
	}
}

func killWhileComposing(t *testing.T, now func(h devHost, acknowledged int) bool) {
	h := host(t, "h3")
	before := h.domains(t)
	s := newStandalone(t, h)
	s.addHost(h, "--overcommit", "cores=10,memory=10,storage=10")
	api := s.grpc()

	requests := make([]*vmhostv1.ComposeMachineRequest, 20)
	for i := range requests {
		requests[i] = &vmhostv1.ComposeMachineRequest{
			Hostname: fmt.Sprintf("crash-%d", i), Cores: 1, MemoryMib: 64, RequestId: uuid.NewString(),
			Disks: []*vmhostv1.DiskRequest{{SizeBytes: 1 << 20}, {SizeBytes: 2 << 20}},
		}
	}
	var mu sync.Mutex
	acknowledged := map[int]string{}
	var wg sync.WaitGroup
	for i, req := range requests {
		wg.Go(func() {
			op, err := api.Machines.ComposeMachine(t.Context(), req)
			if err != nil {
				return // killed under it
			}
			mu.Lock()
			defer mu.Unlock()
			acknowledged[i] = op.GetTarget()
		})
	}
	await(t, 30*time.Second, "the moment to kill", func(context.Context) error {
		mu.Lock()
		n := len(acknowledged)
		mu.Unlock()
		if !now(h, n) {
			return errors.New("not yet")
		}
		return nil
	})
	s.stop(syscall.SIGKILL)
	wg.Wait()
	t.Logf("killed when %d were acknowledged and %d domains were there", len(acknowledged), len(h.domains(t)))
	s.start()

	api = s.grpc()
	// The same requests again: whoever was acknowledged gets the same machine.
	for i, req := range requests {
		op, err := api.Machines.ComposeMachine(t.Context(), req)
		if err != nil {
			t.Fatalf("compose %d again: %v", i, err)
		}
		if was, ok := acknowledged[i]; ok && was != op.GetTarget() {
			t.Errorf("request %d made %s and then %s", i, was, op.GetTarget())
		}
		acknowledged[i] = op.GetTarget()
	}
	await(t, 3*time.Minute, "all operations to end", func(ctx context.Context) error {
		list, err := api.Operations.ListOperations(ctx, &vmhostv1.ListOperationsRequest{PageSize: 1000})
		if err != nil {
			return err
		}
		for _, op := range list.GetOperations() {
			if op.GetEndTime() == nil {
				return fmt.Errorf("%s is %v: %s", op.GetName(), op.GetPhase(), op.GetMessage())
			}
			if op.GetVerb() == vmhostv1.OperationVerb_OPERATION_VERB_COMPOSE && op.GetPhase() != vmhostv1.OperationPhase_OPERATION_PHASE_SUCCEEDED {
				t.Errorf("%s of %s: %v", op.GetName(), op.GetTarget(), op.GetError())
			}
		}
		return nil
	})

	list, err := api.Machines.ListMachines(t.Context(), &vmhostv1.ListMachinesRequest{PageSize: 1000, Filter: "origin = MACHINE_ORIGIN_COMPOSED"})
	if err != nil {
		t.Fatal(err)
	}
	records, volumes, logs := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, m := range list.GetMachines() {
		records[m.GetUid()] = true
		logs["vmhost-"+m.GetUid()+"-serial0.log"] = true // ADR 0011: the console's log is a volume too
		for _, d := range m.GetDisks() {
			volumes[d.GetVolume()] = true
		}
		if m.GetPhase() != vmhostv1.MachinePhase_MACHINE_PHASE_READY {
			t.Errorf("%s is %v", m.GetHostname(), m.GetPhase())
		}
	}
	if len(records) != 20 || len(volumes) != 40 {
		t.Errorf("%d machines with %d volumes are recorded", len(records), len(volumes))
	}
	for i, name := range acknowledged {
		if !records[strings.TrimPrefix(name, "machines/")] {
			t.Errorf("request %d was acknowledged with %s, which is not recorded", i, name)
		}
	}
	isBefore := map[string]bool{}
	for _, d := range before {
		isBefore[d] = true
	}
	for _, d := range h.domains(t) {
		if !isBefore[d] && !records[d] {
			t.Errorf("domain %s has no record", d)
		}
		delete(records, d)
	}
	if len(records) != 0 {
		t.Errorf("recorded and not on the hypervisor: %v", records)
	}
	for _, v := range ours(h.volumes(t)) {
		if logs[v] {
			continue
		}
		if !volumes[v] {
			t.Errorf("volume %s has no record", v)
		}
		delete(volumes, v)
	}
	if len(volumes) != 0 {
		t.Errorf("recorded and not on the hypervisor: %v", volumes)
	}

	for _, name := range acknowledged {
		op, err := api.Machines.DeleteMachine(t.Context(), &vmhostv1.DeleteMachineRequest{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		if op = finish(t, api, op); op.GetError() != nil {
			t.Errorf("delete %s: %v", name, op.GetError())
		}
	}
	if got := ours(h.volumes(t)); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
}

// A host that is down stays listed as unreachable with the reason, and comes back
// by itself.
func TestAHostThatIsDownIsListedAndComesBack(t *testing.T) {
	h := host(t, "h3")
	link := h
	link.socket = t.TempDir() + "/s"
	if len(link.socket) > 100 {
		t.Fatalf("the path of the socket is too long: %s", link.socket)
	}
	proxy := newProxy(t, link.socket, h.socket)
	s := newStandalone(t, link)
	s.addHost(link)
	api := s.grpc()
	state := func(want vmhostv1.VmHostState) {
		t.Helper()
		await(t, 90*time.Second, "the host to be "+want.String(), func(ctx context.Context) error {
			v, err := api.VmHosts.GetVmHost(ctx, &vmhostv1.GetVmHostRequest{Name: "vmHosts/" + h.name})
			if err != nil {
				return err
			}
			if v.GetState() != want {
				return fmt.Errorf("it is %v: %v", v.GetState(), v.GetConditions())
			}
			if want == vmhostv1.VmHostState_VM_HOST_STATE_UNREACHABLE && len(v.GetConditions()) == 0 {
				return errors.New("it does not say why")
			}
			return nil
		})
	}
	proxy.cut()
	state(vmhostv1.VmHostState_VM_HOST_STATE_UNREACHABLE)
	if _, errs, code := s.ctl("machine", "compose", "nowhere"); code != 8 || !strings.Contains(errs, "unreachable") {
		t.Errorf("compose while the only host is down: exit code %d\n%s", code, errs)
	}
	proxy.restore()
	state(vmhostv1.VmHostState_VM_HOST_STATE_READY)
}
