package inventory

import (
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/uuid"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type world struct {
	t       testing.TB
	store   *store.Store
	inv     *Inventory
	session *Assembler
	epoch   int64
}

func newWorld(t testing.TB) *world { return newWorldOn(t, storetest.New(t)) }

func newWorldOn(t testing.TB, s *store.Store) *world {
	t.Helper()
	w := &world{t: t, store: s, inv: New(s, slog.New(slog.DiscardHandler)), session: NewAssembler()}
	w.put(func(tx *store.Txn) {
		store.Put(tx, store.VmHosts, &storev1.StoredVmHost{Resource: &vmhostv1.VmHost{Name: "vmHosts/h", Uid: uuid.NewString()}}, "h")
	})
	w.assign()
	return w
}

func (w *world) put(fill func(tx *store.Txn)) {
	w.t.Helper()
	tx := store.NewTxn()
	fill(tx)
	if _, err := w.store.Commit(w.t.Context(), tx); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) uid() string {
	h, _ := store.VmHosts.Get(w.store.Cached(), "h")
	return h.Value.GetResource().GetUid()
}

func (w *world) assign() {
	w.t.Helper()
	w.put(func(tx *store.Txn) {
		store.Put(tx, store.Assignments, &storev1.StoredAssignment{Rack: "r1", VmHostUid: w.uid()}, "h")
	})
	a, _ := store.Assignments.Get(w.store.Cached(), "h")
	w.epoch = a.Revision
}

func (w *world) observed() *storev1.StoredVmHostObservation {
	r, _ := store.Observed.Get(w.store.Cached(), "h")
	return r.Value
}

func (w *world) seen() []string {
	var out []string
	for id, m := range store.Seen.All(w.store.Cached(), "h") {
		out = append(out, id[:4]+" "+m.Value.GetObservation().GetName())
	}
	return out
}

func (w *world) events(kind string) []*vmhostv1.Event {
	var out []*vmhostv1.Event
	for _, e := range store.Events.All(w.store.Cached()) {
		if e.Value.GetResource().GetType() == kind {
			out = append(out, e.Value.GetResource())
		}
	}
	return out
}

func observation() *vmhostv1.VmHostObservation {
	return &vmhostv1.VmHostObservation{Cores: 8, MemoryMib: 8192, Foreign: &vmhostv1.ForeignUsage{Cores: 99}}
}

// report is a whole report of a new session.
func (w *world) report(epoch int64, machines ...*rackv1.MachineObservation) {
	w.t.Helper()
	w.session = NewAssembler()
	r := w.session.Add(&rackv1.HostInventory{VmHost: "vmHosts/h", Epoch: epoch, Last: true, Machines: machines, Observation: observation()})
	if err := w.inv.Report(w.t.Context(), "r1", r); err != nil {
		w.t.Fatal(err)
	}
}

// delta is a delta of the session.
func (w *world) delta(gone []string, machines ...*rackv1.MachineObservation) error {
	w.t.Helper()
	return w.inv.Report(w.t.Context(), "r1", w.session.Add(&rackv1.HostInventory{
		VmHost: "vmHosts/h", Epoch: w.epoch, Sequence: 2, Last: true, Delta: true, Machines: machines, GoneUuids: gone,
	}))
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) foreign() *vmhostv1.ForeignUsage { return w.observed().GetObservation().GetForeign() }

func (w *world) condition(kind string) *vmhostv1.Condition {
	for _, c := range w.observed().GetConditions() {
		if c.GetType() == kind {
			return c
		}
	}
	return nil
}

func id(n int) string { return fmt.Sprintf("%04x0000-0000-4000-8000-000000000000", n) }

func domain(n int, name string, on bool) *rackv1.MachineObservation {
	m := &rackv1.MachineObservation{Uuid: id(n), Name: name, Cores: 2, MemoryMib: 100, PowerState: vmhostv1.PowerState_POWER_STATE_OFF}
	if on {
		m.PowerState = vmhostv1.PowerState_POWER_STATE_ON
	}
	return m
}

func (w *world) ours(n int, phase vmhostv1.MachinePhase) {
	w.t.Helper()
	w.put(func(tx *store.Txn) {
		store.Put(tx, store.Machines, &storev1.StoredMachine{Resource: &vmhostv1.Machine{
			Name: "machines/" + id(n), Uid: id(n), HypervisorUuid: id(n), VmHost: "vmHosts/h", Phase: phase,
		}, Commitment: &storev1.Commitment{Cores: 2, MemoryMib: 100}}, id(n))
	})
}

