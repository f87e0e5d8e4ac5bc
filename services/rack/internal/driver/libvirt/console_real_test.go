package libvirt

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// fileOf is where a file of the host of a libvirtd is for this process.
func fileOf(t testing.TB, socket, path string) string {
	t.Helper()
	return filepath.Join("/proc", strconv.Itoa(libvirtdOf(t, socket)), "root", path)
}

// P4: nothing of a machine is left, also of a log that was renamed when it was
// full, which libvirt does not know of.
func TestRealConsoleLogGoesWithItsMachine(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to write where virtlogd does")
	}
	h := theDevhost(t)
	d, r := unixDriver(t, h), rawConnection(t, h.socket)
	ctx := timeout(t, time.Minute)
	before := r.volumes(t, "default")
	for _, rotated := range [][]string{nil, {".0", ".1"}} {
		c := realMachine(t, d, "default", 1)
		o, err := d.Create(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		if want := "/var/lib/libvirt/images/" + logVolume(c.GetMachine().GetUid()); o.GetConsoleLogPath() != want || len(o.GetDisks()) != 1 {
			t.Errorf("the log is %s, want %s; disks %v", o.GetConsoleLogPath(), want, o.GetDisks())
		}
		ref := hypervisor.Ref{UID: c.GetMachine().GetUid()}
		if log, err := d.ConsoleLog(ctx, ref, 100); err != nil {
			t.Errorf("the log of a machine that never ran: %v", err)
		} else if b, err := io.ReadAll(log); err != nil || len(b) != 0 {
			t.Errorf("a machine that never ran wrote %q, error %v", b, err)
		}
		if _, err := d.SetPower(ctx, ref, rackv1.PowerAction_POWER_ACTION_START, 0); err != nil {
			t.Fatal(err)
		}
		for _, suffix := range rotated {
			if err := os.WriteFile(fileOf(t, h.socket, o.GetConsoleLogPath()+suffix), []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Delete(ctx, c.GetMachine()); err != nil {
			t.Fatal(err)
		}
		if left, err := filepath.Glob(fileOf(t, h.socket, o.GetConsoleLogPath()) + "*"); err != nil || len(left) != 0 {
			t.Errorf("rotated %v: %v are left, error %v", rotated, left, err)
		}
	}
	if after := r.volumes(t, "default"); len(after) > len(before) {
		t.Errorf("volumes were %v, are %v", before, after)
	}
}

// What a log takes is no disk's: it counts as used by others, never as ours.
func TestRealConsoleLogIsNoneOfOurCommittedBytes(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to write where virtlogd does")
	}
	h := theDevhost(t)
	d := unixDriver(t, h)
	r := rawConnection(t, h.socket)
	ctx := timeout(t, 30*time.Second)
	name := "logs-" + uuid.NewString()[:6]
	r.addPool(t, name, "/var/lib/libvirt/"+name)
	c := realMachine(t, d, "default", 1)
	c.Machine.Disks[0].StoragePool = name
	o, err := d.Create(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	ours := func() int64 {
		probed, err := d.Probe(ctx)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(probed.GetStoragePools(), func(p *vmhostv1.StoragePool) bool { return p.GetName() == name })
		return probed.GetStoragePools()[i].GetOursBytes()
	}
	before := ours()
	if err := os.WriteFile(fileOf(t, h.socket, o.GetConsoleLogPath()), []byte(strings.Repeat("x", 1<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := d.ConsoleLog(ctx, hypervisor.Ref{UID: o.GetUid()}, 1<<19)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(log); err != nil || len(b) != 1<<19 {
		t.Errorf("%d bytes of the log, error %v; want half of it", len(b), err)
	}
	_ = log.Close()
	if after := ours(); after != before {
		t.Errorf("ours were %d bytes and are %d", before, after)
	}
	if err := d.Delete(ctx, c.GetMachine()); err != nil {
		t.Fatal(err)
	}
	if v := r.volumes(t, name); len(v) != 0 {
		t.Errorf("volumes %v are left", v)
	}
}

func TestRealConsoleLogOutsideOfPoolsSaysWhereItIs(t *testing.T) {
	h := theDevhost(t)
	d := unixDriver(t, h)
	ctx := timeout(t, 30*time.Second)
	c := realMachine(t, d, "default", 0)
	o, err := d.Create(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.ConsoleLog(ctx, hypervisor.Ref{UID: o.GetUid()}, 100)
	wantClass(t, err, hypervisor.ErrUnsupported)
	if e, ok := errors.AsType[*hypervisor.Error](err); !ok || !strings.Contains(e.Hint, o.GetConsoleLogPath()) {
		t.Errorf("%v with the hint %q, want the path in it", err, e.Hint)
	}
}

// A reader that does not read holds up its own console and nothing else, and
// closing it ends what is behind it.
func TestRealConsoleThatNobodyReadsHoldsNothingUp(t *testing.T) {
	h := theDevhost(t)
	d := unixDriver(t, h)
	ctx := timeout(t, time.Minute)
	c := realMachine(t, d, "default", 0)
	o, err := d.Create(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	ref := hypervisor.Ref{UID: o.GetUid()}
	if _, err := d.SetPower(ctx, ref, rackv1.PowerAction_POWER_ACTION_START, 0); err != nil {
		t.Fatal(err)
	}
	con, err := d.OpenConsole(ctx, ref, false)
	if err != nil {
		t.Fatal(err)
	}
	// The firmware writes as soon as it runs; nobody reads.
	for range 5 {
		if _, err := d.SetPower(ctx, ref, rackv1.PowerAction_POWER_ACTION_RESET, 0); err != nil {
			t.Fatal(err)
		}
		if _, _, err := d.Inventory(ctx); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	_ = con.Close()
	if took := time.Since(began); took > partTime+time.Second {
		t.Errorf("close took %v", took)
	}
	other := unixDriver(t, h)
	again, err := other.OpenConsole(ctx, ref, true)
	if err != nil {
		t.Fatal(err)
	}
	// The loss of the driver's connection ends its consoles.
	_ = other.Close()
	buffer := make([]byte, 4096)
	for err == nil {
		_, err = again.Read(buffer)
	}
	_ = again.Close()
}
