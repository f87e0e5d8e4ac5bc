package component

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmhost-project/vmhost/pkg/client"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack"
	"github.com/vmhost-project/vmhost/services/rack/racktest"
	"github.com/vmhost-project/vmhost/services/region/regiontest"
)

// live is a region with a rack that reads its one host every second.
func live(t *testing.T) (*client.Client, *regiontest.Etcd, *fake.Host) {
	t.Helper()
	etcd := regiontest.NewEtcd(t)
	r := start(t, etcd)
	fleet := fake.NewFleet(fake.HostSpec{Name: "h1", Cores: 64, MemoryMiB: 64 << 10})
	h := fleet.Host("h1")
	for n := range 5 {
		legacy(h, fmt.Sprint("old", n), 1)
	}
	k, _ := racktest.Launch(t, racktest.Options{JoinToken: r.Join("r1"), Fleet: fleet, Configure: func(c *rack.Config) { c.InventoryInterval = time.Second }})
	racktest.Await(t, k)
	addHost(t, r.Admin, h, "r1")
	return r.Admin, etcd, h
}

// What is shown stays fresh, though nothing is written while nothing changes.
func TestInASteadyStateNothingIsWrittenAndTimesStayFresh(t *testing.T) {
	api, etcd, h := live(t)
	host := ready(t, api, h, "r1", nil)
	host = ready(t, api, h, "r1", host) // the whole report and what came of it are done
	before := etcd.Revision(t)
	for range 3 {
		host = ready(t, api, h, "r1", host)
		m := named(t, api, "old1")
		if at := m.GetObserveTime().AsTime(); at.Before(observed(host)) {
			t.Errorf("the host was seen at %v, its machine at %v", observed(host), at)
		}
	}
	if after := etcd.Revision(t); after != before {
		t.Errorf("the revision went from %d to %d", before, after)
	}
}

// happened waits until there are so many events of a type for a machine, and
// says if there are more.
func happened(t *testing.T, api *client.Client, kind, resource string, times int) {
	t.Helper()
	await(t, fmt.Sprintf("%d of %s", times, kind), func(ctx context.Context) error {
		list, err := api.Events.ListEvents(ctx, &vmhostv1.ListEventsRequest{PageSize: 1000, Filter: fmt.Sprintf("type = %q AND resource = %q", kind, resource)})
		if err != nil {
			return err
		}
		if n := len(list.GetEvents()); n > times {
			t.Fatalf("%d of %s for %s", n, kind, resource)
		} else if n < times {
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})
}

// shows waits until a machine has a condition, or with an empty message has it
// not any more.
func shows(t *testing.T, api *client.Client, name, kind, message string) {
	t.Helper()
	await(t, kind+" of "+name, func(ctx context.Context) error {
		m, err := api.Machines.GetMachine(ctx, &vmhostv1.GetMachineRequest{Name: name})
		if err != nil {
			return err
		}
		i := slices.IndexFunc(m.GetConditions(), func(c *vmhostv1.Condition) bool { return c.GetType() == kind })
		switch {
		case message == "" && i >= 0:
			return fmt.Errorf("it has %v", m.GetConditions()[i])
		case message != "" && i < 0:
			return errors.New("it has not")
		case message != "" && !strings.Contains(m.GetConditions()[i].GetMessage(), message):
			return fmt.Errorf("it has %v", m.GetConditions()[i])
		}
		return nil
	})
}

// Somebody works on the hypervisor by hand: what vmhost decided stays, what
// happened is shown and told of once.
func TestWhatHappensToAMachineOutsideIsShownAndToldOfOnce(t *testing.T) {
	api, etcd, h := live(t)
	name := compose(t, api, 1)[0]
	m, err := api.Machines.GetMachine(t.Context(), &vmhostv1.GetMachineRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	uuid := m.GetHypervisorUuid()
	change := func(fill func(o *rackv1.MachineObservation)) {
		o := h.Get(uuid)
		fill(o)
		h.Put(o)
	}
	change(func(o *rackv1.MachineObservation) { o.Name, o.Cores = "renamed", 7 })
	shows(t, api, name, "Changed", "its name is renamed")
	happened(t, api, "machine.changed_outside", name, 1)

	o := h.Get(uuid)
	h.Remove(uuid)
	shows(t, api, name, "Missing", "somebody removed it")
	happened(t, api, "machine.missing", name, 1)
	if host, err := api.VmHosts.GetVmHost(t.Context(), &vmhostv1.GetVmHostRequest{Name: "vmHosts/h1"}); err != nil || host.GetUsage().GetCores().GetCommitted() == 0 {
		t.Errorf("its capacity was given back: %v, %v", host.GetUsage(), err)
	}
	h.Put(o)
	shows(t, api, name, "Missing", "")
	happened(t, api, "machine.found", name, 1)
	change(func(o *rackv1.MachineObservation) { o.Name, o.Cores = m.GetHypervisorName(), m.GetCores() })
	shows(t, api, name, "Changed", "")

	// The host changed with it: how full its pool is. A reading that began before does not have it.
	host := ready(t, api, h, "r1", ready(t, api, h, "r1", ready(t, api, h, "r1", nil)))
	revision := etcd.Revision(t)
	ready(t, api, h, "r1", ready(t, api, h, "r1", host))
	if after := etcd.Revision(t); after != revision {
		t.Errorf("the revision went from %d to %d", revision, after)
	}
	happened(t, api, "machine.missing", name, 1)
}
