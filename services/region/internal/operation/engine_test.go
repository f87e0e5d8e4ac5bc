package operation

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/pki"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

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

func TestAComposeMakesAndStartsTheMachine(t *testing.T) {
	w := newWorld(t)
	told := make(chan *vmhostv1.Operation, 10)
	w.told = func(op *vmhostv1.Operation) { told <- op }
	w.run(nil)
	op := w.ended(w.compose(true).GetName())
	w.halt()
	if len(told) != 1 || (<-told).GetName() != op.GetName() {
		t.Error("the end of the operation was not told of exactly once")
	}
	if op.GetPhase() != succeeded || op.GetProgressPercent() != 100 || len(op.GetSteps()) != 2 || !op.GetSteps()[1].GetDone() {
		t.Errorf("operation %v", op)
	}
	m := &vmhostv1.Machine{}
	if err := op.GetResponse().UnmarshalTo(m); err != nil || m.GetName() != op.GetTarget() || m.GetPhase() != vmhostv1.MachinePhase_MACHINE_PHASE_READY || m.GetOperation() != "" {
		t.Errorf("response %v, %v", m, err)
	}
	if m := w.machine(op.GetTarget()); m.GetPhase() != vmhostv1.MachinePhase_MACHINE_PHASE_READY || m.GetOperation() != "" {
		t.Errorf("machine %v", m)
	}
	if on := w.rack.domains[uidOf(op.GetTarget())]; !on {
		t.Error("it does not run")
	}
	a, _ := store.Assignments.Get(w.store.Cached(), "h")
	for _, s := range w.rack.steps {
		if s.GetEpoch() != a.Revision || s.GetVmHostUid() != "uid-h" {
			t.Errorf("step with epoch %d of host %s (P7)", s.GetEpoch(), s.GetVmHostUid())
		}
	}
	w.checkBooks()
}

func TestEveryClassOfFailureOfACreate_P4(t *testing.T) {
	for _, tt := range []struct {
		class  class
		reason vmhostv1.ErrorReason // 0: tried again until it works
	}{
		{rackv1.ErrorClass_ERROR_CLASS_EXISTS, vmhostv1.ErrorReason_ALREADY_EXISTS},
		{rackv1.ErrorClass_ERROR_CLASS_FOREIGN, vmhostv1.ErrorReason_FOREIGN_OBJECT},
		{rackv1.ErrorClass_ERROR_CLASS_CAPACITY, vmhostv1.ErrorReason_HYPERVISOR_CAPACITY},
		{rackv1.ErrorClass_ERROR_CLASS_UNSUPPORTED, vmhostv1.ErrorReason_UNSUPPORTED},
		{rackv1.ErrorClass_ERROR_CLASS_REFUSED, vmhostv1.ErrorReason_HYPERVISOR_ERROR},
		{rackv1.ErrorClass_ERROR_CLASS_AUTH, vmhostv1.ErrorReason_HOST_AUTH_FAILED},
		{rackv1.ErrorClass_ERROR_CLASS_HOST_KEY, vmhostv1.ErrorReason_HOST_KEY_CHANGED},
		{rackv1.ErrorClass_ERROR_CLASS_NOT_FOUND, vmhostv1.ErrorReason_NOT_FOUND},
		{rackv1.ErrorClass_ERROR_CLASS_BUSY, 0},
		{rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE, 0},
		{rackv1.ErrorClass_ERROR_CLASS_TIMEOUT, 0},
		{rackv1.ErrorClass_ERROR_CLASS_UNSPECIFIED, 0},
		{rackv1.ErrorClass_ERROR_CLASS_STALE_EPOCH, 0},
	} {
		t.Run(tt.class.String(), func(t *testing.T) {
			w := newWorld(t)
			w.rack.script = failing("create", tt.class, 2)
			w.run(nil)
			op := w.ended(w.compose(false).GetName())
			if tt.reason == 0 {
				if op.GetPhase() != succeeded || len(w.rack.sent("create")) < 3 {
					t.Errorf("after %d tries: %v", len(w.rack.sent("create")), op)
				}
				w.checkBooks()
				return
			}
			if op.GetPhase() != failed || op.GetError().GetReason() != tt.reason.String() || !strings.Contains(op.GetError().GetMessage(), "own words") {
				t.Errorf("operation %v", op)
			}
			if len(w.rack.sent("delete")) != 1 || w.machine(op.GetTarget()) != nil {
				t.Errorf("%d deletes, machine %v", len(w.rack.sent("delete")), w.machine(op.GetTarget()))
			}
			led, _ := store.Ledgers.Get(w.store.Cached(), "h")
			if led.Value.GetMachines() != 0 {
				t.Errorf("ledger %v", led.Value)
			}
			w.checkBooks()
		})
	}
}

