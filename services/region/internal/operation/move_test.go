package operation

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/pki"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

type moveRequest = vmhostv1.MoveMachineRequest

const unknown = rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE

// second adds another host like the first, with its own credential, and gives the
// rack a key that it is sealed to.
func (w *world) second() *pki.SealKey {
	w.t.Helper()
	key, err := pki.NewSealKey()
	if err != nil {
		w.t.Fatal(err)
	}
	v := w.store.Cached()
	h, _ := store.VmHosts.Get(v, "h")
	o, _ := store.Observed.Get(v, "h")
	spec, observed := proto.CloneOf(h.Value), proto.CloneOf(o.Value)
	spec.Resource.Name, spec.Resource.Uid, spec.Resource.Address, spec.Resource.HostKey = "vmHosts/h2", "uid-h2", "fake://h2", "key of h2"
	observed.VmHostUid, observed.Observation.Foreign = "uid-h2", nil
	secret, _ := plainSecrets{}.Encrypt(store.Secrets.Key("vmHosts", "h2"), []byte("hush"))
	tx := store.NewTxn()
	store.Put(tx, store.VmHosts, spec, "h2")
	store.Put(tx, store.Observed, observed, "h2")
	store.Put(tx, store.Assignments, &storev1.StoredAssignment{Rack: "r1", VmHostUid: "uid-h2"}, "h2")
	store.Put(tx, store.Secrets, &storev1.StoredSecret{Ciphertext: secret}, "vmHosts", "h2")
	rack, _ := store.Racks.Get(v, "r1")
	enrolled := proto.CloneOf(rack.Value)
	enrolled.HpkePublicKey = key.Public()
	store.Put(tx, store.Racks, enrolled, "r1")
	w.put(tx)
	return key
}

// made is a machine on h, and a second host to move it to.
func (w *world) made() string {
	w.t.Helper()
	w.run(nil)
	name := w.ended(w.compose(false).GetName()).GetTarget()
	w.halt()
	w.second()
	return name
}

// mover is an engine that begins operations, and drives none.
func (w *world) mover() *Engine {
	return New(Config{Store: w.store, Sender: w.rack, Turn: w.ledger, Places: w.ledger, Secrets: plainSecrets{}, Log: w.log})
}

func (w *world) move(name string) *vmhostv1.Operation {
	w.t.Helper()
	op, err := w.mover().Move(w.t.Context(), "alice", &moveRequest{Name: name, RequestId: uuid.NewString()})
	if err != nil {
		w.t.Fatal(err)
	}
	return op
}

