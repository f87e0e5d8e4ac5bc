package session

import (
	"fmt"
	"testing"
	"time"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// A step that comes before the host is assigned would be refused, and cost an
// attempt.
func TestNoStepOvertakesTheAssignmentThatItNeeds(t *testing.T) {
	r := newRegion(t, storetest.Client(t), "region-1", func(c *Config) { c.AssignEvery = time.Hour })
	addRack(t, r.store, "r1")
	k := r.connect("r1", "uid-r1")
	for i := range 30 {
		id := fmt.Sprint("h", i)
		addHost(t, r.store, host(id, func(h *storev1.StoredVmHost) { h.Resource.Project = "p"; h.Resource.ClusterMember = "m" }))
		put(t, r.store, func(tx *store.Txn) {
			store.Put(tx, store.Assignments, &storev1.StoredAssignment{Rack: "r1", VmHostUid: "uid-" + id}, id)
		})
		a, _ := store.Assignments.Get(r.store.Cached(), id)
		if !r.hub.Send("r1", &rackv1.Step{Id: id, VmHost: "vmHosts/" + id, Epoch: a.Revision}) {
			t.Fatal("not sent")
		}
		assigned := false
		next(k, func(m *rackv1.ConnectResponse) *rackv1.Step {
			if x := m.GetAssignment(); x.GetVmHost() == "vmHosts/"+id {
				assigned = x.GetEpoch() == a.Revision && x.GetProject() == "p" && x.GetClusterMember() == "m"
			}
			return m.GetStep()
		})
		if !assigned {
			t.Fatalf("the step for %s came before its assignment", id)
		}
	}
}

func inventoryOf(epoch, sequence int64, delta bool) *rackv1.ConnectRequest {
	inv := &rackv1.HostInventory{VmHost: "vmHosts/h1", Epoch: epoch, Sequence: sequence, Last: true, Delta: delta}
	if !delta {
		inv.Observation = &vmhostv1.VmHostObservation{Cores: 8}
	}
	return &rackv1.ConnectRequest{Message: &rackv1.ConnectRequest_HostInventory{HostInventory: inv}}
}

func TestADeltaOnNothingIsAnsweredByAskingForAll(t *testing.T) {
	r := newRegion(t, storetest.Client(t), "region-1")
	addRack(t, r.store, "r1")
	addHost(t, r.store, host("h1"))
	k := r.connect("r1", "uid-r1")
	a := next(k, (*rackv1.ConnectResponse).GetAssignment)
	k.send(inventoryOf(a.GetEpoch(), 1, true))
	if m := next(k, (*rackv1.ConnectResponse).GetReportAgain); m.GetUid() != "uid-h1" || m.GetEpoch() != a.GetEpoch() {
		t.Errorf("asked for %v", m)
	}
	k.send(inventoryOf(a.GetEpoch()-1, 2, true)) // does not count, and is not asked for
	k.send(inventoryOf(a.GetEpoch(), 3, false))
	k.send(inventoryOf(a.GetEpoch(), 4, true))
	eventually(t, "ready", func() bool {
		k.beat()
		return observed(r.store, "h1").GetState() == vmhostv1.VmHostState_VM_HOST_STATE_READY
	})
	k.send(&rackv1.ConnectRequest{Message: &rackv1.ConnectRequest_StepResult{StepResult: &rackv1.StepResult{Id: "op/0/1"}}})
	next(k, func(m *rackv1.ConnectResponse) *rackv1.StepResultAck {
		if m.GetReportAgain() != nil {
			t.Errorf("asked again for %v", m)
		}
		return m.GetStepResultAck()
	})
}

func TestAConsoleIsAskedOfItsRackWhoeverHoldsTheSession(t *testing.T) {
	client := storetest.Client(t)
	one, two := newRegion(t, client, "region-1"), newRegion(t, client, "region-2")
	addRack(t, one.store, "r1")
	ask := func(id string) {
		put(t, one.store, func(tx *store.Txn) {
			store.Put(tx, store.Consoles, &storev1.StoredConsole{Rack: "r1", Open: &rackv1.OpenConsole{Id: id, Endpoint: "one:1"}}, id)
		})
	}
	ask("early")
	k := two.connect("r1", "uid-r1")
	if m := next(k, (*rackv1.ConnectResponse).GetOpenConsole); m.GetId() != "early" || m.GetEndpoint() != "one:1" {
		t.Errorf("asked for %v", m)
	}
	ask("late")
	next(k, func(m *rackv1.ConnectResponse) *rackv1.OpenConsole {
		if m.GetOpenConsole().GetId() == "late" {
			return m.GetOpenConsole()
		}
		return nil
	})
}
