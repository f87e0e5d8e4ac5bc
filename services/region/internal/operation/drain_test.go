package operation

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

type drainRequest = vmhostv1.DrainVmHostRequest

// full is a host with machines of these sizes, and another to drain it to.
func (w *world) full(cores ...int32) (names []string) {
	w.t.Helper()
	ratio := 2.0
	w.change("h", func(h *vmhostv1.VmHost) { h.Overcommit = &vmhostv1.OvercommitRatios{Cores: &ratio} })
	w.run(nil)
	for _, n := range cores {
		op, err := w.ledger.Compose(w.t.Context(), "alice", &vmhostv1.ComposeMachineRequest{Cores: n, MemoryMib: 64 * int64(n), Diskless: true})
		if err != nil {
			w.t.Fatal(err)
		}
		names = append(names, w.ended(op.GetName()).GetTarget())
	}
	w.halt()
	w.second()
	w.change("h2", func(h *vmhostv1.VmHost) { h.Overcommit = nil })
	return names
}

func (w *world) drain(more *drainRequest) string {
	w.t.Helper()
	op, err := w.mover().Drain(w.t.Context(), "alice", &drainRequest{
		Name: "vmHosts/h", MaxParallel: more.GetMaxParallel(), AllowOffline: more.GetAllowOffline(), RequestId: uuid.NewString(),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return op.GetName()
}

func drainedBy(t *testing.T, op *vmhostv1.Operation) *vmhostv1.DrainVmHostResult {
	t.Helper()
	out := &vmhostv1.DrainVmHostResult{}
	if err := op.GetResponse().UnmarshalTo(out); err != nil {
		t.Fatalf("%v: %v", op, err)
	}
	return out
}

// All machines go, the largest first and only so many at a time; the host stays
// cordoned.
func TestADrainMovesAllMachinesTheLargestFirst(t *testing.T) {
	w := newWorld(t)
	names := w.full(1, 4, 2, 3)
	most := 0
	w.rack.script = func(s *rackv1.Step, _ int) *rackv1.StepError {
		under := 0
		for _, op := range store.Operations.All(w.store.Cached()) {
			if op.Value.GetParent() != "" && !ended(op.Value) {
				under++
			}
		}
		most = max(most, under)
		return nil
	}
	name := w.drain(&drainRequest{MaxParallel: 1})
	w.run(nil)
	end := w.ended(name)
	res := drainedBy(t, end)
	if end.GetPhase() != succeeded || res.GetMoved() != 4 || res.GetStayed() != 0 || len(res.GetMachines()) != 4 {
		t.Fatalf("%v: %v", end, res)
	}
	if most > 1 {
		t.Errorf("%d machines were moved at once", most)
	}
	var order []string
	for _, s := range w.rack.sent("move") {
		order = append(order, s.GetMoveMachine().GetMachine().GetName())
	}
	if want := []string{names[1], names[3], names[2], names[0]}; strings.Join(order, " ") != strings.Join(want, " ") {
		t.Errorf("moved in the order %v, want %v", order, want)
	}
	for _, d := range res.GetMachines() {
		if d.GetTo() != "vmHosts/h2" || d.GetOperation() == "" || d.GetHow() != offline || d.GetError() != nil {
			t.Errorf("%v", d)
		}
	}
	host, _ := store.VmHosts.Get(w.store.Cached(), "h")
	if got := w.holds(); got != [2]int32{0, 4} || !host.Value.GetResource().GetCordoned() {
		t.Errorf("%v machines hold room, host %v", got, host.Value)
	}
	w.checkBooks()
}

// What has no place stays where it is and says why, and so does what cannot be
// moved; the rest goes.
func TestADrainSaysWhyMachinesStay_P9(t *testing.T) {
	w := newWorld(t)
	names := w.full(1, 60, 50)
	stuck := names[0]
	w.rack.script = func(s *rackv1.Step, _ int) *rackv1.StepError {
		if s.GetMoveMachine().GetMachine().GetName() == stuck {
			return &rackv1.StepError{Class: rackv1.ErrorClass_ERROR_CLASS_REFUSED, Message: "in its own words", NeedsOffline: true}
		}
		return nil
	}
	plan, err := w.mover().Drain(t.Context(), "alice", &drainRequest{Name: "vmHosts/h", ValidateOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if p := drainedBy(t, plan); p.GetMoved() != 2 || p.GetStayed() != 1 || p.GetMachines()[0].GetMachine() != names[1] || p.GetMachines()[0].GetTo() != "vmHosts/h2" ||
		p.GetMachines()[2].GetError().GetReason() != "NO_CAPACITY" || p.GetMachines()[2].GetMachine() != names[2] {
		t.Errorf("plan %v", p)
	}
	if h, _ := store.VmHosts.Get(w.store.Cached(), "h"); h.Value.GetResource().GetCordoned() {
		t.Error("the plan cordoned the host")
	}
	name := w.drain(&drainRequest{})
	w.run(nil)
	end := w.ended(name)
	res := drainedBy(t, end)
	if end.GetPhase() != failed || end.GetError().GetReason() != "IN_USE" || res.GetMoved() != 1 || res.GetStayed() != 2 || len(res.GetMachines()) != 3 {
		t.Fatalf("%v: %v", end, res)
	}
	if e, stay := end.GetError(), res.GetMachines(); e.GetMetadata()["users"] != stay[0].GetMachine()+","+stay[1].GetMachine() ||
		!strings.HasSuffix(e.GetMessage(), "; the first: "+stay[0].GetError().GetMessage()) || e.GetMetadata()["resource"] != "vmHosts/h" {
		t.Errorf("it fails with %v", e)
	}
	why := map[string]string{}
	for i, d := range res.GetMachines() {
		why[d.GetMachine()] = d.GetError().GetReason()
		if (d.GetError() != nil) != (i < 2) || d.GetOperation() == "" {
			t.Errorf("%d: %v", i, d)
		}
	}
	if why[stuck] != "WRONG_STATE" || why[names[2]] != "NO_CAPACITY" || why[names[1]] != "" {
		t.Errorf("%v", why)
	}
	if got := w.holds(); got != [2]int32{2, 1} {
		t.Errorf("%v machines hold room", got)
	}
	w.checkBooks()
}

// A cancel, and whoever uncordons the host, begins no further move; those under
// way are finished.
func TestADrainThatIsStoppedBeginsNoFurtherMove(t *testing.T) {
	for word, stop := range map[string]func(w *world, e *Engine, op string){
		"cancelled": func(w *world, e *Engine, op string) {
			if _, err := e.Cancel(w.t.Context(), op); err != nil {
				w.t.Fatal(err)
			}
		},
		"uncordoned": func(w *world, _ *Engine, _ string) { w.change("h", func(h *vmhostv1.VmHost) { h.Cordoned = false }) },
		"late":       func(w *world, _ *Engine, op string) { w.late(op) },
	} {
		t.Run(word, func(t *testing.T) {
			w := newWorld(t)
			w.full(1, 1, 1, 1, 1)
			w.rack.hold = make(chan struct{})
			name := w.drain(&drainRequest{})
			e := w.run(nil)
			w.eventually("two under way", func() bool { return len(w.rack.sent("move")) == 2 })
			if _, err := e.Drain(t.Context(), "bob", &drainRequest{Name: "vmHosts/h"}); apierror.Reason(err) != vmhostv1.ErrorReason_WRONG_STATE {
				t.Errorf("two drains at once: %v", err)
			}
			stop(w, e, name)
			close(w.rack.hold)
			end := w.ended(name)
			if res := drainedBy(t, end); end.GetPhase() == succeeded || res.GetMoved() != 2 || res.GetStayed() != 3 {
				t.Errorf("%v: %v", end, res)
			}
			if got := w.holds(); got != [2]int32{3, 2} {
				t.Errorf("%v machines hold room", got)
			}
			w.checkBooks()
		})
	}
}

// A host to which a machine is being moved is drained of it as well.
func TestADrainWaitsForWhatIsBeingMovedToTheHost(t *testing.T) {
	w := newWorld(t)
	name := w.made()
	w.rack.hold = make(chan struct{})
	move := w.move(name)
	e := w.run(nil)
	w.eventually("the move is under way", func() bool { return len(w.rack.sent("move")) == 1 })
	op, err := e.Drain(t.Context(), "alice", &drainRequest{Name: "vmHosts/h2"})
	if err != nil {
		t.Fatal(err)
	}
	w.eventually("words on what it waits for", func() bool {
		return strings.Contains(w.operation(op.GetName()).GetResource().GetMessage(), "being moved to vmHosts/h2")
	})
	close(w.rack.hold)
	w.ended(move.GetName())
	// The scripted rack moves from h to h2 only, so that the way back is refused as
	// one that finds the machine nowhere; what matters is that it was tried.
	if res := drainedBy(t, w.ended(op.GetName())); len(res.GetMachines()) != 1 || res.GetMachines()[0].GetMachine() != name {
		t.Errorf("%v", res)
	}
}

// A drain goes on after the process that drives it is killed at any commit.
func TestADrainGoesOnAfterAKillAtAnyCommit_P6(t *testing.T) {
	for k, killed := 1, true; killed; k++ {
		w := newWorld(t)
		w.full(1, 2, 60, 50)
		name := w.drain(&drainRequest{})
		killed = w.killRegion(name, k, k%2 == 1)
		end := w.ended(name)
		if res := drainedBy(t, end); end.GetPhase() != failed || res.GetMoved() != 3 || res.GetStayed() != 1 || len(res.GetMachines()) != 4 {
			t.Errorf("killed at %d: %v: %v", k, end, res)
		}
		if got := w.holds(); got != [2]int32{1, 3} {
			t.Errorf("killed at %d: %v machines hold room", k, got)
		}
		w.checkBooks()
		w.halt()
		if k > 60 {
			t.Fatal("no end after 60 commits")
		}
	}
}
