package lxd

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/lxdtest"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// container is one to create; whatever becomes of it is removed at the end.
func container(t *testing.T, d *Driver, network string) *rackv1.CreateMachine {
	t.Helper()
	uid := uuid.NewString()
	m := &vmhostv1.Machine{
		Name: "machines/" + uid, Uid: uid, HypervisorUuid: uid, Hostname: "real-" + uid[:8], HypervisorName: "real-" + uid[:8],
		Operation: "operations/1", VmHost: "vmHosts/x", Architecture: "x86_64", Cores: 2, MemoryMib: 256,
		Type: vmhostv1.MachineType_MACHINE_TYPE_CONTAINER, Image: "tiny",
		Disks: []*vmhostv1.MachineDisk{
			{StoragePool: "default", Volume: volumePrefix(uid) + "0", SizeBytes: 64<<20 + 1},
			{StoragePool: "default", Volume: volumePrefix(uid) + "1", SizeBytes: 32<<20 + 4097},
		},
	}
	if network != "" {
		m.Interfaces = []*vmhostv1.MachineInterface{{
			Mac: "52:54:00:" + uid[0:2] + ":" + uid[2:4] + ":" + uid[4:6], Source: network, Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK,
		}}
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if d.conn.isDead() {
			return
		}
		if err := d.Delete(ctx, m); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return &rackv1.CreateMachine{Machine: m}
}

func power(t *testing.T, d *Driver, uid string, action rackv1.PowerAction, grace time.Duration) *rackv1.MachineObservation {
	t.Helper()
	o, err := d.SetPower(timeout(t, time.Minute), hypervisor.Ref{UID: uid}, action, grace)
	if err != nil {
		t.Fatalf("%v: %v", action, err)
	}
	return o
}

// awaitAddress waits for the event after which a machine has an address.
func awaitAddress(t *testing.T, d *Driver, events <-chan hypervisor.Event, uid string) string {
	t.Helper()
	limit := time.After(2 * time.Minute) // a container takes long where others use the machine
	for {
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatal("the events ended")
			}
			if e.UUID != uid {
				continue
			}
			o, err := d.Machine(timeout(t, 10*time.Second), uid)
			if err != nil {
				t.Fatal(err)
			}
			if a := o.GetInterfaces()[0].GetAddresses(); len(a) > 0 && strings.Contains(a[0], ".") {
				return a[0]
			}
		case <-limit:
			t.Fatal("no address")
		}
	}
}

