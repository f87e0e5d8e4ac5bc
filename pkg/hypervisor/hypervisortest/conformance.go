package hypervisortest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// patience is how long a healthy hypervisor may take for anything here, unless
// the harness says otherwise.
const patience = 60 * time.Second

// Foreign is a machine that somebody made without vmhost.
type Foreign struct {
	// UUID and Name are the hypervisor's.
	UUID, Name string
	// Cores and MemoryMiB are its size.
	Cores     int32
	MemoryMiB int64
}

// Harness is a driver under test with a hypervisor behind it. Functions that are
// nil stand for what cannot be done to that hypervisor; their tests are skipped.
// What functions add, the harness removes again by t.Cleanup.
type Harness struct {
	// Opener is the driver under test.
	Opener hypervisor.Opener
	// Target is a working hypervisor.
	Target hypervisor.Target
	// StoragePool is where disks are made, active and with room for a few.
	StoragePool string
	// Network is a hypervisor network to attach to.
	Network string
	// Architecture of machines; empty means x86_64.
	Architecture string
	// MemoryMiB and DiskBytes are the size of machines; 0 means 64 and 8 MiB.
	MemoryMiB, DiskBytes int64
	// Patience is how long the hypervisor may take for anything when it is in good
	// health; 0 means a minute.
	Patience time.Duration

	// AddForeign defines a machine, off, without vmhost.
	AddForeign func(t testing.TB, f Foreign)
	// ForeignState is everything the hypervisor holds of a machine, as text.
	ForeignState func(t testing.TB, uuid string) string
	// AddVolume makes a volume without vmhost.
	AddVolume func(t testing.TB, pool, name string, size int64)
	// Volumes are the names of the volumes in a pool.
	Volumes func(t testing.TB, pool string) []string

	// ThickPool is a pool in which a disk of TooLarge bytes finds no room.
	ThickPool string
	// TooLarge is larger than ThickPool.
	TooLarge int64
	// Disconnect loses the connections that are open.
	Disconnect func(t testing.TB)
	// Hang freezes the hypervisor until release.
	Hang func(t testing.TB) (release func())
	// ChangeOutside starts a machine without vmhost.
	ChangeOutside func(t testing.TB, uuid string)
	// WrongHostKey is Target with a host key that is not the host's.
	WrongHostKey *hypervisor.Target
	// WrongCredential is Target with a credential that is refused.
	WrongCredential *hypervisor.Target
	// NoPower says that machines cannot be started on that hypervisor.
	NoPower bool

	// Machine finishes every machine that is to be created with what the suite
	// does not know of: an image, a type.
	Machine func(m *vmhostv1.Machine)
	// AddBroken defines a machine of which something cannot be read, without
	// vmhost.
	AddBroken func(t testing.TB, f Foreign)
	// Guest is a guest that answers.
	Guest *Guest
	// Deaf changes a machine to create so that its guest does not stop when it is
	// asked.
	Deaf func(t testing.TB, c *rackv1.CreateMachine)
	// PinTo are cores that machines can be pinned to, at most one per core of a
	// machine; none: they cannot be.
	PinTo []int32
}

// Guest is a guest with a serial console, which stops when it is asked.
type Guest struct {
	// Prepare changes a machine to create so that it has the guest; nil: every
	// machine has.
	Prepare func(t testing.TB, c *rackv1.CreateMachine)
	// Ready is on the console when the guest is up.
	Ready string
	// Type is what is typed, and Answer what the console shows then. A guest may
	// not hear the first: it is typed again every second.
	Type, Answer string
}

// Run tests every rule of package hypervisor.
func Run(t *testing.T, h Harness) { run(t, h, false) }

// RunConnection tests the rules that the way to a hypervisor could break: for a
// driver that passes Run by another way.
func RunConnection(t *testing.T, h Harness) { run(t, h, true) }

