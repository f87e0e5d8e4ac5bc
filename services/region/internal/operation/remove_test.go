package operation

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

const (
	forget    = vmhostv1.RemoveMode_REMOVE_MODE_FORGET
	decompose = vmhostv1.RemoveMode_REMOVE_MODE_DECOMPOSE
)

// fill gives the host composed machines and one that was adopted, and one of
// others; it answers the names of ours. Nothing runs afterwards.
func (w *world) fill(composed int) []string {
	w.t.Helper()
	e := w.run(nil)
	var ops []string
	for range composed {
		ops = append(ops, w.compose(false).GetName())
	}
	adopt, err := e.Adopt(w.t.Context(), "alice", &adoptRequest{Name: w.legacy(found("legacy", 2), found("other", 3))[0]})
	if err != nil {
		w.t.Fatal(err)
	}
	var names []string
	for _, op := range append(ops, adopt.GetName()) {
		names = append(names, w.ended(op).GetTarget())
	}
	w.halt()
	return names
}

// other is the name of a machine of others.
func (w *world) other() (name string) {
	for name = range allDiscovered(w) {
		break
	}
	return name
}

func (w *world) begin(mode vmhostv1.RemoveMode) string {
	w.t.Helper()
	e := New(Config{Store: w.store, Sender: w.rack, Turn: w.ledger, Places: w.ledger, Log: w.log})
	op, err := e.Remove(w.t.Context(), "alice", &vmhostv1.RemoveVmHostRequest{Name: "vmHosts/h", Mode: mode})
	if err != nil {
		w.t.Fatal(err)
	}
	return op.GetName()
}

func resultIn(t *testing.T, op *vmhostv1.Operation) *vmhostv1.RemoveVmHostResult {
	t.Helper()
	out := &vmhostv1.RemoveVmHostResult{}
	if err := op.GetResponse().UnmarshalTo(out); err != nil {
		t.Fatalf("%v: %v", err, op)
	}
	return out
}

// gone checks that nothing of the host is left, and nothing of anybody else's was
// touched.
func (w *world) gone(mode vmhostv1.RemoveMode, names []string) {
	w.t.Helper()
	v, _ := w.store.View(w.t.Context())
	for what, there := range map[string]func() bool{
		"host":        func() bool { _, ok := store.VmHosts.Get(v, "h"); return ok },
		"observation": func() bool { _, ok := store.Observed.Get(v, "h"); return ok },
		"ledger":      func() bool { _, ok := store.Ledgers.Get(v, "h"); return ok },
		"assignment":  func() bool { _, ok := store.Assignments.Get(v, "h"); return ok },
	} {
		if there() {
			w.t.Errorf("the %s is still there", what)
		}
	}
	for id := range store.Seen.All(v, "h") {
		w.t.Errorf("still seen: %s", id)
	}
	for id := range store.Names.All(v) {
		w.t.Errorf("name %s is still taken", id)
	}
	verb, other := "release", "delete"
	if mode == decompose {
		verb, other = other, verb
	}
	touched := map[string]bool{}
	for _, s := range w.rack.sent(verb) {
		touched[s.GetReleaseMachine().GetMachine().GetName()+s.GetDeleteMachine().GetMachine().GetName()] = true
	}
	for _, name := range names {
		if w.machine(name) != nil || !touched[name] {
			w.t.Errorf("%s: record %v, on the host %v", name, w.machine(name), touched[name])
		}
	}
	if len(touched) != len(names) || len(w.rack.sent(other)) != 0 {
		w.t.Errorf("%d machines were touched, %d by another verb, of %d (P5)", len(touched), len(w.rack.sent(other)), len(names))
	}
}

