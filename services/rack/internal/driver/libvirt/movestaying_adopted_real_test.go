package libvirt

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	lv "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"libvirt.org/go/libvirtxml"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// adopted is a machine that somebody made: its disks have names of their own, one in
// the shared pool and one in the source's.
func (s *sharing) adopted(t *testing.T) *rackv1.MoveMachine {
	t.Helper()
	id, uid := uuid.NewString(), uuid.NewString()
	machine := &vmhostv1.Machine{Uid: uid, HypervisorUuid: id, HypervisorName: "adopted-" + id[:6], VmHost: "vmHosts/h1"}
	dom := foreignDomain(id, machine.GetHypervisorName(), 1, 64)
	for i, pool := range []string{s.pool, "default"} {
		name := fmt.Sprintf("web-%s-%d.raw", id[:6], i)
		p, err := s.rawFrom.StoragePoolLookupByName(pool)
		if err != nil {
			t.Fatal(err)
		}
		v, err := s.rawFrom.StorageVolCreateXML(p, fmt.Sprintf("<volume><name>%s</name><capacity>%d</capacity><allocation>0</allocation><target><format type='raw'/></target></volume>", name, 8<<20), 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.rawFrom.StorageVolDelete(v, 0) })
		path, err := s.rawFrom.StorageVolGetPath(v)
		if err != nil {
			t.Fatal(err)
		}
		s.rawFrom.inside(t, s.socket, "printf mark | dd of="+path+" bs=1M seek=3 conv=notrunc 2>/dev/null")
		dom.Devices.Disks = append(dom.Devices.Disks, libvirtxml.DomainDisk{
			Device: "disk", Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw"},
			Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: path}}, Target: &libvirtxml.DomainDiskTarget{Dev: "sd" + string(rune('a'+i)), Bus: "sata"},
		})
		machine.Disks = append(machine.Disks, &vmhostv1.MachineDisk{StoragePool: pool, Volume: name, SizeBytes: 8 << 20})
	}
	s.rawFrom.define(t, dom)
	if _, err := s.from.Adopt(timeout(t, time.Minute), hypervisor.RefOf(machine), "operations/1"); err != nil {
		t.Fatal(err)
	}
	moved := proto.CloneOf(machine)
	moved.VmHost, moved.Disks[0].StoragePool, moved.Disks[1].Volume = "vmHosts/h2", s.poolTo, volumePrefix(uid)+"1"
	removeAtEnd(t, s.to, moved)
	return &rackv1.MoveMachine{Machine: machine, Moved: moved, StayingDisks: []int32{0}, Autostart: true}
}

// kept answers a look at the disk that stays: it fails the test unless that is the
// file that it was, to the byte.
func (s *sharing) kept(t *testing.T, what *rackv1.MoveMachine) (look func()) {
	t.Helper()
	path := filepath.Join(s.folder, what.GetMachine().GetDisks()[0].GetVolume())
	read := func() (os.FileInfo, []byte) {
		file, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return file, content
	}
	file, content := read()
	if !bytes.Contains(content, []byte("mark")) {
		t.Fatal("nothing is on the disk, so that this proves less")
	}
	return func() {
		t.Helper()
		if now, is := read(); !os.SameFile(file, now) || !bytes.Equal(content, is) {
			t.Error("the disk that stays has changed")
		}
	}
}

func TestRealAdoptedMachineIsMovedWithADiskThatStays_P3_P5(t *testing.T) {
	s := shares(t)
	what := s.adopted(t)
	intact := s.kept(t, what)
	for range 2 { // moved already is done
		s.mustMove(t, what)
		s.arrived(t, what, poweredOff)
		intact()
	}
}