func TestAReportMakesTheHostReadyAndCountsWhatIsForeign(t *testing.T) {
	w := newWorld(t)
	w.ours(1, vmhostv1.MachinePhase_MACHINE_PHASE_READY)
	claims := domain(3, "claims-ours", true)
	claims.Uid = id(3) // our metadata, but no record
	w.report(w.epoch, domain(1, "web", true), domain(2, "legacy", false), claims)
	o := w.observed()
	if o.GetState() != vmhostv1.VmHostState_VM_HOST_STATE_READY || o.GetVmHostUid() != w.uid() || o.GetEpoch() != w.epoch {
		t.Errorf("observed %v", o)
	}
	if f := o.GetObservation().GetForeign(); f.GetMachines() != 2 || f.GetCores() != 4 || f.GetMemoryMib() != 200 {
		t.Errorf("foreign %v", f)
	}
	if got, want := w.seen(), []string{"0001 web", "0002 legacy", "0003 claims-ours"}; !slices.Equal(got, want) {
		t.Errorf("seen %v, want %v", got, want)
	}
	found := w.events("machine.discovered")
	if len(found) != 2 || found[0].GetResource() != "machines/"+view.DiscoveredUID(w.uid(), id(2)) {
		t.Errorf("discovered %v", found)
	}
	if len(w.events("vm_host.ready")) != 1 {
		t.Error("no event of the host being ready")
	}
}

func TestChangesOfMachinesAreRecordedWithTheirEvents(t *testing.T) {
	w := newWorld(t)
	w.ours(1, vmhostv1.MachinePhase_MACHINE_PHASE_READY)
	w.ours(2, vmhostv1.MachinePhase_MACHINE_PHASE_DELETING)
	w.report(w.epoch, domain(1, "web", true), domain(2, "going", true), domain(3, "legacy", true))
	change := func(c *rackv1.MachineChange) {
		t.Helper()
		c.VmHost, c.Epoch = "vmHosts/h", w.epoch
		if err := w.inv.Change(t.Context(), "r1", c); err != nil {
			t.Fatal(err)
		}
	}
	change(&rackv1.MachineChange{Change: &rackv1.MachineChange_Present{Present: domain(1, "web", false)}})
	if e := w.events("machine.power_changed"); len(e) != 1 || e[0].GetResource() != "machines/"+id(1) || e[0].GetMessage() != "web is off" {
		t.Errorf("power events %v", e)
	}
	change(&rackv1.MachineChange{Change: &rackv1.MachineChange_Present{Present: domain(4, "newcomer", true)}})
	if f := w.observed().GetObservation().GetForeign(); f.GetMachines() != 2 || f.GetCores() != 4 {
		t.Errorf("foreign after a newcomer %v", f)
	}
	for _, n := range []int{1, 2, 3} {
		change(&rackv1.MachineChange{Change: &rackv1.MachineChange_GoneUuid{GoneUuid: id(n)}})
	}
	for kind, want := range map[string][]string{"machine.vanished": {"legacy"}, "machine.missing": {"web"}} { // nothing of the one being deleted
		var gone []string
		for _, e := range w.events(kind) {
			gone = append(gone, e.GetAttributes()["hypervisor_name"])
		}
		if !slices.Equal(gone, want) {
			t.Errorf("%s: %v, want %v", kind, gone, want)
		}
	}
	if f := w.observed().GetObservation().GetForeign(); f.GetMachines() != 1 {
		t.Errorf("foreign after all %v", f)
	}
	if got, want := w.seen(), []string{"0004 newcomer"}; !slices.Equal(got, want) {
		t.Errorf("seen %v", got)
	}
	w.report(w.epoch, domain(5, "other", true))
	if got, want := w.seen(), []string{"0005 other"}; !slices.Equal(got, want) {
		t.Errorf("seen after a whole report %v", got)
	}
}

func TestAReportOfAnotherRackOrEpochDoesNotCount_P7(t *testing.T) {
	w := newWorld(t)
	old := w.epoch
	w.assign()
	before := w.store.Cached().Revision
	w.report(old, domain(1, "a", true))
	for _, m := range []*rackv1.HostStatus{{VmHost: "vmHosts/h", Epoch: old}, {VmHost: "vmHosts/x", Epoch: w.epoch}, {VmHost: "h", Epoch: w.epoch}} {
		if err := w.inv.Status(t.Context(), "r1", m); err != nil {
			t.Error(err)
		}
	}
	if err := w.inv.Status(t.Context(), "r2", &rackv1.HostStatus{VmHost: "vmHosts/h", Epoch: w.epoch}); err != nil {
		t.Error(err)
	}
	if err := w.inv.Change(t.Context(), "r2", &rackv1.MachineChange{VmHost: "vmHosts/h", Epoch: w.epoch, Change: &rackv1.MachineChange_Present{Present: domain(1, "a", true)}}); err != nil {
		t.Error(err)
	}
	if after := w.store.Cached().Revision; after != before {
		t.Errorf("something was recorded: %v, %v", w.observed(), w.seen())
	}
}