func TestWhatCannotBeUndoneKeepsItsCapacity_P4(t *testing.T) {
	w := newWorld(t)
	create, del := failing("create", rackv1.ErrorClass_ERROR_CLASS_CAPACITY, always), failing("delete", rackv1.ErrorClass_ERROR_CLASS_REFUSED, 1)
	w.rack.script = func(s *rackv1.Step, n int) *rackv1.StepError {
		if e := create(s, n); e != nil {
			return e
		}
		return del(s, n)
	}
	e := w.run(nil)
	op := w.ended(w.compose(false).GetName())
	if m := w.machine(op.GetTarget()); op.GetPhase() != failed || m.GetPhase() != vmhostv1.MachinePhase_MACHINE_PHASE_FAILED || m.GetOperation() != "" {
		t.Errorf("operation %v, machine %v", op, m)
	}
	led, _ := store.Ledgers.Get(w.store.Cached(), "h")
	if led.Value.GetMachines() != 1 {
		t.Errorf("ledger %v", led.Value)
	}
	// The user deletes it, and then it is given back.
	again, err := e.Delete(t.Context(), "alice", &vmhostv1.DeleteMachineRequest{Name: op.GetTarget()})
	if err != nil {
		t.Fatal(err)
	}
	if op := w.ended(again.GetName()); op.GetPhase() != succeeded || w.machine(op.GetTarget()) != nil {
		t.Errorf("delete %v", op)
	}
	w.checkBooks()
}

func TestAForeignMachineInTheWayOfTheDeleteIsNoProofOfAbsence_P4(t *testing.T) {
	w := newWorld(t)
	e := w.run(nil)
	op := w.ended(w.compose(false).GetName())
	w.rack.mu.Lock()
	w.rack.script = failing("delete", rackv1.ErrorClass_ERROR_CLASS_FOREIGN, always)
	w.rack.mu.Unlock()
	del, err := e.Delete(t.Context(), "alice", &vmhostv1.DeleteMachineRequest{Name: op.GetTarget()})
	if err != nil {
		t.Fatal(err)
	}
	if op := w.ended(del.GetName()); op.GetPhase() != failed || op.GetError().GetReason() != "FOREIGN_OBJECT" {
		t.Errorf("delete %v", op)
	}
	if led, _ := store.Ledgers.Get(w.store.Cached(), "h"); led.Value.GetMachines() != 1 {
		t.Errorf("ledger %v", led.Value)
	}
	w.checkBooks()
}

func TestAMachineThatDoesNotStartStays(t *testing.T) {
	w := newWorld(t)
	w.rack.script = failing("start", rackv1.ErrorClass_ERROR_CLASS_REFUSED, always)
	w.run(nil)
	op := w.ended(w.compose(true).GetName())
	if m := w.machine(op.GetTarget()); op.GetPhase() != failed || m.GetPhase() != vmhostv1.MachinePhase_MACHINE_PHASE_READY || !strings.Contains(op.GetError().GetMessage(), "not started") {
		t.Errorf("operation %v, machine %v", op, m)
	}
	w.checkBooks()
}

// soon moves an operation's deadline.
func (w *world) soon(name string, in time.Duration) {
	w.t.Helper()
	w.eventually("deadline moved", func() bool {
		rec, _ := store.Operations.Get(w.store.Cached(), uidOf(name))
		next := proto.CloneOf(rec.Value)
		next.Resource.DeadlineTime = timestamppb.New(time.Now().Add(in))
		tx := store.NewTxn()
		tx.IfRevision(store.Operations.Key(uidOf(name)), rec.Revision)
		store.Put(tx, store.Operations, next, uidOf(name))
		_, err := w.store.Commit(w.t.Context(), tx)
		return err == nil
	})
}

