package inventory

import (
	"fmt"
	"testing"

	"github.com/google/uuid"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

func TestChangesNeverMakeAHostHaveTooManyMachines(t *testing.T) {
	w := newWorld(t)
	w.inv.rooms.most = 3
	ids := make([]string, 5)
	add := func(i int) {
		t.Helper()
		if ids[i] == "" {
			ids[i] = uuid.NewString()
		}
		if err := w.inv.Change(t.Context(), "r1", &rackv1.MachineChange{VmHost: "vmHosts/h", Epoch: w.epoch, Change: &rackv1.MachineChange_Present{
			Present: &rackv1.MachineObservation{Uuid: ids[i], Name: fmt.Sprintf("m%d", i)},
		}}); err != nil {
			t.Fatal(err)
		}
	}
	has := func(n int) {
		t.Helper()
		if got := len(w.seen()); got != n {
			t.Errorf("the host has %d machines, want %d", got, n)
		}
	}
	for i := range ids {
		add(i)
		has(min(i+1, 3))
	}
	add(0) // known: a change of it takes no room
	has(3)
	if err := w.inv.Change(t.Context(), "r1", &rackv1.MachineChange{VmHost: "vmHosts/h", Epoch: w.epoch, Change: &rackv1.MachineChange_GoneUuid{GoneUuid: ids[1]}}); err != nil {
		t.Fatal(err)
	}
	add(3) // the room of the one that went
	has(3)
	w.assign() // another epoch: counted anew
	add(4)
	has(3)
}
