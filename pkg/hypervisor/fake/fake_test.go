package fake_test

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/hypervisortest"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func harness(t *testing.T, fleet *fake.Fleet, host *fake.Host) hypervisortest.Harness {
	t.Helper()
	address, err := hypervisor.ParseAddress(host.Address())
	if err != nil {
		t.Fatal(err)
	}
	password := func(p string) *vmhostv1.Credential {
		return &vmhostv1.Credential{Kind: &vmhostv1.Credential_Password{Password: p}}
	}
	good := hypervisor.Target{Name: "vmHosts/h1", Address: address, HostKey: "key-1", Credential: password("right")}
	badKey, badPassword := good, good
	badKey.HostKey, badPassword.Credential = "key-2", password("wrong")
	return hypervisortest.Harness{
		Opener: fleet, Target: good, StoragePool: "default", Network: "default",
		AddForeign: func(t testing.TB, f hypervisortest.Foreign) {
			host.Put(&rackv1.MachineObservation{Uuid: f.UUID, Name: f.Name, Cores: f.Cores, MemoryMib: f.MemoryMiB, PowerState: vmhostv1.PowerState_POWER_STATE_OFF})
			t.Cleanup(func() { host.Remove(f.UUID) })
		},
		ForeignState: func(_ testing.TB, uuid string) string { return prototext.Format(host.Get(uuid)) },
		AddVolume:    func(_ testing.TB, pool, name string, size int64) { host.PutVolume(pool, name, size) },
		Volumes:      func(_ testing.TB, pool string) []string { return host.Volumes(pool) },
		ThickPool:    "thick", TooLarge: 1 << 31,
		Disconnect: func(testing.TB) { host.Disconnect() },
		Hang:       func(testing.TB) func() { return host.Hang(fake.Any) },
		ChangeOutside: func(t testing.TB, uuid string) {
			if err := host.Power(uuid, vmhostv1.PowerState_POWER_STATE_ON); err != nil {
				t.Error(err)
			}
		},
		WrongHostKey: &badKey, WrongCredential: &badPassword,
		AddBroken: func(t testing.TB, f hypervisortest.Foreign) {
			host.Put(&rackv1.MachineObservation{Uuid: f.UUID, Name: f.Name, Problem: "as the test asked"})
			t.Cleanup(func() { host.Remove(f.UUID) })
		},
		Guest: &hypervisortest.Guest{Ready: " is up", Type: "hello\r", Answer: "hello"},
		Deaf: func(t testing.TB, _ *rackv1.CreateMachine) {
			host.IgnoreShutdown(true)
			t.Cleanup(func() { host.IgnoreShutdown(false) })
		},
		PinTo: []int32{1, 3},
	}
}

func spec() fake.HostSpec {
	return fake.HostSpec{
		Name: "h1", HostKey: "key-1", Password: "right",
		Pools: []fake.PoolSpec{{Name: "default", CapacityBytes: 1 << 40, Thin: true}, {Name: "thick", CapacityBytes: 1 << 30}},
	}
}

func TestFakeKeepsTheRulesOfDrivers(t *testing.T) {
	fleet := fake.NewFleet(spec())
	hypervisortest.Run(t, harness(t, fleet, fleet.Host("h1")))
}

func TestFakeInAFileKeepsTheRulesOfDrivers(t *testing.T) {
	fleet, err := fake.NewFleetFile(filepath.Join(t.TempDir(), "fleet"), spec())
	if err != nil {
		t.Fatal(err)
	}
	hypervisortest.Run(t, harness(t, fleet, fleet.Host("h1")))
	if err := fleet.Close(); err != nil {
		t.Error(err)
	}
}

func create(uid string) *rackv1.CreateMachine {
	return &rackv1.CreateMachine{Machine: &vmhostv1.Machine{
		Uid: uid, HypervisorName: "m-" + uid, Cores: 1, MemoryMib: 64, Architecture: "x86_64",
		Disks: []*vmhostv1.MachineDisk{{StoragePool: "default", Volume: "vmhost-" + uid + "-0", SizeBytes: 1 << 20}},
	}}
}

