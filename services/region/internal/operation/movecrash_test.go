package operation

import (
	"testing"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

// moveStories are moves, and how they end whatever is killed on the way.
func moveStories() []story {
	begin := func(w *world) string { return w.move(w.made()).GetName() }
	beginStaying := func(w *world) string { return w.move(w.sharing()).GetName() }
	return []story{
		{"move", nil, begin, succeeded, true},
		{"move that is not reached first", failing("move", unknown, 2), begin, succeeded, true},
		{"move that is refused", failing("move", rackv1.ErrorClass_ERROR_CLASS_CAPACITY, always), begin, failed, true},
		{"move whose disks stay", nil, beginStaying, succeeded, true},
		{"move whose disks stay, that is not reached first", failing("move", unknown, 2), beginStaying, succeeded, true},
		{"move whose disks stay, that is refused", failing("move", rackv1.ErrorClass_ERROR_CLASS_CAPACITY, always), beginStaying, failed, true},
		{"move that is given up after a break", inTurn(unknown, rackv1.ErrorClass_ERROR_CLASS_CAPACITY, rackv1.ErrorClass_ERROR_CLASS_CAPACITY), begin, failed, true},
	}
}

// checkMoved checks what a move comes to: the machine is on one host, and holds
// room there only.
func (s story) checkMoved(w *world, name string) {
	w.t.Helper()
	op := w.ended(name)
	if op.GetPhase() != s.phase {
		w.t.Errorf("ended %s, want %s: %v", op.GetPhase(), s.phase, op)
	}
	w.checkBooks()
	host, want := "vmHosts/h", [2]int32{1, 0}
	if s.phase == succeeded {
		host, want = "vmHosts/h2", [2]int32{0, 1}
	}
	w.rack.mu.Lock()
	here, there := len(w.rack.domains), len(w.rack.moved)
	w.rack.mu.Unlock()
	if int32(here) != want[0] || int32(there) != want[1] || w.holds() != want {
		w.t.Errorf("%d on the source and %d on the destination, %v hold room, want %v (P3, P4)", here, there, w.holds(), want)
	}
	if m := w.stored(op.GetTarget()); m.GetResource().GetVmHost() != host || m.GetMove() != nil || m.GetResource().GetOperation() != "" {
		w.t.Errorf("the record is %v", m)
	}
	w.checkShared()
	w.checkEndedOnce(name)
}

func TestARegionKilledInAMoveGoesOn_P3_P4_P6(t *testing.T) {
	killRegions(t, moveStories(), story.checkMoved)
}

func TestARackKilledInAMoveGoesOn_P3_P4(t *testing.T) {
	killRacks(t, moveStories(), story.checkMoved)
}
