package operation

import (
	"fmt"
	"testing"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// story is an operation from its beginning, and how it must end whatever is
// killed on the way.
type story struct {
	name   string
	script func(*rackv1.Step, int) *rackv1.StepError
	begin  func(w *world) string
	phase  vmhostv1.OperationPhase
	there  bool // a machine is there at the end
}

// begun is a world in which the story has begun, and nobody drives its operation.
func (s story) begun(t *testing.T) (w *world, name string) {
	t.Helper()
	w = newWorld(t)
	w.rack.script = s.script
	return w, s.begin(w)
}

// killRegions tells every story with the region killed before or after each of its
// commits in turn, until it gets by without being killed, and has each end checked.
func killRegions(t *testing.T, stories []story, check func(s story, w *world, name string)) {
	t.Helper()
	for _, s := range stories {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, after a commit %v", s.name, after), func(t *testing.T) {
				for k, killed := 1, true; killed; k++ {
					w, name := s.begun(t)
					killed = w.killRegion(name, k, after)
					check(s, w, name)
					w.halt()
					if k > 30 {
						t.Fatal("no end after 30 commits")
					}
				}
			})
		}
	}
}

// killRegion runs a region until it is killed before or after its k-th commit, and
// then another one, which goes on. False when the operation ended before that commit.
func (w *world) killRegion(name string, k int, after bool) (killed bool) {
	w.t.Helper()
	kill := make(chan struct{})
	w.run(func(n int) (bool, bool) {
		if n != k {
			return false, false
		}
		close(kill)
		return !after, after
	})
	dead := func() bool {
		select {
		case <-kill:
			return true
		default:
			return false
		}
	}
	w.eventually("an end or a kill", func() bool { return dead() || ended(w.operation(name)) })
	w.halt()
	w.run(nil)
	w.connect(fmt.Sprintf("s-again-%d", k)) // the rack connects to the new process
	return dead()
}

// killRacks tells every story with the rack killed at each point of each of its
// steps in turn, until it gets by without being killed, and has each end checked.
func killRacks(t *testing.T, stories []story, check func(s story, w *world, name string)) {
	t.Helper()
	for _, s := range stories {
		for _, at := range []loss{lossBefore, lossEffect, lossReported} {
			t.Run(fmt.Sprintf("%s, at %d", s.name, at), func(t *testing.T) {
				for k, killed := 1, true; killed; k++ {
					w, name := s.begun(t)
					killed = false
					w.rack.mu.Lock()
					from := w.rack.received
					w.rack.lose = func(_ *rackv1.Step, n int) loss {
						if n != from+k {
							return lossNone
						}
						killed = true
						return at
					}
					w.rack.mu.Unlock()
					w.run(nil)
					check(s, w, name)
					w.halt()
					if k > 30 {
						t.Fatal("no end after 30 steps")
					}
				}
			})
		}
	}
}

// checkEndedOnce wants one event that an operation has ended.
func (w *world) checkEndedOnce(name string) {
	w.t.Helper()
	v, err := w.store.View(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	ends := 0
	for _, e := range store.Events.All(v) {
		if e.Value.GetResource().GetOperation() == name && e.Value.GetResource().GetAttributes()["phase"] != "" {
			ends++
		}
	}
	if ends != 1 {
		w.t.Errorf("it ended %d times", ends)
	}
}