// While the source cannot be removed both hosts have the machine, and the disk: only
// the destination may start it, and going on touches neither.
func TestRealSourceThatCannotBeRemovedIsHeldBack_P3(t *testing.T) {
	s := shares(t)
	what := s.adopted(t)
	intact := s.kept(t, what)
	id, local := what.GetMachine().GetHypervisorUuid(), what.GetMachine().GetDisks()[1].GetVolume()
	if err := s.rawFrom.DomainSetAutostart(s.rawFrom.domain(t, id), 1); err != nil {
		t.Fatal(err)
	}
	user := foreignDomain(uuid.NewString(), "user-"+id[:6], 1, 64)
	user.Devices.Disks = []libvirtxml.DomainDisk{{
		Device: "disk", Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw"},
		Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: s.pathOf(t, "default", local)}}, Target: &libvirtxml.DomainDiskTarget{Dev: "sda", Bus: "sata"},
	}}
	s.rawFrom.define(t, user)
	_, err := s.move(t, what)
	wantClass(t, err, hypervisor.ErrBusy)
	intact()
	if !slices.Contains(s.rawFrom.volumes(t, "default"), local) {
		t.Error("a volume that another domain uses is gone")
	}
	for name, d := range map[string]*Driver{"source": s.from, "destination": s.to} {
		got, err := d.Machine(timeout(t, time.Minute), id)
		if err != nil || got.GetAutostart() != (d == s.to) {
			t.Errorf("on the %s: %v, error %v", name, got, err)
		}
	}
	if err := s.rawFrom.DomainUndefine(s.rawFrom.domain(t, user.UUID)); err != nil {
		t.Fatal(err)
	}
	s.mustMove(t, what)
	s.arrived(t, what, poweredOff)
	intact()
}

func (s *sharing) pathOf(t *testing.T, pool, volume string) string {
	t.Helper()
	p, err := s.rawFrom.StoragePoolLookupByName(pool)
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.rawFrom.StorageVolLookupByName(p, volume)
	if err != nil {
		t.Fatal(err)
	}
	path, err := s.rawFrom.StorageVolGetPath(v)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// open is a folder that QEMU may go into, which runs as another user.
func open(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "vmhost-test-") //nolint:usetesting // what is above that of the test is closed
	if err == nil {
		t.Cleanup(func() { _ = os.RemoveAll(folder) })
		err = os.Chmod(folder, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

// What libvirt would remove with the definition on one host, or what one host has
// below the disk, is no disk of both.
func TestRealWhatIsMoreThanADiskInTheSharedPoolForbidsTheMove_P3(t *testing.T) {
	t.Run("variables of the firmware", func(t *testing.T) {
		s := shares(t)
		what := s.adopted(t)
		intact := s.kept(t, what)
		id := what.GetMachine().GetHypervisorUuid()
		text := s.rawFrom.inactive(t, id)
		variables := filepath.Join(s.folder, "VARS.fd")
		if err := os.WriteFile(variables, []byte("variables"), 0o600); err != nil {
			t.Fatal(err)
		}
		text = strings.Replace(text, "</os>", "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader><nvram>"+variables+"</nvram></os><features><acpi/></features>", 1)
		dom, err := s.rawFrom.DomainDefineXML(text)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.rawFrom.DomainUndefineFlags(dom, lv.DomainUndefineNvram) })
		_, err = s.move(t, what)
		wantClass(t, err, hypervisor.ErrUnsupported)
		if !strings.Contains(err.Error(), variables) {
			t.Errorf("refused with %v", err)
		}
		if _, err := os.Stat(variables); err != nil {
			t.Error(err)
		}
		intact()
	})
	t.Run("a disk that is laid over another", func(t *testing.T) {
		s := shares(t)
		what := s.adopted(t)
		intact := s.kept(t, what)
		id, base := what.GetMachine().GetHypervisorUuid(), what.GetMachine().GetDisks()[0].GetVolume()
		over := "over-" + id[:6] + ".qcow2"
		s.rawFrom.inside(t, s.socket, "cd "+s.folder+" && qemu-img create -q -f qcow2 -F raw -b "+filepath.Join(s.folder, base)+" "+over)
		text := s.rawFrom.inactive(t, id)
		text = strings.NewReplacer(base, over, "type='raw'", "type='qcow2'").Replace(text)
		if _, err := s.rawFrom.DomainDefineXML(text); err != nil {
			t.Fatal(err)
		}
		laid := proto.CloneOf(what)
		laid.Machine.Disks[0].Volume, laid.Moved.Disks[0].Volume = over, over
		_, err := s.move(t, laid)
		wantClass(t, err, hypervisor.ErrUnsupported)
		if !strings.Contains(err.Error(), "laid over") {
			t.Errorf("refused with %v", err)
		}
		intact()
	})
}
