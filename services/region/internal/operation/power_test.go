package operation

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

const (
	start  = vmhostv1.OperationVerb_OPERATION_VERB_START
	stop   = vmhostv1.OperationVerb_OPERATION_VERB_STOP
	reset  = vmhostv1.OperationVerb_OPERATION_VERB_RESET
	cycle  = vmhostv1.OperationVerb_OPERATION_VERB_CYCLE
	pause  = vmhostv1.OperationVerb_OPERATION_VERB_PAUSE
	resume = vmhostv1.OperationVerb_OPERATION_VERB_RESUME

	soft = vmhostv1.StopMode_STOP_MODE_SOFT
	hard = vmhostv1.StopMode_STOP_MODE_HARD
)

func seconds(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Second) }

// What every request for power becomes on the wire.
func TestPowerIsSentAsItWasAskedFor(t *testing.T) {
	w := newWorld(t)
	e := w.run(nil)
	name := w.ended(w.compose(false).GetName()).GetTarget()
	for _, tt := range []struct {
		verb   vmhostv1.OperationVerb
		mode   vmhostv1.StopMode
		grace  *durationpb.Duration
		action rackv1.PowerAction
		want   *durationpb.Duration
	}{
		{start, 0, nil, rackv1.PowerAction_POWER_ACTION_START, nil},
		{cycle, 0, nil, rackv1.PowerAction_POWER_ACTION_CYCLE, seconds(60)},
		{cycle, 0, seconds(0), rackv1.PowerAction_POWER_ACTION_CYCLE, seconds(0)},
		{pause, 0, nil, rackv1.PowerAction_POWER_ACTION_PAUSE, nil},
		{resume, 0, nil, rackv1.PowerAction_POWER_ACTION_RESUME, nil},
		{reset, 0, nil, rackv1.PowerAction_POWER_ACTION_RESET, nil},
		{stop, soft, seconds(7), rackv1.PowerAction_POWER_ACTION_STOP_SOFT, seconds(7)},
		{stop, 0, nil, rackv1.PowerAction_POWER_ACTION_STOP, seconds(60)},
		{stop, hard, nil, rackv1.PowerAction_POWER_ACTION_STOP, seconds(0)},
	} {
		op, err := e.Power(t.Context(), "alice", name, &vmhostv1.BatchChangePowerRequest{Verb: tt.verb, Mode: tt.mode, GracePeriod: tt.grace})
		if err != nil {
			t.Fatal(err)
		}
		end := w.ended(op.GetName())
		w.rack.mu.Lock()
		sent := w.rack.steps[len(w.rack.steps)-1]
		w.rack.mu.Unlock()
		got := sent.GetSetPower()
		if end.GetPhase() != succeeded || got.GetAction() != tt.action || !proto.Equal(got.GetGracePeriod(), tt.want) || got.GetHypervisorName() == "" {
			t.Errorf("%s %s: %v, sent %v", tt.verb, tt.mode, end, got)
		}
		if least := powerTimeout + tt.want.AsDuration(); sent.GetTimeout().AsDuration() != least {
			t.Errorf("%s may take %s, want %s", tt.verb, sent.GetTimeout().AsDuration(), least)
		}
	}
	w.checkBooks()
}

// A soft stop that the guest does not heed is an answer: it is not tried again,
// and the machine is as it was.
func TestASoftStopThatTheGuestIgnoresFailsAndChangesNothing(t *testing.T) {
	w := newWorld(t)
	e := w.run(nil)
	name := w.ended(w.compose(true).GetName()).GetTarget()
	before := w.machine(name)
	w.rack.mu.Lock()
	w.rack.script = failing("stop_soft", rackv1.ErrorClass_ERROR_CLASS_TIMEOUT, always)
	w.rack.mu.Unlock()
	op, err := e.Power(t.Context(), "alice", name, &vmhostv1.BatchChangePowerRequest{Verb: stop, Mode: soft, GracePeriod: seconds(1)})
	if err != nil {
		t.Fatal(err)
	}
	end := w.ended(op.GetName())
	if end.GetPhase() != failed || end.GetError().GetReason() != "DEADLINE" || !strings.Contains(end.GetError().GetHint(), "hard") || len(w.rack.sent("stop_soft")) != 1 {
		t.Errorf("%d tries: %v", len(w.rack.sent("stop_soft")), end)
	}
	after := w.machine(name)
	if diff := cmp.Diff(before, after, protocmp.Transform(), protocmp.IgnoreFields(&vmhostv1.Machine{}, "update_time")); diff != "" {
		t.Errorf("the machine changed (-before +after):\n%s", diff)
	}
	if !w.rack.domains[uidOf(name)] {
		t.Error("it does not run any more")
	}
	// A timeout of any other stop is trouble of the host, which may pass.
	w.rack.mu.Lock()
	w.rack.script = failing("stop", rackv1.ErrorClass_ERROR_CLASS_TIMEOUT, 1)
	w.rack.mu.Unlock()
	op, err = e.Power(t.Context(), "alice", name, &vmhostv1.BatchChangePowerRequest{Verb: stop, Mode: hard})
	if err != nil {
		t.Fatal(err)
	}
	if end := w.ended(op.GetName()); end.GetPhase() != succeeded || len(w.rack.sent("stop")) != 2 {
		t.Errorf("hard stop after a timeout: %v", end)
	}
}

