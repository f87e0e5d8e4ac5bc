package libvirt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"libvirt.org/go/libvirtxml"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// twoHosts are drivers of two hosts, and what somebody else does to them.
func twoHosts(t *testing.T) (from, to *Driver, rawFrom, rawTo raw) {
	t.Helper()
	h1, h2 := devhostNamed(t, "H1"), devhostNamed(t, "H2")
	o := NewOpener(Config{LocalSockets: map[string]string{"h1": h1.socket, "h2": h2.socket}})
	from = openTarget(t, o, hypervisor.Target{Name: "vmHosts/h1", Address: mustParse(t, "qemu+unix://h1/system")})
	to = openTarget(t, o, hypervisor.Target{Name: "vmHosts/h2", Address: mustParse(t, "qemu+unix://h2/system")})
	return from, to, rawConnection(t, h1.socket), rawConnection(t, h2.socket)
}

// toMove is a machine on the source, and how it is moved; it is removed at the end
// wherever it is.
func toMove(t *testing.T, from, to *Driver, change func(*vmhostv1.Machine)) *rackv1.MoveMachine {
	t.Helper()
	c := realMachine(t, from, "default", 1)
	if change != nil {
		change(c.GetMachine())
	}
	if _, err := from.Create(timeout(t, time.Minute), c); err != nil {
		t.Fatal(err)
	}
	moved := proto.CloneOf(c.GetMachine())
	moved.VmHost = "vmHosts/h2"
	removeAtEnd(t, to, moved)
	return &rackv1.MoveMachine{Machine: c.GetMachine(), Moved: moved}
}

func removeAtEnd(t *testing.T, d *Driver, m *vmhostv1.Machine) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		again, err := d.opener.Open(ctx, d.target)
		if err != nil {
			t.Errorf("open to clean up: %v", err)
			return
		}
		defer func() { _ = again.Close() }()
		// What it never had there is not its own.
		if err := again.Delete(ctx, m); err != nil && !errors.Is(err, hypervisor.ErrForeign) {
			t.Errorf("clean up: %v", err)
		}
	})
}

func mustPower(t *testing.T, d *Driver, uid string, action rackv1.PowerAction) {
	t.Helper()
	if _, err := d.SetPower(timeout(t, time.Minute), hypervisor.Ref{UID: uid}, action, 0); err != nil {
		t.Fatal(err)
	}
}

