package component

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vmhost-project/vmhost/pkg/client"
	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack/racktest"
)

// legacy puts a machine of others on a host, running, with a volume.
func legacy(h *fake.Host, name string, cores int32) *rackv1.MachineObservation {
	const size = 1 << 30
	h.PutVolume("default", name+".img", size)
	m := &rackv1.MachineObservation{
		Uuid: uuid.NewString(), Name: name, Cores: cores, MemoryMib: 256 * int64(cores), Architecture: "x86_64",
		PowerState: vmhostv1.PowerState_POWER_STATE_ON, Type: vmhostv1.MachineType_MACHINE_TYPE_VIRTUAL_MACHINE,
		Disks: []*vmhostv1.MachineDisk{{StoragePool: "default", Volume: name + ".img", SizeBytes: size, Device: "vda"}},
	}
	h.Put(m)
	return h.Get(m.GetUuid())
}

// mixed is a region with a rack and a host on which others have machines too.
func mixed(t *testing.T) (*client.Client, *fake.Host, []*rackv1.MachineObservation) {
	t.Helper()
	r := start(t, nil)
	fleet := fake.NewFleet(fake.HostSpec{Name: "h1", Cores: 64, MemoryMiB: 64 << 10})
	h := fleet.Host("h1")
	others := []*rackv1.MachineObservation{legacy(h, "old1", 2), legacy(h, "old2", 3)}
	k, _ := racktest.Launch(t, racktest.Options{JoinToken: r.Join("r1"), Fleet: fleet})
	racktest.Await(t, k)
	addHost(t, r.Admin, h, "r1")
	return r.Admin, h, others
}

// named is the machine that is listed by its name on the hypervisor.
func named(t *testing.T, api *client.Client, name string) (m *vmhostv1.Machine) {
	t.Helper()
	await(t, name+" to be listed", func(ctx context.Context) error {
		list, err := api.Machines.ListMachines(ctx, &vmhostv1.ListMachinesRequest{Filter: fmt.Sprintf("hypervisor_name = %q", name)})
		if err != nil {
			return err
		}
		if len(list.GetMachines()) != 1 {
			return fmt.Errorf("there are %d", len(list.GetMachines()))
		}
		m = list.GetMachines()[0]
		return nil
	})
	return m
}

// carries says if the host does not carry so much, of ours and of others.
func carries(t *testing.T, api *client.Client, when string, committed, foreign, storage int64) {
	t.Helper()
	await(t, fmt.Sprintf("%d committed and %d foreign cores %s", committed, foreign, when), func(ctx context.Context) error {
		h, err := api.VmHosts.GetVmHost(ctx, &vmhostv1.GetVmHostRequest{Name: "vmHosts/h1"})
		if err != nil {
			return err
		}
		u := h.GetUsage()
		s := u.GetStorageBytes()["default"]
		if u.GetCores().GetCommitted() != committed || u.GetCores().GetForeign() != foreign || s.GetCommitted()+s.GetForeign() != storage {
			return fmt.Errorf("cores %v, storage %v", u.GetCores(), s)
		}
		return nil
	})
}

func refresh(t *testing.T, api *client.Client) {
	t.Helper()
	op, err := api.VmHosts.RefreshVmHost(t.Context(), &vmhostv1.RefreshVmHostRequest{Name: "vmHosts/h1"})
	if err != nil {
		t.Fatal(err)
	}
	succeed(t, api, op.GetName())
}

