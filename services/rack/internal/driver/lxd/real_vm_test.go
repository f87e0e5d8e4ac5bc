package lxd

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmhost-project/vmhost/pkg/hypervisor/hypervisortest"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/lxdtest"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// emulated is how long the server may take for anything: the machine that it runs
// on is emulated, and the virtual machines that it runs are emulated in that.
const emulated = 10 * time.Minute

// The suite with virtual machines instead of containers, on a server that really
// runs them: P3, P4, P5 and P9 as the suite names them.
func TestLongRealVirtualMachinesKeepTheRulesOfHypervisors(t *testing.T) {
	s := lxdtest.LongDevhost(t, "lxdvm")
	p := hypervisortest.NewProxy(t, "tcp", strings.TrimPrefix(s.URL, "https://"))
	h := harnessOf(outside{Server: s, project: "default", vm: true}, p, targetOf(t, s))
	// Nothing on their disks: they stay in their firmware, which is quick to start,
	// and deaf to the power button.
	h.Machine = func(m *vmhostv1.Machine) { m.Type = vmhostv1.MachineType_MACHINE_TYPE_VIRTUAL_MACHINE }
	h.Deaf = func(testing.TB, *rackv1.CreateMachine) {}
	h.MemoryMiB, h.DiskBytes, h.Patience = 128, 64<<20, emulated
	// LXD gives the console of a virtual machine to the next only when the guest has
	// written once more after the one before has left: so it does, a little later.
	h.Guest = &hypervisortest.Guest{
		Prepare: func(_ testing.TB, c *rackv1.CreateMachine) { c.Machine.Image = "tiny-vm" },
		Type:    "echo vmhost-$((6*7)); (for i in 1 2 3 4 5; do sleep 2; echo; done) &\r", Answer: "vmhost-42",
	}
	hypervisortest.Run(t, h)
}

// What tells placement that virtual machines can be made there.
func TestLongRealServerThatRunsVirtualMachinesSaysSo(t *testing.T) {
	d := openTarget(t, NewOpener(Config{}), targetOf(t, lxdtest.LongDevhost(t, "lxdvm")))
	o, err := d.Probe(timeout(t, emulated))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{"containers", "virtual-machines", "kvm"} {
		if !slices.Contains(o.GetCapabilities(), c) {
			t.Errorf("its capabilities are %v, want %s among them", o.GetCapabilities(), c)
		}
	}
	if !o.GetKvm() {
		t.Error("it is not said to have KVM")
	}
}
