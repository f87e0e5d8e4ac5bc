package libvirt

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

// P3: whatever a rack has changed of a machine that it makes or removes when it ends,
// or libvirt refuses, the next one makes one machine of it, or removes all of it.
func TestRealCreateAndDeleteGoOnAfterAnyFault_P3(t *testing.T) {
	h := theDevhost(t)
	for name, refused := range map[string]bool{"the rack ends": false, "libvirt refuses": true} {
		t.Run(name, func(t *testing.T) {
			create := createFault(t, h, &fault{n: math.MaxInt, refused: refused})
			for n := range create {
				t.Run(fmt.Sprintf("create, change %d, %s", n+1, create[n]), func(t *testing.T) {
					createFault(t, h, &fault{n: n + 1, refused: refused})
				})
			}
			remove := deleteFault(t, h, &fault{n: math.MaxInt, refused: refused})
			if len(create) == 0 || len(remove) == 0 {
				t.Fatalf("a create asks for %q and a delete for %q, so that nothing is tried", create, remove)
			}
			for n := range remove {
				t.Run(fmt.Sprintf("delete, change %d, %s", n+1, remove[n]), func(t *testing.T) {
					deleteFault(t, h, &fault{n: n + 1, refused: refused})
				})
			}
		})
	}
}

// faulty is a connection to the host with the fault in it.
func faulty(t *testing.T, h devhost, f *fault) *Driver {
	t.Helper()
	return unixDriver(t, devhost{socket: f.through(t, h.socket)})
}

// reserved is a machine with all that a create makes.
func reserved(t *testing.T, d *Driver) *rackv1.CreateMachine {
	t.Helper()
	c := realMachine(t, d, "default", 2)
	c.Autostart = true
	return c
}

// createFault makes a machine with the fault, and once more. It answers what was
// changed the first time.
func createFault(t *testing.T, h devhost, f *fault) []string {
	t.Helper()
	d, r := unixDriver(t, h), rawConnection(t, h.socket)
	c := reserved(t, d)
	_, err := faulty(t, h, f).Create(timeout(t, time.Minute), c)
	asked, came := f.changes()
	if !came && err != nil || came && !f.refused && err == nil {
		t.Fatalf("%q were asked for, and the create ended with %v", asked, err)
	}
	if f.refused && err != nil {
		if left := leftOf(t, d, r, c); len(left) > 0 {
			t.Errorf("after %v there is %q", err, left)
		}
		if errors.Is(err, hypervisor.ErrUnreachable) || errors.Is(err, hypervisor.ErrTimeout) {
			t.Errorf("it is not known: %v", err)
		}
	}
	got, err := d.Create(timeout(t, time.Minute), c)
	if err != nil || got.GetUid() != c.GetMachine().GetUid() || len(got.GetDisks()) != 2 || !got.GetAutostart() {
		t.Fatalf("after %q: %v, error %v", asked, got, err)
	}
	if left := leftOf(t, d, r, c); len(left) != 4 { // the domain, two disks, the log
		t.Errorf("it is %q", left)
	}
	return asked
}

// deleteFault removes a machine with the fault, and once more.
func deleteFault(t *testing.T, h devhost, f *fault) []string {
	t.Helper()
	d, r := unixDriver(t, h), rawConnection(t, h.socket)
	c := reserved(t, d)
	if _, err := d.Create(timeout(t, time.Minute), c); err != nil {
		t.Fatal(err)
	}
	err := faulty(t, h, f).Delete(timeout(t, time.Minute), c.GetMachine())
	asked, came := f.changes()
	if !came && err != nil || came && !f.refused && err == nil {
		t.Fatalf("%q were asked for, and the delete ended with %v", asked, err)
	}
	if left := leftOf(t, d, r, c); err == nil && len(left) > 0 {
		t.Errorf("it said that it has removed %q", left)
	}
	if err := d.Delete(timeout(t, time.Minute), c.GetMachine()); err != nil {
		t.Fatalf("after %q: %v", asked, err)
	}
	if left := leftOf(t, d, r, c); len(left) > 0 {
		t.Errorf("after %q there is %q", asked, left)
	}
	return asked
}

// leftOf is what the host has of a machine.
func leftOf(t *testing.T, d *Driver, r raw, c *rackv1.CreateMachine) []string {
	t.Helper()
	uid := c.GetMachine().GetUid()
	left := slices.DeleteFunc(r.volumes(t, "default"), func(v string) bool { return !strings.HasPrefix(v, volumePrefix(uid)) })
	switch got, err := d.Machine(timeout(t, time.Minute), uid); {
	case err == nil:
		left = append(left, "domain "+got.GetName())
	case !errors.Is(err, hypervisor.ErrNotFound):
		t.Fatal(err)
	}
	return left
}
