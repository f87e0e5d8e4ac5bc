package operation

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// fakeRack does steps on a hypervisor that is a map, with a journal, and reports
// to the engine that runs.
type fakeRack struct {
	world *world
	wg    sync.WaitGroup

	mu       sync.Mutex
	session  string
	domains  map[string]bool               // uid: running
	journal  map[string]*rackv1.StepResult // results, by step
	unacked  []string
	tried    map[string]int // how often an action was done
	steps    []*rackv1.Step
	script   func(step *rackv1.Step, try int) *rackv1.StepError // nil error: do it
	lose     func(step *rackv1.Step, n int) loss
	received int
	hold     chan struct{} // no step is begun before it is closed
	// moved are the domains on the other host; left is what a move that the script
	// fails leaves there.
	moved map[string]bool
	left  bool
	how   *rackv1.MoveOutcome // of moves; nil: offline
}

func (r *fakeRack) Session(rack string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rack != "r1" {
		return ""
	}
	return r.session
}

func (r *fakeRack) Send(rack string, step *rackv1.Step) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rack != "r1" || r.session == "" {
		return false
	}
	r.received++
	r.steps = append(r.steps, proto.CloneOf(step))
	n := r.received
	r.wg.Go(func() { r.do(proto.CloneOf(step), n) })
	return true
}

func (r *fakeRack) wait() { r.wg.Wait() }

func (r *fakeRack) do(step *rackv1.Step, n int) {
	if r.hold != nil {
		<-r.hold
	}
	r.mu.Lock()
	lost := lossNone
	if r.lose != nil {
		lost = r.lose(step, n)
	}
	res := r.journal[step.GetId()]
	if res == nil && lost != lossBefore {
		res = r.execute(step)
		if lost != lossEffect {
			r.journal[step.GetId()] = res
		}
	}
	if lost == lossNone {
		r.unacked = append(r.unacked, step.GetId())
	} else {
		if lost == lossReported {
			r.unacked = append(r.unacked, step.GetId())
		}
		session := fmt.Sprintf("s-after-%d", n)
		r.mu.Unlock()
		r.world.connect(session) // the rack is started again
		return
	}
	r.mu.Unlock()
	r.report(res)
}

func (r *fakeRack) execute(step *rackv1.Step) *rackv1.StepResult {
	verb := verbOf(step)
	r.tried[verb]++
	res := &rackv1.StepResult{Id: step.GetId()}
	if r.script != nil {
		if res.Error = r.script(step, r.tried[verb]); res.GetError() != nil {
			if move := step.GetMoveMachine(); move != nil && r.left {
				r.moved[move.GetMachine().GetUid()] = false
			}
			return res
		}
	}
	switch a := step.GetAction().(type) {
	case *rackv1.Step_CreateMachine:
		uid := a.CreateMachine.GetMachine().GetUid()
		if _, there := r.domains[uid]; !there {
			r.domains[uid] = false
		}
	case *rackv1.Step_DeleteMachine:
		if step.GetVmHost() == "vmHosts/h2" {
			delete(r.moved, a.DeleteMachine.GetMachine().GetUid())
			break
		}
		delete(r.domains, a.DeleteMachine.GetMachine().GetUid())
	case *rackv1.Step_MoveMachine:
		uid := a.MoveMachine.GetMachine().GetUid()
		if running, here := r.domains[uid]; here {
			r.moved[uid] = running
			delete(r.domains, uid)
		} else if _, there := r.moved[uid]; !there {
			res.Error = &rackv1.StepError{Class: rackv1.ErrorClass_ERROR_CLASS_NOT_FOUND, Message: "on neither"}
		}
		if res.Move = r.how; r.how == nil {
			res.Move = &rackv1.MoveOutcome{How: rackv1.MoveHow_MOVE_HOW_OFFLINE}
		}
	case *rackv1.Step_AdoptMachine:
		r.domains[a.AdoptMachine.GetMachine().GetUid()] = true // ours from now on
	case *rackv1.Step_ReleaseMachine:
		delete(r.domains, a.ReleaseMachine.GetMachine().GetUid())
	case *rackv1.Step_SetPower:
		if _, ok := r.domains[a.SetPower.GetUid()]; !ok {
			res.Error = &rackv1.StepError{Class: rackv1.ErrorClass_ERROR_CLASS_NOT_FOUND, Message: "Domain not found"}
			break
		}
		switch a.SetPower.GetAction() {
		case rackv1.PowerAction_POWER_ACTION_STOP, rackv1.PowerAction_POWER_ACTION_STOP_SOFT, rackv1.PowerAction_POWER_ACTION_PAUSE:
			r.domains[a.SetPower.GetUid()] = false
		default:
			r.domains[a.SetPower.GetUid()] = true
		}
	case *rackv1.Step_CheckHost:
		res.Check = &vmhostv1.CheckVmHostResult{HostKey: "ssh-ed25519 AAAA", Items: []*vmhostv1.CheckItem{{Check: "reach"}}}
	}
	return res
}

