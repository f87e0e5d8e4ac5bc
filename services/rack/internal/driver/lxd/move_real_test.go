package lxd

import (
	"slices"
	"strings"
	"testing"

	"github.com/vmhost-project/vmhost/pkg/hypervisor/hypervisortest"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/lxdtest"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// movingHarness is a server, or a member of a cluster, as a machine is moved from
// and to it.
func movingHarness(t *testing.T, s lxdtest.Server) hypervisortest.Harness {
	t.Helper()
	p := hypervisortest.NewProxy(t, "tcp", strings.TrimPrefix(s.URL, "https://"))
	h := harness(t, s, p, targetOf(t, s))
	h.ThickPool = ""
	return h
}

// inContainer runs a script in a container. One that is off runs for it: its second
// disk is there only then.
func inContainer(t testing.TB, s lxdtest.Server, name, script string) string {
	t.Helper()
	if s.Lxc(t, "list", "^"+name+"$", "--format", "csv", "--columns", "s") == "STOPPED" {
		s.Lxc(t, "start", name)
		defer s.Lxc(t, "stop", "--force", name)
	}
	return s.Run(t, "default", name, script)
}

// marks writes to the disks of containers, and reads it.
func marks(from, to lxdtest.Server) (mark func(testing.TB, *vmhostv1.Machine), marked func(testing.TB, *vmhostv1.Machine) bool) {
	mark = func(t testing.TB, m *vmhostv1.Machine) {
		inContainer(t, from, m.GetHypervisorName(), "for d in / /mnt/disk*/; do test -d $d && echo $d > ${d}mark && chmod 600 ${d}mark; done; sync")
	}
	marked = func(t testing.TB, m *vmhostv1.Machine) bool {
		want := []string{"/", "600", m.GetHypervisorName()}
		if len(m.GetDisks()) > 1 {
			want = slices.Insert(want, 1, "/mnt/disk1/")
		}
		got := inContainer(t, to, m.GetHypervisorName(), "for d in / /mnt/disk*/; do test -d $d && cat ${d}mark; done; stat -c %a /mark; hostname")
		if !slices.Equal(strings.Fields(got), want) {
			t.Errorf("on its disks is %q, want %q", got, want)
		}
		return slices.Equal(strings.Fields(got), want)
	}
	return mark, marked
}

func TestRealLXDKeepsTheRulesOfMovers(t *testing.T) {
	t.Parallel()
	one, two := lxdtest.Devhost(t, "lxd1"), lxdtest.Devhost(t, "lxd2")
	mark, marked := marks(one, two)
	hypervisortest.RunMoves(t, hypervisortest.Moving{From: movingHarness(t, one), To: movingHarness(t, two), Mark: mark, Marked: marked})
}

func TestRealClusterKeepsTheRulesOfMovers(t *testing.T) {
	t.Parallel()
	one, two := lxdtest.Devhost(t, "lxdc1"), lxdtest.Devhost(t, "lxdc2")
	from, to := movingHarness(t, one), movingHarness(t, two)
	to.Target.ClusterMember = "lxdc2"
	mark, marked := marks(one, two)
	hypervisortest.RunMoves(t, hypervisortest.Moving{From: from, To: to, OneMachine: true, Mark: mark, Marked: marked})
}
