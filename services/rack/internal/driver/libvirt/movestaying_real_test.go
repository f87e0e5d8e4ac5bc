package libvirt

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	lv "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// sharing are two hosts that have one folder as a storage pool, each by a name and a
// path of its own.
type sharing struct {
	t              *testing.T
	from, to       *Driver
	rawFrom, rawTo raw
	socket         string // of the source
	folder, link   string
	pool, poolTo   string
	files          map[string]os.FileInfo // of the disks that stay
}

func shares(t *testing.T) *sharing {
	t.Helper()
	s := &sharing{t: t, socket: devhostNamed(t, "H1").socket, files: map[string]os.FileInfo{}}
	s.from, s.to, s.rawFrom, s.rawTo = twoHosts(t)
	s.folder = open(t) // the hosts see one file system
	s.link = filepath.Join(open(t), "elsewhere")
	if err := os.Symlink(s.folder, s.link); err != nil {
		t.Fatal(err)
	}
	id := uuid.NewString()[:6]
	s.pool, s.poolTo = "shared-"+id, "nas-"+id
	s.rawFrom.addPool(t, s.pool, s.folder)
	s.rawTo.addPool(t, s.poolTo, s.link)
	return s
}

// machine makes one with disks that stay and disks that do not, on the source, off,
// with something on each of them.
func (s *sharing) machine(t *testing.T, stays ...bool) *rackv1.MoveMachine {
	t.Helper()
	what := toMove(t, s.from, s.to, func(m *vmhostv1.Machine) {
		m.Disks, m.PinnedCores = nil, []int32{0}
		for i, stay := range stays {
			k := &vmhostv1.MachineDisk{StoragePool: "default", Volume: volumePrefix(m.GetUid()) + string(rune('0'+i)), SizeBytes: 64 << 20}
			if stay {
				k.StoragePool = s.pool
			}
			m.Disks = append(m.Disks, k)
		}
	})
	for i, stay := range stays {
		if stay {
			what.StayingDisks = append(what.StayingDisks, int32(i))
			what.Moved.Disks[i].StoragePool = s.poolTo
		}
	}
	mark, _ := marks(t, devhostNamed(t, "H1"), devhostNamed(t, "H2"))
	mark(t, what.GetMachine())
	for _, i := range what.GetStayingDisks() {
		s.note(t, what.GetMachine().GetDisks()[i].GetVolume())
	}
	return what
}

func (s *sharing) note(t *testing.T, volume string) {
	t.Helper()
	file, err := os.Stat(filepath.Join(s.folder, volume))
	if err != nil {
		t.Fatal(err)
	}
	s.files[volume] = file
}

// intact fails the test unless the disks that stay are the files that they were,
// with what was written to them, and no other file is beside them.
func (s *sharing) intact(t *testing.T) {
	t.Helper()
	for volume, was := range s.files {
		path := filepath.Join(s.folder, volume)
		file, err := os.Stat(path)
		if err != nil || !os.SameFile(was, file) {
			t.Fatalf("volume %s is not what it was: %v", volume, err)
		}
		s.rawFrom.inside(t, s.socket, "qemu-io -U -r -f qcow2 -c 'read -P 0xa5 1M 64k' -c 'read -P 0 2M 64k' "+path)
	}
	s.nothingElse(t)
}

func (s *sharing) nothingElse(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(s.folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, disk := s.files[e.Name()]; !disk && !strings.Contains(e.Name(), "-serial0.log") {
			t.Errorf("there is %s beside the disks that stay", e.Name())
		}
	}
}

