package fake_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const nas = "nfs://nas/vm"

// sharers are two hosts that share a storage pool, by another name on each, and have
// one of their own.
func sharers() []fake.HostSpec {
	local := fake.PoolSpec{Name: "local", CapacityBytes: 1 << 40}
	return []fake.HostSpec{
		{Name: "h-1", Pools: []fake.PoolSpec{{Name: "vm", CapacityBytes: 1 << 40, Shared: nas}, local}},
		{Name: "h-2", Pools: []fake.PoolSpec{{Name: "images", CapacityBytes: 1 << 40, Shared: nas}, local}},
	}
}

// staying is a running machine with a disk in the shared pool and one that is its
// host's alone, and its move.
func staying(t *testing.T, fleet *fake.Fleet, live bool) *rackv1.MoveMachine {
	t.Helper()
	c := create("m")
	c.Machine.Disks = []*vmhostv1.MachineDisk{{StoragePool: "vm", Volume: "vmhost-m-0", SizeBytes: 7}, {StoragePool: "local", Volume: "vmhost-m-1", SizeBytes: 5}}
	from := open(t, fleet, "h-1")
	if _, err := from.Create(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := fleet.Host("h-1").Power("m", running); err != nil {
		t.Fatal(err)
	}
	fleet.Host("h-1").Write("vm", "vmhost-m-0", "precious")
	moved := proto.CloneOf(c.GetMachine())
	moved.Disks[0].StoragePool = "images"
	return &rackv1.MoveMachine{Machine: c.GetMachine(), Moved: moved, StayingDisks: []int32{0}, Live: live, AllowOffline: !live}
}

// checkKept checks that both hosts show the one volume, as it was.
func checkKept(t *testing.T, from, to *fake.Host) {
	t.Helper()
	for _, side := range []struct {
		host *fake.Host
		pool string
	}{{from, "vm"}, {to, "images"}} {
		if got, there := side.host.Read(side.pool, "vmhost-m-0"); !there || got != "precious" {
			t.Errorf("%s has %q in the disk that stays (there: %v)", side.host.Name(), got, there)
		}
	}
}

func TestADiskThatStaysIsLeftAloneHoweverAMoveGoes_P3(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(from, to *fake.Host)
		class error
	}{
		{"well", func(_, _ *fake.Host) {}, nil},
		{"refused before the copy", func(from, _ *fake.Host) { from.Fail(fake.Move, hypervisor.ErrRefused) }, hypervisor.ErrRefused},
		{"the answer is lost", func(from, _ *fake.Host) { from.Inject(fake.Move, fake.Fault{AfterEffect: true}) }, hypervisor.ErrTimeout},
		{"no room", func(_, to *fake.Host) { to.Fail(fake.Receive, hypervisor.ErrCapacity) }, hypervisor.ErrCapacity},
		{"half copied", func(_, to *fake.Host) { to.Inject(fake.Receive, fake.Fault{HalfMade: true}) }, hypervisor.ErrUnreachable},
		{"arrived, and the answer is lost", func(_, to *fake.Host) { to.Inject(fake.Receive, fake.Fault{AfterEffect: true}) }, hypervisor.ErrTimeout},
		{"the source is not removed", func(from, _ *fake.Host) { from.Fail(fake.Vacate, hypervisor.ErrBusy) }, hypervisor.ErrBusy},
		{"the rack dies", func(from, _ *fake.Host) { from.Inject(fake.Move, fake.Fault{HalfMade: true}) }, hypervisor.ErrUnreachable},
	} {
		for _, live := range []bool{true, false} {
			t.Run(test.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					fleet := fake.NewFleet(sharers()...)
					what := staying(t, fleet, live)
					from, to := fleet.Host("h-1"), fleet.Host("h-2")
					move := func() error {
						_, err := open(t, fleet, "h-1").(hypervisor.Mover).Move(t.Context(), open(t, fleet, "h-2"), what, "operations/o")
						return err
					}
					test.spoil(from, to)
					if err := move(); test.class == nil && err != nil || test.class != nil && err != nil && !errors.Is(err, test.class) {
						t.Errorf("error %v, want %v", err, test.class)
					}
					checkKept(t, from, to)
					if err := move(); err != nil {
						t.Fatalf("again: %v", err)
					}
					checkKept(t, from, to)
					if from.Get("m") != nil || to.Get("m").GetPowerState() != running || to.Get("m").GetDisks()[0].GetStoragePool() != "images" {
						t.Errorf("on the source %v, on the destination %v", from.Get("m"), to.Get("m"))
					}
					if a, b := from.Volumes("local"), to.Volumes("local"); len(a) != 0 || len(b) != 1 {
						t.Errorf("the disk that is copied: %v on the source, %v on the destination", a, b)
					}
				})
			})
		}
	}
}

// What is to stay and cannot, and what would be copied onto itself, is refused before
// anything is touched.
func TestAMoveThatWouldLoseADiskIsRefused_P3(t *testing.T) {
	for word, spoil := range map[string]func(what *rackv1.MoveMachine){
		"not the same":          func(what *rackv1.MoveMachine) { what.Moved.Disks[0].StoragePool = "local" },
		"onto itself":           func(what *rackv1.MoveMachine) { what.StayingDisks = nil },
		"has no volume":         func(what *rackv1.MoveMachine) { what.Moved.Disks[0].Volume = "another" },
		"none of that number":   func(what *rackv1.MoveMachine) { what.StayingDisks = []int32{0, 9} },
		"and disk 1 is to stay": func(what *rackv1.MoveMachine) { what.StayingDisks = []int32{0, 1} },
	} {
		t.Run(word, func(t *testing.T) {
			fleet := fake.NewFleet(sharers()...)
			what := staying(t, fleet, true)
			spoil(what)
			_, err := open(t, fleet, "h-1").(hypervisor.Mover).Move(t.Context(), open(t, fleet, "h-2"), what, "operations/o")
			if !errors.Is(err, hypervisor.ErrRefused) || !strings.Contains(err.Error(), word) {
				t.Errorf("answered %v", err)
			}
			checkKept(t, fleet.Host("h-1"), fleet.Host("h-2"))
			if fleet.Host("h-1").Get("m").GetPowerState() != running || fleet.Host("h-2").Get("m") != nil {
				t.Error("the machine was touched")
			}
		})
	}
}

// Both hosts show one pool, each as it names it, and only the host with the machine
// says that the volume is ours.
func TestHostsThatShareAPoolShowTheSameVolumes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet")
	for range 2 { // made, and read back
		fleet, err := fake.NewFleetFile(path, sharers()...)
		if err != nil {
			t.Fatal(err)
		}
		if fleet.Host("h-1").Get("m") == nil {
			staying(t, fleet, true)
		}
		checkKept(t, fleet.Host("h-1"), fleet.Host("h-2"))
		for host, want := range map[string]int64{"h-1": 7, "h-2": 0} {
			o, _, err := open(t, fleet, host).Inventory(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if p := o.GetStoragePools()[0]; p.GetShared() != nas || p.GetAllocationBytes() != 7 || p.GetOursBytes() != want || len(p.GetUnclaimedBytes()) != 0 {
				t.Errorf("%s has %v", host, p)
			}
		}
		if err := fleet.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
