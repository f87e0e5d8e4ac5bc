package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// A machine composed over the CLI is read over JSON and gRPC, boots from the
// network, shows its address, is stopped and started, and is removed without a
// trace.
func TestOneMachineOverCLIJSONAndGRPC(t *testing.T) {
	h := host(t, "h2")
	before, beforeVolumes := h.domains(t), h.volumes(t)
	s := newStandalone(t, h)
	s.addHost(h)

	out := s.mustCtl("machine", "compose", "netboot1", "--cores", "1", "--memory", "192MiB", "--disk", "100MB",
		"--nic", "network=netboot", "--start", "-o", "json")
	var machine struct{ UID, Hostname, VMHost, ConsoleLogPath string }
	if err := json.Unmarshal([]byte(strings.NewReplacer(`"vmHost"`, `"VMHost"`, `"consoleLogPath"`, `"ConsoleLogPath"`).Replace(out)), &machine); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	dump := h.virsh(t, "dumpxml", machine.UID)
	for _, want := range []string{"<uuid>" + machine.UID + "</uuid>", "unit='KiB'>196608</memory>", ">1</vcpu>", "<name>netboot1</name>", `uid="` + machine.UID + `"`} {
		if !strings.Contains(strings.ReplaceAll(dump, "uid='"+machine.UID+"'", `uid="`+machine.UID+`"`), want) {
			t.Errorf("the domain has no %s:\n%s", want, dump)
		}
	}
	if state := h.virsh(t, "domstate", machine.UID); state != "running" {
		t.Errorf("the domain is %s", state)
	}

	api := s.grpc()
	get := func(ctx context.Context) (*vmhostv1.Machine, error) {
		return api.Machines.GetMachine(ctx, &vmhostv1.GetMachineRequest{Name: "machines/" + machine.UID})
	}
	await(t, 90*time.Second, "the guest's address", func(ctx context.Context) error {
		m, err := get(ctx)
		if err != nil {
			return err
		}
		if len(m.GetAddresses()) == 0 {
			return errors.New("no address yet")
		}
		return nil
	})
	m, err := get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	status, body := s.json("GET", "/v1/machines/"+machine.UID, "")
	if status != 200 || !strings.Contains(body, m.GetAddresses()[0]) || !strings.Contains(body, `"hostname":"netboot1"`) {
		t.Errorf("JSON: %d %s", status, body)
	}
	if table := s.mustCtl("machine", "get", "netboot1"); !strings.Contains(table, m.GetAddresses()[0]) {
		t.Errorf("machine get does not show the address %s:\n%s", m.GetAddresses()[0], table)
	}
	await(t, 60*time.Second, "the guest's words in the serial log", func(context.Context) error {
		if log := h.serialLog(t, m.GetConsoleLogPath()); !strings.Contains(log, "GUEST READY") {
			return errors.New("not in the log yet")
		}
		return nil
	})

	s.mustCtl("machine", "stop", "netboot1", "--grace", "20s")
	if state := h.virsh(t, "domstate", machine.UID); state != "shut off" {
		t.Errorf("after stop the domain is %s", state)
	}
	s.mustCtl("machine", "start", "netboot1")
	s.mustCtl("machine", "reset", "netboot1")
	if state := h.virsh(t, "domstate", machine.UID); state != "running" {
		t.Errorf("after start and reset the domain is %s", state)
	}

	s.mustCtl("machine", "delete", "netboot1", "--yes")
	if _, errs, code := s.ctl("machine", "get", "netboot1"); code != 6 {
		t.Errorf("after delete, get exits with %d: %s", code, errs)
	}
	s.mustCtl("vm-host", "remove", h.name, "--yes")
	if got := h.domains(t); fmt.Sprint(got) != fmt.Sprint(before) {
		t.Errorf("domains before %v, after %v", before, got)
	}
	if got := h.volumes(t); fmt.Sprint(got) != fmt.Sprint(beforeVolumes) {
		t.Errorf("volumes before %v, after %v", beforeVolumes, got)
	}
}

