package component

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack/racktest"
	"github.com/vmhost-project/vmhost/services/region/regiontest"
)

// P7: a rack is cut off while its create is under way; the host goes to another
// rack, which is told to do the same. Rack A ends its own and is back to report it
// before the other has: that counts for nothing. The machine is there once, and
// the operation ends once, with the result of rack B.
func TestAHostWhoseRackIsCutOffGoesToAnother_P7(t *testing.T) {
	t.Parallel()
	r := start(t, regiontest.NewEtcd(t))
	fleet := fake.NewFleet(fake.HostSpec{Name: "h"})
	h := fleet.Host("h")
	way := newLine(t, r.RackEndpoint)
	var log records
	a := racktest.Start(t, racktest.Options{JoinToken: r.Join("a"), Fleet: fleet, Regions: []string{way.address()}, Log: log.logger()})
	defer func() {
		if t.Failed() {
			t.Logf("log of rack A:\n%s", &log)
		}
	}()
	host := addHost(t, r.Admin, h, "a")
	b := racktest.Start(t, racktest.Options{JoinToken: r.Join("b"), Fleet: fleet})
	racktest.Await(t, b)

	releaseA := h.Hang(fake.Create)
	defer releaseA()
	op, err := r.Admin.Machines.ComposeMachine(t.Context(), order("m"))
	if err != nil {
		t.Fatal(err)
	}
	called(t, h, fake.Create, 1)
	way.lead("")
	releaseB := h.Hang(fake.Create) // for calls from now on
	defer releaseB()
	ready(t, r.Admin, h, "b", host)
	called(t, h, fake.Create, 2)

	way.lead(r.RackEndpoint)
	racktest.Await(t, a)
	releaseA()
	await(t, "the result of rack A", func(context.Context) error {
		// What came with a result is looked at under the epoch of now, what rack A
		// reports by itself comes with its old one: the region leaves out both.
		epochs := map[string]bool{}
		for line := range strings.Lines(r.Logs()) {
			if _, epoch, ok := strings.Cut(line, `"rack":"a","epoch":`); ok && strings.Contains(line, "report with another epoch") {
				epochs[epoch] = true
			}
		}
		if len(epochs) < 2 {
			return errNotYet
		}
		return nil
	})
	if now, err := r.Admin.Operations.GetOperation(t.Context(), &vmhostv1.GetOperationRequest{Name: op.GetName()}); err != nil || now.GetEndTime() != nil {
		t.Errorf("the operation ended with the result of a rack that has lost the host: %v, %v", now, err)
	}
	releaseB()
	done := succeed(t, r.Admin, op.GetName())
	oneEnd(t, r.Admin, done)
	agree(t, r.Admin, h, []string{op.GetTarget()})
	ready(t, r.Admin, h, "b", nil)
}

