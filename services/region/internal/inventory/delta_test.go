package inventory

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

func TestInASteadyStateNothingIsWritten(t *testing.T) {
	w := newWorld(t)
	w.ours(1, vmhostv1.MachinePhase_MACHINE_PHASE_READY)
	w.report(w.epoch, domain(1, "web", true), domain(2, "legacy", false))
	before, stored := w.store.Cached().Revision, w.observed().GetObservation().GetObserveTime().AsTime()
	last := w.inv.LastSeen("h")
	for range 200 {
		w.must(w.delta(nil))
	}
	w.must(w.delta(nil, domain(1, "web", true))) // named, and as it was
	w.report(w.epoch, domain(1, "web", true), domain(2, "legacy", false))
	v, err := w.store.View(t.Context()) // as etcd has it
	w.must(err)
	if v.Revision != before {
		t.Errorf("revision went from %d to %d", before, v.Revision)
	}
	if !w.inv.LastSeen("h").After(last) || last.Before(stored) {
		t.Errorf("last seen %v, then %v; stored %v", last, w.inv.LastSeen("h"), stored)
	}
	if !w.inv.LastSeen("other").IsZero() {
		t.Error("a host that was never reported was seen")
	}
	// What was seen last is stored with the next thing that is.
	w.must(w.delta(nil, domain(2, "legacy", true)))
	w.must(w.inv.Status(t.Context(), "r1", &rackv1.HostStatus{VmHost: "vmHosts/h", Epoch: w.epoch, Error: &rackv1.StepError{Class: rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE}}))
	if at := w.observed().GetObservation().GetObserveTime().AsTime(); !at.Equal(w.inv.LastSeen("h").Round(0).UTC()) {
		t.Errorf("stored %v, last seen %v", at, w.inv.LastSeen("h"))
	}
	// A report without anything says that the host is there again, and as it was.
	w.must(w.delta(nil))
	if w.observed().GetState() != vmhostv1.VmHostState_VM_HOST_STATE_READY {
		t.Errorf("observed %v", w.observed())
	}
}

func TestADeltaTouchesOnlyWhatItNames(t *testing.T) {
	w := newWorld(t)
	w.report(w.epoch, domain(1, "a", true), domain(2, "b", true), domain(3, "c", true))
	untouched, _ := store.Seen.Get(w.store.Cached(), "h", id(1))
	w.must(w.delta([]string{id(3), id(9)}, domain(2, "b", false), domain(4, "d", true)))
	if got, want := w.seen(), []string{"0001 a", "0002 b", "0004 d"}; !slices.Equal(got, want) {
		t.Errorf("seen %v, want %v", got, want)
	}
	if now, _ := store.Seen.Get(w.store.Cached(), "h", id(1)); now.Revision != untouched.Revision {
		t.Error("a machine that was not named was written")
	}
	o := w.observed().GetObservation()
	if o.GetCores() != 8 || o.GetForeign().GetMachines() != 3 || o.GetForeign().GetCores() != 6 {
		t.Errorf("observation %v", o)
	}
	// The host itself, when it changed.
	w.must(w.inv.Report(t.Context(), "r1", w.session.Add(&rackv1.HostInventory{
		VmHost: "vmHosts/h", Epoch: w.epoch, Last: true, Delta: true, Observation: &vmhostv1.VmHostObservation{Cores: 4},
	})))
	if o := w.observed().GetObservation(); o.GetCores() != 4 || o.GetForeign().GetMachines() != 3 {
		t.Errorf("observation %v", o)
	}
}

