package operation

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// third adds another host like the second.
func (w *world) third(id string) {
	w.t.Helper()
	v := w.store.Cached()
	h, _ := store.VmHosts.Get(v, "h2")
	o, _ := store.Observed.Get(v, "h2")
	spec, observed := proto.CloneOf(h.Value), proto.CloneOf(o.Value)
	spec.Resource.Name, spec.Resource.Uid, spec.Resource.Address = "vmHosts/"+id, "uid-"+id, "fake://"+id
	observed.VmHostUid = "uid-" + id
	tx := store.NewTxn()
	store.Put(tx, store.VmHosts, spec, id)
	store.Put(tx, store.Observed, observed, id)
	store.Put(tx, store.Assignments, &storev1.StoredAssignment{Rack: "r1", VmHostUid: "uid-" + id}, id)
	w.put(tx)
}

func toHost(s *rackv1.Step) string { return s.GetMoveMachine().GetDestination().GetVmHost() }

// A destination that lets nobody in is no destination for the others either, and
// one without room is none for this machine: the drain goes on with another.
func TestADrainGoesOnWithAnotherDestination(t *testing.T) {
	for word, tt := range map[string]struct {
		answer answer
		most   int // steps to the bad host
	}{
		"no login": {answer{auth, untouched, true}, 2},
		"no room":  {answer{capacity, without, true}, 4},
	} {
		t.Run(word, func(t *testing.T) {
			w := newWorld(t)
			w.full(1, 1, 1, 1)
			w.third("h3")
			// The second has most room, and is always the first choice.
			w.change("h2", func(h *vmhostv1.VmHost) {
				h.Overcommit = &vmhostv1.OvercommitRatios{Cores: proto.Float64(10), Memory: proto.Float64(10)}
			})
			w.rack.script = func(s *rackv1.Step, _ int) *rackv1.StepError {
				if verbOf(s) == "move" && toHost(s) == "vmHosts/h2" {
					return tt.answer.wire(s)
				}
				return nil
			}
			name := w.drain(&drainRequest{})
			w.run(nil)
			end := w.ended(name)
			res := drainedBy(t, end)
			if end.GetPhase() != succeeded || res.GetMoved() != 4 || res.GetStayed() != 0 || len(res.GetMachines()) != 4 {
				t.Fatalf("%v: %v", end, res)
			}
			for _, d := range res.GetMachines() {
				if d.GetTo() != "vmHosts/h3" || d.GetError() != nil {
					t.Errorf("%v", d)
				}
			}
			bad := 0
			for _, s := range w.rack.sent("move") {
				if toHost(s) == "vmHosts/h2" {
					bad++
				}
			}
			if bad == 0 || bad > tt.most {
				t.Errorf("%d moves were tried to the host that takes none", bad)
			}
			w.checkBooks()
		})
	}
}

// When no destination is left the machine stays, and it is said what became of the
// tries.
func TestADrainSaysWhyNoDestinationWasLeft_P9(t *testing.T) {
	w := newWorld(t)
	name := w.full(1)[0]
	w.rack.script = func(s *rackv1.Step, _ int) *rackv1.StepError { return answer{auth, untouched, true}.wire(s) }
	op := w.drain(&drainRequest{})
	w.run(nil)
	end := w.ended(op)
	res := drainedBy(t, end)
	if end.GetPhase() != failed || res.GetStayed() != 1 || len(res.GetMachines()) != 1 || res.GetMachines()[0].GetMachine() != name {
		t.Fatalf("%v: %v", end, res)
	}
	e := res.GetMachines()[0].GetError()
	if e.GetReason() != "NO_CAPACITY" || !strings.Contains(e.GetMessage(), "cannot be the destination") || !strings.Contains(e.GetMessage(), "in its own words") || !strings.HasPrefix(e.GetHint(), "the machine stays where it is; put that right, or add a host; ") {
		t.Errorf("%v", e)
	}
	w.checkBooks()
}

