package hypervisortest

import (
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

var capabilities = []string{"kvm", "virtual-machines", "containers", "hugepages", "sr-iov", "secure-boot", "thin-volumes"}

func (s *suite) probe(t *testing.T) {
	o, err := s.open(t).Probe(s.ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	if o.GetCores() < 1 || o.GetMemoryMib() < 1 || o.GetHypervisorVersion() == "" || o.GetObserveTime() == nil {
		t.Errorf("cores %d, memory %d, version %q, time %v: want all", o.GetCores(), o.GetMemoryMib(), o.GetHypervisorVersion(), o.GetObserveTime())
	}
	if !slices.Contains(o.GetArchitectures(), s.h.Architecture) {
		t.Errorf("architectures %v, want %s among them", o.GetArchitectures(), s.h.Architecture)
	}
	for _, c := range o.GetCapabilities() {
		if !slices.Contains(capabilities, c) {
			t.Errorf("capability %q is not in the closed list", c)
		}
	}
	i := slices.IndexFunc(o.GetStoragePools(), func(p *vmhostv1.StoragePool) bool { return p.GetName() == s.h.StoragePool })
	if i < 0 {
		t.Fatalf("storage pool %q is not among %v", s.h.StoragePool, o.GetStoragePools())
	}
	if p := o.GetStoragePools()[i]; !p.GetActive() || p.GetCapacityBytes() < 1 || p.GetAvailableBytes() > p.GetCapacityBytes() {
		t.Errorf("storage pool %v: want active, with capacity, and no more available than that", p)
	}
	if !slices.ContainsFunc(o.GetNetworks(), func(n *vmhostv1.HostNetwork) bool { return n.GetName() == s.h.Network && n.GetActive() }) {
		t.Errorf("network %q is not among %v", s.h.Network, o.GetNetworks())
	}
}

func (s *suite) missing(t *testing.T) {
	d := s.open(t)
	m := s.machine(t, 0).GetMachine()
	_, err := d.Machine(s.ctx(t), m.GetUid())
	classed(t, err, hypervisor.ErrNotFound)
	_, err = d.SetPower(s.ctx(t), hypervisor.Ref{UID: m.GetUid()}, rackv1.PowerAction_POWER_ACTION_START, 0)
	classed(t, err, hypervisor.ErrNotFound)
	if err := d.Delete(s.ctx(t), m); err != nil {
		t.Errorf("delete of a machine that was never there: %v", err)
	}
}

func (s *suite) create(t *testing.T) {
	d := s.open(t)
	c := s.machine(t, 2)
	c.Autostart = true
	got, want := s.mustCreate(t, d, c), c.GetMachine()
	same := &rackv1.MachineObservation{
		Uuid: want.GetUid(), Name: want.GetHypervisorName(), Uid: want.GetUid(), Operation: want.GetOperation(),
		PowerState: vmhostv1.PowerState_POWER_STATE_OFF, Cores: want.GetCores(), MemoryMib: want.GetMemoryMib(),
		Architecture: want.GetArchitecture(), Disks: want.GetDisks(), Interfaces: want.GetInterfaces(), Autostart: true,
		Type: typeOf(want),
	}
	// Where disks and logs are on the host is for the hypervisor to say.
	free := []cmp.Option{
		protocmp.Transform(),
		protocmp.IgnoreFields(&rackv1.MachineObservation{}, "console_log_path", "firmware", "profiles", "image", "project"),
		protocmp.IgnoreFields(&vmhostv1.MachineDisk{}, "device", "path", "name", "boot", "tags"),
		protocmp.IgnoreFields(&vmhostv1.MachineInterface{}, "addresses", "name", "boot"),
	}
	if diff := cmp.Diff(same, got, free...); diff != "" {
		t.Errorf("created machine (-want +got):\n%s", diff)
	}
	read, err := d.Machine(s.ctx(t), want.GetUid())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, read, protocmp.Transform()); diff != "" {
		t.Errorf("machine read alone (-created +read):\n%s", diff)
	}
	list, err := d.Machines(s.ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, find(list, want.GetUid()), free...); diff != "" {
		t.Errorf("machine in the list (-created +listed):\n%s", diff)
	}
	for _, disk := range want.GetDisks() {
		if !slices.Contains(s.h.Volumes(t, s.h.StoragePool), disk.GetVolume()) {
			t.Errorf("volume %s was not made", disk.GetVolume())
		}
	}
}

func (s *suite) createTwice(t *testing.T) {
	d := s.open(t)
	c := s.machine(t, 1)
	first := s.mustCreate(t, d, c)
	second := s.mustCreate(t, d, c)
	if diff := cmp.Diff(first, second, protocmp.Transform()); diff != "" {
		t.Errorf("second create (-first +second):\n%s", diff)
	}
	if s.h.NoPower {
		return
	}
	if _, err := d.SetPower(s.ctx(t), hypervisor.Ref{UID: first.GetUid()}, rackv1.PowerAction_POWER_ACTION_START, 0); err != nil {
		t.Fatal(err)
	}
	if third := s.mustCreate(t, d, c); third.GetPowerState() != vmhostv1.PowerState_POWER_STATE_ON {
		t.Errorf("create of a machine that runs left it %v", third.GetPowerState())
	}
}

func (s *suite) createAtOnce(t *testing.T) {
	d := s.open(t)
	c := s.machine(t, 1)
	ctx := s.ctx(t)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if _, err := d.Create(ctx, c); err != nil {
				t.Errorf("create: %v", err)
			}
		})
	}
	wg.Wait()
	list, err := d.Machines(ctx)
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, m := range list {
		if m.GetName() == c.GetMachine().GetHypervisorName() {
			count++
		}
	}
	if count != 1 {
		t.Errorf("%d machines, want 1", count)
	}
}

