package component

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/client"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack/racktest"
	"github.com/vmhost-project/vmhost/services/region/regiontest"
)

// P1, P2: every request goes to two regions at once, and there is room for a
// third of them. Exactly as many machines are made as there is room for, and no
// request makes two.
func TestTwoRegionsComposeAtOnceAndNeverTooMuch_P1_P2(t *testing.T) {
	const room, asked = 8, 24
	etcd := regiontest.NewEtcd(t)
	regions := []*regiontest.Region{start(t, etcd), start(t, etcd)}
	fleet := fake.NewFleet(fake.HostSpec{Name: "h", Cores: room})
	racktest.Start(t, racktest.Options{JoinToken: regions[0].Join("a"), Fleet: fleet})
	h := fleet.Host("h")
	addHost(t, regions[0].Admin, h, "a")

	requests := make([]*vmhostv1.ComposeMachineRequest, asked)
	answers := make([][2]*vmhostv1.Operation, asked)
	var wg sync.WaitGroup
	for i := range requests {
		requests[i] = order(fmt.Sprintf("m-%d", i))
		for j, r := range regions {
			wg.Go(func() {
				op, err := r.Admin.Machines.ComposeMachine(t.Context(), requests[i])
				if err != nil && apierror.Reason(err) != vmhostv1.ErrorReason_NO_CAPACITY {
					t.Errorf("request %d at region %d: %v", i, j, err)
				}
				answers[i][j] = op
			})
		}
	}
	wg.Wait()

	operations, machines := map[string]bool{}, []string(nil)
	for i, a := range answers {
		accepted := a[0]
		switch {
		case a[0] != nil && a[1] != nil && a[0].GetName() != a[1].GetName():
			t.Errorf("request %d is %s and %s", i, a[0].GetName(), a[1].GetName())
		case a[0] == nil:
			accepted = a[1]
		}
		// Asked again, both say what is.
		for j, r := range regions {
			op, err := r.Admin.Machines.ComposeMachine(t.Context(), requests[i])
			if op.GetName() != accepted.GetName() || (accepted == nil) != (apierror.Reason(err) == vmhostv1.ErrorReason_NO_CAPACITY) {
				t.Errorf("request %d again at region %d: %v, %v; want %s", i, j, op.GetName(), err, accepted.GetName())
			}
		}
		if accepted != nil {
			operations[accepted.GetName()] = true
			machines = append(machines, accepted.GetTarget())
		}
	}
	if len(operations) != room {
		t.Errorf("%d were accepted, there is room for %d", len(operations), room)
	}
	for name := range operations {
		succeed(t, regions[1].Admin, name)
	}
	for _, r := range regions {
		agree(t, r.Admin, h, machines)
	}
}

// What one region has acknowledged the other answers with at once, without a
// second try: reads are linearizable.
func TestWhatOneRegionComposedTheOtherShowsAtOnce(t *testing.T) {
	etcd := regiontest.NewEtcd(t)
	regions := []*regiontest.Region{start(t, etcd), start(t, etcd)}
	fleet := fake.NewFleet(fake.HostSpec{Name: "h", Cores: 64})
	racktest.Start(t, racktest.Options{JoinToken: regions[0].Join("a"), Fleet: fleet})
	addHost(t, regions[0].Admin, fleet.Host("h"), "a")
	for i := range 40 {
		at, other := regions[i%2].Admin, regions[1-i%2].Admin
		op, err := at.Machines.ComposeMachine(t.Context(), order(fmt.Sprintf("m-%d", i)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.Machines.GetMachine(t.Context(), &vmhostv1.GetMachineRequest{Name: op.GetTarget()}); err != nil {
			t.Errorf("machine %d: %v", i, err)
		}
		if _, err := other.Operations.GetOperation(t.Context(), &vmhostv1.GetOperationRequest{Name: op.GetName()}); err != nil {
			t.Errorf("operation %d: %v", i, err)
		}
		list, err := other.Machines.ListMachines(t.Context(), &vmhostv1.ListMachinesRequest{PageSize: 1000})
		if err != nil || len(list.GetMachines()) != i+1 {
			t.Errorf("after %d composes %d are listed, %v", i+1, len(list.GetMachines()), err)
		}
		host, err := other.VmHosts.GetVmHost(t.Context(), &vmhostv1.GetVmHostRequest{Name: "vmHosts/h"})
		if err != nil || host.GetUsage().GetCores().GetCommitted() != int64(i+1) {
			t.Errorf("after %d composes %v are committed, %v", i+1, host.GetUsage().GetCores(), err)
		}
	}
}

// A region that is stopped while a create is under way tells its rack, which
// goes to the other region at once; the operation ends there, and the machine is
// made once.
func TestARegionThatIsStoppedSendsItsRackToTheOther_P6(t *testing.T) {
	t.Parallel()
	etcd := regiontest.NewEtcd(t)
	first, second := start(t, etcd), start(t, etcd)
	fleet := fake.NewFleet(fake.HostSpec{Name: "h"})
	h := fleet.Host("h")
	var log records
	racktest.Start(t, racktest.Options{
		JoinToken: first.Join("a"), Fleet: fleet, Log: log.logger(), Regions: []string{first.RackEndpoint, second.RackEndpoint},
	})
	addHost(t, first.Admin, h, "a")
	upAt := func(endpoint string) bool {
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, `"session is up"`) && strings.Contains(line, endpoint) {
				return true
			}
		}
		return false
	}
	from, to := first, second
	if !upAt(first.RackEndpoint) {
		from, to = second, first // its first try was too early for the first
	}

	release := h.Hang(fake.Create)
	defer release()
	op, err := from.Admin.Machines.ComposeMachine(t.Context(), order("m"))
	if err != nil {
		t.Fatal(err)
	}
	called(t, h, fake.Create, 1)
	from.Stop()
	await(t, "the rack to go to the other region", func(context.Context) error {
		if !upAt(to.RackEndpoint) {
			return errNotYet
		}
		return nil
	})
	if text := log.String(); !strings.Contains(text, "this region is stopping") || !strings.Contains(from.Logs(), "REGION_DRAINING") {
		t.Errorf("the rack was not told to go; its log:\n%s", text)
	}
	release()
	done := succeed(t, to.Admin, op.GetName())
	agree(t, to.Admin, h, []string{op.GetTarget()})
	if n := h.Calls(fake.Create); n != 1 {
		t.Errorf("create was called %d times", n)
	}
	oneEnd(t, to.Admin, done)
}

// oneEnd says if the operation's end is not told of exactly once.
func oneEnd(t *testing.T, api *client.Client, op *vmhostv1.Operation) {
	t.Helper()
	list, err := api.Events.ListEvents(t.Context(), &vmhostv1.ListEventsRequest{PageSize: 1000, Filter: fmt.Sprintf("operation = %q", op.GetName())})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(list.GetEvents()); n != 1 {
		t.Errorf("%s ended %d times: %v", op.GetName(), n, list.GetEvents())
	}
}
