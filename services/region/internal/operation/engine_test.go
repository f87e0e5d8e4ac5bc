package operation

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

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