// holds is how many machines hold room on each of the hosts.
func (w *world) holds() [2]int32 {
	w.t.Helper()
	v, err := w.store.View(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	one, _ := store.Ledgers.Get(v, "h")
	two, _ := store.Ledgers.Get(v, "h2")
	return [2]int32{one.Value.GetMachines(), two.Value.GetMachines()}
}

func (w *world) stored(name string) *storev1.StoredMachine {
	w.t.Helper()
	v, err := w.store.View(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	m, _ := store.Machines.Get(v, uidOf(name))
	return m.Value
}

// see makes a machine seen on a host, as inventory does.
func (w *world) see(host, name string, power vmhostv1.PowerState) {
	w.t.Helper()
	r := w.machine(name)
	w.put(seenOf(host, &rackv1.MachineObservation{
		Uuid: r.GetHypervisorUuid(), Uid: r.GetUid(), Name: r.GetHypervisorName(), Cores: r.GetCores(), MemoryMib: r.GetMemoryMib(), PowerState: power,
		Disks: r.GetDisks(), Interfaces: r.GetInterfaces(),
	}))
}

// From the transaction that begins a move on the machine holds room on both
// hosts, and after it on the one that it is on.
func TestAMoveHoldsRoomOnBothHostsUntilItIsKnownWhereTheMachineIs_P1_P4(t *testing.T) {
	w := newWorld(t)
	name := w.made()
	w.see("h", name, vmhostv1.PowerState_POWER_STATE_ON)
	before := w.stored(name)
	op := w.move(name)
	if got := w.holds(); got != [2]int32{1, 1} {
		t.Errorf("while it is moved %v machines hold room", got)
	}
	m := w.stored(name)
	if m.GetResource().GetVmHost() != "vmHosts/h" || m.GetMove().GetVmHost() != "h2" || m.GetMove().GetVmHostUid() != "uid-h2" || m.GetResource().GetOperation() != op.GetName() {
		t.Errorf("machine %v", m)
	}
	w.run(nil)
	end := w.ended(op.GetName())
	if end.GetPhase() != succeeded {
		t.Fatalf("operation %v", end)
	}
	if got := w.holds(); got != [2]int32{0, 1} {
		t.Errorf("after it was moved %v machines hold room", got)
	}
	m = w.stored(name)
	if r := m.GetResource(); r.GetVmHost() != "vmHosts/h2" || r.GetOperation() != "" || m.GetMove() != nil || r.GetDisks()[0].GetVolume() != before.GetResource().GetDisks()[0].GetVolume() {
		t.Errorf("machine %v", m)
	}
	shown := &vmhostv1.Machine{}
	if err := end.GetResponse().UnmarshalTo(shown); err != nil || shown.GetVmHost() != "vmHosts/h2" || shown.GetOperation() != "" {
		t.Errorf("response %v, %v", shown, err)
	}
	v := w.store.Cached()
	if _, there := store.Seen.Get(v, "h", before.GetResource().GetHypervisorUuid()); there {
		t.Error("it is still seen on the host that it left")
	}
	told := false
	for _, ev := range store.Events.All(v) {
		if r := ev.Value.GetResource(); r.GetType() == "machine.moved" {
			told = r.GetVmHost() == "vmHosts/h2" && r.GetAttributes()["from"] == "vmHosts/h" && r.GetAttributes()["to"] == "vmHosts/h2"
		}
	}
	if !told {
		t.Error("no event tells of it")
	}
	w.checkBooks()
}

// The step has what the rack of the source needs, and nothing secret is in the
// store or readable by another rack.
func TestAMoveIsSentWithTheDestinationsCredentialSealed_P8(t *testing.T) {
	w := newWorld(t)
	w.run(nil)
	name := w.ended(w.compose(false).GetName()).GetTarget()
	w.halt()
	key := w.second()
	op := w.move(name)
	w.run(nil)
	w.ended(op.GetName())
	step := w.rack.sent("move")[0]
	to := step.GetMoveMachine().GetDestination()
	plain, err := key.Open([]byte("move/"+step.GetOperation()), to.GetSealedCredential())
	if err != nil || string(plain) != "hush" {
		t.Errorf("credential %q, %v", plain, err)
	}
	if step.GetVmHost() != "vmHosts/h" || to.GetVmHost() != "vmHosts/h2" || to.GetUid() != "uid-h2" || to.GetAddress() != "fake://h2" || to.GetHostKey() != "key of h2" {
		t.Errorf("step %v", step)
	}
	if move := step.GetMoveMachine(); move.GetMachine().GetVmHost() != "vmHosts/h" || move.GetMoved().GetVmHost() != "vmHosts/h2" || move.GetMachine().GetCores() != 1 || !move.GetLive() {
		t.Errorf("move %v", move)
	}
	if stored := w.operation(op.GetName()); strings.Contains(stored.String(), "hush") || len(stored.GetPlan()[0].GetMoveMachine().GetDestination().GetSealedCredential()) > 0 {
		t.Errorf("the record has it: %v", stored)
	}
}

// A definite failure leaves the machine where and as it was.
func TestAMoveThatFailsForGoodLeavesTheMachineWhereItWas_P4(t *testing.T) {
	for class, reason := range map[rackv1.ErrorClass]string{
		rackv1.ErrorClass_ERROR_CLASS_CAPACITY:    "HYPERVISOR_CAPACITY",
		rackv1.ErrorClass_ERROR_CLASS_FOREIGN:     "FOREIGN_OBJECT",
		rackv1.ErrorClass_ERROR_CLASS_REFUSED:     "WRONG_STATE",
		rackv1.ErrorClass_ERROR_CLASS_UNSUPPORTED: "UNSUPPORTED",
	} {
		t.Run(class.String(), func(t *testing.T) {
			w := newWorld(t)
			name := w.made()
			before := w.stored(name)
			w.rack.script = func(*rackv1.Step, int) *rackv1.StepError {
				return &rackv1.StepError{Class: class, Message: "in its own words", NeedsOffline: class == rackv1.ErrorClass_ERROR_CLASS_REFUSED}
			}
			op := w.move(name)
			w.run(nil)
			end := w.ended(op.GetName())
			if end.GetPhase() != failed || end.GetError().GetReason() != reason || end.GetError().GetHint() == "" || end.GetError().GetMetadata()["destination"] != "vmHosts/h2" {
				t.Errorf("operation %v", end)
			}
			if got := w.holds(); got != [2]int32{1, 0} {
				t.Errorf("%v machines hold room", got)
			}
			after := w.stored(name)
			after.Resource.UpdateTime = before.GetResource().GetUpdateTime()
			if !proto.Equal(before, after) {
				t.Errorf("the machine was %v and is %v", before, after)
			}
			w.checkBooks()
		})
	}
}

// As long as it is not known where the machine is it holds room on both hosts, and
// nothing but another move, or its end, is done to it.
func TestAMoveThatEndsUnknownKeepsBothUntilItIsResolved_P3_P4(t *testing.T) {
	endings := map[string]func(w *world, e *Engine, op string){
		"deadline": func(w *world, _ *Engine, op string) { w.late(op) },
		"cancel": func(w *world, e *Engine, op string) {
			if _, err := e.Cancel(w.t.Context(), op); err != nil {
				w.t.Fatal(err)
			}
		},
	}
	for word, stop := range endings {
		for _, way := range []string{"move", "delete", "release"} {
			t.Run(word+", then "+way, func(t *testing.T) {
				w := newWorld(t)
				name := w.made()
				w.rack.script, w.rack.left = failing("move", unknown, always), true
				op := w.move(name)
				e := w.run(nil)
				w.eventually("a try of which nothing is known", func() bool { return w.operation(op.GetName()).GetCause() != nil })
				stop(w, e, op.GetName())
				end := w.ended(op.GetName())
				if end.GetPhase() != failed || !strings.Contains(end.GetError().GetMessage(), "not known") || !strings.Contains(end.GetError().GetHint(), "move it again") {
					t.Errorf("operation %v", end)
				}
				if got := w.holds(); got != [2]int32{1, 1} {
					t.Errorf("%v machines hold room", got)
				}
				w.checkBooks()
				if _, err := e.Power(t.Context(), "bob", name, &vmhostv1.BatchChangePowerRequest{Verb: start}); apierror.Reason(err) != vmhostv1.ErrorReason_WRONG_STATE {
					t.Errorf("started while nobody knows where it is: %v", err)
				}
				if _, err := e.Move(t.Context(), "bob", &moveRequest{Name: name, VmHost: "vmHosts/h"}); apierror.Reason(err) != vmhostv1.ErrorReason_WRONG_STATE {
					t.Errorf("moved to another host than before: %v", err)
				}
				w.rack.mu.Lock()
				w.rack.script = nil
				w.rack.mu.Unlock()
				w.resolve(e, way, name)
			})
		}
	}
}

func (w *world) resolve(e *Engine, way, name string) {
	w.t.Helper()
	var op *vmhostv1.Operation
	var err error
	want := [2]int32{0, 0}
	switch way {
	case "move":
		op, err = e.Move(w.t.Context(), "bob", &moveRequest{Name: name})
		want = [2]int32{0, 1}
	case "delete":
		op, err = e.Delete(w.t.Context(), "bob", &vmhostv1.DeleteMachineRequest{Name: name})
	default:
		op, err = e.Release(w.t.Context(), "bob", &vmhostv1.ReleaseMachineRequest{Name: name})
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if end := w.ended(op.GetName()); end.GetPhase() != succeeded {
		w.t.Errorf("%s: %v", way, end)
	}
	if got := w.holds(); got != want {
		w.t.Errorf("after %s %v machines hold room", way, got)
	}
	if way == "delete" && len(w.rack.domains)+len(w.rack.moved) != 0 {
		w.t.Errorf("left: %v and %v", w.rack.domains, w.rack.moved)
	}
	if way != "release" {
		w.checkBooks()
	}
}

// A definite answer is believed only of a rack that can have looked, and not
// while the destination shows the machine.
func TestAMoveIsNotGivenUpOnAnAnswerThatProvesNothing_P4(t *testing.T) {
	for word, tt := range map[string]struct {
		script func(*rackv1.Step, int) *rackv1.StepError
		seen   bool
	}{
		"no login":                  {failing("move", rackv1.ErrorClass_ERROR_CLASS_AUTH, 3), false},
		"another host key":          {failing("move", rackv1.ErrorClass_ERROR_CLASS_HOST_KEY, 3), false},
		"an old rack after a break": {inTurn(unknown, rackv1.ErrorClass_ERROR_CLASS_UNSUPPORTED, rackv1.ErrorClass_ERROR_CLASS_UNSUPPORTED), false},
		"the destination shows it":  {failing("move", rackv1.ErrorClass_ERROR_CLASS_CAPACITY, 3), true},
	} {
		t.Run(word, func(t *testing.T) {
			w := newWorld(t)
			name := w.made()
			w.rack.script = tt.script
			op := w.move(name)
			if tt.seen {
				w.see("h2", name, vmhostv1.PowerState_POWER_STATE_OFF)
			}
			w.run(nil)
			if end := w.ended(op.GetName()); end.GetPhase() != succeeded {
				t.Errorf("operation %v", end)
			}
			if n := len(w.rack.sent("move")); n != 4 {
				t.Errorf("%d steps were sent, want 4", n)
			}
			if got := w.holds(); got != [2]int32{0, 1} {
				t.Errorf("%v machines hold room", got)
			}
		})
	}
}

// Before a rack heard of it a move ends without a trace.
func TestAMoveThatNoRackHeardOfEndsWithoutATrace_P4(t *testing.T) {
	for word, want := range map[string]vmhostv1.OperationPhase{"cancel": cancelled, "deadline": failed} {
		t.Run(word, func(t *testing.T) {
			w := newWorld(t)
			name := w.made()
			w.rack.session = ""
			op := w.move(name)
			e := w.run(nil)
			if word == "cancel" {
				if _, err := e.Cancel(t.Context(), op.GetName()); err != nil {
					t.Fatal(err)
				}
			} else {
				w.late(op.GetName())
			}
			if end := w.ended(op.GetName()); end.GetPhase() != want {
				t.Errorf("operation %v", end)
			}
			if m := w.stored(name); m.GetMove() != nil || m.GetResource().GetOperation() != "" || w.holds() != [2]int32{1, 0} {
				t.Errorf("machine %v, %v hold room", m, w.holds())
			}
			w.checkBooks()
		})
	}
}

func (w *world) change(host string, fn func(h *vmhostv1.VmHost)) {
	w.t.Helper()
	rec, _ := store.VmHosts.Get(w.store.Cached(), host)
	next := proto.CloneOf(rec.Value)
	fn(next.GetResource())
	tx := store.NewTxn()
	store.Put(tx, store.VmHosts, next, host)
	observed, _ := store.Observed.Get(w.store.Cached(), host)
	ledger.FollowPools(tx, w.store.Cached(), host, next.GetResource(), observed.Value.GetObservation())
	w.put(tx)
}

func (w *world) unsee(host, name string) {
	w.t.Helper()
	tx := store.NewTxn()
	tx.Delete(store.Seen.Key(host, w.machine(name).GetHypervisorUuid()))
	w.put(tx)
}