// P1: fifty composes at once against room for exactly ten make ten machines; the
// forty refusals name the resource, the limit and the ratio; ledger, records and
// hypervisor agree afterwards.
func TestP1FiftyComposesAtOnceAgainstRoomForTen(t *testing.T) {
	h := host(t, "h2")
	s := newStandalone(t, h)
	s.addHost(h)
	api := s.grpc()
	v, err := api.VmHosts.GetVmHost(t.Context(), &vmhostv1.GetVmHostRequest{Name: "vmHosts/" + h.name})
	if err != nil {
		t.Fatal(err)
	}
	ratio := 10 / float64(v.GetObservation().GetCores())
	s.mustCtl("vm-host", "update", h.name, "--overcommit", fmt.Sprintf("cores=%v,memory=10,storage=10", ratio))

	type answer struct {
		op  *vmhostv1.Operation
		err error
	}
	answers := make(chan answer)
	for i := range 50 {
		go func() {
			op, err := api.Machines.ComposeMachine(t.Context(), &vmhostv1.ComposeMachineRequest{
				Hostname: fmt.Sprintf("many-%d", i), Cores: 1, MemoryMib: 64, RequestId: uuid.NewString(),
				Disks: []*vmhostv1.DiskRequest{{SizeBytes: 1 << 20}},
			})
			answers <- answer{op, err}
		}()
	}
	var accepted []*vmhostv1.Operation
	refused := 0
	for range 50 {
		a := <-answers
		if a.err == nil {
			accepted = append(accepted, a.op)
			continue
		}
		refused++
		for _, want := range []string{"cores", "limit 10", fmt.Sprintf("ratio %v", ratio)} {
			if !strings.Contains(a.err.Error(), want) {
				t.Errorf("a refusal does not say %q: %v", want, a.err)
			}
		}
	}
	if len(accepted) != 10 || refused != 40 {
		t.Fatalf("%d accepted, %d refused; want 10 and 40", len(accepted), refused)
	}
	uids := map[string]bool{}
	for _, op := range accepted {
		op = finish(t, api, op)
		if op.GetPhase() != vmhostv1.OperationPhase_OPERATION_PHASE_SUCCEEDED {
			t.Errorf("%s: %v %v", op.GetName(), op.GetPhase(), op.GetError())
		}
		uids[strings.TrimPrefix(op.GetTarget(), "machines/")] = true
	}
	for _, d := range h.domains(t) {
		if !uids[d] {
			continue
		}
		delete(uids, d)
	}
	if len(uids) != 0 {
		t.Errorf("recorded and not on the hypervisor: %v", uids)
	}
	v, err = api.VmHosts.GetVmHost(t.Context(), &vmhostv1.GetVmHostRequest{Name: "vmHosts/" + h.name})
	if err != nil {
		t.Fatal(err)
	}
	if got := v.GetUsage(); got.GetCores().GetCommitted() != 10 || got.GetCores().GetFree() != 0 || got.GetMemoryMib().GetCommitted() != 640 || got.GetMachines() != 10 {
		t.Errorf("the ledger says %v", got)
	}
	if got := ours(h.volumes(t)); len(got) != 20 { // a disk and the log of its console each
		t.Errorf("%d volumes of ours: %v", len(got), got)
	}

	for _, op := range accepted {
		del, err := api.Machines.DeleteMachine(t.Context(), &vmhostv1.DeleteMachineRequest{Name: op.GetTarget()})
		if err != nil {
			t.Fatal(err)
		}
		finish(t, api, del)
	}
	v, err = api.VmHosts.GetVmHost(t.Context(), &vmhostv1.GetVmHostRequest{Name: "vmHosts/" + h.name})
	if err != nil {
		t.Fatal(err)
	}
	if got := v.GetUsage(); got.GetCores().GetCommitted() != 0 || got.GetMemoryMib().GetCommitted() != 0 || got.GetMachines() != 0 {
		t.Errorf("after all were deleted the ledger says %v", got)
	}
	if got := ours(h.volumes(t)); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
}

// A virsh destroy by hand shows over the API by itself.
func TestAnOutsidePowerChangeShows(t *testing.T) {
	h := host(t, "h2")
	s := newStandalone(t, h)
	s.addHost(h)
	api := s.grpc()
	out := s.mustCtl("machine", "compose", "pulled", "--memory", "64MiB", "--diskless", "--start", "-o", "name")
	name := strings.TrimSpace(out)
	defer s.mustCtl("machine", "delete", name, "--yes")
	uid := strings.TrimPrefix(name, "machines/")

	watch, err := api.Events.WatchEvents(t.Context(), &vmhostv1.WatchEventsRequest{Filter: fmt.Sprintf("resource = %q", name)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil { // the sign of life: from here on nothing is missed
		t.Fatal(err)
	}
	h.virsh(t, "destroy", uid)
	destroyed := time.Now()
	for {
		got, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e := got.GetEvent(); e.GetType() == "machine.power_changed" {
			t.Logf("seen %v after virsh destroy returned", time.Since(destroyed).Round(time.Millisecond))
			break
		}
	}
	m, err := api.Machines.GetMachine(t.Context(), &vmhostv1.GetMachineRequest{Name: name})
	if err != nil || m.GetPowerState() != vmhostv1.PowerState_POWER_STATE_OFF {
		t.Errorf("the machine is %v, %v", m.GetPowerState(), err)
	}
}
