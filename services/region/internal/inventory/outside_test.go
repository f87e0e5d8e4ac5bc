package inventory

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

func (w *world) record(m *vmhostv1.Machine) {
	w.t.Helper()
	m.Name, m.VmHost, m.Phase = "machines/"+m.GetUid(), "vmHosts/h", vmhostv1.MachinePhase_MACHINE_PHASE_READY
	w.put(func(tx *store.Txn) { store.Put(tx, store.Machines, &storev1.StoredMachine{Resource: m}, m.GetUid()) })
}

func TestAMachineThatGoesMissingAndComesBackIsToldOfOnce(t *testing.T) {
	w := newWorld(t)
	w.ours(1, vmhostv1.MachinePhase_MACHINE_PHASE_COMPOSING)
	w.report(w.epoch, domain(1, "web", true))
	w.ours(1, vmhostv1.MachinePhase_MACHINE_PHASE_READY)
	for range 2 {
		w.must(w.delta([]string{id(1)}))
		w.report(w.epoch)
	}
	if e := w.events("machine.missing"); len(e) != 1 || e[0].GetResource() != "machines/"+id(1) {
		t.Errorf("missing %v", e)
	}
	if _, ok := store.Machines.Get(w.store.Cached(), id(1)); !ok {
		t.Error("its record is gone")
	}
	for range 2 {
		w.must(w.delta(nil, domain(1, "web", true)))
	}
	if e := w.events("machine.found"); len(e) != 1 || e[0].GetResource() != "machines/"+id(1) {
		t.Errorf("found %v", e)
	}
	if n := len(w.events("machine.discovered")) + len(w.events("machine.vanished")); n != 0 {
		t.Errorf("%d events of a machine of others", n)
	}
	// One that is being made comes, and one that is being undone goes, as wanted.
	w.ours(2, vmhostv1.MachinePhase_MACHINE_PHASE_COMPOSING)
	w.must(w.delta(nil, domain(2, "new", false)))
	w.must(w.delta([]string{id(2)}))
	if len(w.events("machine.missing")) != 1 || len(w.events("machine.found")) != 1 {
		t.Error("a compose was taken for something that happened outside")
	}
}

func TestAMachineThatWasChangedOutsideIsTheSameAndIsToldOfOnce(t *testing.T) {
	w := newWorld(t)
	record := &vmhostv1.Machine{
		Uid: id(1), HypervisorUuid: id(1), Hostname: "web", HypervisorName: "web", Cores: 2, MemoryMib: 100,
		Interfaces: []*vmhostv1.MachineInterface{{Mac: "52:54:00:00:00:01"}},
		Disks:      []*vmhostv1.MachineDisk{{StoragePool: "default", Volume: "v0", SizeBytes: 10}},
	}
	w.record(record)
	is := domain(1, "web", true)
	is.Interfaces, is.Disks = []*vmhostv1.MachineInterface{{Mac: "52:54:00:00:00:01"}}, []*vmhostv1.MachineDisk{{StoragePool: "default", Volume: "v0", SizeBytes: 10}}
	w.report(w.epoch, is)
	if e := w.events("machine.changed_outside"); len(e) != 0 {
		t.Fatalf("nothing changed: %v", e)
	}
	is = proto.CloneOf(is)
	is.Name, is.Cores, is.MemoryMib = "renamed", 4, 200
	is.Interfaces[0].Mac, is.Disks[0].Volume = "52:54:00:00:00:02", "other"
	for range 2 {
		w.must(w.delta(nil, is))
	}
	off := proto.CloneOf(is)
	off.PowerState = vmhostv1.PowerState_POWER_STATE_OFF
	w.must(w.delta(nil, off))
	e := w.events("machine.changed_outside")
	if len(e) != 1 || e[0].GetResource() != "machines/"+id(1) {
		t.Fatalf("events %v", e)
	}
	for _, want := range []string{"its name is renamed, not web", "cores is 4, not 2", "memory is 200 MiB, not 100 MiB", "52:54:00:00:00:01 is not there", "52:54:00:00:00:02 was added", "disk v0 is not there", "disk other was added"} {
		if !strings.Contains(e[0].GetMessage(), want) {
			t.Errorf("%q is not in %q", want, e[0].GetMessage())
		}
	}
	if f := w.foreign(); f.GetMachines() != 0 {
		t.Errorf("it is taken for one of others: %v", f)
	}
}

// Identity: what is ours follows from the hypervisor's uuid and the record, never
// from metadata alone.
func TestWhatIsOursIsKnownByTheHypervisorsUUID(t *testing.T) {
	w := newWorld(t)
	adopted := view.DiscoveredUID(w.uid(), id(2))
	w.record(&vmhostv1.Machine{Uid: adopted, HypervisorUuid: id(2), HypervisorName: "adopted"})
	moved := "01980000-0000-7000-8000-000000000000" // adopted on another host, and moved here
	w.record(&vmhostv1.Machine{Uid: moved, HypervisorUuid: id(3), HypervisorName: "moved"})
	w.record(&vmhostv1.Machine{Uid: id(1), HypervisorUuid: id(1), HypervisorName: "composed"})
	carries := func(m *rackv1.MachineObservation, uid string) *rackv1.MachineObservation { m.Uid = uid; return m }
	w.report(w.epoch,
		domain(1, "composed", true), domain(2, "adopted", true), carries(domain(3, "moved", true), moved),
		carries(domain(4, "clone of composed", true), id(1)), carries(domain(5, "clone of adopted", true), adopted), domain(6, "stranger", true))
	if f := w.foreign(); f.GetMachines() != 3 {
		t.Errorf("foreign %v, want the clones and the stranger", f)
	}
	var found []string
	for _, e := range w.events("machine.discovered") {
		found = append(found, e.GetAttributes()["hypervisor_name"])
	}
	if strings.Join(found, ", ") != "clone of composed, clone of adopted, stranger" {
		t.Errorf("discovered %v", found)
	}
	w.must(w.delta([]string{id(2)}))
	if e := w.events("machine.missing"); len(e) != 1 || e[0].GetResource() != "machines/"+adopted {
		t.Errorf("missing %v", e)
	}
}
