package operation

import (
	"testing"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// What an adopted machine takes beyond its commitment counts as foreign already
// when it is given back, and is not counted twice then.
func TestAMachineThatGrewIsGivenBackWithoutAJump_P1(t *testing.T) {
	w := newWorld(t)
	e := w.run(nil)
	seen := found("legacy", 2)
	name := w.legacy(seen)[0]
	op, err := e.Adopt(t.Context(), "alice", &adoptRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	w.ended(op.GetName())
	committed := w.committed().GetCores()
	// Somebody gives it more on the hypervisor, and the inventory counts the rest.
	grown := proto.CloneOf(seen)
	grown.Cores, grown.MemoryMib = seen.GetCores()+4, seen.GetMemoryMib()+512
	observed, _ := store.Observed.Get(w.store.Cached(), "h")
	next := proto.CloneOf(observed.Value)
	next.Observation.Foreign.Cores += 4
	next.Observation.Foreign.MemoryMib += 512
	tx := store.NewTxn()
	store.Put(tx, store.Seen, &storev1.StoredSeenMachine{Observation: grown}, "h", grown.GetUuid())
	store.Put(tx, store.Observed, next, "h")
	w.put(tx)
	before := committed + next.GetObservation().GetForeign().GetCores()
	if op, err = e.Release(t.Context(), "alice", &releaseRequest{Name: name}); err != nil {
		t.Fatal(err)
	}
	if end := w.ended(op.GetName()); end.GetPhase() != succeeded {
		t.Fatalf("%v", end)
	}
	if after := w.committed().GetCores() + w.observed().GetForeign().GetCores(); after != before {
		t.Errorf("committed and foreign cores went from %d to %d", before, after)
	}
	w.checkBooks()
}