// arrived fails the test unless the machine is on the destination with disks where
// the move says, and gone from the source.
func (s *sharing) arrived(t *testing.T, what *rackv1.MoveMachine, state vmhostv1.PowerState) {
	t.Helper()
	ref := hypervisor.RefOf(what.GetMachine())
	got, err := s.to.Machine(timeout(t, 20*time.Second), ref.Domain())
	if err != nil || got.GetUid() != ref.UID || got.GetPowerState() != state || got.GetAutostart() != what.GetAutostart() {
		t.Fatalf("on the destination: %v, error %v", got, err)
	}
	for i, k := range what.GetMoved().GetDisks() {
		seen := got.GetDisks()[i]
		if seen.GetVolume() != k.GetVolume() || seen.GetStoragePool() != k.GetStoragePool() {
			t.Errorf("disk %d is %v", i, seen)
		}
		if slices.Contains(what.GetStayingDisks(), int32(i)) && seen.GetPath() != filepath.Join(s.link, k.GetVolume()) {
			t.Errorf("disk %d is %s, by the source's path", i, seen.GetPath())
		}
	}
	if _, err := s.from.Machine(timeout(t, 20*time.Second), ref.Domain()); !errors.Is(err, hypervisor.ErrNotFound) {
		t.Errorf("on the source: %v", err)
	}
	for i, k := range what.GetMachine().GetDisks() {
		if left := slices.Contains(s.rawFrom.volumes(t, k.GetStoragePool()), k.GetVolume()); left != slices.Contains(what.GetStayingDisks(), int32(i)) {
			t.Errorf("volume %s is on the source: %v", k.GetVolume(), left)
		}
	}
}

func (s *sharing) move(t *testing.T, what *rackv1.MoveMachine) (*hypervisor.Moved, error) {
	t.Helper()
	return s.from.Move(timeout(t, time.Minute), s.to, what, "operations/1")
}

func (s *sharing) mustMove(t *testing.T, what *rackv1.MoveMachine) *hypervisor.Moved {
	t.Helper()
	got, err := s.move(t, what)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

const (
	poweredOn  = vmhostv1.PowerState_POWER_STATE_ON
	poweredOff = vmhostv1.PowerState_POWER_STATE_OFF
)

func TestRealDisksInASharedPoolStayWhereTheyAre_P3(t *testing.T) {
	const offline, live = rackv1.MoveHow_MOVE_HOW_OFFLINE, rackv1.MoveHow_MOVE_HOW_LIVE
	for _, test := range []struct {
		name  string
		stays []bool
		runs  bool
		how   rackv1.MoveHow
	}{
		{"off", []bool{true, true}, false, offline},
		{"off, one is copied", []bool{true, false}, false, offline},
		{"off, the first is copied", []bool{false, true}, false, offline},
		{"stopped", []bool{true}, true, offline},
		{"stopped, one is copied", []bool{true, false}, true, offline},
		{"live", []bool{true, true}, true, live},
		{"live, one is copied", []bool{true, false}, true, live},
		{"live, the first is copied", []bool{false, true}, true, live},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := shares(t)
			what := s.machine(t, test.stays...)
			what.Live, what.AllowOffline, what.Autostart = test.how == live, test.how == offline && test.runs, test.runs
			state := poweredOff
			if test.runs {
				state = poweredOn
				mustPower(t, s.from, what.GetMachine().GetUid(), rackv1.PowerAction_POWER_ACTION_START)
			}
			if got := s.mustMove(t, what); got.How != test.how || got.NotLive != "" {
				t.Errorf("it was moved %v (%q)", got.How, got.NotLive)
			}
			s.arrived(t, what, state)
			s.intact(t)
			s.log(t, what, test.stays[0])
			// Moved already is done, and leaves the destination's disks alone.
			s.mustMove(t, what)
			s.arrived(t, what, state)
			s.intact(t)
			_, marked := marks(t, devhostNamed(t, "H1"), devhostNamed(t, "H2"))
			marked(t, what.GetMoved())
			// With the machine its disks go, and its log.
			if err := s.to.Delete(timeout(t, time.Minute), what.GetMoved()); err != nil {
				t.Fatal(err)
			}
			if left, _ := os.ReadDir(s.folder); len(left) > 0 {
				t.Errorf("after it was deleted there is %v", left)
			}
		})
	}
}