func (h Harness) withDefaults() Harness {
	if h.Architecture == "" {
		h.Architecture = "x86_64"
	}
	if h.MemoryMiB == 0 {
		h.MemoryMiB = 64
	}
	if h.DiskBytes == 0 {
		h.DiskBytes = 8 << 20
	}
	if h.Patience == 0 {
		h.Patience = patience
	}
	return h
}

func run(t *testing.T, h Harness, connection bool) {
	s := &suite{h: h.withDefaults()}
	// What is marked with true depends on the connection.
	for _, test := range []struct {
		name       string
		run        func(t *testing.T)
		connection bool
	}{
		{"a probe describes the host", s.probe, true},
		{"a machine that is not there is not found", s.missing, true},
		{"create makes what was asked and leaves it off", s.create, true},
		{"P3 create again changes nothing", s.createTwice, false},
		{"P3 creates of one uid at once make one machine", s.createAtOnce, false},
		{"P3 create never takes over a machine with the same uuid", s.createOnForeignUUID, false},
		{"P3 create never takes over a machine with the same name", s.createOnForeignName, false},
		{"create that fails leaves nothing", s.createUndone, false},
		{"create without room says so and leaves nothing", s.createTooLarge, false},
		{"create goes on where a broken create stopped", s.createResumed, false},
		{"P4 delete removes the machine and its volumes", s.deleteAll, true},
		{"P5 delete keeps volumes that are not listed", s.deleteListedOnly, false},
		{"delete removes what a broken create left", s.deleteLeftovers, false},
		{"P5 delete never touches what is not ours", s.deleteForeign, false},
		{"power is idempotent and ends as asked", s.power, false},
		{"cycle starts a machine that is off and restarts one that runs", s.cycle, false},
		{"pause and resume are idempotent", s.pause, false},
		{"a soft stop of a deaf guest times out and changes nothing", s.softStopDeaf, false},
		{"create carries what was decided", s.createCarries, false},
		{"adopt changes only whose it is, and release leaves no trace", s.adopt, false},
		{"P5 adopt and release are refused on what carries another uid", s.adoptForeign, false},
		{"an adopted machine is driven like one of ours", s.adoptedPower, false},
		{"P5 delete of an adopted machine keeps volumes that its record does not list", s.adoptedDelete, false},
		{"adopt and release of a machine that is not there", s.adoptMissing, false},
		{"inventory is what probe and machines are", s.inventory, true},
		{"one machine that cannot be read spoils no other", s.broken, false},
		{"a guest answers on its console and stops when it is asked", s.guests, false},
		{"P5 consoles of what is not ours stay closed", s.consoleForeign, false},
		{"P5 power never touches what is not ours", s.powerForeign, false},
		{"a machine of others is listed and counted", s.foreign, false},
		{"events tell of changes", s.events, true},
		{"events end with their context and their connection", s.eventsEnd, true},
		{"a lost connection is unreachable and another finds all machines", s.reconnect, true},
		{"a closed driver is unreachable", s.closed, true},
		{"calls end when their context does", s.cancelled, true},
		{"calls to a hypervisor that hangs end when their context does", s.hangs, true},
		{"another host key is refused and shown", s.hostKey, true},
		{"a wrong credential is refused", s.credential, true},
	} {
		if connection && !test.connection {
			continue
		}
		t.Run(test.name, test.run)
	}
}

type suite struct{ h Harness }

func (s *suite) ctx(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), s.h.Patience)
	t.Cleanup(cancel)
	return ctx
}