// How machines were moved is what the rack says it did, not what was planned.
func TestADrainTellsHowMachinesWereMoved(t *testing.T) {
	for word, tt := range map[string]struct {
		outcome   *rackv1.MoveOutcome
		how, note string
	}{
		"live":         {&rackv1.MoveOutcome{How: rackv1.MoveHow_MOVE_HOW_LIVE}, live, ""},
		"fallen back":  {&rackv1.MoveOutcome{How: rackv1.MoveHow_MOVE_HOW_OFFLINE, NotLive: "no KVM there"}, offline, "no KVM there"},
		"not known":    {&rackv1.MoveOutcome{}, "", ""},
		"an older one": {nil, "", ""},
	} {
		t.Run(word, func(t *testing.T) {
			w := newWorld(t)
			machine := w.full(1)[0]
			w.see("h", machine, vmhostv1.PowerState_POWER_STATE_ON)
			plan, err := w.mover().Drain(t.Context(), "alice", &drainRequest{Name: "vmHosts/h", ValidateOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			if d := drainedBy(t, plan).GetMachines()[0]; d.GetHow() != live || d.GetWhyOffline() != "" {
				t.Errorf("the plan has %v", d)
			}
			if w.rack.how = tt.outcome; tt.outcome == nil {
				w.rack.how = &rackv1.MoveOutcome{}
			}
			op := w.drain(&drainRequest{AllowOffline: true})
			w.run(nil)
			res := drainedBy(t, w.ended(op))
			if d := res.GetMachines()[0]; d.GetHow() != tt.how || d.GetWhyOffline() != tt.note {
				t.Errorf("moved %q (%q), want %q (%q)", d.GetHow(), d.GetWhyOffline(), tt.how, tt.note)
			}
			child := w.operation(res.GetMachines()[0].GetOperation()).GetResource()
			if !strings.Contains(child.GetMessage(), "to vmHosts/h2") || !strings.Contains(child.GetMessage(), tt.how) || !strings.Contains(child.GetMessage(), tt.note) {
				t.Errorf("the move says %q", child.GetMessage())
			}
		})
	}
}

// Places that reservations hold on the host are told, before and after: they stay.
func TestADrainTellsOfPlacesThatStayHeld(t *testing.T) {
	w := newWorld(t)
	r, err := w.ledger.Reserve(t.Context(), "bob", &vmhostv1.ReserveRequest{Count: 3, Machine: &vmhostv1.ComposeMachineRequest{Cores: 2, MemoryMib: 64, Diskless: true}})
	if err != nil {
		t.Fatal(err)
	}
	w.full(1)
	check := func(word string, res *vmhostv1.DrainVmHostResult) {
		t.Helper()
		if len(res.GetHeld()) != 1 || res.GetHeldPlaces() != 3 {
			t.Fatalf("%s: %v", word, res)
		}
		if h := res.GetHeld()[0]; h.GetReservation() != r.GetName() || h.GetPlaces() != 3 || h.GetPrincipal() != "bob" || !h.GetExpireTime().AsTime().Equal(r.GetExpireTime().AsTime()) {
			t.Errorf("%s: %v", word, h)
		}
		if res.GetMoved() != 1 || res.GetStayed() != 0 {
			t.Errorf("%s: places are counted as machines: %v", word, res)
		}
	}
	plan, err := w.mover().Drain(t.Context(), "alice", &drainRequest{Name: "vmHosts/h", ValidateOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	check("plan", drainedBy(t, plan))
	op := w.drain(&drainRequest{})
	w.run(nil)
	end := w.ended(op)
	check("result", drainedBy(t, end))
	if end.GetPhase() != succeeded || !strings.Contains(end.GetMessage(), "3 places of "+r.GetName()) || !strings.Contains(end.GetMessage(), r.GetExpireTime().AsTime().UTC().Format(time.RFC3339)) {
		t.Errorf("%v", end)
	}
	if got := w.holds(); got != [2]int32{3, 1} {
		t.Errorf("%v hold room", got)
	}
}

// The room that reservations hold on a destination is taken.
func TestADrainLeavesPlacesOnDestinationsAlone_P1(t *testing.T) {
	w := newWorld(t)
	w.full(60)
	w.change("h", func(h *vmhostv1.VmHost) { h.Cordoned = true })
	if _, err := w.ledger.Reserve(t.Context(), "bob", &vmhostv1.ReserveRequest{Count: 1, Machine: &vmhostv1.ComposeMachineRequest{Cores: 50, MemoryMib: 64, Diskless: true}}); err != nil {
		t.Fatal(err)
	}
	plan, err := w.mover().Drain(t.Context(), "alice", &drainRequest{Name: "vmHosts/h", ValidateOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if p := drainedBy(t, plan); p.GetMoved() != 0 || p.GetStayed() != 1 || len(p.GetHeld()) != 0 || p.GetMachines()[0].GetError().GetReason() != "NO_CAPACITY" {
		t.Errorf("plan %v", p)
	}
	op := w.drain(&drainRequest{})
	w.run(nil)
	if res := drainedBy(t, w.ended(op)); res.GetMoved() != 0 || res.GetStayed() != 1 {
		t.Errorf("result %v", res)
	}
	w.checkBooks()
}