func TestAHostThatIsNotReachedSaysWhy_P9(t *testing.T) {
	for _, tt := range []struct {
		class  rackv1.ErrorClass
		state  vmhostv1.VmHostState
		reason string
	}{
		{rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE, vmhostv1.VmHostState_VM_HOST_STATE_UNREACHABLE, "HOST_UNREACHABLE"},
		{rackv1.ErrorClass_ERROR_CLASS_AUTH, vmhostv1.VmHostState_VM_HOST_STATE_AUTH_FAILED, "HOST_AUTH_FAILED"},
		{rackv1.ErrorClass_ERROR_CLASS_HOST_KEY, vmhostv1.VmHostState_VM_HOST_STATE_HOST_KEY_CHANGED, "HOST_KEY_CHANGED"},
	} {
		w := newWorld(t)
		w.report(w.epoch, domain(1, "a", true))
		m := &rackv1.HostStatus{VmHost: "vmHosts/h", Epoch: w.epoch, Error: &rackv1.StepError{Class: tt.class, Message: "dial tcp: no route\x1b[31m"}}
		for range 2 { // the second changes nothing
			if err := w.inv.Status(t.Context(), "r1", m); err != nil {
				t.Fatal(err)
			}
		}
		c := w.observed().GetConditions()[0]
		if w.observed().GetState() != tt.state || c.GetStatus() || c.GetReason() != tt.reason || !strings.Contains(c.GetMessage(), "no route") || strings.Contains(c.GetMessage(), "\x1b") {
			t.Errorf("%v: %v", tt.class, w.observed())
		}
		word := strings.ToLower(strings.TrimPrefix(tt.state.String(), "VM_HOST_STATE_"))
		if n := len(w.events("vm_host." + word)); n != 1 {
			t.Errorf("%d events", n)
		}
		if err := w.inv.NoRack(t.Context(), "h", "gone"); err != nil {
			t.Fatal(err)
		}
		w.report(w.epoch, domain(1, "a", true))
		if o := w.observed(); o.GetState() != vmhostv1.VmHostState_VM_HOST_STATE_READY || !o.GetConditions()[0].GetStatus() {
			t.Errorf("back again: %v", o)
		}
	}
}

func TestAReportOfAMillionMachinesIsRefusedAndTheHostSaysSo(t *testing.T) {
	w := newWorld(t)
	w.report(w.epoch, domain(1, "a", true))
	a := NewAssembler()
	var r *Report
	for part := range 2000 {
		p := &rackv1.HostInventory{VmHost: "vmHosts/h", Epoch: w.epoch, Sequence: 7, Last: part == 1999}
		for i := range 500 {
			n := part*500 + i
			p.Machines = append(p.Machines, &rackv1.MachineObservation{Uuid: fmt.Sprintf("%08x-0000-4000-8000-000000000000", n), Name: "x"})
		}
		if r = a.Add(p); r == nil && len(a.open["vmHosts/h"].machines) > maxMachines {
			t.Fatalf("holds %d machines", len(a.open["vmHosts/h"].machines))
		}
	}
	if err := w.inv.Report(t.Context(), "r1", r); err != nil {
		t.Fatal(err)
	}
	o := w.observed()
	if !slices.ContainsFunc(o.GetConditions(), func(c *vmhostv1.Condition) bool { return c.GetType() == conditionReport && c.GetStatus() }) || len(w.seen()) != 1 {
		t.Errorf("conditions %v, %d seen", o.GetConditions(), len(w.seen()))
	}
	w.report(w.epoch, domain(1, "a", true))
	if slices.ContainsFunc(w.observed().GetConditions(), func(c *vmhostv1.Condition) bool { return c.GetType() == conditionReport }) {
		t.Error("the condition stays")
	}
	many := NewAssembler()
	for i := range 10 * maxOpen {
		many.Add(&rackv1.HostInventory{VmHost: fmt.Sprintf("vmHosts/%d", i)})
	}
	if len(many.open) > maxOpen {
		t.Errorf("%d reports under way", len(many.open))
	}
}

