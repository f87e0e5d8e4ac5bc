package operation

import (
	"errors"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

func stories() []story {
	start := func(start bool) func(w *world) string {
		return func(w *world) string { return w.compose(start).GetName() }
	}
	onMachine := func(begin func(w *world, e *Engine, name string) (*vmhostv1.Operation, error)) func(w *world) string {
		return func(w *world) string {
			e := w.run(nil)
			made := w.ended(w.compose(false).GetName())
			w.halt()
			op, err := begin(w, e, made.GetTarget())
			if err != nil {
				w.t.Fatal(err)
			}
			return op.GetName()
		}
	}
	del := onMachine(func(w *world, e *Engine, name string) (*vmhostv1.Operation, error) {
		return e.Delete(w.t.Context(), "alice", &vmhostv1.DeleteMachineRequest{Name: name, RequestId: uuid.NewString()})
	})
	adopt := func(w *world) string {
		name := w.legacy(found("legacy", 3), found("other", 5))[0]
		op, err := New(Config{Store: w.store, Sender: w.rack, Turn: w.ledger, Places: w.ledger, Log: w.log}).Adopt(w.t.Context(), "alice", &vmhostv1.AdoptMachineRequest{Name: name, RequestId: uuid.NewString()})
		if err != nil {
			w.t.Fatal(err)
		}
		return op.GetName()
	}
	release := onMachine(func(w *world, e *Engine, name string) (*vmhostv1.Operation, error) {
		return e.Release(w.t.Context(), "alice", &vmhostv1.ReleaseMachineRequest{Name: name, RequestId: uuid.NewString()})
	})
	return []story{
		{"adopt", nil, adopt, succeeded, true},
		{"adopt that is busy first", failing("adopt", rackv1.ErrorClass_ERROR_CLASS_BUSY, 2), adopt, succeeded, true},
		{"adopt that is refused", failing("adopt", rackv1.ErrorClass_ERROR_CLASS_REFUSED, always), adopt, failed, false},
		{"release", nil, release, succeeded, false},
		{"release that is not reached first", failing("release", rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE, 2), release, succeeded, false},
		{"compose", nil, start(false), succeeded, true},
		{"compose and start", nil, start(true), succeeded, true},
		{"compose that is busy first", failing("create", rackv1.ErrorClass_ERROR_CLASS_BUSY, 2), start(true), succeeded, true},
		{"compose without capacity", failing("create", rackv1.ErrorClass_ERROR_CLASS_CAPACITY, always), start(true), failed, false},
		{"compose that is cancelled", failing("start", rackv1.ErrorClass_ERROR_CLASS_BUSY, always), func(w *world) string {
			name := w.compose(true).GetName()
			if _, err := New(Config{Store: w.store, Sender: w.rack, Turn: w.ledger, Places: w.ledger, Log: w.log}).Cancel(w.t.Context(), name); err != nil {
				w.t.Fatal(err)
			}
			return name
		}, cancelled, false},
		{"delete", nil, del, succeeded, false},
		{"delete that is not reached first", failing("delete", rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE, 2), del, succeeded, false},
		{"start", nil, onMachine(func(w *world, e *Engine, name string) (*vmhostv1.Operation, error) {
			return e.Power(w.t.Context(), "alice", name, &vmhostv1.BatchChangePowerRequest{Verb: vmhostv1.OperationVerb_OPERATION_VERB_START, RequestId: uuid.NewString()})
		}), succeeded, true},
	}
}

// checkEnd checks what a story comes to.
func (s story) checkEnd(w *world, name string) {
	w.t.Helper()
	op := w.ended(name)
	if op.GetPhase() != s.phase {
		w.t.Errorf("ended %s, want %s: %v", op.GetPhase(), s.phase, op)
	}
	w.checkBooks()
	want := 0
	if s.there {
		want = 1
	}
	w.rack.mu.Lock()
	domains := len(w.rack.domains)
	w.rack.mu.Unlock()
	v, _ := w.store.View(w.t.Context())
	led, _ := store.Ledgers.Get(v, "h")
	if domains != want || int(led.Value.GetMachines()) != want {
		w.t.Errorf("%d domains, %d in the ledger, want %d (P3, P4)", domains, led.Value.GetMachines(), want)
	}
	w.checkEndedOnce(name)
}

func TestARegionKilledBetweenAnyTwoTransitionsGoesOn_P6(t *testing.T) {
	killRegions(t, stories(), story.checkEnd)
}

func TestARackKilledAtAnyPointOfAnyStepGoesOn_P3(t *testing.T) {
	killRacks(t, stories(), story.checkEnd)
}

// Two regions drive at once; the rack is connected to both, which is worse than
// can be.
func TestTwoRegionsDoNotBothAdvanceAnOperation_P7(t *testing.T) {
	w := newWorld(t)
	w.run(nil)
	first := w.stop
	w.run(nil)
	var names []string
	for range 10 {
		names = append(names, w.compose(true).GetName())
	}
	for _, name := range names {
		if op := w.ended(name); op.GetPhase() != succeeded {
			t.Errorf("operation %v", op)
		}
	}
	first()
	w.checkBooks()
	v, _ := w.store.View(t.Context())
	ends := map[string]int{}
	for _, e := range store.Events.All(v) {
		if e.Value.GetResource().GetType() == "machine.composed" {
			ends[e.Value.GetResource().GetOperation()]++
		}
	}
	for _, name := range names {
		if ends[name] != 1 {
			t.Errorf("%s ended %d times", name, ends[name])
		}
	}
}

func TestOfTwoTransitionsDecidedOnOneRevisionOneHolds_P7(t *testing.T) {
	w := newWorld(t)
	w.rack.session = ""
	e := New(Config{Store: w.store, Sender: w.rack, Turn: w.ledger, Places: w.ledger, Log: w.log})
	op := w.compose(false)
	rec, _ := store.Operations.Get(w.store.Cached(), uidOf(op.GetName()))
	decide := func() *change {
		return &change{engine: e, view: w.store.Cached(), uid: uidOf(op.GetName()), revision: rec.Revision, op: rec.Value}
	}
	one, other := decide(), decide()
	if err := one.cancel(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, again := range map[string]func() error{
		"give up": func() error { return other.giveUp(t.Context()) },
		"release": func() error { return other.cancel(t.Context()) },
		"advance": func() error { return other.commit(t.Context(), other.begin(proto.CloneOf(rec.Value))) },
	} {
		if err := again(); !errors.Is(err, store.ErrConflict) {
			t.Errorf("%s after the end: %v", name, err)
		}
	}
	if end := w.operation(op.GetName()).GetResource(); end.GetPhase() != cancelled {
		t.Errorf("operation %v", end)
	}
}
