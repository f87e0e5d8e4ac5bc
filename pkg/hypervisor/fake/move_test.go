package fake_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/hypervisortest"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func TestFakeKeepsTheRulesOfMovers(t *testing.T) {
	other := spec()
	other.Name = "h2"
	fleet := fake.NewFleet(spec(), other)
	from, to := harness(t, fleet, fleet.Host("h1")), harness(t, fleet, fleet.Host("h2"))
	from.Target.Name, to.Target.Name = "vmHosts/h1", "vmHosts/h2"
	hypervisortest.RunMoves(t, hypervisortest.Moving{From: from, To: to, Live: true})
}

const (
	running = vmhostv1.PowerState_POWER_STATE_ON
	stopped = vmhostv1.PowerState_POWER_STATE_OFF
)

// moving has a running machine "m" on h1 that is to be moved to h2.
func moving(t *testing.T, live bool, test func(from, to *fake.Host, move func(operation string) error)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		fleet := fake.NewFleet(fake.HostSpec{Name: "h", Count: 2})
		from, to := open(t, fleet, "h-1"), open(t, fleet, "h-2")
		c := create("m")
		if _, err := from.Create(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if err := fleet.Host("h-1").Power("m", running); err != nil {
			t.Fatal(err)
		}
		what := &rackv1.MoveMachine{Machine: c.GetMachine(), Moved: c.GetMachine(), Live: live, AllowOffline: !live}
		test(fleet.Host("h-1"), fleet.Host("h-2"), func(operation string) error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := from.(hypervisor.Mover).Move(ctx, open(t, fleet, "h-2"), what, operation)
			return err
		})
		_ = to.Close()
	})
}

// where says on which of two hosts the machine is, and how.
func where(from, to *fake.Host) [2]string {
	var out [2]string
	for i, h := range []*fake.Host{from, to} {
		if m := h.Get("m"); m != nil {
			out[i] = m.GetPowerState().String()
		}
		if n := len(h.Volumes("default")); n > 0 && out[i] == "" {
			out[i] = "volumes"
		}
	}
	return out
}