func TestAHostGoesWithItsMachines(t *testing.T) {
	for _, mode := range []vmhostv1.RemoveMode{forget, decompose} {
		t.Run(mode.String(), func(t *testing.T) {
			w := newWorld(t)
			names := w.fill(removeWidth + 4)
			req := &vmhostv1.RemoveVmHostRequest{Name: "vmHosts/h", Mode: mode, RequestId: uuid.NewString()}
			e := w.run(nil)
			plan := proto.CloneOf(req)
			plan.ValidateOnly = true
			if op, err := e.Remove(t.Context(), "alice", plan); err != nil || op.GetName() != "" {
				t.Errorf("validate_only: %v, %v", op, err)
			}
			op, err := e.Remove(t.Context(), "alice", req)
			if err != nil {
				t.Fatal(err)
			}
			end := w.ended(op.GetName())
			if end.GetPhase() != succeeded || end.GetProgressPercent() != 100 {
				t.Fatalf("%v", end)
			}
			res := resultIn(t, end)
			if !res.GetRemoved() || int(res.GetSucceeded()) != len(names) || res.GetFailed() != 0 || len(res.GetResults()) != len(names) {
				t.Errorf("result %v", res)
			}
			for _, r := range res.GetResults() {
				child := w.operation(r.GetOperation().GetName())
				if !slices.Contains(names, r.GetName()) || child.GetParent() != op.GetName() || child.GetResource().GetPrincipal() != "alice" || child.GetResource().GetPhase() != succeeded {
					t.Errorf("%v: %v", r, child)
				}
			}
			if again, err := e.Remove(t.Context(), "alice", req); err != nil || again.GetName() != op.GetName() {
				t.Errorf("repeated: %v, %v (P2)", again, err)
			}
			if _, err := e.Remove(t.Context(), "alice", &vmhostv1.RemoveVmHostRequest{Name: "vmHosts/h", Mode: mode}); apierror.Reason(err) != vmhostv1.ErrorReason_NOT_FOUND {
				t.Errorf("removed twice: %v", err)
			}
			told := 0
			for _, ev := range store.Events.All(w.store.Cached()) {
				if r := ev.Value.GetResource(); r.GetType() == "vm_host.removed" && r.GetResource() == "vmHosts/h" {
					told++
				}
			}
			if told != 1 {
				t.Errorf("told of %d times", told)
			}
			w.gone(mode, names)
		})
	}
}

// The process is killed before or after each of its commits in turn.
func TestTheRemovalOfAHostGoesOnAfterEveryKill_P6(t *testing.T) {
	for _, after := range []bool{false, true} {
		for k, killed := 1, true; killed; k += 2 {
			w := newWorld(t)
			names := w.fill(3)
			name := w.begin(decompose)
			killed = w.killRegion(name, k, after)
			end := w.ended(name)
			if res := resultIn(t, end); end.GetPhase() != succeeded || len(res.GetResults()) != len(names) {
				t.Errorf("killed at commit %d: %v", k, end)
			}
			w.gone(decompose, names)
			w.halt()
			if k > 60 {
				t.Fatal("no end after 60 commits")
			}
		}
	}
}

// Two regions that both hold the session of the rack, which is worse than can be.
func TestTwoRegionsRemoveAHostWithOneOperationPerMachine(t *testing.T) {
	w := newWorld(t)
	names := w.fill(10)
	name := w.begin(forget)
	w.run(nil)
	first := w.stop
	w.run(nil)
	end := w.ended(name)
	first()
	if res := resultIn(t, end); end.GetPhase() != succeeded || len(res.GetResults()) != len(names) || res.GetFailed() != 0 {
		t.Errorf("%v", end)
	}
	w.gone(forget, names)
}