// checkContainer makes, starts, looks at and removes a container with two cores,
// 256 MiB and one more volume.
func checkContainer(t *testing.T, d *Driver, network string) string {
	t.Helper()
	ctx := timeout(t, 4*time.Minute)
	events, err := d.Events(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c := container(t, d, network)
	m := c.GetMachine()
	made, err := d.Create(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if made.GetCores() != 2 || made.GetMemoryMib() != 256 || len(made.GetDisks()) != 2 || made.GetDisks()[0].GetSizeBytes() != 64<<20+1 ||
		made.GetDisks()[1].GetSizeBytes() != 32<<20+4097 || made.GetUid() != m.GetUid() || made.GetUuid() != m.GetUid() || made.GetProblem() != "" {
		t.Errorf("made %v", made)
	}
	began := time.Now()
	if o := power(t, d, m.GetUid(), rackv1.PowerAction_POWER_ACTION_START, 0); o.GetPowerState() != vmhostv1.PowerState_POWER_STATE_ON {
		t.Errorf("after a start it is %v", o.GetPowerState())
	}
	if network != "" {
		address := awaitAddress(t, d, events, m.GetUid())
		t.Logf("%s after %v", address, time.Since(began))
		list, err := d.Machines(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range list {
			if o.GetUuid() == m.GetUid() && !slices.Contains(o.GetInterfaces()[0].GetAddresses(), address) {
				t.Errorf("listed with the addresses %v, want %s", o.GetInterfaces()[0].GetAddresses(), address)
			}
		}
	}
	// The guest hears SIGPWR.
	began = time.Now()
	if o := power(t, d, m.GetUid(), rackv1.PowerAction_POWER_ACTION_STOP, 20*time.Second); o.GetPowerState() != vmhostv1.PowerState_POWER_STATE_OFF || time.Since(began) > 15*time.Second {
		t.Errorf("after a stop of %v it is %v", time.Since(began), o.GetPowerState())
	}
	if err := d.Delete(ctx, m); err != nil {
		t.Fatal(err)
	}
	return m.GetUid()
}

// everything is all that a server holds, but for times of use.
func everything(t *testing.T, s lxdtest.Server) string {
	t.Helper()
	var out strings.Builder
	for _, path := range []string{
		"/1.0/instances?recursion=1&all-projects=true", "/1.0/storage-pools/default/volumes/custom?recursion=1", "/1.0/storage-pools/btrfs/volumes/custom?recursion=1",
		"/1.0/networks?recursion=1", "/1.0/profiles?recursion=1", "/1.0/projects?recursion=1",
	} {
		out.WriteString(path + "\n" + s.Lxc(t, "query", path) + "\n")
	}
	return out.String()
}

func TestRealContainerLivesAndLeavesTheServerAsItWas(t *testing.T) {
	s := lxdtest.Devhost(t, "lxd2")
	d := openTarget(t, NewOpener(Config{}), targetOf(t, s))
	outside{Server: s, project: "default"}.add(t, "foreign-beside", map[string]string{"limits.cpu": "0-1", "limits.memory": "10%"})
	before := everything(t, s)
	checkContainer(t, d, "lxdbr0")
	if diff := cmp.Diff(before, everything(t, s)); diff != "" {
		t.Errorf("the server (-before +after):\n%s", diff)
	}
}

func TestRealVirtualMachineIsRefusedWhereNoneCanRun(t *testing.T) {
	d := overSocket(t, lxdtest.Devhost(t, "lxd1"), "")
	c := container(t, d, "lxdbr0")
	c.Machine.Type, c.Machine.Image = vmhostv1.MachineType_MACHINE_TYPE_VIRTUAL_MACHINE, ""
	o, err := d.Probe(timeout(t, 20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if o.GetKvm() || !slices.Contains(o.GetCapabilities(), "containers") {
		t.Fatalf("kvm %v, capabilities %v", o.GetKvm(), o.GetCapabilities())
	}
	if slices.Contains(o.GetCapabilities(), "virtual-machines") {
		t.Error("it says that it runs virtual machines")
	}
	_, err = d.Create(timeout(t, 20*time.Second), c)
	wantClass(t, err, hypervisor.ErrUnsupported)
	if err == nil || !strings.Contains(err.Error(), "KVM") {
		t.Errorf("error %v does not say what is missing", err)
	}
}

func TestRealWhatIsNotThereIsNamed(t *testing.T) {
	d := overSocket(t, lxdtest.Devhost(t, "lxd1"), "")
	for what, spoil := range map[string]func(m *vmhostv1.Machine){
		"no-such-pool":    func(m *vmhostv1.Machine) { m.Disks[0].StoragePool = "no-such-pool" },
		"no-such-network": func(m *vmhostv1.Machine) { m.Interfaces[0].Source = "no-such-network" },
		"no-such-image":   func(m *vmhostv1.Machine) { m.Image = "no-such-image" },
		"no-such-profile": func(m *vmhostv1.Machine) { m.Profiles = []string{"no-such-profile"} },
	} {
		t.Run(what, func(t *testing.T) {
			c := container(t, d, "lxdbr0")
			spoil(c.GetMachine())
			_, err := d.Create(timeout(t, 20*time.Second), c)
			wantClass(t, err, hypervisor.ErrNotFound)
			if err == nil || !strings.Contains(err.Error(), what) {
				t.Errorf("error %v does not name %s", err, what)
			}
		})
	}
}

func TestRealFixedAddressIsGiven(t *testing.T) {
	s := lxdtest.Devhost(t, "lxd1")
	d := overSocket(t, s, "")
	ctx := timeout(t, time.Minute)
	bridge := s.Lxc(t, "network", "get", "lxdbr0", "ipv4.address")
	want := bridge[:strings.LastIndexByte(bridge, '.')] + ".77"
	c := container(t, d, "lxdbr0")
	c.Machine.Interfaces[0].FixedAddress = want
	events, err := d.Events(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if o, err := d.Create(ctx, c); err != nil || o.GetInterfaces()[0].GetFixedAddress() != want {
		t.Fatalf("%v, error %v", o, err)
	}
	power(t, d, c.GetMachine().GetUid(), rackv1.PowerAction_POWER_ACTION_START, 0)
	if got := awaitAddress(t, d, events, c.GetMachine().GetUid()); got != want {
		t.Errorf("address %s, want %s", got, want)
	}
}

func TestRealCopyOfAMachineIsForeign(t *testing.T) {
	s := lxdtest.Devhost(t, "lxd1")
	d := overSocket(t, s, "")
	ctx := timeout(t, time.Minute)
	c := container(t, d, "")
	c.Machine.Disks = c.GetMachine().GetDisks()[:1]
	m := c.GetMachine()
	if _, err := d.Create(ctx, c); err != nil {
		t.Fatal(err)
	}
	name := m.GetHypervisorName() + "-copy"
	s.Clean(t, name)
	s.Lxc(t, "copy", m.GetHypervisorName(), name)
	list, err := d.Machines(ctx)
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(list, func(o *rackv1.MachineObservation) bool { return o.GetName() == name })
	if at < 0 || list[at].GetUid() != "" || list[at].GetUuid() == m.GetUid() {
		t.Fatalf("the copy is %v, want it there without our uid", list)
	}
	_, err = d.SetPower(ctx, hypervisor.Ref{UID: m.GetUid(), UUID: list[at].GetUuid()}, rackv1.PowerAction_POWER_ACTION_START, 0)
	wantClass(t, err, hypervisor.ErrForeign)
}

func TestRealMachineRenamedOutsideIsStillTheSame(t *testing.T) {
	s := lxdtest.Devhost(t, "lxd1")
	d := overSocket(t, s, "")
	ctx := timeout(t, time.Minute)
	c := container(t, d, "")
	m := c.GetMachine()
	if _, err := d.Create(ctx, c); err != nil {
		t.Fatal(err)
	}
	name := m.GetHypervisorName() + "-renamed"
	s.Clean(t, name)
	s.Lxc(t, "rename", m.GetHypervisorName(), name)
	if o, err := d.Machine(ctx, m.GetUid()); err != nil || o.GetName() != name || o.GetUid() != m.GetUid() {
		t.Errorf("%v, error %v", o, err)
	}
	ref := hypervisor.RefOf(m)
	if o, err := d.SetPower(ctx, ref, rackv1.PowerAction_POWER_ACTION_START, 0); err != nil || o.GetPowerState() != vmhostv1.PowerState_POWER_STATE_ON {
		t.Errorf("start: %v, error %v", o, err)
	}
	if err := d.Delete(ctx, m); err != nil {
		t.Fatal(err)
	}
	if _, err := s.TryLxc("info", name); err == nil {
		t.Error("it is still there")
	}
}

// The events of LXD come at once, and so does what is told of them.
func TestRealStopByHandShowsWithinASecond(t *testing.T) {
	s := lxdtest.Devhost(t, "lxd1")
	d := overSocket(t, s, "")
	ctx := timeout(t, 2*time.Minute)
	c := container(t, d, "")
	m := c.GetMachine()
	if _, err := d.Create(ctx, c); err != nil {
		t.Fatal(err)
	}
	events, err := d.Events(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var took []time.Duration
	for range 5 {
		power(t, d, m.GetUid(), rackv1.PowerAction_POWER_ACTION_START, 0)
		// The end of the change is seen by polling without us; what is measured is from
		// LXD's answer to our reading.
		s.Lxc(t, "stop", "--force", m.GetHypervisorName())
		began := time.Now()
		for seen := false; !seen; {
			select {
			case e := <-events:
				if e.UUID == m.GetUid() {
					o, err := d.Machine(ctx, m.GetUid())
					seen = err == nil && o.GetPowerState() == vmhostv1.PowerState_POWER_STATE_OFF
				}
			case <-ctx.Done():
				t.Fatal("the stop does not show")
			}
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("seen %v after `lxc stop` (median of %d)", took[len(took)/2], len(took))
	if took[len(took)/2] > time.Second {
		t.Errorf("seen %v after", took)
	}
}