func open(t *testing.T, fleet *fake.Fleet, name string) hypervisor.Driver {
	t.Helper()
	d, err := fleet.Open(t.Context(), hypervisor.Target{Address: hypervisor.Address{
		Type: vmhostv1.VmHostType_VM_HOST_TYPE_FAKE, Transport: hypervisor.TransportFake, Host: name,
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestFleetFileOutlivesItsProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet")
	hosts := fake.HostSpec{Name: "h", Count: 3}
	fleet, err := fake.NewFleetFile(path, hosts)
	if err != nil {
		t.Fatal(err)
	}
	d := open(t, fleet, "h-2")
	for _, uid := range []string{"kept", "removed"} {
		if _, err := d.Create(t.Context(), create(uid)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Delete(t.Context(), create("removed").GetMachine()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.SetPower(t.Context(), hypervisor.Ref{UID: "kept"}, rackv1.PowerAction_POWER_ACTION_START, 0); err != nil {
		t.Fatal(err)
	}
	// No Close: a process that is killed does not say goodbye.
	for range 2 {
		again, err := fake.NewFleetFile(path, hosts)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(fleet.Host("h-2").All(), again.Host("h-2").All(), protocmp.Transform()); diff != "" {
			t.Errorf("machines (-before +after):\n%s", diff)
		}
		if got, want := again.Host("h-2").Volumes("default"), []string{"vmhost-kept-0"}; !slices.Equal(got, want) {
			t.Errorf("volumes %v, want %v", got, want)
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := fleet.Close(); err != nil {
		t.Error(err)
	}
}

func TestFaultsHappenOncePerCallInOrder(t *testing.T) {
	fleet := fake.NewFleet(fake.HostSpec{Name: "h1"})
	host, d := fleet.Host("h1"), open(t, fleet, "h1")
	host.Fail(fake.Create, hypervisor.ErrBusy)
	host.Inject(fake.Create, fake.Fault{HalfMade: true}, fake.Fault{AfterEffect: true})
	for i, want := range []struct {
		class    error
		volumes  int
		machines int
	}{{hypervisor.ErrBusy, 0, 0}, {hypervisor.ErrUnreachable, 1, 0}, {hypervisor.ErrTimeout, 1, 1}, {nil, 1, 1}} {
		_, err := d.Create(t.Context(), create("m"))
		if !errors.Is(err, want.class) || len(host.Volumes("default")) != want.volumes || len(host.All()) != want.machines {
			t.Errorf("create %d: error %v, volumes %v, machines %v; want %v, %d, %d", i, err, host.Volumes("default"), host.All(), want.class, want.volumes, want.machines)
		}
	}
	if got := host.Calls(fake.Create); got != 4 {
		t.Errorf("%d calls were counted, want 4", got)
	}
}

func TestCrashTurnsMachinesOffAndRefusesConnections(t *testing.T) {
	fleet := fake.NewFleet(fake.HostSpec{Name: "h1"})
	host, d := fleet.Host("h1"), open(t, fleet, "h1")
	if _, err := d.Create(t.Context(), create("m")); err != nil {
		t.Fatal(err)
	}
	if err := host.Power("m", vmhostv1.PowerState_POWER_STATE_ON); err != nil {
		t.Fatal(err)
	}
	host.Crash()
	if _, err := d.Probe(t.Context()); !errors.Is(err, hypervisor.ErrUnreachable) {
		t.Errorf("probe of a crashed host: %v", err)
	}
	if _, err := fleet.Open(t.Context(), hypervisor.Target{Address: hypervisor.Address{Transport: hypervisor.TransportFake, Host: "h1"}}); !errors.Is(err, hypervisor.ErrUnreachable) {
		t.Errorf("open of a crashed host: %v", err)
	}
	host.Recover()
	m, err := open(t, fleet, "h1").Machine(t.Context(), "m")
	if err != nil || m.GetPowerState() != vmhostv1.PowerState_POWER_STATE_OFF {
		t.Errorf("after recovery: %v, error %v", m, err)
	}
}

func TestANameIsTakenByWhoeverHasItNow(t *testing.T) {
	fleet := fake.NewFleet(fake.HostSpec{Name: "h1"})
	host, d := fleet.Host("h1"), open(t, fleet, "h1")
	name := create("m").GetMachine().GetHypervisorName()
	foreign := func(uuid, name string) { host.Put(&rackv1.MachineObservation{Uuid: uuid, Name: name}) }
	foreign("a", name)
	foreign("b", name) // no hypervisor has that, and none of the two is forgotten
	refused := func(when string) {
		t.Helper()
		if _, err := d.Create(t.Context(), create("m")); !errors.Is(err, hypervisor.ErrForeign) {
			t.Errorf("%s: created beside a machine of that name, error %v", when, err)
		}
	}
	refused("two have it")
	foreign("a", "other")
	refused("one was renamed")
	host.Remove("b")
	foreign("c", name)
	refused("another one has it")
	host.Remove("c")
	if _, err := d.Create(t.Context(), create("m")); err != nil {
		t.Errorf("nobody has it any more: %v", err)
	}
}

func TestAGuestThatIsDeafIsTurnedOffAfterGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fleet := fake.NewFleet(fake.HostSpec{Name: "h1"})
		host, d := fleet.Host("h1"), open(t, fleet, "h1")
		if _, err := d.Create(t.Context(), create("m")); err != nil {
			t.Fatal(err)
		}
		host.IgnoreShutdown(true)
		_ = host.Power("m", vmhostv1.PowerState_POWER_STATE_ON)
		began := time.Now()
		m, err := d.SetPower(t.Context(), hypervisor.Ref{UID: "m"}, rackv1.PowerAction_POWER_ACTION_STOP, time.Minute)
		if took := time.Since(began); err != nil || took != time.Minute || m.GetPowerState() != vmhostv1.PowerState_POWER_STATE_OFF {
			t.Errorf("stopped after %v as %v, error %v", took, m.GetPowerState(), err)
		}
	})
}

func TestFixStartsWhatDoesNotRunOnOneHostOnly(t *testing.T) {
	fleet := fake.NewFleet(fake.HostSpec{
		Name: "h", Count: 2, Pools: []fake.PoolSpec{{Name: "p", CapacityBytes: 1, Inactive: true}}, Networks: []fake.NetworkSpec{{Name: "n", Inactive: true}},
	})
	fixed, err := open(t, fleet, "h-1").(hypervisor.Fixer).Fix(t.Context())
	if want := map[string]string{"storage-pool": "started storage pool p", "network": "started network n"}; err != nil || !cmp.Equal(fixed, want) {
		t.Errorf("fixed %v, error %v; want %v", fixed, err, want)
	}
	for name, want := range map[string]bool{"h-1": true, "h-2": false} {
		o, err := open(t, fleet, name).Probe(t.Context())
		if err != nil || o.GetStoragePools()[0].GetActive() != want || o.GetNetworks()[0].GetActive() != want {
			t.Errorf("%s: %v, error %v; want active %v", name, o, err, want)
		}
	}
}

func TestConsolesEndWithTheirConnection(t *testing.T) {
	fleet := fake.NewFleet(fake.HostSpec{Name: "h1"})
	host, d := fleet.Host("h1"), open(t, fleet, "h1")
	if _, err := d.Create(t.Context(), create("m")); err != nil {
		t.Fatal(err)
	}
	_ = host.Power("m", vmhostv1.PowerState_POWER_STATE_ON)
	c, err := d.(hypervisor.Consoler).OpenConsole(t.Context(), hypervisor.Ref{UID: "m"}, false)
	if err != nil {
		t.Fatal(err)
	}
	host.Say("m", "login:")
	b := make([]byte, 20)
	if n, err := c.Read(b); err != nil || string(b[:n]) != "login:" {
		t.Errorf("read %q, error %v", b[:n], err)
	}
	host.Disconnect()
	if _, err := c.Read(b); !errors.Is(err, hypervisor.ErrUnreachable) {
		t.Errorf("read of a lost connection: %v", err)
	}
}

func TestTenThousandHostsAreCheap(t *testing.T) {
	fleet := fake.NewFleet(fake.HostSpec{Name: "h", Count: 10_000})
	for _, name := range fleet.Names() {
		d := open(t, fleet, name)
		if _, err := d.Create(t.Context(), create("m")); err != nil {
			t.Fatal(err)
		}
		if o, err := d.Probe(t.Context()); err != nil || o.GetHostname() != name {
			t.Fatalf("probe of %s: %v, error %v", name, o, err)
		}
	}
}
