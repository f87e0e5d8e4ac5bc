package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// movers is vmhost with two real hosts, and machines on the first.
type movers struct {
	*standalone
	from, to devHost
	uids     map[string]string // by hostname
}

func newMovers(t *testing.T, machines map[string]bool) *movers {
	t.Helper()
	m := &movers{from: host(t, "h1"), to: host(t, "h2"), uids: map[string]string{}}
	for _, h := range []devHost{m.from, m.to} {
		var names []string
		for name := range machines {
			names = append(names, name)
		}
		h.clean(t, names, nil)
		t.Cleanup(func() {
			for _, v := range ours(h.volumes(t)) {
				if slices.ContainsFunc(keys(m.uids), func(uid string) bool { return strings.Contains(v, uid) }) {
					_, _ = h.tryVirsh("vol-delete", v, "default")
				}
			}
		})
	}
	m.standalone = newStandalone(t, m.from, m.to)
	for _, h := range []devHost{m.from, m.to} {
		m.addHost(h, "--overcommit", "cores=10,memory=10,storage=10")
	}
	for name, runs := range machines {
		args := []string{"machine", "compose", name, "--vm-host", m.from.name, "--memory", "128MiB", "--disk", "64MiB", "-o", "name"}
		if runs {
			args = append(args, "--start")
		}
		m.uids[name] = strings.TrimPrefix(strings.TrimSpace(m.mustCtl(args...)), "machines/")
	}
	return m
}

func keys(m map[string]string) []string {
	var out []string
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

// once says if a machine is not on one host alone, with its disk, and in that state.
func (m *movers) once(t *testing.T, name string, on, off devHost, state string) {
	t.Helper()
	uid := m.uids[name]
	if !slices.Contains(on.domains(t), uid) || slices.Contains(off.domains(t), uid) {
		t.Errorf("%s is on %s: %v, on %s: %v", name, on.name, slices.Contains(on.domains(t), uid), off.name, slices.Contains(off.domains(t), uid))
	}
	disk := "vmhost-" + uid + "-0"
	if !slices.Contains(on.volumes(t), disk) || slices.Contains(off.volumes(t), disk) {
		t.Errorf("the disk of %s is on %s: %v, on %s: %v", name, on.name, slices.Contains(on.volumes(t), disk), off.name, slices.Contains(off.volumes(t), disk))
	}
	if got := on.virsh(t, "domstate", uid); got != state {
		t.Errorf("%s is %s, want %s", name, got, state)
	}
	if r := m.machine("machines/" + uid); r.GetVmHost() != "vmHosts/"+on.name || r.GetOperation() != "" {
		t.Errorf("%s is recorded as %v", name, r)
	}
}

// P3, P4, P6: kill -9 in the middle of a move. After a new start the move ends, and
// the machine exists once, with its disk.
func TestP3P4P6KillInTheMiddleOfAMove(t *testing.T) {
	for _, runs := range []bool{false, true} {
		t.Run(fmt.Sprintf("running %v", runs), func(t *testing.T) {
			const name = "moved-e2e"
			m := newMovers(t, map[string]bool{name: runs})
			op, err := m.grpc().Machines.MoveMachine(t.Context(), &vmhostv1.MoveMachineRequest{Name: "machines/" + m.uids[name], AllowOffline: true})
			if err != nil {
				t.Fatal(err)
			}
			await(t, time.Minute, "something of it on the destination", func(context.Context) error {
				if !slices.Contains(m.to.volumes(t), "vmhost-"+m.uids[name]+"-0") {
					return errors.New("not yet")
				}
				return nil
			})
			m.stop(syscall.SIGKILL)
			m.start()
			if op = finish(t, m.grpc(), op); op.GetPhase() != vmhostv1.OperationPhase_OPERATION_PHASE_SUCCEEDED {
				t.Fatalf("operation %v", op)
			}
			state := "shut off"
			if runs {
				state = "running"
			}
			m.once(t, name, m.to, m.from, state)
			m.mustCtl("machine", "delete", name, "--yes")
		})
	}
}

// A real host is emptied: one machine runs, the other is off; each is as it was.
func TestDrainingALibvirtHost(t *testing.T) {
	m := newMovers(t, map[string]bool{"drained-on": true, "drained-off": false})
	if out := m.mustCtl("vm-host", "drain", m.from.name, "--allow-offline", "--dry-run"); !strings.Contains(out, "2 machines would be moved, 0 would stay") {
		t.Errorf("the plan:\n%s", out)
	}
	if out := m.mustCtl("vm-host", "drain", m.from.name, "--allow-offline"); !strings.Contains(out, "2 machines moved, 0 stay") {
		t.Errorf("the drain:\n%s", out)
	}
	m.once(t, "drained-on", m.to, m.from, "running")
	m.once(t, "drained-off", m.to, m.from, "shut off")
	for _, tt := range []struct {
		args []string
		code int
		why  string
	}{
		{[]string{"drained-off", "--to", m.from.name}, 8, "cordoned"},
		{[]string{"drained-off", "--to", m.to.name}, 2, "is the host that the machine is on"},
		{[]string{"drained-off", "--to", "nowhere"}, 6, "does not exist"},
	} {
		if _, errs, code := m.ctl(append([]string{"machine", "move"}, tt.args...)...); code != tt.code || !strings.Contains(errs, tt.why) {
			t.Errorf("move %v: exit code %d, want %d\n%s", tt.args, code, tt.code, errs)
		}
	}
	m.mustCtl("machine", "delete", "drained-on", "--yes")
	m.mustCtl("machine", "delete", "drained-off", "--yes")
}