func TestALargeReportIsWrittenInSeveralTransactions(t *testing.T) {
	w := newWorld(t)
	var machines []*rackv1.MachineObservation
	for i := range 600 {
		machines = append(machines, domain(i, fmt.Sprint("m", i), i%2 == 0))
	}
	w.report(w.epoch, machines...)
	if n := len(w.seen()); n != 600 {
		t.Errorf("%d seen", n)
	}
	if e := w.events("machine.discovered"); len(e) != maxEvents+1 || !strings.HasPrefix(e[len(e)-1].GetMessage(), "600 machines") {
		t.Errorf("%d events, the last %v", len(e), e[len(e)-1])
	}
	w.report(w.epoch)
	if n := len(w.seen()); n != 0 {
		t.Errorf("%d left", n)
	}
}

func TestWhateverARackSaysWhatIsKeptIsInBounds(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.Just("a\x00\x1b[31m\n\u202e"), rapid.Just(strings.Repeat("ä", 5000)), rapid.Just("\xff\xfe"))
	n32 := rapid.OneOf(rapid.Int32(), rapid.Just(int32(math.MinInt32)), rapid.Just(int32(math.MaxInt32)))
	n64 := rapid.OneOf(rapid.Int64(), rapid.Just(int64(math.MinInt64)), rapid.Just(int64(math.MaxInt64)))
	rapid.Check(t, func(t *rapid.T) {
		m := cleanMachine(&rackv1.MachineObservation{
			Name: text.Draw(t, "name"), Uid: text.Draw(t, "uid"), Cores: n32.Draw(t, "cores"), MemoryMib: n64.Draw(t, "memory"), Problem: text.Draw(t, "problem"),
			PowerState: vmhostv1.PowerState(n32.Draw(t, "power")), Disks: []*vmhostv1.MachineDisk{nil, {Path: text.Draw(t, "path"), SizeBytes: n64.Draw(t, "size")}},
			Interfaces: make([]*vmhostv1.MachineInterface, 500),
		}, id(1))
		o := cleanObservation(&vmhostv1.VmHostObservation{
			Cores: n32.Draw(t, "c"), MemoryMib: n64.Draw(t, "m"), Hostname: text.Draw(t, "h"), Architectures: []string{text.Draw(t, "a")},
			StoragePools: []*vmhostv1.StoragePool{nil, {Name: text.Draw(t, "p"), CapacityBytes: n64.Draw(t, "cap"), AllocationBytes: n64.Draw(t, "alloc")}},
			NumaNodes:    []*vmhostv1.NumaNode{{Cores: make([]int32, 100_000)}},
		})
		for _, kept := range []struct {
			text  string
			bound int
		}{
			{m.GetName(), maxName},
			{m.GetUid(), maxName},
			{m.GetProblem(), maxMessage},
			{m.GetDisks()[1].GetPath(), maxMessage},
			{o.GetHostname(), maxName},
			{o.GetArchitectures()[0], maxName},
		} {
			if len(kept.text) > kept.bound || strings.ContainsFunc(kept.text, unicode.IsControl) {
				t.Fatalf("kept %q", kept.text)
			}
		}
		if m.GetCores() < 0 || m.GetCores() > maxCores || m.GetMemoryMib() < 0 || m.GetMemoryMib() > maxMiB || m.GetDisks()[1].GetSizeBytes() < 0 ||
			o.GetCores() < 0 || o.GetMemoryMib() < 0 || len(m.GetInterfaces()) > maxDevices || len(o.GetNumaNodes()[0].GetCores()) > 4*maxList {
			t.Fatalf("kept %v and %v", m, o)
		}
		for _, p := range o.GetStoragePools() {
			if p.GetCapacityBytes() < 0 || p.GetCapacityBytes() > maxBytes || p.GetAllocationBytes() < 0 {
				t.Fatalf("kept %v", p)
			}
		}
		if _, err := proto.Marshal(m); err != nil {
			t.Fatal(err)
		}
		if _, err := proto.Marshal(o); err != nil {
			t.Fatal(err)
		}
	})
}

// What the trust in an LXD server is judged by.
func TestTheConnectionThatAHostWasReachedWithIsRecorded(t *testing.T) {
	w := newWorld(t)
	for _, m := range []*rackv1.HostStatus{
		{Reachable: true, ConnectionVersion: "1"},
		{Error: &rackv1.StepError{Class: rackv1.ErrorClass_ERROR_CLASS_AUTH}, ConnectionVersion: "2"},
	} {
		m.VmHost, m.Epoch = "vmHosts/h", w.epoch
		w.must(w.inv.Status(t.Context(), "r1", m))
		rec := w.observed()
		if got := rec.GetConnectionVersion(); got != "1" {
			t.Errorf("after %v: reached with %q", m, got)
		}
	}
}
