package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// P3: real hosts that share a folder are emptied without their disks: those are the
// files that they were, and go with their machines.
func TestP3DrainingALibvirtHostWhoseDisksAreShared(t *testing.T) {
	from, to := host(t, "h1"), host(t, "h2")
	folder, err := os.MkdirTemp("", "vmhost-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	if err := os.Chmod(folder, 0o755); err != nil { // QEMU is another user
		t.Fatal(err)
	}
	for _, h := range []devHost{from, to} {
		h.clean(t, []string{"shared-on", "shared-off"}, nil)
		h.virsh(t, "pool-create-as", "nas-e2e", "dir", "--target", folder)
		t.Cleanup(func() { _, _ = h.tryVirsh("pool-destroy", "nas-e2e") })
	}
	m := newStandalone(t, from, to)
	for _, h := range []devHost{from, to} {
		m.addHost(h, "--overcommit", "cores=10,memory=10,storage=10", "--shared-pool", "nas-e2e=nas/e2e")
	}
	uids := map[string]string{}
	for _, name := range []string{"shared-on", "shared-off"} {
		args := []string{"machine", "compose", name, "--vm-host", from.name, "--memory", "128MiB", "--disk", "64MiB,pool=nas-e2e", "-o", "name"}
		if name == "shared-on" {
			args = append(args, "--start")
		}
		uids[name] = strings.TrimPrefix(strings.TrimSpace(m.mustCtl(args...)), "machines/")
	}
	files := map[string]os.FileInfo{}
	for name, uid := range uids {
		if files[name], err = os.Stat(filepath.Join(folder, "vmhost-"+uid+"-0")); err != nil {
			t.Fatal(err)
		}
	}
	if out := m.mustCtl("vm-host", "drain", from.name); !strings.Contains(out, "2 machines moved, 0 stay") || !strings.Contains(out, "live, disks stay") || !strings.Contains(out, "offline, disks stay") {
		t.Errorf("the drain:\n%s", out)
	}
	for name, uid := range uids {
		if now, err := os.Stat(filepath.Join(folder, "vmhost-"+uid+"-0")); err != nil || !os.SameFile(now, files[name]) {
			t.Errorf("the disk of %s is another file, or none: %v", name, err)
		}
		if got, want := to.virsh(t, "domstate", uid), map[string]string{"shared-on": "running", "shared-off": "shut off"}[name]; got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
		if slices.Contains(from.domains(t), uid) {
			t.Errorf("%s is on both hosts", name)
		}
		m.mustCtl("machine", "delete", name, "--yes")
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
		t.Errorf("after its machines were deleted the pool has %v, error %v", left, err)
	}
}
