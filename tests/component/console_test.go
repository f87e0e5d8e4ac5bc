package component

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/client"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack/racktest"
	"github.com/vmhost-project/vmhost/services/region"
	"github.com/vmhost-project/vmhost/services/region/regiontest"
)

// talking is a region with a rack, a host and a machine that runs.
type talking struct {
	region  *regiontest.Region
	host    *fake.Host
	machine *vmhostv1.Machine
	rack    func() error // stops it
}

func startTalking(t *testing.T) *talking {
	t.Helper()
	r := start(t, nil)
	fleet := fake.NewFleet(fake.HostSpec{Name: "h1"})
	k, stop := racktest.Launch(t, racktest.Options{JoinToken: r.Join("r1"), Fleet: fleet})
	racktest.Await(t, k)
	x := &talking{region: r, host: fleet.Host("h1"), rack: stop}
	addHost(t, r.Admin, x.host, "r1")
	x.machine = running(t, r.Admin, "talker")
	return x
}

// running composes a machine that runs.
func running(t *testing.T, api *client.Client, hostname string) *vmhostv1.Machine {
	t.Helper()
	req := order(hostname)
	req.Start = true
	op, err := api.Machines.ComposeMachine(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	name := succeed(t, api, op.GetName()).GetTarget()
	m, err := api.Machines.GetMachine(t.Context(), &vmhostv1.GetMachineRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (x *talking) uuid() string { return strings.TrimPrefix(x.machine.GetName(), "machines/") }

// expect reads until a text has come.
func expect(t *testing.T, from io.Reader, text string) {
	t.Helper()
	got := make(chan error, 1)
	var all bytes.Buffer
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := from.Read(buf)
			all.Write(buf[:n])
			if strings.Contains(all.String(), text) {
				err = nil
			} else if err == nil {
				continue
			}
			got <- err
			return
		}
	}()
	select {
	case err := <-got:
		if err != nil {
			t.Fatalf("read %q and %v, want %q", all.String(), err, text)
		}
	case <-time.After(limit):
		t.Fatalf("no %q in %v", text, limit)
	}
}

// ends reads until the console's end, and answers why it ended.
func ends(t *testing.T, c *client.Console) error {
	t.Helper()
	end := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, c)
		end <- err
	}()
	select {
	case err := <-end:
		return err
	case <-time.After(limit):
		t.Fatalf("the console did not end in %v", limit)
		return nil
	}
}

func refused(t *testing.T, err error, code codes.Code, reason vmhostv1.ErrorReason) {
	t.Helper()
	e := apierror.FromStatus(err)
	if err == nil || e.Code != code || e.Reason != reason || e.Hint == "" && reason != vmhostv1.ErrorReason_UNSUPPORTED {
		t.Errorf("error %v (%v, %v, hint %q), want %v and %v with a hint", err, e.Code, e.Reason, e.Hint, code, reason)
	}
}