func TestAMoveThatGoesWrongLeavesTheMachineOnceAndGoesOn_P3(t *testing.T) {
	on, off, paused := running.String(), stopped.String(), vmhostv1.PowerState_POWER_STATE_PAUSED.String()
	for _, test := range []struct {
		name  string
		live  bool
		spoil func(from, to *fake.Host)
		class error
		then  [2]string // on the source and on the destination, after the first try
	}{
		{"refused before the copy", false, func(from, _ *fake.Host) { from.Fail(fake.Move, hypervisor.ErrRefused) }, hypervisor.ErrRefused, [2]string{on, ""}},
		{"the answer is lost", false, func(from, _ *fake.Host) { from.Inject(fake.Move, fake.Fault{AfterEffect: true}) }, hypervisor.ErrTimeout, [2]string{"", on}},
		{"no room", false, func(_, to *fake.Host) { to.Fail(fake.Receive, hypervisor.ErrCapacity) }, hypervisor.ErrCapacity, [2]string{on, ""}},
		{"no room, live", true, func(_, to *fake.Host) { to.Fail(fake.Receive, hypervisor.ErrCapacity) }, hypervisor.ErrCapacity, [2]string{on, ""}},
		{"half copied", true, func(_, to *fake.Host) { to.Inject(fake.Receive, fake.Fault{HalfMade: true}) }, hypervisor.ErrUnreachable, [2]string{on, ""}},
		{"does not start there", false, func(_, to *fake.Host) { to.Fail(fake.SetPower, hypervisor.ErrRefused) }, hypervisor.ErrRefused, [2]string{on, ""}},
		{"started, and the answer is lost", false, func(_, to *fake.Host) { to.Inject(fake.SetPower, fake.Fault{AfterEffect: true}) }, nil, [2]string{"", on}},
		{"arrived live, and the answer is lost", true, func(_, to *fake.Host) { to.Inject(fake.Receive, fake.Fault{AfterEffect: true}) }, nil, [2]string{"", on}},
		{"the source is not removed", false, func(from, _ *fake.Host) { from.Fail(fake.Vacate, hypervisor.ErrBusy) }, hypervisor.ErrBusy, [2]string{off, on}},
		{"the source is not removed, live", true, func(from, _ *fake.Host) { from.Fail(fake.Vacate, hypervisor.ErrBusy) }, hypervisor.ErrBusy, [2]string{paused, on}},
		{"the rack dies", false, func(from, _ *fake.Host) { from.Inject(fake.Move, fake.Fault{HalfMade: true}) }, hypervisor.ErrUnreachable, [2]string{off, off}},
		{"the rack dies, live", true, func(from, _ *fake.Host) { from.Inject(fake.Move, fake.Fault{HalfMade: true}) }, hypervisor.ErrUnreachable, [2]string{paused, on}},
		{"the copy takes for ever", false, func(_, to *fake.Host) { to.Hang(fake.Receive) }, hypervisor.ErrTimeout, [2]string{on, ""}},
		{"volumes of a broken move are there", false, func(_, to *fake.Host) { to.PutVolume("default", "vmhost-m-0", 5) }, nil, [2]string{"", on}},
		{"the destination loses its connections", false, func(_, to *fake.Host) {
			to.Fail(fake.Receive, hypervisor.ErrUnreachable)
			to.PutVolume("default", "vmhost-m-0", 5)
		}, hypervisor.ErrUnreachable, [2]string{on, ""}},
	} {
		t.Run(test.name, func(t *testing.T) {
			moving(t, test.live, func(from, to *fake.Host, move func(operation string) error) {
				test.spoil(from, to)
				if err := move("operations/o"); !errors.Is(err, test.class) {
					t.Errorf("error %v, want %v", err, test.class)
				}
				if got := where(from, to); got != test.then {
					t.Errorf("the machine is %q, want %q", got, test.then)
				}
				if test.name == "the copy takes for ever" {
					to.Hang(fake.Receive)() // the newer release takes the older's place
				}
				if err := move("operations/o"); err != nil {
					t.Fatalf("again: %v", err)
				}
				if got, want := where(from, to), [2]string{"", on}; got != want {
					t.Errorf("at last the machine is %q, want %q", got, want)
				}
				if v := to.Volumes("default"); len(v) != 1 || len(from.Volumes("default")) != 0 {
					t.Errorf("volumes on the source: %v, on the destination: %v", from.Volumes("default"), v)
				}
			})
		})
	}
}

func TestOnlyTheOperationThatStoppedAMachineStartsIt(t *testing.T) {
	moving(t, false, func(from, to *fake.Host, move func(operation string) error) {
		from.Inject(fake.Move, fake.Fault{HalfMade: true})
		_ = move("operations/o")
		if err := move("operations/another"); err != nil {
			t.Fatal(err)
		}
		if got := where(from, to); got != [2]string{"", stopped.String()} {
			t.Errorf("moved by another operation the machine is %q", got)
		}
	})
}

func TestWhatStoppedAMachineOutlivesTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet")
	for i, fault := range []fake.Fault{{HalfMade: true}, {}} {
		fleet, err := fake.NewFleetFile(path, fake.HostSpec{Name: "h", Count: 2})
		if err != nil {
			t.Fatal(err)
		}
		from, to, c := open(t, fleet, "h-1"), open(t, fleet, "h-2"), create("m")
		if i == 0 {
			if _, err := from.Create(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			_ = fleet.Host("h-1").Power("m", running)
		}
		fleet.Host("h-1").Inject(fake.Move, fault)
		_, _ = from.(hypervisor.Mover).Move(t.Context(), to, &rackv1.MoveMachine{Machine: c.GetMachine(), Moved: c.GetMachine(), AllowOffline: true}, "operations/o")
		want := [][2]string{{stopped.String(), stopped.String()}, {"", running.String()}}[i]
		if got := where(fleet.Host("h-1"), fleet.Host("h-2")); got != want {
			t.Errorf("process %d: the machine is %q, want %q", i, got, want)
		}
		if err := fleet.Close(); err != nil {
			t.Error(err)
		}
	}
}