func TestADeltaThatFollowsNothingIsAskedForWhole(t *testing.T) {
	w := newWorld(t)
	again := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrReportAgain) {
			t.Errorf("%s: %v", what, err)
		}
	}
	again("without a whole report", w.delta(nil, domain(1, "a", true)))
	w.report(w.epoch, domain(1, "a", true))
	w.must(w.delta(nil))
	other := NewAssembler()
	again("in another session", w.inv.Report(t.Context(), "r1", other.Add(&rackv1.HostInventory{VmHost: "vmHosts/h", Epoch: w.epoch, Last: true, Delta: true})))
	w.assign()
	again("with another epoch", w.delta(nil))
	w.report(w.epoch, domain(1, "a", true))
	w.must(w.delta(nil))
	w.put(func(tx *store.Txn) { tx.Delete(store.Observed.Key("h")) })
	again("when the record is gone", w.delta(nil))
	for _, first := range []bool{true, false} {
		p := &rackv1.HostInventory{VmHost: "vmHosts/h", Epoch: w.epoch, Sequence: 9, Delta: first}
		w.session.Add(p)
		p.Delta, p.Last = !first, true
		r := w.session.Add(p)
		if r.refused == "" {
			t.Error("a report that is both whole and a delta was taken")
		}
	}
}

func TestAReportThatIsTooLargeIsNotAskedForAgainAndAgain(t *testing.T) {
	w := newWorld(t)
	w.report(w.epoch, domain(1, "a", true))
	huge := func(delta bool) *Report {
		p := &rackv1.HostInventory{VmHost: "vmHosts/h", Epoch: w.epoch, Sequence: 3, Last: true, Delta: delta, Observation: observation()}
		for n := range maxMachines + 1 {
			p.Machines = append(p.Machines, &rackv1.MachineObservation{Uuid: fmt.Sprintf("%08x-0000-4000-8000-000000000000", n)})
		}
		return w.session.Add(p)
	}
	if err := w.inv.Report(t.Context(), "r1", huge(true)); !errors.Is(err, ErrReportAgain) {
		t.Errorf("a delta that is too large: %v", err)
	}
	w.must(w.inv.Report(t.Context(), "r1", huge(false)))
	revision := w.store.Cached().Revision
	for range 20 {
		w.must(w.delta(nil, domain(2, "b", true)))
	}
	if w.store.Cached().Revision != revision || w.condition(conditionReport) == nil {
		t.Errorf("recorded %v, conditions %v", w.seen(), w.observed().GetConditions())
	}
	k := w.session.known["vmHosts/h"] // a while later
	k.quiet = time.Now()
	w.session.known["vmHosts/h"] = k
	if err := w.delta(nil); !errors.Is(err, ErrReportAgain) {
		t.Errorf("after a while: %v", err)
	}
	big := NewAssembler()
	disks := slices.Repeat([]*vmhostv1.MachineDisk{{Path: strings.Repeat("x", maxMessage)}}, 15)
	const many = 2 * maxReportBytes / maxMachineBytes
	for n := range many {
		m := &rackv1.MachineObservation{Uuid: fmt.Sprintf("%08x-0000-4000-8000-000000000000", n), Disks: disks}
		r := big.Add(&rackv1.HostInventory{VmHost: "vmHosts/h", Machines: []*rackv1.MachineObservation{m}, Last: n == many-1})
		if r != nil && r.refused == "" {
			t.Errorf("%d bytes taken", r.bytes)
		}
	}
}

// Machines with as much text as is kept, so that only bytes bound a transaction.
func TestAReportOfLargeMachinesIsRecorded(t *testing.T) {
	w := newWorld(t)
	var machines []*rackv1.MachineObservation
	many := &vmhostv1.MachineInterface{Addresses: make([]string, 1000)}
	for n := range 60 {
		m := domain(n, "m", true)
		for range 14 {
			m.Disks = append(m.Disks, &vmhostv1.MachineDisk{Path: fmt.Sprintf("%4000d", n)})
		}
		m.Interfaces = append(m.Interfaces, slices.Repeat([]*vmhostv1.MachineInterface{many}, 1000)...)
		machines = append(machines, m)
	}
	o := observation()
	for range maxList {
		o.Images = append(o.Images, &vmhostv1.HostImage{Aliases: slices.Repeat([]string{fmt.Sprintf("%250d", 1)}, 60)})
	}
	w.session = NewAssembler()
	w.must(w.inv.Report(t.Context(), "r1", w.session.Add(&rackv1.HostInventory{VmHost: "vmHosts/h", Epoch: w.epoch, Last: true, Machines: machines, Observation: o})))
	if len(w.seen()) != 60 || proto.Size(w.observed()) > maxHostBytes+1024 || len(w.observed().GetObservation().GetProblems()) == 0 {
		t.Errorf("%d seen, the host takes %d bytes, problems %v", len(w.seen()), proto.Size(w.observed()), w.observed().GetObservation().GetProblems())
	}
}

