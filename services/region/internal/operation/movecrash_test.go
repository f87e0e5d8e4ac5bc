package operation

import (
	"fmt"
	"sync"
	"testing"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// moveStories are moves, and how they end whatever is killed on the way.
func moveStories() []story {
	begin := func(w *world) string { return w.move(w.made()).GetName() }
	return []story{
		{"move", nil, begin, succeeded, true},
		{"move that is not reached first", failing("move", unknown, 2), begin, succeeded, true},
		{"move that is refused", failing("move", rackv1.ErrorClass_ERROR_CLASS_CAPACITY, always), begin, failed, true},
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
	ends := 0
	for _, e := range store.Events.All(w.store.Cached()) {
		if e.Value.GetResource().GetOperation() == name && e.Value.GetResource().GetAttributes()["phase"] != "" {
			ends++
		}
	}
	if ends != 1 {
		w.t.Errorf("it ended %d times", ends)
	}
}

func TestARegionKilledInAMoveGoesOn_P3_P4_P6(t *testing.T) {
	for _, s := range moveStories() {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, after a commit %v", s.name, after), func(t *testing.T) {
				for k, killed := 1, true; killed; k++ {
					w := newWorld(t)
					name := s.begin(w)
					w.rack.script = s.script
					var mu sync.Mutex
					killed = false
					w.run(func(n int) (bool, bool) {
						mu.Lock()
						defer mu.Unlock()
						if n != k {
							return false, false
						}
						killed = true
						return !after, after
					})
					w.eventually("an end or a kill", func() bool {
						mu.Lock()
						defer mu.Unlock()
						return killed || ended(w.operation(name))
					})
					w.halt()
					w.run(nil)
					w.connect(fmt.Sprintf("s-again-%d", k))
					s.checkMoved(w, name)
					w.halt()
					if k > 30 {
						t.Fatal("no end after 30 commits")
					}
				}
			})
		}
	}
}

func TestARackKilledInAMoveGoesOn_P3_P4(t *testing.T) {
	for _, s := range moveStories() {
		for _, at := range []loss{lossBefore, lossEffect, lossReported} {
			t.Run(fmt.Sprintf("%s, at %d", s.name, at), func(t *testing.T) {
				for k, killed := 1, true; killed; k++ {
					w := newWorld(t)
					name := s.begin(w)
					w.rack.mu.Lock()
					w.rack.script = s.script
					from := w.rack.received
					killed = false
					w.rack.lose = func(_ *rackv1.Step, n int) loss {
						if n != from+k {
							return lossNone
						}
						killed = true
						return at
					}
					w.rack.mu.Unlock()
					w.run(nil)
					s.checkMoved(w, name)
					w.halt()
					if k > 30 {
						t.Fatal("no end after 30 steps")
					}
				}
			})
		}
	}
}
