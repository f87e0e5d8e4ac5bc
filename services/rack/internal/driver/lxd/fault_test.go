package lxd

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	lxdapi "github.com/canonical/lxd/shared/api"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func TestOneBadInstanceAmong500IsMarkedAndTheRestIsRead(t *testing.T) {
	f := newFakeLXD(t)
	list := make([]lxdapi.Instance, 0, 505)
	for n := range 500 {
		list = append(list, fakeInstance(fmt.Sprintf("good-%d", n), fmt.Sprintf("0b1f5cf4-54ad-4ee6-a2b8-%012d", n), nil))
	}
	bad := map[string]string{
		"bad-cpu": "limits.cpu", "bad-memory": "limits.memory", "bad-percent": "not known", "bad-type": "unknown type", "bad-uuid": "no uuid", "bad-size": "root disk",
	}
	for n, name := range []string{"bad-cpu", "bad-memory", "bad-percent", "bad-type", "bad-uuid", "bad-size"} {
		i := fakeInstance(name, fmt.Sprintf("0b1f5cf4-54ad-4ee6-ffff-%012d", n), nil)
		switch name {
		case "bad-cpu":
			i.Config["limits.cpu"] = "a few"
		case "bad-memory":
			i.Config["limits.memory"] = "9999999999999EiB"
		case "bad-percent":
			i.Config["limits.memory"] = "50%"
		case "bad-type":
			i.Type = "unikernel"
		case "bad-uuid":
			delete(i.Config, volatileUUID)
		case "bad-size":
			i.Devices = map[string]map[string]string{"root": {"type": "disk", "path": "/", "pool": "default", "size": "big"}}
		}
		list = append(list, i)
	}
	f.set("GET /1.0/instances", list)
	d := f.open(t, Config{})
	o, machines, err := d.Inventory(timeout(t, 20*time.Second))
	if err != nil || len(machines) != len(list) {
		t.Fatalf("%d machines of %d, error %v", len(machines), len(list), err)
	}
	seen := map[string]bool{}
	for _, m := range machines {
		if seen[m.GetUuid()] || m.GetUuid() == "" {
			t.Errorf("%s has the uuid %q of another", m.GetName(), m.GetUuid())
		}
		seen[m.GetUuid()] = true
		if want := bad[m.GetName()]; (want == "") != (m.GetProblem() == "") || !strings.Contains(m.GetProblem(), want) {
			t.Errorf("%s has the problem %q, want %q", m.GetName(), m.GetProblem(), want)
		}
	}
	if o.GetForeign().GetMachines() != 506 || o.GetForeign().GetCores() < 505 {
		t.Errorf("foreign use is %v", o.GetForeign())
	}
	again, err := d.Machines(timeout(t, 20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range again {
		if !seen[m.GetUuid()] {
			t.Errorf("%s has another uuid the second time", m.GetName())
		}
	}
}

func TestWordsOfLXDAreClassed(t *testing.T) {
	for text, class := range map[string]error{
		`Failed creating instance record: Instance type "virtual-machine" is not supported on this server: KVM support is missing (no /dev/kvm)`: hypervisor.ErrUnsupported,
		`Failed creating instance from image: Unpack failed: write x: no space left on device`:                                                   hypervisor.ErrCapacity,
		`Instance is busy running a "stop" operation`:                                                                                            hypervisor.ErrBusy,
		`Add instance info to the database: This "instances" entry already exists`:                                                               hypervisor.ErrExists,
		`Device validation failed for "eth0": Failed to load network "nonet" for project "default": Network not found`:                           hypervisor.ErrNotFound,
		`Failed initialising instance: Failed loading storage pool: Storage pool not found`:                                                      hypervisor.ErrNotFound,
		`Failed initialising instance: Invalid devices: Device validation failed for "eth0"`:                                                     hypervisor.ErrRefused,
	} {
		wantClass(t, failed("make", text), class)
	}
	if err := failed("make", "something else"); hypervisor.Class(err) != rackv1.ErrorClass_ERROR_CLASS_UNSPECIFIED {
		t.Errorf("%v is of class %v", err, hypervisor.Class(err))
	}
}

// A volume that was made is removed again when LXD does not make the instance.
func TestCreateThatFailsRemovesItsVolumes(t *testing.T) {
	f := newFakeLXD(t)
	d := f.open(t, Config{OperationInterval: 20 * time.Millisecond})
	c := fakeContainer()
	volume := volumePrefix(fakeUUID) + "1"
	c.Machine.Disks = append(c.Machine.Disks, &vmhostv1.MachineDisk{StoragePool: "default", Volume: volume, SizeBytes: 1 << 20})
	f.set("POST /1.0/storage-pools/default/volumes/custom", struct{}{})
	f.set("DELETE /1.0/storage-pools/default/volumes/custom/"+volume, struct{}{})
	f.set("GET /1.0/operations/op", lxdapi.Operation{ID: "op", StatusCode: lxdapi.Failure, Err: "no space left on device"})
	_, err := d.Create(timeout(t, 10*time.Second), c)
	wantClass(t, err, hypervisor.ErrCapacity)
	if n := f.count("DELETE /1.0/storage-pools/default/volumes/custom/" + volume); n != 1 {
		t.Errorf("the volume was removed %d times", n)
	}
	f.set("DELETE /1.0/storage-pools/default/volumes/custom/"+volume, refusal{http.StatusInternalServerError, "cannot"})
	f.set("GET /1.0/operations/op", lxdapi.Operation{ID: "op2", StatusCode: lxdapi.Failure, Err: "no space left on device"})
	f.set("POST /1.0/instances", running{"op2"})
	f.set("GET /1.0/operations/op2", lxdapi.Operation{ID: "op2", StatusCode: lxdapi.Failure, Err: "no space left on device"})
	_, err = d.Create(timeout(t, 10*time.Second), c)
	wantClass(t, err, hypervisor.ErrTimeout) // it is not known what is left
}

func TestPoolThatIsFullIsOutOfCapacity(t *testing.T) {
	f := newFakeLXD(t)
	d := f.open(t, Config{})
	f.set("GET /1.0/storage-pools/default/resources", lxdapi.ResourcesStoragePool{Space: lxdapi.ResourcesStoragePoolSpace{Total: 1 << 20, Used: 1 << 19}})
	c := fakeContainer()
	// A thin pool takes what does not fit yet, but nothing that never will.
	c.Machine.Disks[0].SizeBytes = 1<<20 + 1
	_, err := d.Create(timeout(t, 10*time.Second), c)
	wantClass(t, err, hypervisor.ErrCapacity)
	if err == nil || !strings.Contains(err.Error(), `"default"`) {
		t.Errorf("error %v does not name the pool", err)
	}
}

// The event of an operation's end may come before the answer that names it, and
// may not come at all.
func TestOperationsEndByEventAndByLooking(t *testing.T) {
	f := newFakeLXD(t)
	for name, test := range map[string]struct {
		interval time.Duration
		end      func(d *Driver)
	}{
		"by event": {time.Hour, func(*Driver) {
			f.tell(t, "operation", lxdapi.Operation{ID: "op", StatusCode: lxdapi.Failure, Err: "is not supported on this server"})
		}},
		"by looking": {20 * time.Millisecond, func(*Driver) {
			f.set("GET /1.0/operations/op", lxdapi.Operation{ID: "op", StatusCode: lxdapi.Failure, Err: "is not supported on this server"})
		}},
		"forgotten by LXD": {20 * time.Millisecond, func(*Driver) {
			f.set("GET /1.0/operations/op", refusal{http.StatusNotFound, "not found"})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f.set("GET /1.0/operations/op", lxdapi.Operation{ID: "op", StatusCode: lxdapi.Running})
			d := f.open(t, Config{OperationInterval: test.interval})
			done := make(chan error, 1)
			go func() { _, err := d.Create(timeout(t, 20*time.Second), fakeContainer()); done <- err }()
			before := f.count("POST /1.0/instances")
			for f.count("POST /1.0/instances") == before {
				if !pause(t.Context(), d.conn.dead, 5*time.Millisecond) {
					t.Fatal("the driver has ended")
				}
			}
			test.end(d)
			err := <-done
			if name == "forgotten by LXD" {
				if err == nil || hypervisor.Class(err) != rackv1.ErrorClass_ERROR_CLASS_UNSPECIFIED {
					t.Errorf("error %v, want one that is tried again", err)
				}
				return
			}
			wantClass(t, err, hypervisor.ErrUnsupported)
		})
	}
}

func TestServerThatDoesNotAnswerKeepsNobody(t *testing.T) {
	f := newFakeLXD(t)
	d := f.open(t, Config{})
	f.mute("/1.0/instances")
	began := time.Now()
	_, err := d.Machines(timeout(t, 100*time.Millisecond))
	wantClass(t, err, hypervisor.ErrTimeout)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	// One that does not answer one thing may answer others.
	if _, err := get[[]string](timeout(t, 5*time.Second), d.conn, "list profiles", "/1.0/profiles"); err != nil {
		t.Errorf("the driver is lost: %v", err)
	}
}

func TestLossOfTheEventsIsTheLossOfTheDriver(t *testing.T) {
	f := newFakeLXD(t)
	d := f.open(t, Config{})
	f.drop()
	select {
	case <-d.conn.dead:
	case <-timeout(t, 20*time.Second).Done():
		t.Fatal("the driver lives on without events")
	}
	_, err := d.Machines(timeout(t, 5*time.Second))
	wantClass(t, err, hypervisor.ErrUnreachable)
}

func TestAnswerThatIsNotLXDsIsAnError(t *testing.T) {
	f := newFakeLXD(t)
	d := f.open(t, Config{})
	for name, text := range map[string]string{"no JSON": "<html>", "other metadata": `{"type":"sync","metadata":"x"}`, "nothing": ""} {
		f.set("GET /1.0/profiles", text)
		if _, err := get[[]string](timeout(t, 5*time.Second), d.conn, "list profiles", "/1.0/profiles"); err == nil {
			t.Errorf("%s is an answer", name)
		}
		if d.conn.isDead() {
			d = f.open(t, Config{})
		}
	}
}

// What a certificate may not see is left out and said.
func TestWhatMayNotBeSeenIsAProblemAndNoError(t *testing.T) {
	f := newFakeLXD(t)
	for _, path := range []string{"resources", "storage-pools", "networks", "profiles", "images"} {
		f.set("GET /1.0/"+path, refusal{http.StatusForbidden, "not authorized"})
	}
	o, err := f.open(t, Config{}).Probe(timeout(t, 10*time.Second))
	if err != nil || len(o.GetProblems()) != 5 || o.GetHypervisorVersion() == "" {
		t.Errorf("problems %q, error %v", o.GetProblems(), err)
	}
}

func TestOldServerIsUnsupported(t *testing.T) {
	f := newFakeLXD(t)
	f.set("GET /1.0", lxdapi.Server{ServerUntrusted: lxdapi.ServerUntrusted{Auth: "trusted"}, Environment: lxdapi.ServerEnvironment{ServerVersion: "3.0.3"}})
	o := NewOpener(Config{LocalSockets: map[string]string{"fake": f.path}})
	_, err := o.Open(timeout(t, 5*time.Second), hypervisor.Target{Address: mustParse(t, "lxd+unix://fake")})
	wantClass(t, err, hypervisor.ErrUnsupported)
	if err == nil || !strings.Contains(err.Error(), "3.0.3") {
		t.Errorf("error %v does not name the version", err)
	}
}

func TestSocketThatTheRackDoesNotNameIsNotOpened(t *testing.T) {
	_, err := NewOpener(Config{}).Open(timeout(t, 5*time.Second), hypervisor.Target{Address: mustParse(t, "lxd+unix://nowhere")})
	wantClass(t, err, hypervisor.ErrUnreachable)
}