// onlyOn fails the test unless the machine runs on the first host and nothing of it
// is on the other.
func onlyOn(t *testing.T, here, there *Driver, what *rackv1.MoveMachine) {
	t.Helper()
	uid := what.GetMachine().GetUid()
	if got, err := here.Machine(timeout(t, 20*time.Second), uid); err != nil || got.GetPowerState() != vmhostv1.PowerState_POWER_STATE_ON {
		t.Errorf("the machine is %v, error %v; want it to run", got.GetPowerState(), err)
	}
	if got, err := there.Machine(timeout(t, 20*time.Second), uid); !errors.Is(err, hypervisor.ErrNotFound) {
		t.Errorf("on the other host it is %v, error %v", got, err)
	}
	if err := there.readPools(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, p := range there.facts.pools() {
		list, err := there.volumesOf(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range list {
			if len(v.Name) > len(volumePrefix(uid)) && v.Name[:len(volumePrefix(uid))] == volumePrefix(uid) {
				t.Errorf("volume %s is on the other host", v.Name)
			}
		}
	}
}

func TestRealMovesThatFailInTheMiddleLeaveTheMachineRunning(t *testing.T) {
	from, to, r, _ := twoHosts(t)
	what := toMove(t, from, to, func(m *vmhostv1.Machine) { m.PinnedCores = []int32{0} })
	uid := what.GetMachine().GetUid()
	mustPower(t, from, uid, rackv1.PowerAction_POWER_ACTION_START)
	noted := func() string {
		x, err := readXMLText(r.dump(t, uid)[len("state 1 autostart 0\n"):])
		if err == nil {
			return noteOf(x).attr(movingAttr)
		}
		return ""
	}
	for name, change := range map[string]func(*rackv1.MoveMachine){
		"live":    func(m *rackv1.MoveMachine) { m.Live = true },
		"offline": func(m *rackv1.MoveMachine) { m.AllowOffline = true },
	} {
		t.Run(name+", it cannot start there", func(t *testing.T) {
			bad := proto.CloneOf(what)
			bad.Moved.PinnedCores = []int32{4095} // a core that no host has
			change(bad)
			_, err := from.Move(timeout(t, time.Minute), to, bad, "operations/1")
			wantClass(t, err, hypervisor.ErrRefused)
			onlyOn(t, from, to, what)
			if n := noted(); n != "" {
				t.Errorf("the note of %s is still there", n)
			}
		})
	}
	what.Live = true
	t.Run("live, it is not done by the deadline", func(t *testing.T) {
		dom := r.domain(t, uid)
		if err := r.DomainMigrateSetMaxSpeed(dom, 1, 0); err != nil { // MiB a second
			t.Fatal(err)
		}
		began := time.Now()
		_, err := from.Move(timeout(t, 3*time.Second), to, what, "operations/1")
		wantClass(t, err, hypervisor.ErrTimeout)
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("it took %v", took)
		}
		onlyOn(t, from, to, what)
	})
	t.Run("live, the rack dies", func(t *testing.T) {
		if err := r.DomainMigrateSetMaxSpeed(r.domain(t, uid), 8, 0); err != nil {
			t.Fatal(err)
		}
		one, other := openTarget(t, from.opener, from.target), openTarget(t, to.opener, to.target)
		ended := make(chan error, 1)
		go func() {
			_, err := one.Move(timeout(t, time.Minute), other, what, "operations/1")
			ended <- err
		}()
		waitFor(t, func() bool { // something is on its way
			_, _, _, _, processed, _, _, _, _, _, _, _, err := r.DomainGetJobInfo(r.domain(t, uid))
			return err == nil && processed > 0
		})
		_, _ = one.Close(), other.Close()
		wantClass(t, <-ended, hypervisor.ErrUnreachable)
		waitFor(t, func() bool {
			_, err := to.Machine(t.Context(), uid)
			return errors.Is(err, hypervisor.ErrNotFound)
		})
		if err := r.DomainMigrateSetMaxSpeed(r.domain(t, uid), 1000, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := from.Move(timeout(t, time.Minute), to, what, "operations/1"); err != nil {
			t.Fatalf("again: %v", err)
		}
		onlyOn(t, to, from, what)
	})
}

// waitFor looks again until something is so.
func waitFor(t *testing.T, so func() bool) {
	t.Helper()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	limit := time.After(30 * time.Second)
	for !so() {
		select {
		case <-again.C:
		case <-limit:
			t.Fatal("it does not come to be so")
		}
	}
}

func TestRealStoragePoolThatBothHostsHaveIsRefusedAndNothingIsLost_P5(t *testing.T) {
	from, to, rawFrom, rawTo := twoHosts(t)
	dir, name := t.TempDir(), "shared-"+uuid.NewString()[:6] // the hosts see one file system
	rawFrom.addPool(t, name, dir)
	rawTo.addPool(t, name, dir)
	what := toMove(t, from, to, func(m *vmhostv1.Machine) { m.Disks[0].StoragePool = name })
	if p, err := rawTo.StoragePoolLookupByName(name); err != nil || rawTo.StoragePoolRefresh(p, 0) != nil {
		t.Fatal(err)
	}
	volume := what.GetMachine().GetDisks()[0].GetVolume()
	if !slices.Contains(rawTo.volumes(t, name), volume) {
		t.Fatal("the destination does not see the source's volume, so that this proves nothing")
	}
	_, err := from.Move(timeout(t, time.Minute), to, what, "operations/1")
	wantClass(t, err, hypervisor.ErrUnsupported)
	if !slices.Contains(rawFrom.volumes(t, name), volume) {
		t.Error("the volume is gone")
	}
}

// A copy that no domain has yet is told apart from what others have.
func TestRealVolumesOfMachinesThatAreNotHereAreTold(t *testing.T) {
	from, _, r, _ := twoHosts(t)
	uid := uuid.NewString()
	pool, err := r.StoragePoolLookupByName("default")
	if err != nil {
		t.Fatal(err)
	}
	v, err := r.StorageVolCreateXML(pool, fmt.Sprintf("<volume><name>%s0</name><capacity>%d</capacity><allocation unit='bytes'>%d</allocation></volume>", volumePrefix(uid), 8<<20, 8<<20), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.StorageVolDelete(v, 0) })
	o, err := from.Probe(timeout(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range o.GetStoragePools() {
		if got := p.GetUnclaimedBytes()[uid]; p.GetName() == "default" && got < 8<<20 || p.GetName() != "default" && got != 0 {
			t.Errorf("storage pool %s has %d bytes of it: %v", p.GetName(), got, p.GetUnclaimedBytes())
		}
	}
}

// An adopted machine has whatever names and formats somebody gave it.
func TestRealAdoptedMachineIsMovedWithItsSparseDisk(t *testing.T) {
	from, to, r, rawTo := twoHosts(t)
	id, uid := uuid.NewString(), uuid.NewString()
	name := "data-" + id[:6] + ".raw"
	pool, err := r.StoragePoolLookupByName("default")
	if err != nil {
		t.Fatal(err)
	}
	const size = 200 << 20
	v, err := r.StorageVolCreateXML(pool, fmt.Sprintf("<volume><name>%s</name><capacity>%d</capacity><allocation>0</allocation><target><format type='raw'/></target></volume>", name, size), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.StorageVolDelete(v, 0) })
	path, err := r.StorageVolGetPath(v)
	if err != nil {
		t.Fatal(err)
	}
	h1, h2 := devhostNamed(t, "H1"), devhostNamed(t, "H2")
	r.inside(t, h1.socket, "for at in 1 2 100 199; do printf mark-$at | dd of="+path+" bs=1M seek=$at conv=notrunc 2>/dev/null; done")
	dom := foreignDomain(id, "adopted-"+id[:6], 1, 64)
	dom.Metadata = &libvirtxml.DomainMetadata{XML: "<them:note xmlns:them='urn:them'>kept</them:note>"}
	dom.Devices.Disks = []libvirtxml.DomainDisk{{
		Device: "disk", Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw"},
		Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: path}}, Target: &libvirtxml.DomainDiskTarget{Dev: "sda", Bus: "sata"},
	}}
	r.define(t, dom)
	ref := hypervisor.Ref{UID: uid, UUID: id}
	if _, err := from.Adopt(timeout(t, time.Minute), ref, "operations/1"); err != nil {
		t.Fatal(err)
	}
	machine := &vmhostv1.Machine{Uid: uid, HypervisorUuid: id, HypervisorName: dom.Name, VmHost: "vmHosts/h1", Disks: []*vmhostv1.MachineDisk{{StoragePool: "default", Volume: name, SizeBytes: size}}}
	moved := proto.CloneOf(machine)
	moved.VmHost, moved.Disks[0].Volume = "vmHosts/h2", volumePrefix(uid)+"0"
	removeAtEnd(t, to, moved)
	done, err := from.Move(timeout(t, time.Minute), to, &rackv1.MoveMachine{Machine: machine, Moved: moved}, "operations/1")
	if err != nil {
		t.Fatal(err)
	}
	got := done.Machine
	if got.GetUid() != uid || got.GetUuid() != id || got.GetDisks()[0].GetVolume() != volumePrefix(uid)+"0" || got.GetDisks()[0].GetDevice() != "sda" {
		t.Errorf("arrived as %v", got)
	}
	if _, err := from.Machine(timeout(t, time.Minute), id); !errors.Is(err, hypervisor.ErrNotFound) {
		t.Errorf("on the source: %v", err)
	}
	if slices.Contains(rawTo.volumes(t, "default"), logVolume(uid)) {
		t.Error("it has got a console log, which its definition does not name")
	}
	if slices.Contains(r.volumes(t, "default"), name) {
		t.Error("its volume is still on the source")
	}
	rawTo.inside(t, h2.socket, fmt.Sprintf("set -e; f=%s; test $(stat -c %%s $f) = %d; test $(du -m $f | cut -f1) -lt 120; for at in 1 2 100 199; do dd if=$f bs=1M skip=$at count=1 2>/dev/null | grep -qa mark-$at; done", got.GetDisks()[0].GetPath(), size))
	x, err := readXMLText(rawTo.dump(t, id)[len("state 5 autostart 0\n"):])
	if err == nil && x.root.first("metadata", "note") == nil {
		t.Error("metadata of others were lost")
	}
}
