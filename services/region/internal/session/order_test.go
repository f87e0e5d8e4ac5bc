package session

import (
	"context"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// wire is the sending half of a stream that remembers.
type wire struct {
	grpc.ServerStream
	sent chan *rackv1.ConnectResponse
}

func (w wire) Context() context.Context              { return context.Background() }
func (w wire) Send(m *rackv1.ConnectResponse) error  { w.sent <- m; return nil }
func (w wire) Recv() (*rackv1.ConnectRequest, error) { return nil, io.EOF }
func (w wire) next(t *testing.T) *rackv1.ConnectResponse {
	t.Helper()
	select {
	case m := <-w.sent:
		return m
	case <-time.After(20 * time.Second):
		t.Fatal("nothing sent in 20 s")
		return nil
	}
}

// A step that comes before the host is assigned would be refused, and cost an
// attempt.
func TestNoStepOvertakesTheAssignmentThatItNeeds(t *testing.T) {
	r := newRegion(t, storetest.Client(t), "region-1", func(c *Config) { c.AssignEvery = time.Hour })
	addRack(t, r.store, "r1")
	addHost(t, r.store, host("h1", func(h *storev1.StoredVmHost) { h.Resource.Project, h.Resource.ClusterMember = "p", "m" }))
	to := wire{sent: make(chan *rackv1.ConnectResponse, 10)}
	ss, err := newSession(r.server, to, "r1", "uid-r1")
	if err != nil {
		t.Fatal(err)
	}
	ss.beginSending()
	defer ss.endSending()
	for range 2 { // nothing tells the session of the assignment but the step
		put(t, r.store, func(tx *store.Txn) {
			store.Put(tx, store.Assignments, &storev1.StoredAssignment{Rack: "r1", VmHostUid: "uid-h1"}, "h1")
		})
		a, _ := store.Assignments.Get(r.store.Cached(), "h1")
		for _, id := range []string{"op/0/1", "op/1/1"} {
			if !ss.queue(&rackv1.ConnectResponse{Message: &rackv1.ConnectResponse_Step{Step: &rackv1.Step{Id: id, VmHost: "vmHosts/h1", Epoch: a.Revision}}}) {
				t.Fatal("not queued")
			}
		}
		if m := to.next(t).GetAssignment(); m.GetEpoch() != a.Revision || m.GetProject() != "p" || m.GetClusterMember() != "m" {
			t.Errorf("before the first step came %v", m)
		}
		for _, id := range []string{"op/0/1", "op/1/1"} {
			if m := to.next(t); m.GetStep().GetId() != id {
				t.Errorf("%v, want step %s", m, id)
			}
		}
	}
	put(t, r.store, func(tx *store.Txn) {
		store.Put(tx, store.Assignments, &storev1.StoredAssignment{Rack: "r1", VmHostUid: "uid-h1"}, "h1")
	})
	a, _ := store.Assignments.Get(r.store.Cached(), "h1")
	ss.queue(&rackv1.ConnectResponse{Message: &rackv1.ConnectResponse_OpenConsole{OpenConsole: &rackv1.OpenConsole{Id: "c", VmHost: "vmHosts/h1", Epoch: a.Revision}}})
	if m := to.next(t).GetAssignment(); m.GetEpoch() != a.Revision {
		t.Errorf("before the console came %v", m)
	}
	if m := to.next(t).GetOpenConsole(); m.GetId() != "c" {
		t.Errorf("%v, want a console", m)
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

// A machine that was moved is seen at its destination, whatever host the step was
// for.
func TestTheResultOfAMoveTellsOfTheDestination(t *testing.T) {
	op := &storev1.StoredOperation{
		Resource: &vmhostv1.Operation{VmHost: "vmHosts/a"},
		Plan: []*rackv1.Step{{Action: &rackv1.Step_MoveMachine{MoveMachine: &rackv1.MoveMachine{
			Destination: &rackv1.MoveDestination{VmHost: "vmHosts/b"},
		}}}},
	}
	if got := observedOn(op); got != "vmHosts/b" {
		t.Errorf("it is recorded on %s", got)
	}
	op.Plan[0].Action = &rackv1.Step_DeleteMachine{}
	if got := observedOn(op); got != "vmHosts/a" {
		t.Errorf("another step is recorded on %s", got)
	}
}