// report hands a result to the engine; what it does not take is reported again
// in the next session.
func (r *fakeRack) report(res *rackv1.StepResult) {
	e := r.world.current()
	if e == nil || e.Result(context.Background(), "r1", res) != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, id := range r.unacked {
		if id == res.GetId() {
			r.unacked = append(r.unacked[:i], r.unacked[i+1:]...)
			break
		}
	}
}

func (r *fakeRack) reportAgain() {
	r.mu.Lock()
	var again []*rackv1.StepResult
	for _, id := range r.unacked {
		again = append(again, r.journal[id])
	}
	r.mu.Unlock()
	for _, res := range again {
		r.report(res)
	}
}

// sent are the steps of a verb that the rack was given, each once: one whose result
// is late is sent again, and a rack knows it by its id.
func (r *fakeRack) sent(verb string) []*rackv1.Step {
	var out []*rackv1.Step
	seen := map[string]bool{}
	for _, s := range r.sendings(verb) {
		if !seen[s.GetId()] {
			seen[s.GetId()] = true
			out = append(out, s)
		}
	}
	return out
}

// sendings are the steps of a verb as often as they were sent.
func (r *fakeRack) sendings(verb string) []*rackv1.Step {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*rackv1.Step
	for _, s := range r.steps {
		if verbOf(s) == verb {
			out = append(out, s)
		}
	}
	return out
}

// loss is where a rack is killed while it does a step.
type loss int

const (
	lossNone     loss = iota
	lossBefore        // before it did anything
	lossEffect        // after the effect, before the journal
	lossReported      // after the journal, before the report
)

func verbOf(step *rackv1.Step) string {
	switch a := step.GetAction().(type) {
	case *rackv1.Step_CreateMachine:
		return "create"
	case *rackv1.Step_DeleteMachine:
		return "delete"
	case *rackv1.Step_SetPower:
		return strings.ToLower(strings.TrimPrefix(a.SetPower.GetAction().String(), "POWER_ACTION_"))
	case *rackv1.Step_AdoptMachine:
		return "adopt"
	case *rackv1.Step_ReleaseMachine:
		return "release"
	case *rackv1.Step_ObserveMachine:
		return "query"
	case *rackv1.Step_RefreshHost:
		return "refresh"
	case *rackv1.Step_MoveMachine:
		return "move"
	default:
		return "check"
	}
}

type class = rackv1.ErrorClass

// failing answers the verb's first n tries with a failure of the class.
func failing(verb string, c class, n int) func(*rackv1.Step, int) *rackv1.StepError {
	return func(step *rackv1.Step, try int) *rackv1.StepError {
		if verbOf(step) != verb || try > n {
			return nil
		}
		return &rackv1.StepError{Class: c, Message: "the hypervisor's own words"}
	}
}

const always = 1 << 30

// inTurn fails moves with one class after the other, then lets them pass.
func inTurn(classes ...rackv1.ErrorClass) func(*rackv1.Step, int) *rackv1.StepError {
	return func(s *rackv1.Step, try int) *rackv1.StepError {
		if verbOf(s) != "move" || try > len(classes) {
			return nil
		}
		return &rackv1.StepError{Class: classes[try-1], Message: "in its own words"}
	}
}