// From discovered to ours and back, through region, rack and hypervisor: what the
// host carries is always the same, and the machine in the end as it was (P1, P5).
func TestAMachineIsAdoptedUsedAndGivenBack_P1_P5(t *testing.T) {
	api, h, others := mixed(t)
	const storage = 2 << 30
	carries(t, api, "before", 0, 5, storage)
	found := named(t, api, "old1")
	op, err := api.Machines.AdoptMachine(t.Context(), &vmhostv1.AdoptMachineRequest{Name: found.GetName(), Hostname: "db1"})
	if err != nil {
		t.Fatal(err)
	}
	carries(t, api, "while it is adopted", 2, 3, storage)
	succeed(t, api, op.GetName())
	refresh(t, api)
	carries(t, api, "after the adoption", 2, 3, storage)
	m := named(t, api, "old1")
	if m.GetName() != found.GetName() || m.GetOrigin() != vmhostv1.MachineOrigin_MACHINE_ORIGIN_ADOPTED || m.GetHostname() != "db1" || m.GetPowerState() != vmhostv1.PowerState_POWER_STATE_ON {
		t.Errorf("adopted: %v", m)
	}
	on := h.Get(others[0].GetUuid())
	if on.GetUid() != m.GetUid() || on.GetOperation() != op.GetName() {
		t.Errorf("on the hypervisor: %v", on)
	}

	h.IgnoreShutdown(true)
	stop, err := api.Machines.StopMachine(t.Context(), &vmhostv1.StopMachineRequest{
		Name: m.GetName(), Mode: vmhostv1.StopMode_STOP_MODE_SOFT, GracePeriod: durationpb.New(1e8),
	})
	if err != nil {
		t.Fatal(err)
	}
	if end := finish(t, api, stop.GetName()); end.GetError().GetReason() != "DEADLINE" {
		t.Errorf("soft stop of a deaf guest: %v", end)
	}
	if h.Get(m.GetHypervisorUuid()).GetPowerState() != vmhostv1.PowerState_POWER_STATE_ON {
		t.Error("the soft stop turned it off")
	}
	pause, err := api.Machines.PauseMachine(t.Context(), &vmhostv1.PauseMachineRequest{Name: m.GetName()})
	if err != nil {
		t.Fatal(err)
	}
	succeed(t, api, pause.GetName())
	if h.Get(m.GetHypervisorUuid()).GetPowerState() != vmhostv1.PowerState_POWER_STATE_PAUSED {
		t.Error("it is not paused")
	}
	resume, err := api.Machines.ResumeMachine(t.Context(), &vmhostv1.ResumeMachineRequest{Name: m.GetName()})
	if err != nil {
		t.Fatal(err)
	}
	succeed(t, api, resume.GetName())

	back, err := api.Machines.ReleaseMachine(t.Context(), &vmhostv1.ReleaseMachineRequest{Name: m.GetName()})
	if err != nil {
		t.Fatal(err)
	}
	succeed(t, api, back.GetName())
	carries(t, api, "after the release", 0, 5, storage)
	refresh(t, api)
	carries(t, api, "in the end", 0, 5, storage)
	if m := named(t, api, "old1"); m.GetName() != found.GetName() || m.GetOrigin() != vmhostv1.MachineOrigin_MACHINE_ORIGIN_DISCOVERED {
		t.Errorf("released: %v", m)
	}
	for _, before := range others {
		if diff := cmp.Diff(before, h.Get(before.GetUuid()), protocmp.Transform()); diff != "" {
			t.Errorf("%s changed (-before +after):\n%s", before.GetName(), diff)
		}
	}
}

// compose makes machines on the host.
func compose(t *testing.T, api *client.Client, n int) []string {
	t.Helper()
	var ops, names []string
	for i := range n {
		op, err := api.Machines.ComposeMachine(t.Context(), order(fmt.Sprintf("m%d", i)))
		if err != nil {
			t.Fatal(err)
		}
		ops = append(ops, op.GetName())
	}
	for _, op := range ops {
		names = append(names, succeed(t, api, op).GetTarget())
	}
	return names
}

