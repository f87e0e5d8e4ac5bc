package e2e

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/vmhost-project/vmhost/pkg/hypervisor/lxdtest"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// A virtual machine on a real LXD from compose to delete, which leaves the server
// as it was (P5). The server is emulated, and so is the machine in it: everything
// takes minutes.
func TestLongAVirtualMachineLivesOnLXD_P5(t *testing.T) {
	lxdtest.LongDevhost(t, "lxdvm")
	s := newStandalone(t)
	h := lxdProject(t, "lxdvm", "vmlives")
	h.lxc(t, "init", "foreign", "--empty", "--vm", "--storage", "default", "--config", "limits.memory=128MiB")
	before := h.everything(t)
	s.addLXD(h)
	began := time.Now()
	name := strings.TrimSpace(s.mustCtl("machine", "compose", "lives", "--vm-host", h.name, "--image", "tiny-vm",
		"--cores", "1", "--memory", "128MiB", "--disk", "64MB", "--start", "-o", "name"))
	t.Logf("composed and started after %v", time.Since(began).Round(time.Second))
	m := s.machine(name)
	if m.GetType() != vmhostv1.MachineType_MACHINE_TYPE_VIRTUAL_MACHINE || m.GetPowerState() != vmhostv1.PowerState_POWER_STATE_ON || m.GetPhase() != vmhostv1.MachinePhase_MACHINE_PHASE_READY {
		t.Errorf("it is a %v, %v, %v", m.GetType(), m.GetPowerState(), m.GetPhase())
	}
	says(t, "lxc config show", h.shown(t, "lives"), `limits.cpu: "1"`, "limits.memory: 128MiB", "user.vmhost.uid: "+strings.TrimPrefix(name, "machines/"))
	says(t, "lxc list", h.lxc(t, "list", "--format", "csv", "--columns", "nst"), "lives,RUNNING,VIRTUAL-MACHINE", "foreign,STOPPED,VIRTUAL-MACHINE")

	await(t, 10*time.Minute, "the address of its lease", func(context.Context) error {
		for _, a := range s.machine(name).GetAddresses() { //nolint:contextcheck // the test's ends it as well
			if strings.HasPrefix(a, "192.168.") {
				t.Logf("address %s after %v", a, time.Since(began).Round(time.Second))
				return nil
			}
		}
		return errors.New("no address yet")
	})
	state := func(want string, args ...string) {
		t.Helper()
		since := time.Now()
		s.mustCtl(append([]string{"machine"}, args...)...)
		if got := h.instances(t); !strings.Contains(got, "lives,"+want) {
			t.Errorf("after %v: %s", args, got)
		}
		t.Logf("%v: %v", args, time.Since(since).Round(time.Second))
	}
	state("STOPPED", "stop", "lives", "--soft", "--grace", "8m", "--wait", "9m")
	state("RUNNING", "start", "lives")
	state("STOPPED", "stop", "lives", "--hard")
	s.mustCtl("machine", "delete", "lives", "--yes")
	same(t, "the life of a virtual machine", before, h.everything(t))
	s.mustCtl("vm-host", "remove", h.name, "--yes")
	same(t, "removing the host", before, h.everything(t))
}