func TestAtItsDeadlineAComposeFailsAndKeepsItsCapacity_P4(t *testing.T) {
	for _, rack := range []bool{true, false} {
		w := newWorld(t)
		w.rack.script = failing("create", rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE, always)
		if !rack {
			w.rack.session = ""
		}
		name := w.compose(false).GetName()
		w.soon(name, 50*time.Millisecond)
		w.run(nil)
		op := w.ended(name)
		if op.GetPhase() != failed || op.GetError().GetReason() != "DEADLINE" {
			t.Errorf("operation %v", op)
		}
		if rack != strings.Contains(op.GetError().GetMessage(), "own words") || rack == strings.Contains(op.GetError().GetMessage(), "no connected rack") {
			t.Errorf("message %q", op.GetError().GetMessage())
		}
		if m := w.machine(op.GetTarget()); m.GetPhase() != vmhostv1.MachinePhase_MACHINE_PHASE_FAILED {
			t.Errorf("machine %v", m)
		}
		if led, _ := store.Ledgers.Get(w.store.Cached(), "h"); led.Value.GetMachines() != 1 {
			t.Errorf("ledger %v", led.Value)
		}
		w.checkBooks()
		w.halt()
	}
}

func TestCancelUndoesACompose(t *testing.T) {
	for _, tt := range []struct {
		name    string
		script  func(*rackv1.Step, int) *rackv1.StepError
		session string
		deletes int
	}{
		{"before any rack heard of it", nil, "", 0},
		{"while it is tried again", failing("create", rackv1.ErrorClass_ERROR_CLASS_BUSY, always), "s1", 1},
		{"made, while the start is tried again", failing("start", rackv1.ErrorClass_ERROR_CLASS_BUSY, always), "s1", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.rack.script, w.rack.session = tt.script, tt.session
			e := w.run(nil)
			op := w.compose(true)
			if tt.deletes > 0 {
				w.eventually("second try", func() bool { return w.operation(op.GetName()).GetResource().GetAttempt() > 1 })
			}
			if got, err := e.Cancel(t.Context(), op.GetName()); err != nil || !got.GetCancelRequested() {
				t.Fatalf("cancel: %v, %v", got, err)
			}
			end := w.ended(op.GetName())
			if end.GetPhase() != cancelled || w.machine(op.GetTarget()) != nil || len(w.rack.sent("delete")) != tt.deletes {
				t.Errorf("operation %v, machine %v, %d deletes", end, w.machine(op.GetTarget()), len(w.rack.sent("delete")))
			}
			if got, err := e.Cancel(t.Context(), op.GetName()); err != nil || got.GetPhase() != cancelled {
				t.Errorf("cancelled again: %v, %v", got, err)
			}
			w.checkBooks()
		})
	}
}

func TestDeletePowerQueryRefresh(t *testing.T) {
	w := newWorld(t)
	e := w.run(nil)
	made := w.ended(w.compose(false).GetName())
	name := made.GetTarget()
	for _, verb := range []vmhostv1.OperationVerb{
		vmhostv1.OperationVerb_OPERATION_VERB_START, vmhostv1.OperationVerb_OPERATION_VERB_RESET, vmhostv1.OperationVerb_OPERATION_VERB_STOP,
	} {
		op, err := e.Power(t.Context(), "alice", name, &vmhostv1.BatchChangePowerRequest{Verb: verb, RequestId: uuid.NewString()})
		if err != nil {
			t.Fatal(err)
		}
		if end := w.ended(op.GetName()); end.GetPhase() != succeeded {
			t.Errorf("%s: %v", verb, end)
		}
	}
	if w.rack.domains[uidOf(name)] {
		t.Error("it runs after the stop")
	}
	query, err := e.Query(t.Context(), "alice", name)
	if err != nil {
		t.Fatal(err)
	}
	if end := w.ended(query.GetName()); end.GetPhase() != succeeded || end.GetResponse() == nil {
		t.Errorf("query %v", end)
	}
	refresh, err := e.Refresh(t.Context(), "alice", &vmhostv1.RefreshVmHostRequest{Name: "vmHosts/h"})
	if err != nil {
		t.Fatal(err)
	}
	h := &vmhostv1.VmHost{}
	if end := w.ended(refresh.GetName()); end.GetPhase() != succeeded || end.GetResponse().UnmarshalTo(h) != nil || h.GetUsage().GetMachines() != 1 {
		t.Errorf("refresh %v", end)
	}
	req := &vmhostv1.DeleteMachineRequest{Name: name, RequestId: uuid.NewString()}
	del, err := e.Delete(t.Context(), "alice", req)
	if err != nil {
		t.Fatal(err)
	}
	if end, err := e.Wait(t.Context(), del.GetName(), time.Minute); err != nil || end.GetPhase() != succeeded || w.machine(name) != nil {
		t.Errorf("delete %v, %v", end, err)
	}
	if again, err := e.Delete(t.Context(), "alice", req); err != nil || again.GetName() != del.GetName() {
		t.Errorf("repeated: %v, %v (P2)", again, err)
	}
	w.checkBooks()
}

