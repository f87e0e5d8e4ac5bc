package operation

import (
	"strings"
	"testing"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// A machine that cannot be deleted for now holds up the removal of its host for
// as long as its own deadline: the operation says so, and is cancelled at once.
func TestARemovalSaysWhatItWaitsForAndIsCancelledAtOnce_P9(t *testing.T) {
	w := newWorld(t)
	names := w.fill(3)
	stuck := names[1]
	hostname := w.machine(stuck).GetHostname()
	w.rack.mu.Lock()
	w.rack.script = func(s *rackv1.Step, _ int) *rackv1.StepError {
		if s.GetDeleteMachine().GetMachine().GetName() == stuck {
			return &rackv1.StepError{Class: rackv1.ErrorClass_ERROR_CLASS_BUSY, Message: "its disk is being copied"}
		}
		return nil
	}
	w.rack.mu.Unlock()
	name := w.begin(decompose)
	e := w.run(nil)
	w.eventually("words on what it waits for", func() bool {
		r := w.operation(name).GetResource()
		return strings.Contains(r.GetMessage(), "3 of 4 machines ended, 1 under way") && strings.Contains(r.GetMessage(), "waiting for "+hostname) &&
			strings.Contains(r.GetMessage(), "its disk is being copied") && r.GetProgressPercent() == 75
	})
	said := w.operation(name).GetResource().GetMessage()
	revision := func() int64 {
		rec, _ := store.Operations.Get(w.store.Cached(), uidOf(name))
		return rec.Revision
	}
	before, tried := revision(), len(w.rack.sent("delete"))
	w.eventually("more tries", func() bool { return len(w.rack.sent("delete")) > tried+5 })
	if revision() != before {
		t.Errorf("each try of the same is recorded again: %q, %q", said, w.operation(name).GetResource().GetMessage())
	}
	if _, err := e.Cancel(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	end := w.ended(name)
	res := resultIn(t, end)
	if end.GetPhase() != cancelled || res.GetRemoved() || res.GetSucceeded() != 3 || res.GetFailed() != 1 || res.GetResults()[0].GetError().GetReason() != "CANCELLED" {
		t.Errorf("%v: %v", end, res)
	}
	if m := w.machine(stuck); m == nil || m.GetOperation() != "" {
		t.Errorf("the machine that was not deleted is %v", m)
	}
	w.checkBooks()
}

// A machine that somebody else works on is named.
func TestARemovalNamesTheMachineThatIsBusy_P9(t *testing.T) {
	w := newWorld(t)
	names := w.fill(1)
	w.rack.mu.Lock()
	w.rack.script = failing("start", rackv1.ErrorClass_ERROR_CLASS_BUSY, 1<<30)
	w.rack.mu.Unlock()
	e := w.run(nil)
	op, err := e.Power(t.Context(), "bob", names[0], &vmhostv1.BatchChangePowerRequest{Verb: start})
	if err != nil {
		t.Fatal(err)
	}
	name := w.begin(decompose)
	w.eventually("words on what it waits for", func() bool {
		m := w.operation(name).GetResource().GetMessage()
		return strings.Contains(m, "1 of 2 machines ended, 0 under way; waiting for "+w.machine(names[0]).GetHostname()) && strings.Contains(m, op.GetName())
	})
	if _, err := e.Cancel(t.Context(), op.GetName()); err != nil {
		t.Fatal(err)
	}
	if end := w.ended(name); end.GetPhase() != succeeded {
		t.Errorf("%v", end)
	}
}