func (s *suite) open(t *testing.T) hypervisor.Driver {
	t.Helper()
	d, err := s.h.Opener.Open(s.ctx(t), s.h.Target)
	if err != nil {
		t.Fatalf("open %s: %v", s.h.Target.Address, err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

// machine is one to create; whatever becomes of it is removed at the end.
func (s *suite) machine(t *testing.T, disks int) *rackv1.CreateMachine {
	t.Helper()
	uid := uuid.NewString()
	m := &vmhostv1.Machine{
		Name: "machines/" + uid, Uid: uid, Operation: "operations/" + uuid.NewString(),
		Hostname: "conf-" + uid[:8], HypervisorName: "conf-" + uid[:8], HypervisorUuid: uid,
		VmHost: s.h.Target.Name, Architecture: s.h.Architecture, Cores: 1, MemoryMib: s.h.MemoryMiB,
		Interfaces: []*vmhostv1.MachineInterface{{
			Mac:    fmt.Sprintf("52:54:00:%s:%s:%s", uid[0:2], uid[2:4], uid[4:6]),
			Source: s.h.Network, Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK,
		}},
	}
	for i := range disks {
		m.Disks = append(m.Disks, &vmhostv1.MachineDisk{
			StoragePool: s.h.StoragePool, Volume: fmt.Sprintf("vmhost-%s-%d", uid, i), SizeBytes: s.h.DiskBytes,
		})
	}
	if s.h.Machine != nil {
		s.h.Machine(m)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), s.h.Patience)
		defer cancel()
		d, err := s.h.Opener.Open(ctx, s.h.Target)
		if err != nil {
			t.Errorf("open to clean up: %v", err)
			return
		}
		defer func() { _ = d.Close() }()
		if err := d.Delete(ctx, m); err != nil && !errors.Is(err, hypervisor.ErrForeign) {
			t.Errorf("clean up machine %s: %v", uid, err)
		}
	})
	return &rackv1.CreateMachine{Machine: m}
}

func (s *suite) foreignMachine(t *testing.T) Foreign {
	t.Helper()
	id := uuid.NewString()
	return Foreign{UUID: id, Name: "foreign-" + id[:8], Cores: 2, MemoryMiB: s.h.MemoryMiB}
}

func (s *suite) needs(t *testing.T, have bool, what string) {
	t.Helper()
	if !have {
		t.Skipf("this harness has no %s", what)
	}
}

func (s *suite) mustCreate(t *testing.T, d hypervisor.Driver, c *rackv1.CreateMachine) *rackv1.MachineObservation {
	t.Helper()
	out, err := d.Create(s.ctx(t), c)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	return out
}

// mustPower is SetPower of a machine of ours by its uid.
func (s *suite) mustPower(t *testing.T, d hypervisor.Driver, uid string, action rackv1.PowerAction) *rackv1.MachineObservation {
	t.Helper()
	out, err := d.SetPower(s.ctx(t), hypervisor.Ref{UID: uid}, action, time.Second)
	if err != nil {
		t.Fatalf("%v: %v", action, err)
	}
	return out
}

// gone fails the test when anything of a machine is left.
func (s *suite) gone(t *testing.T, d hypervisor.Driver, m *vmhostv1.Machine) {
	t.Helper()
	if o, err := d.Machine(s.ctx(t), m.GetUid()); !errors.Is(err, hypervisor.ErrNotFound) {
		t.Errorf("machine %s is there: %v, error %v", m.GetUid(), o, err)
	}
	for _, disk := range m.GetDisks() {
		if disk.GetStoragePool() == s.h.StoragePool || disk.GetStoragePool() == s.h.ThickPool {
			if slices.Contains(s.h.Volumes(t, disk.GetStoragePool()), disk.GetVolume()) {
				t.Errorf("volume %s is there", disk.GetVolume())
			}
		}
	}
}

// classed fails the test unless err has one of the classes and words of its own.
func classed(t *testing.T, err error, classes ...error) {
	t.Helper()
	for _, c := range classes {
		if errors.Is(err, c) {
			if err.Error() == "" || err.Error() == c.Error() {
				t.Errorf("error %q keeps no words of the hypervisor (P9)", err)
			}
			return
		}
	}
	t.Errorf("error is %v, want one of the classes %v", err, classes)
}

func find(list []*rackv1.MachineObservation, uuid string) *rackv1.MachineObservation {
	for _, m := range list {
		if m.GetUuid() == uuid {
			return m
		}
	}
	return nil
}
