package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// P5: what others made on a host, before it was added or after, is counted and
// listed as discovered, and is byte for byte the same after everything that
// vmhost does around it.
func TestP5NothingOfOthersIsTouched(t *testing.T) {
	h := host(t, "h3")
	const first, second, volume = "byhand-first", "byhand-second", "byhand.qcow2"
	h.clean(t, []string{first, second}, []string{volume})
	h.virsh(t, "vol-create-as", "default", volume, "8M", "--format", "qcow2")
	h.define(t, first, 3, 300, volume)

	s := newStandalone(t, h)
	snapshot := func() string {
		out := h.virsh(t, "dumpxml", first) + h.virsh(t, "vol-dumpxml", volume, "default")
		if _, err := h.tryVirsh("dominfo", second); err == nil {
			out += h.virsh(t, "dumpxml", second)
		}
		return out
	}
	before := snapshot()
	same := func(after string) {
		t.Helper()
		if got := snapshot(); got != before {
			t.Fatalf("changed by %s:\nbefore:\n%s\nafter:\n%s", after, before, got)
		}
	}

	s.addHost(h, "--overcommit", "cores=10,memory=1,storage=1")
	same("adding the host")
	h.define(t, second, 2, 200, "")
	before = snapshot()
	s.mustCtl("vm-host", "refresh", h.name)
	same("a refresh")

	api := s.grpc()
	var usage *vmhostv1.VmHostUsage
	await(t, 30*time.Second, "the domains made by hand to be counted", func(ctx context.Context) error {
		v, err := api.VmHosts.GetVmHost(ctx, &vmhostv1.GetVmHostRequest{Name: "vmHosts/" + h.name})
		if err != nil {
			return err
		}
		usage = v.GetUsage()
		if usage.GetCores().GetForeign() != 5 || usage.GetMemoryMib().GetForeign() != 500 {
			return fmt.Errorf("foreign: %v", usage)
		}
		return nil
	})
	list, err := api.Machines.ListMachines(t.Context(), &vmhostv1.ListMachinesRequest{Filter: `origin = MACHINE_ORIGIN_DISCOVERED`})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]*vmhostv1.Machine{}
	for _, m := range list.GetMachines() {
		found[m.GetHypervisorName()] = m
	}
	if m := found[first]; m.GetCores() != 3 || m.GetMemoryMib() != 300 || len(m.GetDisks()) != 1 || found[second] == nil {
		t.Fatalf("discovered: %v", found)
	}
	for name, call := range map[string]func() error{
		"delete": func() error {
			_, err := api.Machines.DeleteMachine(t.Context(), &vmhostv1.DeleteMachineRequest{Name: found[first].GetName()})
			return err
		},
		"start": func() error {
			_, err := api.Machines.StartMachine(t.Context(), &vmhostv1.StartMachineRequest{Name: found[first].GetName()})
			return err
		},
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), "discovered") {
			t.Errorf("%s of a discovered machine: %v", name, err)
		}
	}

	s.mustCtl("machine", "compose", "beside", "--memory", "64MiB", "--disk", "1MiB", "--start")
	same("a compose with start")
	// A machine that would have the name of one made by hand is refused and
	// leaves nothing.
	if _, errs, code := s.ctl("machine", "compose", second, "--memory", "64MiB"); code == 0 {
		t.Errorf("a machine named like a foreign domain was composed: %s", errs)
	}
	same("a compose of a name that is taken on the host")
	s.mustCtl("machine", "delete", "beside", "--yes")
	same("a delete")
	s.mustCtl("vm-host", "remove", h.name, "--yes")
	same("removing the host")
	if got := ours(h.volumes(t)); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
}

// define makes a domain by hand.
func (h devHost) define(t *testing.T, name string, cores, memoryMiB int, volume string) {
	t.Helper()
	disk := ""
	if volume != "" {
		disk = fmt.Sprintf("<disk type='file'><driver name='qemu' type='qcow2'/><source file='%s'/><target dev='vda' bus='virtio'/></disk>",
			h.virsh(t, "vol-path", volume, "default"))
	}
	xml := fmt.Sprintf(`<domain type='qemu'><name>%s</name><memory unit='MiB'>%d</memory><vcpu>%d</vcpu>
<os><type arch='x86_64'>hvm</type></os><devices>%s</devices></domain>`, name, memoryMiB, cores, disk)
	path := filepath.Join(t.TempDir(), name+".xml")
	if err := os.WriteFile(path, []byte(xml), 0o600); err != nil {
		t.Fatal(err)
	}
	h.virsh(t, "define", path)
}

// serialLog reads a file of the host, which has a filesystem of its own.
func (h devHost) serialLog(t *testing.T, path string) string {
	t.Helper()
	root := os.Getenv("DEVHOSTS_ROOT")
	b, err := os.ReadFile(filepath.Join(root, h.name, path))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}
