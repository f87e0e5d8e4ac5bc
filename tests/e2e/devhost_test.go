package e2e

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// devHost is one real libvirt host, looked at by virsh: not by any code of ours.
type devHost struct {
	name   string
	socket string
}

// host is a development host; the test is skipped, and listed as such, on a
// machine without them.
func host(t *testing.T, name string) devHost {
	t.Helper()
	socket := os.Getenv("DEVHOSTS_" + strings.ToUpper(name) + "_SOCKET")
	if socket == "" {
		t.Skipf("no libvirt host %s: run make test, or deploy/devhosts/devhosts.sh up and export what its env prints", name)
	}
	return devHost{name: name, socket: socket}
}

func (h devHost) virsh(t *testing.T, args ...string) string {
	t.Helper()
	out, err := h.tryVirsh(args...)
	if err != nil {
		t.Fatalf("virsh %s on %s: %v\n%s", strings.Join(args, " "), h.name, err, out)
	}
	return out
}

func (h devHost) tryVirsh(args ...string) (string, error) {
	cmd := exec.Command("virsh", append([]string{"-q", "-c", "qemu+unix:///system?socket=" + h.socket}, args...)...)
	out, err := cmd.CombinedOutput()
	return strings.TrimRight(string(out), "\n"), err
}

// domains are the uuids of all domains, running or not, sorted.
func (h devHost) domains(t *testing.T) []string { return h.words(t, "list", "--all", "--uuid") }

// volumes are the names of all volumes of the default pool, sorted.
func (h devHost) volumes(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, line := range strings.Split(h.virsh(t, "vol-list", "default"), "\n") {
		if f := strings.Fields(line); len(f) > 0 {
			names = append(names, f[0])
		}
	}
	slices.Sort(names)
	return names
}

func (h devHost) words(t *testing.T, args ...string) []string {
	t.Helper()
	words := strings.Fields(h.virsh(t, args...))
	slices.Sort(words)
	return words
}

// ours are the volumes that vmhost made.
func ours(volumes []string) []string {
	return slices.DeleteFunc(slices.Clone(volumes), func(v string) bool { return !strings.HasPrefix(v, "vmhost-") })
}

// clean removes what a test made by hand, whatever state it is in.
func (h devHost) clean(t *testing.T, domains, volumes []string) {
	t.Helper()
	t.Cleanup(func() {
		for _, d := range domains {
			_, _ = h.tryVirsh("destroy", d)
			_, _ = h.tryVirsh("undefine", d)
		}
		for _, v := range volumes {
			_, _ = h.tryVirsh("vol-delete", v, "default")
		}
	})
}
