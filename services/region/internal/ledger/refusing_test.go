package ledger

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

func TestAHostThatRefusedIsAvoidedByAPolicyThatSaysSo(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	fleetOf(t, s, 2, 1)
	tx := store.NewTxn()
	store.Put(tx, store.Policies, &storev1.StoredPlacementPolicy{Resource: &vmhostv1.PlacementPolicy{
		Name: "placementPolicies/wary", Weights: &vmhostv1.PlacementWeights{AvoidRefusing: 1},
	}}, "wary")
	commit(t, s, tx)
	where := func(policy string) string {
		t.Helper()
		req := small()
		req.PlacementPolicy = policy
		out, err := l.Explain(t.Context(), &vmhostv1.ExplainRequest{Machine: req})
		if err != nil {
			t.Fatal(err)
		}
		return out.GetPlacement().GetVmHost()
	}
	if got := where("placementPolicies/wary"); got != "vmHosts/h0000" {
		t.Fatalf("before anything failed: %s", got)
	}
	fails := func(phase vmhostv1.OperationPhase, change func(*vmhostv1.Operation)) {
		t.Helper()
		req := small()
		req.VmHost = "vmHosts/h0000"
		op, err := l.Compose(t.Context(), "alice", req)
		if err != nil {
			t.Fatal(err)
		}
		v, err := s.View(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		uid := op.GetName()[len("operations/"):]
		record, _ := store.Operations.Get(v, uid)
		next := proto.CloneOf(record.Value)
		next.Resource.Phase = phase
		change(next.GetResource())
		tx := store.NewTxn()
		store.Put(tx, store.Operations, next, uid)
		commit(t, s, tx)
	}
	eventually(t, func() bool { // only what happens while the ledger follows the store is counted
		l.index.mu.Lock()
		defer l.index.mu.Unlock()
		return l.index.applied > 0
	})
	fails(vmhostv1.OperationPhase_OPERATION_PHASE_COMPENSATING, func(op *vmhostv1.Operation) { op.CancelRequested = true })
	fails(vmhostv1.OperationPhase_OPERATION_PHASE_SUCCEEDED, func(*vmhostv1.Operation) {})
	fails(vmhostv1.OperationPhase_OPERATION_PHASE_FAILED, func(op *vmhostv1.Operation) { op.Verb = vmhostv1.OperationVerb_OPERATION_VERB_START })
	fails(vmhostv1.OperationPhase_OPERATION_PHASE_COMPENSATING, func(*vmhostv1.Operation) {})
	eventually(t, func() bool { return len(l.refusing.counts(time.Now())) > 0 })
	if got := l.refusing.counts(time.Now()); len(got) != 1 || got["h0000"] != 1 {
		t.Errorf("refused: %v", got)
	}
	if got := where("placementPolicies/wary"); got != "vmHosts/h0001" {
		t.Errorf("after one failed: %s", got)
	}
	if got := where(""); got != "vmHosts/h0001" { // h0000 has four machines by now
		t.Errorf("by the default policy: %s", got)
	}
}

func TestThatAHostRefusedIsForgottenAndCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r refusing
		op := func(phase vmhostv1.OperationPhase) *storev1.StoredOperation {
			return &storev1.StoredOperation{Resource: &vmhostv1.Operation{
				Verb: vmhostv1.OperationVerb_OPERATION_VERB_COMPOSE, VmHost: "vmHosts/h", Phase: phase,
			}}
		}
		failed := store.Change{Family: store.Operations.Name(), New: op(vmhostv1.OperationPhase_OPERATION_PHASE_FAILED)}
		for range 3 * maxRefusing {
			r.note(failed, time.Now())
			time.Sleep(time.Second) //nolint:forbidigo // fake clock
		}
		r.note(store.Change{Family: store.Operations.Name()}, time.Now()) // one that is swept
		if got := r.counts(time.Now()); got["h"] != maxRefusing {
			t.Errorf("%d are remembered", got["h"])
		}
		time.Sleep(refusingFor - time.Second) //nolint:forbidigo // fake clock
		if got := r.counts(time.Now()); got["h"] != 1 {
			t.Errorf("%d are left", got["h"])
		}
		time.Sleep(2 * time.Second) //nolint:forbidigo // fake clock
		if got := r.counts(time.Now()); got != nil || len(r.at) != 0 {
			t.Errorf("left are %v", got)
		}
	})
}