func TestPowerChangesThroughDeltasAreToldOfOnce(t *testing.T) {
	w := newWorld(t)
	w.ours(1, vmhostv1.MachinePhase_MACHINE_PHASE_READY)
	w.report(w.epoch, domain(1, "web", true))
	w.must(w.delta(nil, domain(1, "web", false)))
	w.must(w.delta(nil, domain(1, "web", false)))
	w.must(w.inv.Change(t.Context(), "r1", &rackv1.MachineChange{VmHost: "vmHosts/h", Epoch: w.epoch, Change: &rackv1.MachineChange_Present{Present: domain(1, "web", false)}}))
	w.report(w.epoch, domain(1, "web", false))
	e := w.events("machine.power_changed")
	if len(e) != 1 || e[0].GetResource() != "machines/"+id(1) || e[0].GetAttributes()["power_state"] != "POWER_STATE_OFF" {
		t.Errorf("events %v", e)
	}
}

// Whatever comes in deltas and single changes, and whoever takes machines over
// meanwhile, in the end all is as a whole report of the end has it: it writes
// nothing. P1 needs the foreign use to be right at every step.
func TestDeltasComeToTheSameAsAWholeReport_P1(t *testing.T) {
	w := newWorld(t)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		world := &deltas{world: w, rt: rt, base: n * 16, is: map[string]*rackv1.MachineObservation{}}
		w.assign() // nothing is remembered of before
		w.put(func(tx *store.Txn) { tx.DeletePrefix(store.Seen.Prefix("h")) })
		devices := observation()
		devices.SriovDevices = []*vmhostv1.SriovDevice{{Name: "eth0", Functions: 8}}
		world.whole(devices)
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			world.step()
			world.check()
		}
		w.must(w.delta(nil))
		world.check()
		before := w.store.Cached().Revision
		world.whole(devices)
		if after := w.store.Cached().Revision; after != before {
			rt.Fatalf("a whole report of the same wrote: foreign %v", w.foreign())
		}
	})
}

type deltas struct {
	*world
	rt   *rapid.T
	base int
	is   map[string]*rackv1.MachineObservation
	ours []string
}

func (d *deltas) whole(o *vmhostv1.VmHostObservation) {
	d.session = NewAssembler()
	d.must(d.inv.Report(d.t.Context(), "r1", d.session.Add(&rackv1.HostInventory{
		VmHost: "vmHosts/h", Epoch: d.epoch, Last: true, Machines: slices.Collect(maps.Values(d.is)), Observation: o,
	})))
}

func (d *deltas) machine() *rackv1.MachineObservation {
	m := domain(d.base+rapid.IntRange(0, 7).Draw(d.rt, "which"), "m", rapid.Bool().Draw(d.rt, "on"))
	m.Cores, m.MemoryMib = rapid.Int32Range(0, 3).Draw(d.rt, "cores"), rapid.Int64Range(0, 3).Draw(d.rt, "memory")
	if rapid.IntRange(0, 9).Draw(d.rt, "large") == 0 {
		m.Cores = maxCores
	}
	m.Hugepages = rapid.Bool().Draw(d.rt, "hugepages")
	m.PinnedCores = rapid.SliceOfN(rapid.Int32Range(0, 3), 0, 2).Draw(d.rt, "pinned")
	if rapid.IntRange(0, 4).Draw(d.rt, "sriov") == 0 {
		m.Interfaces = []*vmhostv1.MachineInterface{{
			Mac: "52:54:00:00:00:01", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV, Source: rapid.SampledFrom([]string{"eth0", "eth0", "?"}).Draw(d.rt, "device"),
		}}
	}
	return m
}