func (s *suite) createOnForeignUUID(t *testing.T) {
	d := s.open(t)
	c := s.machine(t, 1)
	f := s.foreignMachine(t)
	f.UUID = c.GetMachine().GetUid()
	s.h.AddForeign(t, f)
	before := s.h.ForeignState(t, f.UUID)
	_, err := d.Create(s.ctx(t), c)
	classed(t, err, hypervisor.ErrForeign)
	if diff := cmp.Diff(before, s.h.ForeignState(t, f.UUID)); diff != "" {
		t.Errorf("the foreign machine changed (-before +after):\n%s", diff)
	}
	if slices.Contains(s.h.Volumes(t, s.h.StoragePool), c.GetMachine().GetDisks()[0].GetVolume()) {
		t.Error("a volume was left behind")
	}
}

func (s *suite) createOnForeignName(t *testing.T) {
	d := s.open(t)
	c := s.machine(t, 1)
	f := s.foreignMachine(t)
	f.Name = c.GetMachine().GetHypervisorName()
	s.h.AddForeign(t, f)
	before := s.h.ForeignState(t, f.UUID)
	_, err := d.Create(s.ctx(t), c)
	classed(t, err, hypervisor.ErrForeign, hypervisor.ErrExists)
	s.gone(t, d, c.GetMachine())
	if diff := cmp.Diff(before, s.h.ForeignState(t, f.UUID)); diff != "" {
		t.Errorf("the foreign machine changed (-before +after):\n%s", diff)
	}
	if err := d.Delete(s.ctx(t), c.GetMachine()); err != nil {
		t.Errorf("delete of what could not be made: %v", err)
	}
	if diff := cmp.Diff(before, s.h.ForeignState(t, f.UUID)); diff != "" {
		t.Errorf("delete changed the foreign machine (-before +after):\n%s", diff)
	}
}

func (s *suite) createUndone(t *testing.T) {
	d := s.open(t)
	c := s.machine(t, 2)
	c.Machine.Disks[1].StoragePool = "no-such-pool"
	_, err := d.Create(s.ctx(t), c)
	classed(t, err, hypervisor.ErrNotFound)
	s.gone(t, d, c.GetMachine())
	c.Machine.Disks[1].StoragePool = s.h.StoragePool
}

func (s *suite) createTooLarge(t *testing.T) {
	s.needs(t, s.h.ThickPool != "", "pool that can be full")
	d := s.open(t)
	c := s.machine(t, 2)
	c.Machine.Disks[1].StoragePool, c.Machine.Disks[1].SizeBytes = s.h.ThickPool, s.h.TooLarge
	_, err := d.Create(s.ctx(t), c)
	classed(t, err, hypervisor.ErrCapacity)
	s.gone(t, d, c.GetMachine())
}

func (s *suite) createResumed(t *testing.T) {
	d := s.open(t)
	c := s.machine(t, 2)
	disk := c.GetMachine().GetDisks()[0]
	s.h.AddVolume(t, disk.GetStoragePool(), disk.GetVolume(), disk.GetSizeBytes())
	if got := s.mustCreate(t, d, c); len(got.GetDisks()) != 2 || got.GetDisks()[0].GetSizeBytes() != disk.GetSizeBytes() {
		t.Errorf("disks %v, want two, the first of %d bytes", got.GetDisks(), disk.GetSizeBytes())
	}
}

// typeOf is what a machine is observed as: not said means a virtual machine.
func typeOf(m *vmhostv1.Machine) vmhostv1.MachineType {
	if m.GetType() == vmhostv1.MachineType_MACHINE_TYPE_CONTAINER {
		return vmhostv1.MachineType_MACHINE_TYPE_CONTAINER
	}
	return vmhostv1.MachineType_MACHINE_TYPE_VIRTUAL_MACHINE
}

func (s *suite) createCarries(t *testing.T) {
	s.needs(t, len(s.h.PinTo) > 0, "cores to pin to")
	d := s.open(t)
	c := s.machine(t, 1)
	m := c.GetMachine()
	m.Cores, m.PinnedCores = int32(len(s.h.PinTo)), s.h.PinTo
	m.Disks[0].Boot = true
	got := s.mustCreate(t, d, c)
	if !slices.Equal(got.GetPinnedCores(), s.h.PinTo) || got.GetCores() != m.GetCores() {
		t.Errorf("%d cores, pinned to %v; want %v", got.GetCores(), got.GetPinnedCores(), s.h.PinTo)
	}
	if !got.GetDisks()[0].GetBoot() {
		t.Error("the disk to boot from is not seen as such")
	}
	if got.GetHugepages() || got.GetSecureBoot() {
		t.Errorf("hugepages %v, secure boot %v: nobody asked for them", got.GetHugepages(), got.GetSecureBoot())
	}
	if !s.h.NoPower && s.mustPower(t, d, m.GetUid(), start).GetPowerState() != on {
		t.Error("it does not start")
	}
}