// A host is given up with all its machines where they are, added again, and one of
// them taken over again: nothing was touched but what says whose they are (P5), and
// what they take is counted throughout (P1).
func TestAForgottenHostKeepsItsMachinesAndCanBeAddedAgain_P1_P5(t *testing.T) {
	api, h, others := mixed(t)
	compose(t, api, 12)
	adopt, err := api.Machines.AdoptMachine(t.Context(), &vmhostv1.AdoptMachineRequest{Name: named(t, api, "old2").GetName()})
	if err != nil {
		t.Fatal(err)
	}
	succeed(t, api, adopt.GetName())
	bare := func() []*rackv1.MachineObservation {
		var out []*rackv1.MachineObservation
		for _, m := range h.All() {
			m = proto.CloneOf(m)
			m.Uid, m.Operation = "", ""
			out = append(out, m)
		}
		return out
	}
	before, volumes := bare(), h.Volumes("default")
	remove, err := api.VmHosts.RemoveVmHost(t.Context(), &vmhostv1.RemoveVmHostRequest{Name: "vmHosts/h1", Mode: vmhostv1.RemoveMode_REMOVE_MODE_FORGET})
	if err != nil {
		t.Fatal(err)
	}
	end := succeed(t, api, remove.GetName())
	result := &vmhostv1.RemoveVmHostResult{}
	if err := end.GetResponse().UnmarshalTo(result); err != nil || !result.GetRemoved() || result.GetSucceeded() != 13 || len(result.GetResults()) != 13 {
		t.Errorf("%v, %v", result, err)
	}
	if diff := cmp.Diff(before, h.All(), protocmp.Transform()); diff != "" {
		t.Errorf("machines changed by more than whose they are (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(volumes, h.Volumes("default")); diff != "" {
		t.Errorf("volumes changed:\n%s", diff)
	}
	addHost(t, api, h, "r1")
	const storage = 2 << 30 // new volumes have nothing allocated yet
	carries(t, api, "when the host is there again", 0, 12+5, storage)
	again, err := api.Machines.AdoptMachine(t.Context(), &vmhostv1.AdoptMachineRequest{Name: named(t, api, "m3").GetName()})
	if err != nil {
		t.Fatal(err)
	}
	succeed(t, api, again.GetName())
	refresh(t, api)
	carries(t, api, "when one is taken over again", 1, 16, storage)
	if diff := cmp.Diff(others[0], h.Get(others[0].GetUuid()), protocmp.Transform()); diff != "" {
		t.Errorf("%s changed:\n%s", others[0].GetName(), diff)
	}
}

// A host whose machines are deleted: one that cannot go keeps the host and its own
// record; machines of others are never touched (P5).
func TestAHostIsDecomposedMachineByMachine_P4_P5(t *testing.T) {
	api, h, others := mixed(t)
	names := compose(t, api, 10)
	h.Fail(fake.Delete, &hypervisor.Error{Class: hypervisor.ErrRefused, Op: "delete machine", Err: errors.New("it is sacred")})
	remove := func() (*vmhostv1.Operation, *vmhostv1.RemoveVmHostResult) {
		op, err := api.VmHosts.RemoveVmHost(t.Context(), &vmhostv1.RemoveVmHostRequest{Name: "vmHosts/h1", Mode: vmhostv1.RemoveMode_REMOVE_MODE_DECOMPOSE})
		if err != nil {
			t.Fatal(err)
		}
		end, result := finish(t, api, op.GetName()), &vmhostv1.RemoveVmHostResult{}
		if err := end.GetResponse().UnmarshalTo(result); err != nil {
			t.Fatalf("%v: %v", err, end)
		}
		return end, result
	}
	end, result := remove()
	if end.GetError().GetReason() != "IN_USE" || !strings.Contains(end.GetError().GetMessage(), "it is sacred") || result.GetRemoved() || result.GetFailed() != 1 || int(result.GetSucceeded()) != len(names)-1 {
		t.Errorf("%v, %v", end, result)
	}
	stuck := result.GetResults()[0].GetName()
	if m, err := api.Machines.GetMachine(t.Context(), &vmhostv1.GetMachineRequest{Name: stuck}); err != nil || h.Get(m.GetHypervisorUuid()) == nil {
		t.Errorf("%s: %v, %v", stuck, m, err)
	}
	if end, result := remove(); end.GetPhase() != vmhostv1.OperationPhase_OPERATION_PHASE_SUCCEEDED || !result.GetRemoved() {
		t.Errorf("%v, %v", end, result)
	}
	if diff := cmp.Diff(sorted(others), h.All(), protocmp.Transform()); diff != "" {
		t.Errorf("what others have changed (-before +after):\n%s", diff)
	}
	if v := h.Volumes("default"); len(v) != len(others) {
		t.Errorf("volumes %v", v)
	}
}

func sorted(machines []*rackv1.MachineObservation) []*rackv1.MachineObservation {
	return slices.SortedFunc(slices.Values(machines), func(a, b *rackv1.MachineObservation) int { return strings.Compare(a.GetUuid(), b.GetUuid()) })
}

func TestManyMachinesAreStartedAtOnce(t *testing.T) {
	api, h, _ := mixed(t)
	names := compose(t, api, 20)
	res, err := api.Machines.BatchChangePower(t.Context(), &vmhostv1.BatchChangePowerRequest{
		Filter: `vm_host = "vmHosts/h1"`, Verb: vmhostv1.OperationVerb_OPERATION_VERB_START, RequestId: uuid.NewString(),
	})
	if err != nil || len(res.GetResults()) != len(names) {
		t.Fatalf("%d results, %v", len(res.GetResults()), err)
	}
	for _, r := range res.GetResults() {
		if r.GetError() != nil {
			t.Errorf("%v", r)
			continue
		}
		succeed(t, api, r.GetOperation().GetName())
		if m := h.Get(strings.TrimPrefix(r.GetName(), "machines/")); m.GetPowerState() != vmhostv1.PowerState_POWER_STATE_ON {
			t.Errorf("%s is %v", r.GetName(), m.GetPowerState())
		}
	}
}
