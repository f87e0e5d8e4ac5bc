package component

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/vmhost-project/vmhost/pkg/client"
	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack/racktest"
)

// pair is two hosts of one rack, with machines on the first.
type pair struct {
	t      *testing.T
	api    *client.Client
	h1, h2 *fake.Host
	fleet  *fake.Fleet
	rack   racktest.Options
	stop   func() error
	names  map[string]string // by hostname
}

func newPair(t *testing.T) *pair {
	t.Helper()
	r := start(t, nil)
	p := &pair{t: t, api: r.Admin, fleet: fake.NewFleet(fake.HostSpec{Name: "h1"}, fake.HostSpec{Name: "h2"}), names: map[string]string{}}
	p.h1, p.h2 = p.fleet.Host("h1"), p.fleet.Host("h2")
	p.rack = racktest.Options{JoinToken: r.Join("r1"), Fleet: p.fleet, DataDir: t.TempDir()}
	k, stop := racktest.Launch(t, p.rack)
	p.stop = stop
	racktest.Await(t, k)
	addHost(t, p.api, p.h1, "r1")
	addHost(t, p.api, p.h2, "r1")
	for hostname, runs := range map[string]bool{"on": true, "off": false} {
		req := order(hostname)
		req.VmHost, req.Start = "vmHosts/h1", runs
		op, err := p.api.Machines.ComposeMachine(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		p.names[hostname] = succeed(t, p.api, op.GetName()).GetTarget()
	}
	return p
}

func (p *pair) move(hostname string) string {
	p.t.Helper()
	op, err := p.api.Machines.MoveMachine(p.t.Context(), &vmhostv1.MoveMachineRequest{Name: p.names[hostname], AllowOffline: true})
	if err != nil {
		p.t.Fatal(err)
	}
	return op.GetName()
}

// are says if the machines are not on these hosts, each once and as it was, in the
// API and on the hypervisors, or if hosts do not carry what is on them (P3, P4).
func (p *pair) are(hosts map[string]string) {
	p.t.Helper()
	await(p.t, fmt.Sprintf("machines on %v", hosts), func(ctx context.Context) error {
		carried := map[string]int64{}
		for hostname, host := range hosts {
			m, err := p.api.Machines.GetMachine(ctx, &vmhostv1.GetMachineRequest{Name: p.names[hostname]})
			if err != nil {
				return err
			}
			on := m.GetPowerState() == vmhostv1.PowerState_POWER_STATE_ON
			if m.GetVmHost() != "vmHosts/"+host || on != (hostname == "on") || len(m.GetConditions()) > 0 || m.GetOperation() != "" {
				return fmt.Errorf("%s is on %s, %v: %v", hostname, m.GetVmHost(), m.GetPowerState(), m.GetConditions())
			}
			for _, h := range []*fake.Host{p.h1, p.h2} {
				if there := h.Get(m.GetHypervisorUuid()) != nil; there != (h.Name() == host) {
					return fmt.Errorf("%s is there on %s: %v", hostname, h.Name(), there)
				}
			}
			carried[host] += int64(m.GetCores())
		}
		for _, h := range []*fake.Host{p.h1, p.h2} {
			spec, err := p.api.VmHosts.GetVmHost(ctx, &vmhostv1.GetVmHostRequest{Name: "vmHosts/" + h.Name()})
			if err != nil {
				return err
			}
			if c := spec.GetUsage().GetCores(); c.GetCommitted() != carried[h.Name()] || c.GetForeign() != 0 {
				return fmt.Errorf("%s carries %v", h.Name(), c)
			}
		}
		return nil
	})
	list, err := p.api.Machines.ListMachines(p.t.Context(), &vmhostv1.ListMachinesRequest{})
	if err != nil || len(list.GetMachines()) != len(p.names) {
		p.t.Errorf("%d machines are listed, %v", len(list.GetMachines()), err)
	}
}

// P3, P4: whatever goes wrong on the way, the machine is on one host in the end, as
// it was, and holds room there only.
func TestP3P4AMoveEndsWithTheMachineOnOneHostWhateverGoesWrong(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	at := map[string]string{"on": "h1", "off": "h1"}
	for _, hostname := range []string{"on", "off"} {
		for word, fault := range map[string]struct {
			on     func() *fake.Host
			method fake.Method
			fault  fake.Fault
			stays  bool
		}{
			"nothing":                   {},
			"dies in the middle":        {method: fake.Move, fault: fake.Fault{HalfMade: true}},
			"not known whether done":    {method: fake.Move, fault: fake.Fault{AfterEffect: true}},
			"the copy breaks":           {on: p.other(at, hostname), method: fake.Receive, fault: fake.Fault{Err: hypervisor.ErrUnreachable}},
			"the copy is refused":       {on: p.other(at, hostname), method: fake.Receive, fault: fake.Fault{Err: hypervisor.ErrCapacity}, stays: true},
			"the source is not removed": {method: fake.Vacate, fault: fake.Fault{Err: hypervisor.ErrBusy}},
		} {
			t.Run(hostname+", "+word, func(t *testing.T) {
				p.t = t
				from := p.fleet.Host(at[hostname])
				host := from
				if fault.on != nil {
					host = fault.on()
				}
				if fault.method != fake.Any {
					host.Inject(fault.method, fault.fault)
				}
				op := finish(t, p.api, p.move(hostname))
				if good := op.GetPhase() == vmhostv1.OperationPhase_OPERATION_PHASE_SUCCEEDED; good == fault.stays {
					t.Errorf("operation %v", op)
				}
				if !fault.stays {
					at[hostname] = map[string]string{"h1": "h2", "h2": "h1"}[at[hostname]]
				}
				p.are(at)
			})
		}
	}
}

// other is the host that a machine is not on, when it is asked.
func (p *pair) other(at map[string]string, hostname string) func() *fake.Host {
	return func() *fake.Host {
		if at[hostname] == "h1" {
			return p.h2
		}
		return p.h1
	}
}

// P3, P6: a rack that ends in the middle of copying goes on when it is back.
func TestP3P6AMoveGoesOnWhenItsRackIsBack(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	release := p.h2.Hang(fake.Receive)
	op := p.move("off")
	await(t, "the copying", func(context.Context) error {
		if p.h2.Calls(fake.Receive) == 0 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	release()
	p.rack.JoinToken = ""
	racktest.Start(t, p.rack)
	succeed(t, p.api, op)
	p.are(map[string]string{"on": "h1", "off": "h2"})
}

// A drain empties a host, and says how; its plan says so before.
func TestADrainEmptiesAHost(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	want := map[string]string{p.names["on"]: "live", p.names["off"]: "offline"}
	check := func(op *vmhostv1.Operation) {
		t.Helper()
		res := &vmhostv1.DrainVmHostResult{}
		if err := op.GetResponse().UnmarshalTo(res); err != nil {
			t.Fatal(err)
		}
		if res.GetMoved() != 2 || res.GetStayed() != 0 || len(res.GetMachines()) != 2 {
			t.Errorf("%v", res)
		}
		for _, d := range res.GetMachines() {
			if d.GetTo() != "vmHosts/h2" || d.GetHow() != want[d.GetMachine()] || d.GetError() != nil {
				t.Errorf("%v", d)
			}
		}
	}
	plan, err := p.api.VmHosts.DrainVmHost(t.Context(), &vmhostv1.DrainVmHostRequest{Name: "vmHosts/h1", ValidateOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	check(plan)
	op, err := p.api.VmHosts.DrainVmHost(t.Context(), &vmhostv1.DrainVmHostRequest{Name: "vmHosts/h1"})
	if err != nil {
		t.Fatal(err)
	}
	check(succeed(t, p.api, op.GetName()))
	p.are(map[string]string{"on": "h2", "off": "h2"})
	h, err := p.api.VmHosts.GetVmHost(t.Context(), &vmhostv1.GetVmHostRequest{Name: "vmHosts/h1"})
	if err != nil || !h.GetCordoned() {
		t.Errorf("the host is %v, %v", h, err)
	}
	_, err = p.api.Machines.MoveMachine(t.Context(), &vmhostv1.MoveMachineRequest{Name: p.names["off"], VmHost: "vmHosts/h1"})
	if err == nil || !strings.Contains(err.Error(), "cordoned") {
		t.Errorf("moved to the cordoned host: %v", err)
	}
}
