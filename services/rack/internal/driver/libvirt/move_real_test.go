package libvirt

import (
	"sync"
	"testing"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/hypervisortest"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// devhostNamed is one of the hosts of deploy/devhosts.
func devhostNamed(t testing.TB, name string) devhost {
	t.Helper()
	h := "DEVHOSTS_" + name
	return devhost{socket: env(t, h+"_SOCKET"), ip: env(t, h+"_IP"), ssh: env(t, h+"_SSH"), tls: env(t, h+"_TLS")}
}

// movingHarness is a host as a machine is moved from and to it: by its socket, or
// by SSH, as at a site.
func movingHarness(t *testing.T, h devhost, name string, ssh bool) hypervisortest.Harness {
	t.Helper()
	r := rawConnection(t, h.socket)
	target := hypervisor.Target{Name: "vmHosts/" + name, Address: mustParse(t, "qemu+unix://"+name+"/system")}
	if ssh {
		target.Address, target.HostKey, target.Credential = mustParse(t, h.ssh), knownHostKeys(t, h.ip)["ssh-ed25519"], sshKey(t)
	}
	p := hypervisortest.NewProxy(t, "unix", h.socket)
	hang := func(testing.TB) func() { p.Hang(); return sync.OnceFunc(func() { p.Flow(); p.Drop() }) }
	if ssh {
		hang = nil // the proxy's address is not one that hosts know each other by
	}
	return hypervisortest.Harness{
		Opener: NewOpener(Config{LocalSockets: map[string]string{name: p.At()}}), Target: target, StoragePool: "default", Network: "default", MemoryMiB: 128,
		AddForeign: func(t testing.TB, f hypervisortest.Foreign) {
			r.define(t, foreignDomain(f.UUID, f.Name, f.Cores, f.MemoryMiB))
		},
		ForeignState: r.dump,
		Volumes:      r.volumes,
		Hang:         hang,
		Guest: &hypervisortest.Guest{
			Prepare: func(_ testing.TB, c *rackv1.CreateMachine) { c.Machine.Interfaces[0].Source = "netboot" },
			Ready:   "GUEST READY", Type: "echo vmhost-$((6*7))\r", Answer: "vmhost-42",
		},
	}
}

// marks writes to the disks of machines that are off, and reads it.
func marks(t *testing.T, from, to devhost) (mark func(testing.TB, *vmhostv1.Machine), marked func(testing.TB, *vmhostv1.Machine) bool) {
	t.Helper()
	qemu := func(t testing.TB, h devhost, command string, m *vmhostv1.Machine) {
		r := rawConnection(t, h.socket)
		for _, k := range m.GetDisks() {
			p, err := r.StoragePoolLookupByName(k.GetStoragePool())
			if err != nil {
				t.Fatal(err)
			}
			v, err := r.StorageVolLookupByName(p, k.GetVolume())
			if err != nil {
				t.Fatal(err)
			}
			path, err := r.StorageVolGetPath(v)
			if err != nil {
				t.Fatal(err)
			}
			r.inside(t, h.socket, "qemu-io "+command+" "+path)
		}
	}
	mark = func(t testing.TB, m *vmhostv1.Machine) { qemu(t, from, "-f qcow2 -c 'write -P 0xa5 1M 64k'", m) }
	marked = func(t testing.TB, m *vmhostv1.Machine) bool {
		qemu(t, to, "-U -r -f qcow2 -c 'read -P 0xa5 1M 64k' -c 'read -P 0 2M 64k'", m)
		return true
	}
	return mark, marked
}

func TestRealLibvirtKeepsTheRulesOfMovers(t *testing.T) {
	h1, h2 := devhostNamed(t, "H1"), devhostNamed(t, "H2")
	mark, marked := marks(t, h1, h2)
	hypervisortest.RunMoves(t, hypervisortest.Moving{
		From: movingHarness(t, h1, "h1", false), To: movingHarness(t, h2, "h2", true), Live: true, Mark: mark, Marked: marked,
	})
}

func TestRealLibvirtBySocketKeepsTheRulesOfMovers(t *testing.T) {
	h1, h2 := devhostNamed(t, "H1"), devhostNamed(t, "H2")
	hypervisortest.RunMoves(t, hypervisortest.Moving{From: movingHarness(t, h2, "h2", false), To: movingHarness(t, h1, "h1", false), Quick: true})
}