func TestWhatMustNotBeBegunIsRefused(t *testing.T) {
	w := newWorld(t)
	w.rack.session = "" // nothing advances
	e := w.run(nil)
	composing := w.compose(false)
	tx := store.NewTxn()
	store.Put(tx, store.Seen, &storev1.StoredSeenMachine{Observation: &rackv1.MachineObservation{Uuid: "11111111-2222-4333-8444-555555555555", Name: "legacy"}}, "h", "11111111-2222-4333-8444-555555555555")
	w.put(tx)
	found := ""
	for d := range allDiscovered(w) {
		found = d
	}
	ctx := t.Context()
	start := &vmhostv1.BatchChangePowerRequest{Verb: vmhostv1.OperationVerb_OPERATION_VERB_START}
	for _, tt := range []struct {
		name string
		call func() error
		want vmhostv1.ErrorReason
	}{
		{"delete while composing", func() error {
			_, err := e.Delete(ctx, "a", &vmhostv1.DeleteMachineRequest{Name: composing.GetTarget()})
			return err
		}, vmhostv1.ErrorReason_MACHINE_BUSY},
		{"start while composing", func() error { _, err := e.Power(ctx, "a", composing.GetTarget(), start); return err }, vmhostv1.ErrorReason_MACHINE_BUSY},
		{"delete with an old etag", func() error {
			_, err := e.Delete(ctx, "a", &vmhostv1.DeleteMachineRequest{Name: composing.GetTarget(), Etag: "1"})
			return err
		}, vmhostv1.ErrorReason_ETAG_MISMATCH},
		{"delete of nothing", func() error {
			_, err := e.Delete(ctx, "a", &vmhostv1.DeleteMachineRequest{Name: "machines/x"})
			return err
		}, vmhostv1.ErrorReason_NOT_FOUND},
		{"delete of a discovered machine (P5)", func() error {
			_, err := e.Delete(ctx, "a", &vmhostv1.DeleteMachineRequest{Name: found})
			return err
		}, vmhostv1.ErrorReason_FOREIGN_OBJECT},
		{"start of a discovered machine (P5)", func() error { _, err := e.Power(ctx, "a", found, start); return err }, vmhostv1.ErrorReason_FOREIGN_OBJECT},
		{"query of nothing", func() error { _, err := e.Query(ctx, "a", "machines/x"); return err }, vmhostv1.ErrorReason_NOT_FOUND},
		{"refresh of nothing", func() error {
			_, err := e.Refresh(ctx, "a", &vmhostv1.RefreshVmHostRequest{Name: "vmHosts/x"})
			return err
		}, vmhostv1.ErrorReason_NOT_FOUND},
		{"check of a bad address", func() error {
			_, err := e.Check(ctx, "a", &vmhostv1.CheckVmHostRequest{Address: "qemu+ssh://u@h/system?x=y"})
			return err
		}, vmhostv1.ErrorReason_INVALID_FIELD},
		{"check by nobody", func() error {
			_, err := e.Check(ctx, "a", &vmhostv1.CheckVmHostRequest{Address: "qemu+ssh://u@h/system"})
			return err
		}, vmhostv1.ErrorReason_NO_RACK},
		{"check by an unknown rack", func() error {
			_, err := e.Check(ctx, "a", &vmhostv1.CheckVmHostRequest{Address: "fake://x", Rack: "racks/x"})
			return err
		}, vmhostv1.ErrorReason_NOT_FOUND},
		{"wait for nothing", func() error { _, err := e.Wait(ctx, "operations/x", time.Second); return err }, vmhostv1.ErrorReason_NOT_FOUND},
		{"cancel of nothing", func() error { _, err := e.Cancel(ctx, "operations/x"); return err }, vmhostv1.ErrorReason_NOT_FOUND},
	} {
		if err := tt.call(); apierror.Reason(err) != tt.want {
			t.Errorf("%s: %v (%s)", tt.name, err, apierror.Reason(err))
		}
	}
	if op, err := e.Wait(ctx, composing.GetName(), time.Millisecond); err != nil || op.GetPhase() != pending {
		t.Errorf("wait: %v, %v", op, err)
	}
	if op, err := e.Query(ctx, "a", found); err != nil || op.GetTarget() != found {
		t.Errorf("query of a discovered machine: %v, %v", op, err)
	}
}

