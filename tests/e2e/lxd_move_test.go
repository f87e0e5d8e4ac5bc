package e2e

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// P3, P4, P5, P6: a container is moved to another LXD server and drained back, with a
// kill -9 in the middle of the first, and within a cluster. It exists once, runs as
// it did, and has the file that was on its root disk; what others have is as it was.
func TestP3P4P5P6LXDMachinesAreMovedAndDrained(t *testing.T) {
	for name, servers := range map[string][2]string{"servers": {"lxd1", "lxd2"}, "cluster": {"lxdc1", "lxdc2"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			moveAndDrainLXD(t, name, servers)
		})
	}
}

func moveAndDrainLXD(t *testing.T, name string, servers [2]string) {
	t.Helper()
	clustered := name == "cluster"
	s := newStandalone(t)
	var hosts [2]lxdHost
	if clustered {
		hosts[0] = lxdProject(t, servers[0], "move-cluster")
		hosts[1] = hosts[0] // of one project
		hosts[1].name += "-" + servers[1]
		s.addLXD(hosts[0], "--cluster-member", servers[0])
		s.mustCtl("vm-host", "add-cluster-members", hosts[0].name)
		await(t, 30*time.Second, "the other member's host", func(context.Context) error {
			if v := s.vmHost(hosts[1].name); v.GetState() != vmhostv1.VmHostState_VM_HOST_STATE_READY { //nolint:contextcheck // the test's ends it as well
				return errors.New(v.GetState().String())
			}
			return nil
		})
	} else {
		for n, server := range servers {
			hosts[n] = lxdProject(t, server, "move-"+server)
			s.addLXD(hosts[n])
		}
	}
	from, to := hosts[0], hosts[1]
	foreign := "not-ours"
	from.init(t, foreign)
	before := from.shown(t, foreign)
	hostname := "moved-" + name
	machine := s.container(from, hostname, "--disk", "12MB", "--start")
	from.lxc(t, "exec", hostname, "--", "sh", "-c", "echo kept > /file; echo kept > /mnt/disk1/file; sync")
	mac := s.machine(machine).GetInterfaces()[0].GetMac()

	volumes := func(h lxdHost, member string) string {
		var out string
		for _, pool := range []string{"default", "btrfs"} {
			list := h.lxc(t, "storage", "volume", "list", pool, "--format", "csv", "--columns", map[bool]string{true: "nL", false: "n"}[clustered], "type=custom")
			for v := range strings.Lines(list) {
				if !clustered || strings.HasSuffix(strings.TrimSpace(v), ","+member) {
					out += v
				}
			}
		}
		return out
	}
	// on fails the test unless the machine runs on one host, and nothing of it is on the
	// other.
	on := func(here, there int) {
		t.Helper()
		h, other := hosts[here], hosts[there]
		if got := h.lxc(t, "list", "^"+hostname+"$", "--format", "csv", "--columns", map[bool]string{true: "sL", false: "s"}[clustered]); got != "RUNNING" && got != "RUNNING,"+servers[here] {
			t.Errorf("on %s it is %q", h.name, got)
		}
		if got := other.lxc(t, "list", "--format", "csv", "--columns", "n"); strings.Contains(got, "vmhost-move") || !clustered && strings.Contains(got, hostname) {
			t.Errorf("on %s are %q", other.name, got)
		}
		if is, was := volumes(h, servers[here]), volumes(other, servers[there]); !strings.Contains(is, "vmhost-") || strings.Contains(was, "vmhost-") {
			t.Errorf("%s has the volumes %q, %s %q", h.name, is, other.name, was)
		}
		if got := h.Run(t, h.project, hostname, "cat /file /mnt/disk1/file; cat /sys/class/net/eth0/address"); got != "kept\nkept\n"+mac {
			t.Errorf("it has %q", got)
		}
		if m := s.machine(machine); m.GetVmHost() != "vmHosts/"+h.name || m.GetOperation() != "" || m.GetPowerState() != vmhostv1.PowerState_POWER_STATE_ON {
			t.Errorf("it is recorded as %v", m)
		}
		same(t, "a move", before, from.shown(t, foreign))
	}

	if _, errs, code := s.ctl("machine", "move", hostname); code == 0 || !strings.Contains(errs, "LXD servers do not move what runs") || !strings.Contains(errs, "allow_offline") {
		t.Errorf("moved while it runs: exit code %d\n%s", code, errs)
	}
	op, err := s.grpc().Machines.MoveMachine(t.Context(), &vmhostv1.MoveMachineRequest{Name: machine, VmHost: "vmHosts/" + to.name, AllowOffline: true})
	if err != nil {
		t.Fatal(err)
	}
	await(t, time.Minute, "the machine stopped for its move", func(context.Context) error {
		if got := from.lxc(t, "list", hostname, "--format", "csv", "--columns", "s"); got != "RUNNING" { //nolint:contextcheck // the test's ends it as well
			return nil
		}
		return errors.New("not yet")
	})
	s.stop(syscall.SIGKILL)
	s.start()
	if op = finish(t, s.grpc(), op); op.GetPhase() != vmhostv1.OperationPhase_OPERATION_PHASE_SUCCEEDED {
		t.Fatalf("operation %v", op)
	}
	on(1, 0)
	says(t, "the plan", s.mustCtl("vm-host", "drain", to.name, "--allow-offline", "--dry-run"), "1 machine would be moved, 0 would stay", "offline", from.name)
	says(t, "the drain", s.mustCtl("vm-host", "drain", to.name, "--allow-offline"), "1 machine moved, 0 stay", "offline")
	on(0, 1)
	s.mustCtl("machine", "delete", hostname, "--yes")
}