func attach(t *testing.T, api *client.Client, machine string, force bool) *client.Console {
	t.Helper()
	c, err := api.AttachConsole(t.Context(), machine, force)
	if err != nil {
		t.Fatalf("attach: %v (%s)", err, apierror.FromStatus(err).Hint)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestAConsoleWorksFromClientToMachineAndBack(t *testing.T) {
	x := startTalking(t)
	c := attach(t, x.region.Admin, x.machine.GetName(), false)
	if c.Machine != x.machine.GetName() || c.Rack != "racks/r1" {
		t.Errorf("attached to %s by %s", c.Machine, c.Rack)
	}
	if _, err := c.Write([]byte("hello\r")); err != nil {
		t.Fatal(err)
	}
	expect(t, c, "hello\r") // the fake's guest writes back what it reads
	x.host.Say(x.uuid(), "login: ")
	expect(t, c, "login: ")
	big := strings.Repeat("0123456789abcdef", 10<<10)
	go func() { _, _ = c.Write([]byte(big + "END")) }()
	expect(t, c, "END")

	// Nobody else gets it, but by force.
	_, err := x.region.Admin.AttachConsole(t.Context(), x.machine.GetName(), false)
	refused(t, err, codes.FailedPrecondition, vmhostv1.ErrorReason_CONSOLE_BUSY)
	other := attach(t, x.region.Admin, x.machine.GetName(), true)
	refused(t, ends(t, c), codes.FailedPrecondition, vmhostv1.ErrorReason_CONSOLE_BUSY)
	if _, err := other.Write([]byte("mine")); err != nil {
		t.Fatal(err)
	}
	expect(t, other, "mine")

	// It ends when the machine stops, and cannot be had of one that is off.
	if err := x.host.Power(x.uuid(), vmhostv1.PowerState_POWER_STATE_OFF); err != nil {
		t.Fatal(err)
	}
	if err := ends(t, other); err != nil {
		t.Errorf("at the machine's end the console ended with %v", err)
	}
	_, err = x.region.Admin.AttachConsole(t.Context(), x.machine.GetName(), false)
	refused(t, err, codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE)

	var log bytes.Buffer
	if err := x.region.Admin.ReadConsoleLog(t.Context(), x.machine.GetName(), 0, &log); err != nil || !strings.HasSuffix(log.String(), "mine") {
		t.Errorf("the log of a machine that is off ends in %q, %v", log.String()[max(0, log.Len()-20):], err)
	}
	log.Reset()
	if err := x.region.Admin.ReadConsoleLog(t.Context(), x.machine.GetName(), 3, &log); err != nil || log.String() != "ine" {
		t.Errorf("the last 3 bytes are %q, %v", log.String(), err)
	}
}

func TestWhoHadAConsoleIsRecorded(t *testing.T) {
	x := startTalking(t)
	alice := x.region.Client(x.region.Token("alice", "composer"))
	attach(t, alice, x.machine.GetName(), false).Close()
	var kinds []string
	await(t, "the events", func(ctx context.Context) error {
		list, err := x.region.Admin.Events.ListEvents(ctx, &vmhostv1.ListEventsRequest{PageSize: 1000})
		if err != nil {
			return err
		}
		kinds = nil
		for _, e := range list.GetEvents() {
			if strings.HasPrefix(e.GetType(), "machine.console_") && e.GetResource() == x.machine.GetName() && e.GetPrincipal() == "alice" {
				kinds = append(kinds, e.GetType())
			}
		}
		if len(kinds) != 2 {
			return errNotYet
		}
		return nil
	})
	if kinds[0] != "machine.console_closed" || kinds[1] != "machine.console_opened" {
		t.Errorf("events, newest first: %v", kinds)
	}
	viewer := x.region.Client(x.region.Token("eve", "viewer"))
	if _, err := viewer.AttachConsole(t.Context(), x.machine.GetName(), false); apierror.Reason(err) != vmhostv1.ErrorReason_PERMISSION_DENIED {
		t.Errorf("who may only look got %v", err)
	}
	if n := len(x.region.Logs()); !strings.Contains(x.region.Logs(), `"console opened"`) {
		t.Errorf("nothing of it in %d bytes of log", n)
	}
}

func TestAConsoleThatCannotBeHadSaysWhy_P9(t *testing.T) {
	x := startTalking(t)
	api := x.region.Admin
	_, err := api.AttachConsole(t.Context(), "machines/none", false)
	if e := apierror.FromStatus(err); e.Reason != vmhostv1.ErrorReason_NOT_FOUND {
		t.Errorf("of no machine: %v", err)
	}
	stream, err := api.Machines.AttachConsole(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.Send(&vmhostv1.AttachConsoleRequest{Message: &vmhostv1.AttachConsoleRequest_Data{Data: []byte("x")}})
	if _, err := stream.Recv(); apierror.Reason(err) != vmhostv1.ErrorReason_INVALID_FIELD {
		t.Errorf("without a name: %v", err)
	}
	if err := x.rack(); err != nil {
		t.Fatal(err)
	}
	await(t, "the rack to be missed", func(ctx context.Context) error {
		_, err := api.AttachConsole(ctx, x.machine.GetName(), false)
		if apierror.Reason(err) == vmhostv1.ErrorReason_NO_RACK {
			refused(t, err, codes.Unavailable, vmhostv1.ErrorReason_NO_RACK)
			return nil
		}
		return errors.Join(errNotYet, err)
	})
}

func TestAConsoleEndsWithItsRackItsHostAndItsRegion(t *testing.T) {
	x := startTalking(t)
	c := attach(t, x.region.Admin, x.machine.GetName(), false)
	x.host.Disconnect() // the hypervisor's connection is lost
	refused(t, ends(t, c), codes.Unavailable, vmhostv1.ErrorReason_HOST_UNREACHABLE)
	await(t, "the host to be back", func(context.Context) error {
		again, err := x.region.Admin.AttachConsole(t.Context(), x.machine.GetName(), false) //nolint:contextcheck // it outlives the wait
		if err == nil {
			c = again
		}
		return err
	})
	stopped := make(chan error, 1)
	go func() { stopped <- x.rack() }()
	refused(t, ends(t, c), codes.Unavailable, vmhostv1.ErrorReason_NO_RACK)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestADrainingRegionEndsConsolesWithAReason(t *testing.T) {
	x := startTalking(t)
	c := attach(t, x.region.Admin, x.machine.GetName(), false)
	began := time.Now()
	go x.region.Stop()
	refused(t, ends(t, c), codes.Unavailable, vmhostv1.ErrorReason_REGION_DRAINING)
	x.region.Stop()
	if took := time.Since(began); took > limit/4 {
		t.Errorf("the region took %v to stop", took)
	}
}

// The client is at one region, the rack's session at the other.
func TestAConsoleGoesThroughTheRegionThatTheRackIsNotAt(t *testing.T) {
	etcd := regiontest.NewEtcd(t)
	one, two := start(t, etcd), start(t, etcd)
	fleet := fake.NewFleet(fake.HostSpec{Name: "h1"})
	k := racktest.Start(t, racktest.Options{JoinToken: one.Join("r1"), Fleet: fleet, Regions: []string{one.RackEndpoint}})
	racktest.Await(t, k)
	addHost(t, one.Admin, fleet.Host("h1"), "r1")
	m := running(t, one.Admin, "far")
	c := attach(t, two.Admin, m.GetName(), false)
	if _, err := c.Write([]byte("across")); err != nil {
		t.Fatal(err)
	}
	expect(t, c, "across")
	_, err := one.Admin.AttachConsole(t.Context(), m.GetName(), false)
	refused(t, err, codes.FailedPrecondition, vmhostv1.ErrorReason_CONSOLE_BUSY)

	deaf := regiontest.Start(t, regiontest.Options{Etcd: etcd, Configure: func(cfg *region.Config) { cfg.RackListen = "0.0.0.0:0" }})
	began := time.Now()
	_, err = deaf.Admin.AttachConsole(t.Context(), m.GetName(), true)
	refused(t, err, codes.Unavailable, vmhostv1.ErrorReason_NO_RACK)
	if hint := apierror.FromStatus(err).Hint; !strings.Contains(hint, "rack_advertise") || time.Since(began) > 10*time.Second {
		t.Errorf("after %v the hint is %q", time.Since(began), hint)
	}
}
