package ledger

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// Places of reservations on lost hosts are looked for elsewhere once the machines
// have theirs, and told apart from them.
func TestWhatIfSaysWhatBecomesOfPlacesThatAreHeld(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	fleetOf(t, s, 3, 3) // of 4 cores each
	reserve := func(n int32, more func(*vmhostv1.ReserveRequest)) *vmhostv1.Reservation {
		t.Helper()
		req := &vmhostv1.ReserveRequest{Count: n, Machine: small()}
		if more != nil {
			more(req)
		}
		r, err := l.Reserve(t.Context(), "alice", req)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	onFirst := func(r *vmhostv1.ReserveRequest) { r.Machine.VmHost = "vmHosts/h0000" }
	anywhere := reserve(6, nil)  // 2 on each
	bound := reserve(1, onFirst) // by its own wish on the first alone
	gone := reserve(1, func(r *vmhostv1.ReserveRequest) { onFirst(r); r.Ttl = durationpb.New(time.Minute) })
	if _, err := l.DeleteReservation(t.Context(), "alice", &vmhostv1.DeleteReservationRequest{Name: gone.GetName()}); err != nil {
		t.Fatal(err)
	}
	out, err := l.WhatIf(t.Context(), &vmhostv1.WhatIfRequest{LostVmHosts: []string{"vmHosts/h0000"}, Machine: small()})
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]*vmhostv1.ReservationOutcome{}
	for _, r := range out.GetReservations() {
		byName[r.GetReservation()] = r
	}
	if len(byName) != 2 || out.GetHeldPlaced() != 2 || out.GetHeldStranded() != 1 || out.GetPlaced() != 0 || out.GetStrandedTotal() != 0 {
		t.Fatalf("got %v", out)
	}
	if r := byName[anywhere.GetName()]; r.GetPlaced() != 2 || r.GetStranded() != 0 || len(r.GetRefusedCounts()) > 0 {
		t.Errorf("got %v", r)
	}
	if r := byName[bound.GetName()]; r.GetPlaced() != 0 || r.GetStranded() != 1 || r.GetRefusedCounts()["vm_host"] != 2 {
		t.Errorf("got %v", r)
	}
	// 12 fit, 7 are held; two hosts have room for 8, of which 4 + 2 are held then.
	if out.GetCapacityBefore() != 5 || out.GetCapacityAfter() != 2 {
		t.Errorf("%d fit, %d then", out.GetCapacityBefore(), out.GetCapacityAfter())
	}
	// Machines come first: they are there, and places are promises.
	if _, err := l.ComposeMany(t.Context(), "alice", manyOf(5, all, small())); err != nil {
		t.Fatal(err)
	}
	if out, err = l.WhatIf(t.Context(), &vmhostv1.WhatIfRequest{LostVmHosts: []string{"vmHosts/h0000"}}); err != nil || out.GetPlaced() != 0 || out.GetStrandedTotal() != 1 || out.GetHeldStranded() != 3 {
		t.Errorf("a full fleet: %v, %v", out, err)
	}
	if out, err = l.WhatIf(t.Context(), &vmhostv1.WhatIfRequest{}); err != nil || len(out.GetReservations()) != 0 {
		t.Errorf("nothing is lost: %v, %v", out, err)
	}
}

// The room that a place takes is no room for those that are moved there.
func TestPlansLeavePlacesOnDestinationsAlone_P1(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	fleetOf(t, s, 2, 1)
	one := small()
	one.VmHost = "vmHosts/h0000"
	if _, err := l.ComposeMany(t.Context(), "alice", manyOf(4, all, one)); err != nil {
		t.Fatal(err)
	}
	held := small()
	held.VmHost = "vmHosts/h0001"
	if _, err := l.Reserve(t.Context(), "alice", &vmhostv1.ReserveRequest{Count: 3, Machine: held}); err != nil {
		t.Fatal(err)
	}
	out, err := l.WhatIf(t.Context(), &vmhostv1.WhatIfRequest{LostVmHosts: []string{"vmHosts/h0000"}})
	if err != nil || out.GetPlaced() != 1 || out.GetStrandedTotal() != 3 {
		t.Errorf("what if: %v, %v", out, err)
	}
	var machines []*storev1.StoredMachine
	for _, m := range MachinesOn(s.Cached(), []string{"h0000"}) {
		machines = append(machines, m)
	}
	moves, stranded := l.DrainPlan(s.Cached(), "h0000", machines, nil)
	if len(moves) != 1 || len(stranded) != 3 {
		t.Errorf("drain: %d moves, %d have no place", len(moves), len(stranded))
	}
	// The loads are 4 and 3 of 4: a place counts like a machine, and nothing is to be
	// gained by a move.
	if r, err := l.Rebalance(t.Context(), &vmhostv1.RebalanceRequest{}); err != nil || len(r.GetMoves()) != 0 {
		t.Errorf("rebalance: %v, %v", r, err)
	}
}
