package operation

import (
	"strings"
	"testing"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const (
	auth        = rackv1.ErrorClass_ERROR_CLASS_AUTH
	hostKey     = rackv1.ErrorClass_ERROR_CLASS_HOST_KEY
	busy        = rackv1.ErrorClass_ERROR_CLASS_BUSY
	capacity    = rackv1.ErrorClass_ERROR_CLASS_CAPACITY
	refusal     = rackv1.ErrorClass_ERROR_CLASS_REFUSED
	unsupported = rackv1.ErrorClass_ERROR_CLASS_UNSUPPORTED
	notSaid     = rackv1.MoveDestinationState_MOVE_DESTINATION_STATE_UNSPECIFIED
	untouched   = rackv1.MoveDestinationState_MOVE_DESTINATION_STATE_UNTOUCHED
	without     = rackv1.MoveDestinationState_MOVE_DESTINATION_STATE_WITHOUT
	has         = rackv1.MoveDestinationState_MOVE_DESTINATION_STATE_HAS
)

// answer is a failure of a move.
type answer struct {
	class rackv1.ErrorClass
	state rackv1.MoveDestinationState
	there bool // it is the destination's
}

func (a answer) wire(s *rackv1.Step) *rackv1.StepError {
	e := &rackv1.StepError{Class: a.class, Message: "in its own words", Destination: a.state}
	if a.there {
		e.VmHost = s.GetMoveMachine().GetDestination().GetVmHost()
	}
	return e
}

// answering fails moves with one answer after the other, then lets them pass.
func answering(answers ...answer) func(*rackv1.Step, int) *rackv1.StepError {
	return func(s *rackv1.Step, try int) *rackv1.StepError {
		if verbOf(s) != "move" || try > len(answers) {
			return nil
		}
		return answers[try-1].wire(s)
	}
}

// A destination that lets nobody in will not by itself: the move ends at once, and
// says whose fault it is and what to do.
func TestADestinationThatLetsNobodyInEndsTheMoveAtOnce_P4_P9(t *testing.T) {
	for class, reason := range map[rackv1.ErrorClass]string{auth: "HOST_AUTH_FAILED", hostKey: "HOST_KEY_CHANGED"} {
		t.Run(reason, func(t *testing.T) {
			w := newWorld(t)
			name := w.made()
			w.rack.script = answering(answer{class, untouched, true}, answer{class, untouched, true})
			op := w.move(name)
			w.run(nil)
			end := w.ended(op.GetName())
			e := end.GetError()
			if end.GetPhase() != failed || e.GetReason() != reason || e.GetMetadata()["vm_host"] != "vmHosts/h2" || !strings.Contains(e.GetHint(), "vmHosts/h2") {
				t.Errorf("operation %v", end)
			}
			if n := len(w.rack.sent("move")); n != 1 || w.holds() != [2]int32{1, 0} {
				t.Errorf("%d steps were sent, %v hold room", n, w.holds())
			}
			w.checkBooks()
		})
	}
}

// What a failure proves depends on what the rack has looked at, and on what the
// tries before it may have left. Never is the destination given up on a guess, and
// never is a try made for nothing.
func TestAMoveEndsOnlyOnWhatIsProven_P3_P4(t *testing.T) {
	for word, tt := range map[string]struct {
		answers []answer
		ends    bool // with the last answer; else the next try succeeds
	}{
		"not let in, nothing done":                         {[]answer{{auth, untouched, true}}, true},
		"not let in, maybe begun with before":              {[]answer{{auth, notSaid, true}}, false},
		"not let in after a try of which nothing is known": {[]answer{{unknown, notSaid, false}, {auth, untouched, true}}, false},
		"not let in after a try that was busy":             {[]answer{{busy, notSaid, false}, {auth, untouched, true}}, false},
		"not let in after a try that looked":               {[]answer{{busy, without, false}, {auth, untouched, true}}, true},
		"not reached, then not let in":                     {[]answer{{unknown, untouched, true}, {hostKey, untouched, true}}, true},
		"not let in by the source":                         {[]answer{{auth, untouched, false}}, true},
		"no room, looked at after doubt":                   {[]answer{{unknown, notSaid, false}, {capacity, without, true}}, true},
		"only the source is left to be removed":            {[]answer{{refusal, has, false}}, false},
		"unsupported, looked at after doubt":               {[]answer{{unknown, notSaid, false}, {unsupported, without, false}}, true},
		"refused by an older rack":                         {[]answer{{refusal, notSaid, false}}, true},
		"there, and then without a look":                   {[]answer{{refusal, has, false}, {capacity, untouched, true}}, false},
	} {
		t.Run(word, func(t *testing.T) {
			w := newWorld(t)
			name := w.made()
			w.rack.script = answering(tt.answers...)
			op := w.move(name)
			w.run(nil)
			end := w.ended(op.GetName())
			steps, phase, holds := len(tt.answers)+1, succeeded, [2]int32{0, 1}
			if tt.ends {
				steps, phase, holds = len(tt.answers), failed, [2]int32{1, 0}
			}
			if end.GetPhase() != phase || len(w.rack.sent("move")) != steps || w.holds() != holds {
				t.Errorf("after %d steps %v hold room, operation %v", len(w.rack.sent("move")), w.holds(), end)
			}
			w.checkBooks()
		})
	}
}

// A destination that was never reached has nothing of the machine: the move ends
// without a trace, and not in doubt.
func TestAMoveToAHostThatWasNeverReachedEndsWithoutDoubt_P4(t *testing.T) {
	for word, want := range map[string]vmhostv1.OperationPhase{"cancel": cancelled, "deadline": failed} {
		t.Run(word, func(t *testing.T) {
			w := newWorld(t)
			name := w.made()
			w.rack.script = func(s *rackv1.Step, try int) *rackv1.StepError {
				if try == 3 {
					w.rack.session = "" // no further step is sent
				}
				return answer{unknown, untouched, true}.wire(s)
			}
			op := w.move(name)
			e := w.run(nil)
			w.eventually("three tries that have their answers", func() bool {
				return len(w.rack.sent("move")) == 3 && w.operation(op.GetName()).GetStepId() == ""
			})
			if word == "cancel" {
				if _, err := e.Cancel(t.Context(), op.GetName()); err != nil {
					t.Fatal(err)
				}
			} else {
				w.late(op.GetName())
			}
			end := w.ended(op.GetName())
			if end.GetPhase() != want || w.holds() != [2]int32{1, 0} {
				t.Errorf("operation %v, %v hold room", end, w.holds())
			}
			w.checkBooks()
		})
	}
}

// Whatever a move fails for, it is said what to do about it, for a machine that is
// where and as it was, and at which host.
func TestEveryFailureOfAMoveHasAHintOfItsOwn_P9(t *testing.T) {
	move := &rackv1.Step{Action: &rackv1.Step_MoveMachine{MoveMachine: &rackv1.MoveMachine{Destination: &rackv1.MoveDestination{VmHost: "vmHosts/h2"}}}}
	for n, word := range rackv1.ErrorClass_name {
		class := rackv1.ErrorClass(n)
		for _, there := range []bool{false, true} {
			op := stored("vmHosts/h", move)
			e := why(op, answer{class, without, there}.wire(move))
			host := "vmHosts/h"
			if there {
				host = "vmHosts/h2"
			}
			if e.GetHint() == "" || e.GetMetadata()["vm_host"] != host || e.GetMetadata()["destination"] != "vmHosts/h2" {
				t.Errorf("%s (of the destination: %v): %v", word, there, e)
			}
			for _, wrong := range []string{"hostname", "ask for less", "drop its record"} {
				if strings.Contains(e.GetHint(), wrong) && (class != rackv1.ErrorClass_ERROR_CLASS_NOT_FOUND || there) {
					t.Errorf("%s (of the destination: %v) advises %q", word, there, e.GetHint())
				}
			}
		}
	}
	op := stored("vmHosts/h", move)
	stops := why(op, &rackv1.StepError{Class: refusal, NeedsOffline: true})
	if stops.GetReason() != "WRONG_STATE" || !strings.Contains(stops.GetHint(), "allow_offline") {
		t.Errorf("needs to be stopped: %v", stops)
	}
	if other := why(op, &rackv1.StepError{Class: refusal}); other.GetReason() == "WRONG_STATE" || strings.Contains(other.GetHint(), "allow_offline") {
		t.Errorf("refused for something else: %v", other)
	}
	if missing := why(op, answer{rackv1.ErrorClass_ERROR_CLASS_NOT_FOUND, without, true}.wire(move)); missing.GetReason() != "NOT_FOUND" {
		t.Errorf("a network that the destination has not: %v", missing)
	}
}

// stored is a recorded operation of one step.
func stored(host string, step *rackv1.Step) *storev1.StoredOperation {
	return &storev1.StoredOperation{
		Resource: &vmhostv1.Operation{Name: "operations/o", Verb: vmhostv1.OperationVerb_OPERATION_VERB_MOVE, VmHost: host}, Plan: []*rackv1.Step{step}, MachineUid: "m",
	}
}