func (d *deltas) step() {
	switch rapid.IntRange(0, 4).Draw(d.rt, "step") {
	case 0: // a single change
		m := d.machine()
		c := &rackv1.MachineChange{VmHost: "vmHosts/h", Epoch: d.epoch, Change: &rackv1.MachineChange_Present{Present: m}}
		d.is[m.GetUuid()] = m
		if rapid.Bool().Draw(d.rt, "gone") {
			c.Change = &rackv1.MachineChange_GoneUuid{GoneUuid: m.GetUuid()}
			delete(d.is, m.GetUuid())
		}
		d.must(d.inv.Change(d.t.Context(), "r1", c))
	case 1: // somebody takes a machine over, in the way of operations
		m := d.machine()
		if d.is[m.GetUuid()] == nil || slices.Contains(d.ours, m.GetUuid()) {
			return
		}
		d.ours = append(d.ours, m.GetUuid())
		d.put(func(tx *store.Txn) {
			store.Put(tx, store.Machines, &storev1.StoredMachine{Resource: &vmhostv1.Machine{Uid: m.GetUuid(), HypervisorUuid: m.GetUuid(), VmHost: "vmHosts/h"}}, m.GetUuid())
			o := proto.CloneOf(d.observed())
			o.Observation.Foreign = d.want() // what it says does not matter, if it is told
			o.Observation.Foreign.PinnedCores = []int32{0, 1, 2, 3}
			store.Put(tx, store.Observed, o, "h")
		})
		d.must(d.delta(nil))
	default:
		var gone []string
		changed := map[string]*rackv1.MachineObservation{}
		for range rapid.IntRange(0, 4).Draw(d.rt, "changes") {
			m := d.machine()
			if rapid.IntRange(0, 2).Draw(d.rt, "gone") == 0 {
				gone = append(gone, m.GetUuid())
				delete(changed, m.GetUuid())
				delete(d.is, m.GetUuid())
			} else {
				changed[m.GetUuid()], d.is[m.GetUuid()] = m, m
			}
		}
		gone = slices.DeleteFunc(gone, func(uuid string) bool { return changed[uuid] != nil })
		d.must(d.delta(gone, slices.Collect(maps.Values(changed))...))
	}
}

// want is the foreign use as it is by definition.
func (d *deltas) want() *vmhostv1.ForeignUsage {
	var theirs []*taken
	for uuid, m := range d.is {
		if !slices.Contains(d.ours, uuid) {
			theirs = append(theirs, byOthers(m))
		} else if t := beyond(nil, m); t != nil { // these records commit nothing
			theirs = append(theirs, t)
		}
	}
	return foreign(slices.Values(theirs), d.observed().GetObservation().GetSriovDevices())
}

func (d *deltas) check() {
	if got, want := d.foreign(), d.want(); !proto.Equal(got, want) {
		d.rt.Fatalf("foreign %v, want %v", got, want)
	}
	n := 0
	for uuid, m := range store.Seen.All(d.store.Cached(), "h") {
		n++
		if want := d.is[uuid]; want == nil || !proto.Equal(m.Value.GetObservation(), cleanMachine(want, uuid)) {
			d.rt.Fatalf("seen %v, want %v", m.Value.GetObservation(), want)
		}
	}
	if n != len(d.is) {
		d.rt.Fatalf("%d machines seen, want %d", n, len(d.is))
	}
}
