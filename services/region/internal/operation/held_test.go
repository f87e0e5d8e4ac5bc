package operation

import (
	"testing"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Places go before the first machine does, so that nobody composes a machine there
// that would be removed at once.
func TestARemovedHostTakesThePlacesOfReservationsAlong(t *testing.T) {
	w := newWorld(t)
	names := w.fill(2)
	r, err := w.ledger.Reserve(t.Context(), "bob", &vmhostv1.ReserveRequest{Machine: &vmhostv1.ComposeMachineRequest{Cores: 1, MemoryMib: 64}, Count: 2})
	if err != nil {
		t.Fatal(err)
	}
	e := w.run(nil)
	op, err := e.Remove(t.Context(), "alice", &vmhostv1.RemoveVmHostRequest{Name: "vmHosts/h", Mode: forget})
	if err != nil {
		t.Fatal(err)
	}
	if end := w.ended(op.GetName()); end.GetPhase() != succeeded {
		t.Fatalf("%v", end)
	}
	w.gone(forget, names)
	v, err := w.store.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rec, _ := store.Reservations.Get(v, r.GetUid())
	if res := rec.Value.GetResource(); res.GetLost() != 2 || res.GetState() != vmhostv1.ReservationState_RESERVATION_STATE_USED || len(rec.Value.GetHolds()) != 0 {
		t.Errorf("the reservation is %v", rec.Value)
	}
	told := 0
	for _, ev := range store.Events.All(v) {
		if r := ev.Value.GetResource(); r.GetType() == "reservation.reduced" && r.GetVmHost() == "vmHosts/h" && r.GetPrincipal() == "alice" {
			told++
		}
	}
	if told != 1 {
		t.Errorf("%d events tell of it", told)
	}
}