// P7: a region that has not heard of a takeover tells the rack that has the host
// now to drive it with the epoch of before. The rack does nothing of it.
func TestAStepWithTheEpochOfBeforeATakeoverIsRefused_P7(t *testing.T) {
	t.Parallel()
	r := start(t, regiontest.NewEtcd(t))
	fleet := fake.NewFleet(fake.HostSpec{Name: "h"})
	h := fleet.Host("h")
	_, stopA := racktest.Launch(t, racktest.Options{JoinToken: r.Join("a"), Fleet: fleet})
	host := addHost(t, r.Admin, h, "a")
	op, err := r.Admin.Machines.ComposeMachine(t.Context(), order("m"))
	if err != nil {
		t.Fatal(err)
	}
	succeed(t, r.Admin, op.GetName())
	way := newLine(t, r.RackEndpoint)
	var log records
	racktest.Start(t, racktest.Options{JoinToken: r.Join("b"), Fleet: fleet, Regions: []string{way.address()}, Log: log.logger()})
	if err := stopA(); err != nil {
		t.Fatal(err)
	}
	host = ready(t, r.Admin, h, "b", host)

	machine, err := r.Admin.Machines.GetMachine(t.Context(), &vmhostv1.GetMachineRequest{Name: op.GetTarget()})
	if err != nil {
		t.Fatal(err)
	}
	old := startPast(t, r, host, &rackv1.Step{
		Id: "before", Operation: "operations/before", VmHost: host.GetName(), VmHostUid: host.GetUid(),
		Action: &rackv1.Step_DeleteMachine{DeleteMachine: &rackv1.DeleteMachine{Machine: machine}},
	})
	way.lead(old.address)
	select {
	case res := <-old.results:
		if res.GetId() != "before" || res.GetError().GetClass() != rackv1.ErrorClass_ERROR_CLASS_STALE_EPOCH {
			t.Errorf("the rack answered with %v", res)
		}
	case <-time.After(limit):
		t.Fatalf("the rack did not answer; its log:\n%s", &log)
	}
	if n := h.Calls(fake.Delete); n != 0 {
		t.Errorf("delete was called %d times", n)
	}
	agree(t, r.Admin, h, []string{op.GetTarget()})

	way.lead(r.RackEndpoint)
	ready(t, r.Admin, h, "b", nil)
	del, err := r.Admin.Machines.DeleteMachine(t.Context(), &vmhostv1.DeleteMachineRequest{Name: op.GetTarget()})
	if err != nil {
		t.Fatal(err)
	}
	succeed(t, r.Admin, del.GetName())
	agree(t, r.Admin, h, nil)
}

// past is a region that lives in the past: it hands out a host and a step with
// the first epoch there can be.
type past struct {
	rackv1.UnimplementedRackServiceServer

	address string
	host    *vmhostv1.VmHost
	step    *rackv1.Step
	results chan *rackv1.StepResult
}

func startPast(t *testing.T, r *regiontest.Region, host *vmhostv1.VmHost, step *rackv1.Step) *past {
	t.Helper()
	cert, err := r.ServerCertificate([]string{"127.0.0.1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &past{address: l.Addr().String(), host: host, step: step, results: make(chan *rackv1.StepResult, 16)}
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert,
	})))
	rackv1.RegisterRackServiceServer(g, p)
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-served; err != nil {
			t.Errorf("the region of the past: %v", err)
		}
	})
	return p
}

// Connect is the session of a rack.
func (p *past) Connect(stream grpc.BidiStreamingServer[rackv1.ConnectRequest, rackv1.ConnectResponse]) error {
	const first = 1
	if _, err := stream.Recv(); err != nil {
		return fmt.Errorf("receive the Hello: %w", err)
	}
	p.step.Epoch = first
	for _, m := range []*rackv1.ConnectResponse{
		{Message: &rackv1.ConnectResponse_Hello{Hello: &rackv1.RegionHello{Protocol: 1, Region: "past", Session: "past"}}},
		{Message: &rackv1.ConnectResponse_Assignment{Assignment: &rackv1.Assignment{
			VmHost: p.host.GetName(), Uid: p.host.GetUid(), Epoch: first, Type: p.host.GetType(), Address: p.host.GetAddress(),
		}}},
	} {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	go p.receive(stream)
	// Again and again, as a region does that gets no result.
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		if err := stream.Send(&rackv1.ConnectResponse{Message: &rackv1.ConnectResponse_Step{Step: p.step}}); err != nil {
			return err
		}
		select {
		case <-again.C:
		case <-stream.Context().Done():
			return nil // the rack goes
		}
	}
}

// receive takes results until the stream ends.
func (p *past) receive(stream grpc.BidiStreamingServer[rackv1.ConnectRequest, rackv1.ConnectResponse]) {
	for {
		m, err := stream.Recv()
		if err != nil {
			return
		}
		if res := m.GetStepResult(); res != nil {
			select {
			case p.results <- res:
			default: // only the first matters
			}
		}
	}
}