func TestPowerThatTheDriverCannotDoFailsAsUnsupported(t *testing.T) {
	w := newWorld(t)
	w.rack.script = failing("pause", rackv1.ErrorClass_ERROR_CLASS_UNSUPPORTED, always)
	e := w.run(nil)
	name := w.ended(w.compose(true).GetName()).GetTarget()
	op, err := e.Power(t.Context(), "alice", name, &vmhostv1.BatchChangePowerRequest{Verb: pause})
	if err != nil {
		t.Fatal(err)
	}
	if end := w.ended(op.GetName()); end.GetPhase() != failed || end.GetError().GetReason() != "UNSUPPORTED" {
		t.Errorf("%v", end)
	}
}

func TestPowerThatContradictsItselfIsRefused(t *testing.T) {
	w := newWorld(t)
	w.rack.session = ""
	e := w.run(nil)
	for _, tt := range []struct {
		name, field string
		req         *vmhostv1.BatchChangePowerRequest
	}{
		{"no verb", "verb", &vmhostv1.BatchChangePowerRequest{}},
		{"a verb that is no power", "verb", &vmhostv1.BatchChangePowerRequest{Verb: vmhostv1.OperationVerb_OPERATION_VERB_DELETE}},
		{"a mode of a start", "mode", &vmhostv1.BatchChangePowerRequest{Verb: start, Mode: hard}},
		{"a mode of a cycle", "mode", &vmhostv1.BatchChangePowerRequest{Verb: cycle, Mode: soft}},
		{"a grace of a reset", "grace_period", &vmhostv1.BatchChangePowerRequest{Verb: reset, GracePeriod: seconds(1)}},
		{"a grace of a hard stop", "grace_period", &vmhostv1.BatchChangePowerRequest{Verb: stop, Mode: hard, GracePeriod: seconds(1)}},
		{"a soft stop at once", "grace_period", &vmhostv1.BatchChangePowerRequest{Verb: stop, Mode: soft, GracePeriod: seconds(0)}},
	} {
		_, err := e.Power(t.Context(), "a", "machines/x", tt.req)
		if e := apierror.FromStatus(err); err == nil || e.Reason != vmhostv1.ErrorReason_INVALID_FIELD || e.Fields[0].GetField() != tt.field {
			t.Errorf("%s: %v", tt.name, err)
		}
		_, err = e.BatchPower(t.Context(), "a", tt.req, nil)
		if apierror.Reason(err) != vmhostv1.ErrorReason_INVALID_FIELD {
			t.Errorf("%s, many: %v", tt.name, err)
		}
	}
	for name, req := range map[string]*vmhostv1.BatchChangePowerRequest{
		"neither names nor filter": {Verb: start},
		"names and filter":         {Verb: start, Names: []string{"machines/x"}, Filter: "cores = 1"},
		"too many":                 {Verb: start, Filter: "cores = 1"},
	} {
		_, err := e.BatchPower(t.Context(), "a", req, func(*store.View) ([]string, error) { return make([]string, maxBatch+1), nil })
		if apierror.Reason(err) != vmhostv1.ErrorReason_INVALID_FIELD {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Many at once: an operation or a refusal each, the same when it is repeated.
func TestABatchHasAResultPerMachineAndCanBeRepeated_P2(t *testing.T) {
	w := newWorld(t)
	e := w.run(nil)
	var names []string
	for range 30 {
		names = append(names, w.compose(false).GetTarget())
	}
	w.eventually("machines", func() bool {
		ready := 0
		for _, m := range store.Machines.All(w.store.Cached()) {
			if m.Value.GetResource().GetPhase() == vmhostv1.MachinePhase_MACHINE_PHASE_READY {
				ready++
			}
		}
		return ready == len(names)
	})
	w.put(seenOf("h", &rackv1.MachineObservation{Uuid: "11111111-2222-4333-8444-555555555555", Name: "legacy"}))
	found := ""
	for d := range allDiscovered(w) {
		found = d
	}
	asked := append([]string{"machines/none", found}, names...)
	req := &vmhostv1.BatchChangePowerRequest{Names: asked, Verb: start, RequestId: uuid.NewString()}

	plan := proto.CloneOf(req)
	plan.ValidateOnly = true
	planned, err := e.BatchPower(t.Context(), "alice", plan, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := e.BatchPower(t.Context(), "alice", req, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.GetResults()) != len(asked) || len(planned.GetResults()) != len(asked) {
		t.Fatalf("%d results, %d planned, of %d", len(res.GetResults()), len(planned.GetResults()), len(asked))
	}
	for i, r := range res.GetResults() {
		if r.GetName() != asked[i] {
			t.Errorf("result %d is of %s, not %s", i, r.GetName(), asked[i])
		}
		_, single := e.Power(t.Context(), "alice", asked[i], &vmhostv1.BatchChangePowerRequest{Verb: start, ValidateOnly: true})
		switch i {
		case 0, 1:
			want := apierror.FromStatus(single)
			if r.GetOperation() != nil || r.GetError().GetReason() != want.Reason.String() || r.GetError().GetMessage() != want.Message ||
				r.GetError().GetHint() != want.Hint || r.GetError().GetCode() != int32(want.Code) || !cmp.Equal(r.GetError().GetMetadata(), want.Metadata) {
				t.Errorf("%v, want the error of a single call %v", r, single)
			}
			if planned.GetResults()[i].GetError().GetReason() != r.GetError().GetReason() {
				t.Errorf("planned %v", planned.GetResults()[i])
			}
		default:
			if r.GetError() != nil || r.GetOperation().GetTarget() != asked[i] {
				t.Errorf("%v", r)
			}
			if p := planned.GetResults()[i]; p.GetError() != nil || p.GetOperation().GetName() != "" {
				t.Errorf("planned %v", p)
			}
			if end := w.ended(r.GetOperation().GetName()); end.GetPhase() != succeeded {
				t.Errorf("%v", end)
			}
		}
	}
	again, err := e.BatchPower(t.Context(), "alice", req, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range again.GetResults() {
		if r.GetOperation().GetName() != res.GetResults()[i].GetOperation().GetName() {
			t.Errorf("%s repeated: %s, first %s (P2)", r.GetName(), r.GetOperation().GetName(), res.GetResults()[i].GetOperation().GetName())
		}
	}
	if got := len(w.rack.sent("start")); got != len(names) {
		t.Errorf("%d starts of %d machines (P2)", got, len(names))
	}
	other := proto.CloneOf(req)
	other.Verb = stop
	if _, err := e.BatchPower(t.Context(), "alice", other, nil); apierror.Reason(err) != vmhostv1.ErrorReason_REQUEST_ID_REUSED {
		t.Errorf("another request with the request_id: %v", err)
	}
}

// A filter may match other machines when the request is repeated, since the first
// time has changed them: it stays with those of the first time. A region that died
// in the middle leaves the rest to the repetition.
func TestARepeatedBatchByFilterIsAboutTheSameMachines_P2(t *testing.T) {
	w := newWorld(t)
	e := w.run(nil)
	var names []string
	for range 5 {
		names = append(names, w.ended(w.compose(false).GetName()).GetTarget())
	}
	w.halt()
	req := &vmhostv1.BatchChangePowerRequest{Filter: "power_state = POWER_STATE_OFF", Verb: start, RequestId: uuid.NewString()}
	var commits atomic.Int64
	e.commit = func(ctx context.Context, tx *store.Txn) (int64, error) {
		if commits.Add(1) > 3 {
			return 0, errCrash
		}
		return w.store.Commit(ctx, tx)
	}
	first, err := e.BatchPower(t.Context(), "alice", req, func(*store.View) ([]string, error) { return names, nil })
	if err != nil {
		t.Fatal(err)
	}
	begun := map[string]string{}
	for _, r := range first.GetResults() {
		if r.GetOperation() != nil {
			begun[r.GetName()] = r.GetOperation().GetName()
		}
	}
	if len(begun) == 0 || len(begun) == len(names) {
		t.Fatalf("%d of %d begun", len(begun), len(names))
	}
	e = w.run(nil)
	again, err := e.BatchPower(t.Context(), "alice", req, func(*store.View) ([]string, error) {
		return nil, fmt.Errorf("a repetition asked again what the filter matches")
	})
	if err != nil || len(again.GetResults()) != len(names) {
		t.Fatalf("%v, %v", again, err)
	}
	for i, r := range again.GetResults() {
		if r.GetName() != names[i] || r.GetError() != nil || begun[r.GetName()] != "" && begun[r.GetName()] != r.GetOperation().GetName() {
			t.Errorf("repeated: %v, first %s", r, begun[r.GetName()])
		}
		w.ended(r.GetOperation().GetName())
	}
	w.checkBooks()
}

func seenOf(host string, machines ...*rackv1.MachineObservation) *store.Txn {
	tx := store.NewTxn()
	for _, m := range machines {
		store.Put(tx, store.Seen, &storev1.StoredSeenMachine{Observation: m}, host, m.GetUuid())
	}
	return tx
}