// log fails the test unless the console log of the machine that has arrived is where
// its definition says, and is known to libvirt there; in the shared pool it is one.
func (s *sharing) log(t *testing.T, what *rackv1.MoveMachine, shared bool) {
	t.Helper()
	name, pool, folder := logVolume(what.GetMachine().GetUid()), "default", "/var/lib/libvirt/images"
	if shared {
		pool, folder = s.poolTo, s.link
	}
	if !slices.Contains(s.rawTo.volumes(t, pool), name) {
		t.Errorf("storage pool %s of the destination has no log", pool)
	}
	if at := s.rawTo.dump(t, what.GetMachine().GetUid()); !strings.Contains(at, "'"+folder+"/"+name+"'") {
		t.Errorf("its log is not in %s:\n%s", folder, at)
	}
	if _, err := os.Stat(filepath.Join(s.folder, name)); (err == nil) != shared {
		t.Errorf("a log in the shared folder: %v", err)
	}
	if slices.Contains(s.rawFrom.volumes(t, "default"), name) {
		t.Error("a log was left in a pool of the source")
	}
}

func TestRealPoolsThatAreNotTheSameAreNotTakenForIt_P3(t *testing.T) {
	s := shares(t)
	what := s.machine(t, true)
	volume := what.GetMachine().GetDisks()[0].GetVolume()
	other, name := t.TempDir(), s.poolTo+"-other"
	theirs, err := os.ReadFile(filepath.Join(s.folder, volume)) // as large, and another all the same
	if err == nil {
		err = os.WriteFile(filepath.Join(other, volume), theirs, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.rawTo.addPool(t, name, other)
	mustPower(t, s.from, what.GetMachine().GetUid(), rackv1.PowerAction_POWER_ACTION_START)
	mixed := proto.CloneOf(what)
	mixed.Machine.Disks = append(mixed.Machine.Disks, &vmhostv1.MachineDisk{StoragePool: s.pool, Volume: "other"})
	mixed.Moved.Disks = append(mixed.Moved.Disks, &vmhostv1.MachineDisk{StoragePool: s.poolTo, Volume: "copy"})
	apart := proto.CloneOf(what)
	apart.Moved.Disks[0].StoragePool = name
	copied := proto.CloneOf(what)
	copied.StayingDisks = nil
	copied.Moved.Disks[0].Volume += "-copy"
	for _, test := range []struct {
		name  string
		what  *rackv1.MoveMachine
		there bool
		word  string
	}{
		{"said to be shared, and two folders", apart, true, "not the same storage"},
		{"shared, and not said to be", copied, false, "are the same"},
		{"one stays and one is copied", mixed, false, "are the same"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.what.Live, test.what.AllowOffline = true, true
			_, err := s.move(t, test.what)
			wantClass(t, err, hypervisor.ErrUnsupported)
			if e, ok := errors.AsType[*hypervisor.Error](err); !ok || e.AtDestination != test.there || !strings.Contains(err.Error(), test.word) {
				t.Errorf("refused with %v", err)
			}
			s.intact(t)
			if _, err := s.to.Machine(timeout(t, time.Minute), what.GetMachine().GetUid()); !errors.Is(err, hypervisor.ErrNotFound) {
				t.Errorf("on the destination: %v", err)
			}
			got, err := s.from.Machine(timeout(t, time.Minute), what.GetMachine().GetUid())
			if err != nil || got.GetPowerState() != poweredOn {
				t.Errorf("on the source: %v, error %v", got, err)
			}
			left, err := os.ReadDir(other)
			if content, rerr := os.ReadFile(filepath.Join(other, volume)); err != nil || rerr != nil || len(left) != 1 || !bytes.Equal(content, theirs) {
				t.Errorf("the other folder has changed: %v, errors %v, %v", left, err, rerr)
			}
		})
	}
}

func TestRealMoveThatFailsInTheMiddleLeavesDisksWhereTheyAre_P3(t *testing.T) {
	for name, change := range map[string]func(*rackv1.MoveMachine){
		"live":    func(m *rackv1.MoveMachine) { m.Live = true },
		"offline": func(m *rackv1.MoveMachine) { m.AllowOffline = true },
	} {
		t.Run(name, func(t *testing.T) {
			s := shares(t)
			what := s.machine(t, true, false)
			uid := what.GetMachine().GetUid()
			what.Autostart = true
			change(what)
			if err := s.rawFrom.DomainSetAutostart(s.rawFrom.domain(t, uid), 1); err != nil {
				t.Fatal(err)
			}
			mustPower(t, s.from, uid, rackv1.PowerAction_POWER_ACTION_START)
			before, err := s.from.Machine(timeout(t, time.Minute), uid)
			if err != nil {
				t.Fatal(err)
			}
			bad := proto.CloneOf(what)
			bad.Moved.PinnedCores = []int32{4095} // a core that no host has
			_, err = s.move(t, bad)
			wantClass(t, err, hypervisor.ErrRefused)
			s.intact(t)
			if after, err := s.from.Machine(timeout(t, time.Minute), uid); err != nil || after.GetPowerState() != poweredOn || !after.GetAutostart() || after.GetConsoleLogPath() != before.GetConsoleLogPath() {
				t.Errorf("on the source: %v, error %v", after, err)
			}
			if _, err := os.Stat(filepath.Join(s.folder, logVolume(uid))); err != nil {
				t.Errorf("its console log: %v", err)
			}
			if _, err := s.to.Machine(timeout(t, time.Minute), uid); !errors.Is(err, hypervisor.ErrNotFound) {
				t.Errorf("on the destination: %v", err)
			}
			if slices.Contains(s.rawTo.volumes(t, "default"), what.GetMoved().GetDisks()[1].GetVolume()) {
				t.Error("a copy was left on the destination")
			}
			s.mustMove(t, what)
			s.arrived(t, what, poweredOn)
			s.intact(t)
		})
	}
}

// left defines the machine on the destination, as a move that broke may have.
func (s *sharing) left(t *testing.T, what *rackv1.MoveMachine) lv.Domain {
	t.Helper()
	a := arrival{moved: what.GetMoved(), made: true}
	for _, k := range what.GetMoved().GetDisks() {
		a.disks = append(a.disks, volumeSource{path: filepath.Join(s.link, k.GetVolume()), format: "qcow2", stays: true})
	}
	text, err := arrive(s.rawFrom.inactive(t, hypervisor.RefOf(what.GetMachine()).Domain()), a)
	if err != nil {
		t.Fatal(err)
	}
	dom, err := s.rawTo.DomainDefineXML(text)
	if err != nil {
		t.Fatal(err)
	}
	return dom
}

func TestRealRestOfABrokenMoveIsUndoneWithoutItsDisks_P3(t *testing.T) {
	t.Run("defined on the destination", func(t *testing.T) {
		s := shares(t)
		what := s.machine(t, true, true)
		s.left(t, what)
		s.mustMove(t, what)
		s.arrived(t, what, poweredOff)
		s.intact(t)
	})
	t.Run("it runs on the destination", func(t *testing.T) {
		s := shares(t)
		what := s.machine(t, true, true)
		if _, err := s.rawTo.DomainCreateWithFlags(s.left(t, what), 0); err != nil {
			t.Fatal(err)
		}
		s.mustMove(t, what)
		s.arrived(t, what, poweredOn)
		s.intact(t)
	})
	t.Run("it is paused on the source, and has ended on the destination", func(t *testing.T) {
		s := shares(t)
		what := s.machine(t, true)
		what.Live, what.AllowOffline = true, true
		uid := what.GetMachine().GetUid()
		mustPower(t, s.from, uid, rackv1.PowerAction_POWER_ACTION_START)
		if err := s.rawFrom.DomainSuspend(s.rawFrom.domain(t, uid)); err != nil {
			t.Fatal(err)
		}
		dom := s.left(t, what)
		before := s.rawFrom.dump(t, uid)
		_, err := s.move(t, what)
		wantClass(t, err, hypervisor.ErrRefused)
		if after := s.rawFrom.dump(t, uid); after != before {
			t.Errorf("the source changed:\n%s\nwas:\n%s", after, before)
		}
		s.intact(t)
		// As the hint says: the source is turned off, and what is on the disk is true.
		if err := s.rawTo.DomainUndefine(dom); err != nil {
			t.Fatal(err)
		}
		mustPower(t, s.from, uid, rackv1.PowerAction_POWER_ACTION_STOP)
		s.mustMove(t, what)
		s.arrived(t, what, poweredOff)
		s.intact(t)
	})
}
