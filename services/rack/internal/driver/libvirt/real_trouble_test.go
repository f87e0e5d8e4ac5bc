package libvirt

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	lv "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func TestRealPoolThatIsStoppedKeepsItsMachine(t *testing.T) {
	h := theDevhost(t)
	d, r := unixDriver(t, h), rawConnection(t, h.socket)
	ctx := timeout(t, 30*time.Second)
	name := "pool-" + uuid.NewString()[:6]
	c := realMachine(t, d, "default", 2)
	p := r.addPool(t, name, "/var/lib/libvirt/"+name)
	c.Machine.Disks[1].StoragePool = name
	o, err := d.Create(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if got := o.GetDisks()[1]; got.GetStoragePool() != name || got.GetVolume() != c.GetMachine().GetDisks()[1].GetVolume() {
		t.Errorf("the second disk is %v", got)
	}
	if err := r.StoragePoolDestroy(p); err != nil {
		t.Fatal(err)
	}
	other := realMachine(t, d, "default", 1)
	other.Machine.Disks[0].StoragePool = name
	_, err = d.Create(ctx, other)
	wantClass(t, err, hypervisor.ErrRefused)
	other.Machine.Disks = nil
	// What cannot be seen is not known to be gone (P4).
	wantClass(t, d.Delete(ctx, c.GetMachine()), hypervisor.ErrBusy)
	if err := r.StoragePoolCreate(p, 0); err != nil {
		t.Fatal(err)
	}
	if err := d.Delete(ctx, c.GetMachine()); err != nil {
		t.Fatal(err)
	}
	if v := r.volumes(t, name); len(v) != 0 {
		t.Errorf("volumes %v are left", v)
	}
}

func TestRealPausedMachineRunsAgainWhenItIsStarted(t *testing.T) {
	h := theDevhost(t)
	d, r := unixDriver(t, h), rawConnection(t, h.socket)
	ctx := timeout(t, 30*time.Second)
	c := realMachine(t, d, "default", 0)
	if _, err := d.Create(ctx, c); err != nil {
		t.Fatal(err)
	}
	uid := c.GetMachine().GetUid()
	_, err := d.SetPower(ctx, hypervisor.Ref{UID: uid}, rackv1.PowerAction_POWER_ACTION_RESET, 0)
	wantClass(t, err, hypervisor.ErrRefused)
	for _, step := range []func() error{
		func() error {
			_, err := d.SetPower(ctx, hypervisor.Ref{UID: uid}, rackv1.PowerAction_POWER_ACTION_START, 0)
			return err
		},
		func() error { return r.DomainSuspend(r.domain(t, uid)) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if o, err := d.Machine(ctx, uid); err != nil || o.GetPowerState() != vmhostv1.PowerState_POWER_STATE_PAUSED {
		t.Fatalf("%v, error %v", o, err)
	}
	o, err := d.SetPower(ctx, hypervisor.Ref{UID: uid}, rackv1.PowerAction_POWER_ACTION_START, 0)
	if err != nil || o.GetPowerState() != vmhostv1.PowerState_POWER_STATE_ON {
		t.Fatalf("%v, error %v", o, err)
	}
}

// A machine that was renamed outside is still that machine.
func TestRealRenamedMachineIsStillOurs(t *testing.T) {
	h := theDevhost(t)
	d, r := unixDriver(t, h), rawConnection(t, h.socket)
	ctx := timeout(t, 30*time.Second)
	c := realMachine(t, d, "default", 1)
	if _, err := d.Create(ctx, c); err != nil {
		t.Fatal(err)
	}
	uid := c.GetMachine().GetUid()
	if _, err := r.DomainRename(r.domain(t, uid), lv.OptString{"renamed-" + uid[len(uid)-6:]}, 0); err != nil {
		t.Fatal(err)
	}
	o, err := d.Create(ctx, c)
	if err != nil || o.GetUid() != uid || o.GetName() == c.GetMachine().GetHypervisorName() {
		t.Fatalf("%v, error %v", o, err)
	}
	if err := d.Delete(ctx, c.GetMachine()); err != nil {
		t.Fatal(err)
	}
	_, err = d.Machine(ctx, uid)
	wantClass(t, err, hypervisor.ErrNotFound)
}

// When libvirtd is killed while it makes a volume, the next one has a file in its
// pool that it does not know of.
func TestRealPoolsInTrouble(t *testing.T) {
	socket, pid := ownLibvirtd(t)
	r := rawConnection(t, socket)
	d := openTarget(t, NewOpener(Config{LocalSockets: map[string]string{"": socket}}), hypervisor.Target{Address: mustParse(t, "qemu:///system")})
	ctx := timeout(t, 30*time.Second)
	uid := uuid.NewString()
	disk := &vmhostv1.MachineDisk{StoragePool: "p", Volume: volumePrefix(uid) + "0", SizeBytes: 64 << 20}

	t.Run("a file that libvirt does not know of is taken", func(t *testing.T) {
		if _, err := exec.LookPath("qemu-img"); err != nil {
			t.Skip("needs qemu-img")
		}
		r.addPool(t, "p", "/var/lib/libvirt/p")
		file := filepath.Join(fmt.Sprintf("/proc/%d/root/var/lib/libvirt/p", pid), disk.GetVolume())
		if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", file, "64M").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		v, err := d.makeVolume(ctx, uid, disk)
		if err != nil || v.created || v.source.path != "/var/lib/libvirt/p/"+disk.GetVolume() {
			t.Fatalf("%+v, error %v", v, err)
		}
		larger := &vmhostv1.MachineDisk{StoragePool: "p", Volume: disk.GetVolume(), SizeBytes: 65 << 20}
		_, err = d.makeVolume(ctx, uid, larger)
		wantClass(t, err, hypervisor.ErrForeign)
		_, err = d.makeVolume(ctx, uuid.NewString(), disk)
		wantClass(t, err, hypervisor.ErrForeign)
		if err := d.removeVolume(ctx, false, disk, others{}); err == nil {
			t.Error("a volume of another machine was removed")
		}
		if err := d.removeVolume(ctx, true, disk, others{}); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(file); !os.IsNotExist(err) {
			t.Errorf("the file is there: %v", err)
		}
	})
	t.Run("a full pool is out of capacity", func(t *testing.T) {
		if !r.addSmallPool(t, socket, "small") {
			t.Skip("cannot mount a file system where libvirtd is")
		}
		_, err := d.makeVolume(ctx, uid, &vmhostv1.MachineDisk{StoragePool: "small", Volume: volumePrefix(uid) + "1", SizeBytes: 64 << 20})
		wantClass(t, err, hypervisor.ErrCapacity)
		if v := r.volumes(t, "small"); len(v) != 0 {
			t.Errorf("volumes %v are left", v)
		}
	})
}
