package lxd

import (
	"encoding/json"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	lxdapi "github.com/canonical/lxd/shared/api"
	"go.uber.org/goleak"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/hypervisortest"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/lxdtest"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// outside does to a server what somebody without vmhost would, by LXD's own
// tools.
type outside struct {
	lxdtest.Server
	project string
	// vm: what is made is virtual machines without anything on their disks, not
	// containers of the tiny image.
	vm bool
}

func (o outside) query(t testing.TB, out any, path string) {
	t.Helper()
	if err := json.Unmarshal([]byte(o.Lxc(t, "query", path)), out); err != nil {
		t.Fatal(err)
	}
}

func (o outside) instances(t testing.TB) []lxdapi.Instance {
	t.Helper()
	var list []lxdapi.Instance
	o.query(t, &list, "/1.0/instances?recursion=1&project="+o.project)
	return list
}

func (o outside) named(t testing.TB, uuid string) string {
	t.Helper()
	for _, i := range o.instances(t) {
		if i.Config[volatileUUID] == uuid {
			return i.Name
		}
	}
	t.Fatalf("no instance %s", uuid)
	return ""
}

func (o outside) add(t testing.TB, name string, config map[string]string) {
	t.Helper()
	args := []string{"init", "tiny", name, "--project", o.project, "--storage", "default"}
	if o.vm {
		args = append([]string{"init", name, "--empty", "--vm"}, args[3:]...)
	}
	for k, v := range config {
		args = append(args, "--config", k+"="+v)
	}
	t.Cleanup(func() { _, _ = o.TryLxc("delete", "--force", name, "--project", o.project) })
	o.Lxc(t, args...)
}

func (o outside) addForeign(t testing.TB, f hypervisortest.Foreign) {
	t.Helper()
	o.add(t, f.Name, map[string]string{
		volatileUUID: f.UUID, "limits.cpu": strconv.Itoa(int(f.Cores)), "limits.memory": strconv.FormatInt(f.MemoryMiB, 10) + "MiB",
	})
}

// state is everything that the server holds of an instance. Its status is that
// of the moment and not part of its configuration.
func (o outside) state(t testing.TB, uuid string) string {
	t.Helper()
	name := o.named(t, uuid)
	return o.Lxc(t, "config", "show", name, "--project", o.project) + "\n" + o.Lxc(t, "list", name, "--project", o.project, "--format", "csv", "--columns", "ns")
}

func (o outside) addVolume(t testing.TB, pool, name string, size int64) {
	t.Helper()
	t.Cleanup(func() { _, _ = o.TryLxc("storage", "volume", "delete", pool, name, "--project", o.project) })
	kind := contentFilesystem
	if o.vm {
		kind = contentBlock
	}
	o.Lxc(t, "storage", "volume", "create", pool, name, "--type", kind, "size="+strconv.FormatInt(size, 10), "--project", o.project)
}

// volumes are the names of the volumes in a pool, root disks of ours by the names
// that the region gave them.
func (o outside) volumes(t testing.TB, pool string) []string {
	t.Helper()
	var out []string
	var list []lxdapi.StorageVolume
	o.query(t, &list, "/1.0/storage-pools/"+pool+"/volumes?recursion=1&project="+o.project)
	roots := map[string]string{}
	for _, i := range o.instances(t) {
		roots[i.Name] = i.Config[labelRoot]
	}
	for _, v := range list {
		switch {
		case v.Location != "" && v.Location != "none" && v.Location != o.Name: // of another member
		case v.Type == "custom":
			out = append(out, v.Name)
		default:
			if roots[v.Name] != "" {
				out = append(out, roots[v.Name])
			}
		}
	}
	return out
}

// harness connects the conformance suite to a real server through a proxy.
func harness(t *testing.T, s lxdtest.Server, p *hypervisortest.Proxy, target hypervisor.Target) hypervisortest.Harness {
	t.Helper()
	return harnessOf(outside{Server: s, project: projectOf(target.Project)}, p, target)
}

func harnessOf(o outside, p *hypervisortest.Proxy, target hypervisor.Target) hypervisortest.Harness {
	sockets := map[string]string{}
	if target.Address.Transport == hypervisor.TransportUnix {
		sockets["here"] = p.At()
	} else {
		target.Address = p.Address(target.Address)
	}
	return hypervisortest.Harness{
		Opener: NewOpener(Config{LocalSockets: sockets}), Target: target,
		StoragePool: "default", Network: "lxdbr0", MemoryMiB: 64,
		Machine: func(m *vmhostv1.Machine) {
			m.Type, m.Image = vmhostv1.MachineType_MACHINE_TYPE_CONTAINER, "tiny"
		},
		AddForeign: o.addForeign, ForeignState: o.state, AddVolume: o.addVolume, Volumes: o.volumes,
		AddBroken: func(t testing.TB, f hypervisortest.Foreign) {
			// Larger than any host: LXD takes it, and nobody can count with it.
			o.add(t, f.Name, map[string]string{volatileUUID: f.UUID, "limits.cpu": "99999", "limits.memory": "64MiB"})
		},
		Disconnect: func(testing.TB) { p.Drop() },
		Hang:       func(testing.TB) func() { p.Hang(); return sync.OnceFunc(func() { p.Flow(); p.Drop() }) },
		ChangeOutside: func(t testing.TB, id string) {
			o.Lxc(t, "start", o.named(t, id), "--project", o.project)
		},
		ThickPool: "btrfs", TooLarge: 1 << 40,
		// Its PID 1 reads nothing; the terminal shows what is typed.
		Guest: &hypervisortest.Guest{Ready: "TINY READY", Type: "hello\r", Answer: "hello"},
		PinTo: []int32{0},
		Deaf: func(t testing.TB, c *rackv1.CreateMachine) {
			// PID 1 gets a signal that it does not know instead of the one to stop.
			name := "deaf-" + c.GetMachine().GetUid()[:8]
			o.Lxc(t, "profile", "create", name, "--project", o.project)
			t.Cleanup(func() { _, _ = o.TryLxc("profile", "delete", name, "--project", o.project) })
			o.Lxc(t, "profile", "set", name, "raw.lxc", "lxc.signal.halt = SIGWINCH", "--project", o.project)
			c.Machine.Profiles = []string{name}
		},
	}
}

func TestRealUnixKeepsTheRulesOfConnections(t *testing.T) {
	s := lxdtest.Devhost(t, "lxd1")
	p := hypervisortest.NewProxy(t, "unix", s.Socket)
	hypervisortest.RunConnection(t, harness(t, s, p, hypervisor.Target{Name: "vmHosts/lxd1", Address: mustParse(t, "lxd+unix://here")}))
}

func TestRealHTTPSKeepsTheRulesOfHypervisors(t *testing.T) {
	s := lxdtest.Devhost(t, "lxd1")
	p := hypervisortest.NewProxy(t, "tcp", strings.TrimPrefix(s.URL, "https://"))
	c := harness(t, s, p, targetOf(t, s))
	wrongKey, wrongCredential := c.Target, c.Target
	wrongKey.HostKey = pinPrefix + strings.Repeat("0", 64)
	wrongCredential.Credential = credential(newCertificate(t, "vmhost-stranger", time.Now().Add(time.Hour)))
	c.WrongHostKey, c.WrongCredential = &wrongKey, &wrongCredential
	hypervisortest.Run(t, c)
}