func TestACheckCarriesItsCredentialSealedAndForgetsIt_P8(t *testing.T) {
	w := newWorld(t)
	key, err := pki.NewSealKey()
	if err != nil {
		t.Fatal(err)
	}
	rec, _ := store.Racks.Get(w.store.Cached(), "r1")
	rack := proto.CloneOf(rec.Value)
	rack.HpkePublicKey = key.Public()
	tx := store.NewTxn()
	store.Put(tx, store.Racks, rack, "r1")
	w.put(tx)
	e := w.run(nil)
	op, err := e.Check(t.Context(), "alice", &vmhostv1.CheckVmHostRequest{
		Address: "fake://new", Credential: &vmhostv1.Credential{Kind: &vmhostv1.Credential_Password{Password: "hush"}}, RequestId: uuid.NewString(),
	})
	if err != nil {
		t.Fatal(err)
	}
	end := w.ended(op.GetName())
	res := &vmhostv1.CheckVmHostResult{}
	if end.GetPhase() != succeeded || end.GetResponse().UnmarshalTo(res) != nil || res.GetRack() != "racks/r1" || res.GetHostKey() == "" {
		t.Errorf("check %v", end)
	}
	sealed := w.rack.sent("check")[0].GetCheckHost().GetSealedCredential()
	plain, err := key.Open([]byte("check/"+op.GetName()), sealed)
	if err != nil || !strings.Contains(string(plain), "hush") {
		t.Errorf("sealed %q, %v", plain, err)
	}
	stored := w.operation(op.GetName())
	if len(stored.GetEncryptedCredential()) != 0 || strings.Contains(fmt.Sprint(stored), "hush") {
		t.Errorf("the record keeps the credential: %v", stored)
	}
}

func TestWhenItsHostIsRemovedAnOperationEnds(t *testing.T) {
	w := newWorld(t)
	w.rack.session = ""
	w.run(nil)
	op := w.compose(false)
	tx := store.NewTxn()
	tx.Delete(store.VmHosts.Key("h"))
	w.put(tx)
	if end := w.ended(op.GetName()); end.GetPhase() != failed || end.GetError().GetReason() != "NOT_FOUND" {
		t.Errorf("operation %v", end)
	}
}

func TestOnlyTheAssignedRacksResultCounts_P7(t *testing.T) {
	w := newWorld(t)
	w.rack.hold = make(chan struct{})
	e := w.run(nil)
	op := w.compose(false)
	w.eventually("first step", func() bool { return w.operation(op.GetName()).GetStepId() != "" })
	before := w.operation(op.GetName())
	refused := &rackv1.StepError{Class: rackv1.ErrorClass_ERROR_CLASS_REFUSED}
	for rack, id := range map[string]string{"r2": before.GetStepId(), "r1": uidOf(op.GetName()) + "/0/99"} {
		if err := e.Result(t.Context(), rack, &rackv1.StepResult{Id: id, Error: refused}); err != nil {
			t.Error(err)
		}
	}
	if after := w.operation(op.GetName()); !proto.Equal(before, after) {
		t.Errorf("the result of another rack or attempt counted: %v", after)
	}
	close(w.rack.hold)
	if end := w.ended(op.GetName()); end.GetPhase() != succeeded {
		t.Errorf("operation %v", end)
	}
	if err := e.Result(t.Context(), "r1", &rackv1.StepResult{Id: before.GetStepId(), Error: refused}); err != nil {
		t.Error(err)
	}
	if end := w.operation(op.GetName()).GetResource(); end.GetPhase() != succeeded {
		t.Errorf("a late result changed %v", end)
	}
}

func TestAnotherEpochHasTheStepSentAgainWithIt_P7(t *testing.T) {
	w := newWorld(t)
	w.rack.hold = make(chan struct{})
	w.run(nil)
	op := w.compose(false)
	w.eventually("first step", func() bool { return len(w.rack.sent("create")) == 1 })
	tx := store.NewTxn()
	store.Put(tx, store.Assignments, &storev1.StoredAssignment{Rack: "r1", VmHostUid: "uid-h"}, "h") // a new revision
	w.put(tx)
	w.eventually("sent again", func() bool { return len(w.rack.sendings("create")) >= 2 })
	steps := w.rack.sendings("create")
	if steps[0].GetId() != steps[1].GetId() || steps[0].GetEpoch() >= steps[1].GetEpoch() {
		t.Errorf("sent %s with epoch %d, then %s with %d", steps[0].GetId(), steps[0].GetEpoch(), steps[1].GetId(), steps[1].GetEpoch())
	}
	close(w.rack.hold)
	w.ended(op.GetName())
	w.checkBooks()
}