// One that fails stops nothing else and keeps its record; the host stays and takes
// nothing new; and later the rest can be removed.
func TestAMachineThatCannotBeRemovedKeepsTheHost_P4(t *testing.T) {
	w := newWorld(t)
	names := w.fill(5)
	stuck := names[2]
	w.rack.mu.Lock()
	w.rack.script = func(s *rackv1.Step, _ int) *rackv1.StepError {
		if s.GetDeleteMachine().GetMachine().GetName() == stuck {
			return &rackv1.StepError{Class: rackv1.ErrorClass_ERROR_CLASS_REFUSED, Message: "the hypervisor's own words"}
		}
		return nil
	}
	w.rack.mu.Unlock()
	name := w.begin(decompose)
	e := w.run(nil)
	end := w.ended(name)
	res := resultIn(t, end)
	if end.GetPhase() != failed || end.GetError().GetReason() != "IN_USE" || !strings.Contains(end.GetError().GetMessage(), "own words") || end.GetError().GetMetadata()["users"] != stuck {
		t.Errorf("%v", end)
	}
	if res.GetRemoved() || res.GetFailed() != 1 || int(res.GetSucceeded()) != len(names)-1 || res.GetResults()[0].GetName() != stuck || res.GetResults()[0].GetError() == nil {
		t.Errorf("result %v", res)
	}
	host, ok := store.VmHosts.Get(w.store.Cached(), "h")
	if !ok || !host.Value.GetResource().GetCordoned() || w.machine(stuck) == nil {
		t.Errorf("host %v, machine %v", host.Value, w.machine(stuck))
	}
	if _, err := w.ledger.Compose(t.Context(), "bob", &vmhostv1.ComposeMachineRequest{Cores: 1, MemoryMib: 64}); apierror.Reason(err) != vmhostv1.ErrorReason_NO_CAPACITY {
		t.Errorf("composed on a host that is being removed: %v", err)
	}
	w.checkBooks()
	w.rack.mu.Lock()
	w.rack.script = nil
	w.rack.mu.Unlock()
	op, err := e.Remove(t.Context(), "alice", &vmhostv1.RemoveVmHostRequest{Name: "vmHosts/h", Mode: decompose})
	if err != nil {
		t.Fatal(err)
	}
	if res := resultIn(t, w.ended(op.GetName())); !res.GetRemoved() || len(res.GetResults()) != 1 {
		t.Errorf("result %v", res)
	}
}

// Cancelling, or uncordoning the host, begins with no more machines and finishes
// those whose step is with the rack.
func TestARemovalThatIsStoppedBeginsWithNoMoreMachines(t *testing.T) {
	for _, tt := range []struct {
		name  string
		stop  func(w *world, e *Engine, op string)
		phase vmhostv1.OperationPhase
		why   string
	}{
		{"by its user", func(w *world, e *Engine, op string) {
			if _, err := e.Cancel(w.t.Context(), op); err != nil {
				w.t.Fatal(err)
			}
		}, cancelled, "CANCELLED"},
		{"by uncordoning the host", func(w *world, _ *Engine, _ string) {
			h, _ := store.VmHosts.Get(w.store.Cached(), "h")
			next := proto.CloneOf(h.Value)
			next.Resource.Cordoned = false
			tx := store.NewTxn()
			store.Put(tx, store.VmHosts, next, "h")
			w.put(tx)
		}, failed, "WRONG_STATE"},
		{"by its deadline", func(w *world, _ *Engine, op string) { w.late(op) }, failed, "DEADLINE"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			names := w.fill(removeWidth + 5)
			w.rack.hold = make(chan struct{})
			name := w.begin(forget)
			e := w.run(nil)
			// A step that is with the rack cannot be taken back; one that is not yet, can.
			w.eventually("as many as may be under way", func() bool {
				return w.operation(name).GetRemoval().GetBegun() == removeWidth && len(w.rack.sent("release")) == removeWidth
			})
			if _, err := e.Remove(t.Context(), "bob", &vmhostv1.RemoveVmHostRequest{Name: "vmHosts/h", Mode: decompose}); apierror.Reason(err) != vmhostv1.ErrorReason_WRONG_STATE {
				t.Errorf("two removals at once: %v", err)
			}
			if _, err := e.Adopt(t.Context(), "bob", &adoptRequest{Name: w.other()}); apierror.Reason(err) != vmhostv1.ErrorReason_WRONG_STATE {
				t.Errorf("adopted while its host is removed: %v", err)
			}
			tt.stop(w, e, name)
			close(w.rack.hold)
			end := w.ended(name)
			res := resultIn(t, end)
			if end.GetPhase() != tt.phase || end.GetError().GetReason() != tt.why || res.GetRemoved() || res.GetSucceeded() != removeWidth || len(res.GetResults()) != removeWidth {
				t.Errorf("%v: %v", end, res)
			}
			left := 0
			for _, n := range names {
				if w.machine(n) != nil {
					left++
				}
			}
			if left != len(names)-removeWidth {
				t.Errorf("%d machines are left of %d", left, len(names))
			}
			w.checkBooks()
		})
	}
}

