package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmhost-project/vmhost/pkg/hypervisor/lxdtest"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// lxdHost is a project of a real LXD server that belongs to one test: one VM
// host is one server and project. It is looked at by lxc, not by any code of
// ours.
type lxdHost struct {
	lxdtest.Server

	name    string // in vmhost
	project string
}

// lxdProject makes a project with the server's images, and takes it away with
// all that is in it at the end of the test.
func lxdProject(t *testing.T, server, name string) lxdHost {
	t.Helper()
	h := lxdHost{Server: lxdtest.Devhost(t, server), name: name, project: "e2e-" + name}
	h.empty()
	if _, err := h.TryLxc("project", "show", h.project); err != nil {
		h.Lxc(t, "project", "create", h.project, "--config", "features.images=false")
	}
	t.Cleanup(func() {
		h.empty()
		_, _ = h.TryLxc("project", "delete", h.project)
	})
	return h
}

// empty takes away what is in the project, also after a test that was killed.
func (h lxdHost) empty() {
	list, err := h.try("list", "--format", "csv", "--columns", "n")
	if err != nil {
		return // there is no such project
	}
	for _, i := range strings.Fields(list) {
		_, _ = h.try("config", "set", i, "security.protection.delete=false")
		_, _ = h.try("delete", "--force", i)
	}
	for _, pool := range []string{"default", "btrfs"} {
		list, _ := h.try("storage", "volume", "list", pool, "--format", "csv", "--columns", "n", "type=custom")
		for _, v := range strings.Fields(list) {
			_, _ = h.try("storage", "volume", "delete", pool, v)
		}
	}
}

func (h lxdHost) try(args ...string) (string, error) {
	return h.TryLxc(append([]string{"--project", h.project}, args...)...)
}

func (h lxdHost) lxc(t *testing.T, args ...string) string {
	t.Helper()
	return h.Lxc(t, append([]string{"--project", h.project}, args...)...)
}

// init makes a container by hand that is not started.
func (h lxdHost) init(t *testing.T, name string, config ...string) {
	t.Helper()
	args := []string{"init", "tiny", name, "--storage", "default", "--network", "lxdbr0"}
	for _, c := range config {
		args = append(args, "--config", c)
	}
	h.lxc(t, args...)
}

// shown is `lxc config show` of an instance.
func (h lxdHost) shown(t *testing.T, name string) string {
	t.Helper()
	return h.lxc(t, "config", "show", name)
}

// instances are the names and states of all instances of the project.
func (h lxdHost) instances(t *testing.T) string {
	t.Helper()
	return h.lxc(t, "list", "--format", "csv", "--columns", "ns")
}

// pid is the process of an instance that runs.
func (h lxdHost) pid(t *testing.T, name string) string {
	t.Helper()
	return line(h.Lxc(t, "query", "/1.0/instances/"+name+"/state?project="+h.project), `"pid"`)
}

// everything is all that the project holds, and what it shares with others that
// vmhost could have changed.
func (h lxdHost) everything(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	for _, path := range []string{
		"/1.0/instances?recursion=1&project=" + h.project, "/1.0/profiles?recursion=1&project=" + h.project,
		"/1.0/storage-pools/default/volumes?recursion=1&project=" + h.project, "/1.0/storage-pools/btrfs/volumes?recursion=1&project=" + h.project,
		"/1.0/projects/" + h.project, "/1.0/networks/lxdbr0",
	} {
		shared := strings.Contains(path, "networks") // others use it meanwhile
		for _, line := range strings.Split(h.Lxc(t, "query", path), "\n") {
			switch {
			case !shared:
				out.WriteString(line + "\n")
			case !strings.Contains(line, "/1.0/instances/"):
				out.WriteString(strings.TrimSuffix(line, ",") + "\n") // of the last that is left there is none
			}
		}
	}
	return out.String()
}

// secretFile is a file with a secret in it, as a user has one.
func secretFile(t *testing.T, secret string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// addLXD adds an LXD host by a trust token and waits until it is ready. What
// tests beside it have on the server counts, so that there is room for more.
func (s *standalone) addLXD(h lxdHost, more ...string) {
	s.t.Helper()
	s.mustCtl(append([]string{
		"vm-host", "add", h.name, h.URL, "--project", h.project, "--overcommit", "cores=10,memory=10", "--trust-token", secretFile(s.t, h.Token(s.t)),
	}, more...)...)
}

// container composes a small container and gives its resource name.
func (s *standalone) container(h lxdHost, hostname string, more ...string) string {
	s.t.Helper()
	out := s.mustCtl(append([]string{
		"machine", "compose", hostname, "--vm-host", h.name, "--container", "--image", "tiny", "--memory", "64MiB", "--disk", "10MB", "-o", "name",
	}, more...)...)
	return strings.TrimSpace(out)
}

// machine is a machine by its resource name.
func (s *standalone) machine(name string) *vmhostv1.Machine {
	s.t.Helper()
	m, err := s.grpc().Machines.GetMachine(s.t.Context(), &vmhostv1.GetMachineRequest{Name: name})
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

// vmHost is a host by its id.
func (s *standalone) vmHost(id string) *vmhostv1.VmHost {
	s.t.Helper()
	h, err := s.grpc().VmHosts.GetVmHost(s.t.Context(), &vmhostv1.GetVmHostRequest{Name: "vmHosts/" + id})
	if err != nil {
		s.t.Fatal(err)
	}
	return h
}

// named is a machine by its name on its hypervisor, of LXD in that project; nil
// when there is none.
func (s *standalone) named(host, project, name string) *vmhostv1.Machine {
	s.t.Helper()
	list, err := s.grpc().Machines.ListMachines(s.t.Context(), &vmhostv1.ListMachinesRequest{PageSize: 1000, Filter: fmt.Sprintf("vm_host = %q", "vmHosts/"+host)})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, m := range list.GetMachines() {
		if m.GetHypervisorName() == name && m.GetProject() == project {
			return m
		}
	}
	return nil
}

// says fails the test where a text lacks any of these words.
func says(t *testing.T, what, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%s does not say %q:\n%s", what, w, text)
		}
	}
}

// same fails the test where a text is not what it was.
func same(t *testing.T, after, before, now string) {
	t.Helper()
	if before != now {
		t.Errorf("changed by %s:\nbefore:\n%s\nafter:\n%s", after, before, now)
	}
}