// A machine that somebody works on is waited for; a host that is not reached too.
func TestARemovalWaitsForMachinesAndForTheHost(t *testing.T) {
	w := newWorld(t)
	names := w.fill(2)
	w.rack.mu.Lock()
	w.rack.script = failing("start", rackv1.ErrorClass_ERROR_CLASS_BUSY, 40)
	w.rack.mu.Unlock()
	e := w.run(nil)
	busy, err := e.Power(t.Context(), "bob", names[0], &vmhostv1.BatchChangePowerRequest{Verb: start})
	if err != nil {
		t.Fatal(err)
	}
	w.setState(vmhostv1.VmHostState_VM_HOST_STATE_UNREACHABLE)
	name := w.begin(decompose)
	w.eventually("waiting", func() bool { return strings.Contains(w.operation(name).GetResource().GetMessage(), "to be reached") })
	if n := w.operation(name).GetRemoval().GetBegun(); n != 0 {
		t.Errorf("%d begun with on a host that is not reached", n)
	}
	w.setState(vmhostv1.VmHostState_VM_HOST_STATE_READY)
	if end := w.ended(name); end.GetPhase() != succeeded {
		t.Errorf("%v", end)
	}
	if end := w.ended(busy.GetName()); end.GetPhase() != succeeded {
		t.Errorf("%v", end)
	}
	w.gone(decompose, names)
}

func (w *world) setState(s vmhostv1.VmHostState) {
	w.t.Helper()
	rec, _ := store.Observed.Get(w.store.Cached(), "h")
	next := proto.CloneOf(rec.Value)
	next.State = s
	tx := store.NewTxn()
	store.Put(tx, store.Observed, next, "h")
	w.put(tx)
}

// A host without machines goes although no rack is there to reach it.
func TestAnEmptyHostGoesWithoutARack(t *testing.T) {
	w := newWorld(t)
	tx := store.NewTxn()
	tx.Delete(store.Sessions.Key("r1"))
	w.put(tx)
	w.rack.session = ""
	name := w.begin(decompose)
	w.run(nil)
	if res := resultIn(t, w.ended(name)); !res.GetRemoved() {
		t.Errorf("%v", res)
	}
}

// However many machines there are, what is said of them fits into a record.
func TestTheResultOfManyMachinesFitsIntoARecord(t *testing.T) {
	const good, bad = 6000, 1500
	w := newWorld(t)
	w.rack.session = ""
	name := w.begin(forget)
	tx := store.NewTxn()
	for i := range good + bad {
		child := &storev1.StoredOperation{Parent: name, Resource: &vmhostv1.Operation{
			Name: "operations/" + uuid.NewString(), Target: "machines/" + uuid.NewString(), Phase: succeeded, Message: strings.Repeat("x", 100),
		}}
		if i%(good/bad+1) == 0 {
			child.Resource.Phase = failed
			child.Resource.Error = &vmhostv1.OperationError{Reason: "HYPERVISOR_ERROR", Message: strings.Repeat("ä", maxResultText)}
		}
		store.Put(tx, store.Operations, child, uidOf(child.GetResource().GetName()))
		if tx.Writes() == 100 {
			w.put(tx)
			tx = store.NewTxn()
		}
	}
	w.put(tx)
	tx = store.NewTxn()
	store.Put(tx, store.Machines, &storev1.StoredMachine{Resource: &vmhostv1.Machine{
		Name: "machines/left", Uid: "left", VmHost: "vmHosts/h", Operation: "operations/none",
	}}, "left")
	w.put(tx)
	e := New(Config{Store: w.store, Sender: w.rack, Turn: w.ledger, Places: w.ledger, Log: w.log})
	rec, _ := store.Operations.Get(w.store.Cached(), uidOf(name))
	c := &change{engine: e, view: w.store.Cached(), uid: uidOf(name), revision: rec.Revision, op: rec.Value}
	if err := c.removed(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	end := w.operation(name)
	res := resultIn(t, end.GetResource())
	if res.GetSucceeded() != good || res.GetFailed() != bad || len(res.GetResults()) < 500 || res.GetResults()[0].GetError() == nil {
		t.Errorf("%d and %d, %d results", res.GetSucceeded(), res.GetFailed(), len(res.GetResults()))
	}
	if size := proto.Size(end); size > 1<<20 {
		t.Errorf("the record has %d bytes", size)
	}
}
