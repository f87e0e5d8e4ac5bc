package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// P5: domains made by hand, one that runs and one with parts that nobody but
// their owner knows, and one that was composed and given away, are byte for byte
// the same through add, resync, adopt, release and forget.
func TestP5DomainsOfOthersStayByteForByteThroughAdoptReleaseAndForget(t *testing.T) {
	h := host(t, "h3")
	h.clean(t, []string{"others-running", "others-odd", "others-taken", "others-given"}, []string{"others-taken.qcow2"})
	t.Cleanup(func() {
		for _, v := range ours(h.volumes(t)) {
			_, _ = h.tryVirsh("vol-delete", v, "default")
		}
	})
	h.define(t, "others-running", 1, 64, "")
	h.virsh(t, "start", "others-running")
	h.defineXML(t, "others-odd", `<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>others-odd</name>
<title>not ours</title><description>keep   this</description><metadata><app:note xmlns:app="http://app.example/1" kept="yes">words</app:note></metadata>
<memory unit='MiB'>64</memory><vcpu>1</vcpu><os><type arch='x86_64'>hvm</type></os><devices><watchdog model='i6300esb' action='poweroff'/></devices>
<qemu:commandline><qemu:arg value='-name'/><qemu:arg value='odd'/></qemu:commandline></domain>`)
	h.virsh(t, "vol-create-as", "default", "others-taken.qcow2", "8M", "--format", "qcow2")
	h.define(t, "others-taken", 1, 64, "others-taken.qcow2")
	names := []string{"others-running", "others-odd", "others-taken"}
	dump := func() string {
		out := ""
		for _, n := range names {
			// libvirt leaves an empty element in what a domain that runs shows of itself,
			// until it stops; how it is kept is as it was.
			out += strings.Replace(h.virsh(t, "dumpxml", n), "\n  <metadata/>\n", "\n", 1) + h.virsh(t, "dumpxml", "--inactive", n)
		}
		return out
	}
	before := dump()
	unchanged := func(after string) {
		t.Helper()
		same(t, after, before, dump())
	}

	s := newStandalone(t, h)
	s.addHost(h, "--overcommit", "cores=10,memory=10")
	unchanged("adding the host")
	s.mustCtl("vm-host", "refresh", h.name)
	unchanged("a refresh")
	for _, n := range []string{"others-running", "others-odd"} {
		was := h.virsh(t, "domstate", n)
		uid := s.named(h.name, "", n).GetUid()
		s.mustCtl("machine", "adopt", n, "--hostname", "adopted")
		m := s.machine("machines/" + uid)
		if m.GetOrigin() != vmhostv1.MachineOrigin_MACHINE_ORIGIN_ADOPTED || m.GetHostname() != "adopted" {
			t.Errorf("adopted: %v", m)
		}
		if now := h.virsh(t, "domstate", n); now != was || !strings.Contains(h.virsh(t, "dumpxml", "--inactive", n), uid) {
			t.Errorf("%s was %s and is %s:\n%s", n, was, now, h.virsh(t, "dumpxml", n))
		}
		s.mustCtl("machine", "release", "adopted", "--yes")
		unchanged("adopting and releasing " + n)
	}

	// Composed and given away, it is somebody else's.
	s.mustCtl("machine", "compose", "others-given", "--memory", "64MiB", "--disk", "1MiB", "--start")
	s.mustCtl("machine", "release", "others-given", "--yes")
	names = append(names, "others-given")
	before = dump()
	if strings.Contains(before, "vmhost.dev/xmlns") || h.virsh(t, "domstate", "others-given") != "running" {
		t.Errorf("released:\n%s", h.virsh(t, "dumpxml", "others-given"))
	}
	if m := s.named(h.name, "", "others-given"); m.GetOrigin() != vmhostv1.MachineOrigin_MACHINE_ORIGIN_DISCOVERED {
		t.Errorf("released: %v", m)
	}
	s.mustCtl("vm-host", "refresh", h.name)
	unchanged("a refresh")

	// Adopted, used and deleted, with the disk that nothing else uses.
	s.mustCtl("machine", "adopt", "others-taken")
	s.mustCtl("machine", "start", "others-taken")
	if got := h.virsh(t, "domstate", "others-taken"); got != "running" {
		t.Errorf("after start it is %s", got)
	}
	s.mustCtl("machine", "pause", "others-taken")
	s.mustCtl("machine", "resume", "others-taken")
	s.mustCtl("machine", "stop", "others-taken", "--hard")
	s.mustCtl("machine", "delete", "others-taken", "--yes")
	if out, err := h.tryVirsh("dominfo", "others-taken"); err == nil || slices.Contains(h.volumes(t), "others-taken.qcow2") {
		t.Errorf("deleted: %s, %v", out, h.volumes(t))
	}
	rest := []string{"others-running", "others-odd", "others-given"}
	for names = range slices.Values([][]string{{rest[0]}, {rest[1]}, {rest[2]}}) {
		if now := dump(); !strings.Contains(before, now) {
			t.Errorf("%s was changed by deleting another:\n%s", names, now)
		}
	}
	names = rest
	before = dump()

	s.mustCtl("machine", "adopt", "others-odd")
	s.mustCtl("vm-host", "remove", h.name, "--forget", "--yes")
	unchanged("forgetting the host")
}

// defineXML makes a domain by hand.
func (h devHost) defineXML(t *testing.T, name, xml string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name+".xml")
	if err := os.WriteFile(path, []byte(xml), 0o600); err != nil {
		t.Fatal(err)
	}
	h.virsh(t, "define", path)
}

// P4, P5: --decompose goes on after a machine that cannot be deleted and keeps
// its record; --forget keeps everything on the hypervisor; --abandon does not
// reach it.
func TestP4P5RemovingALibvirtHost(t *testing.T) {
	h := host(t, "h2")
	domains, volumes := h.domains(t), h.volumes(t)
	h.clean(t, []string{"gone", "held", "stays", "left"}, nil)
	t.Cleanup(func() {
		for _, v := range ours(h.volumes(t)) {
			_, _ = h.tryVirsh("vol-delete", v, "default")
		}
	})
	s := newStandalone(t, h)
	s.addHost(h, "--overcommit", "cores=10,memory=10")
	compose := func(name string, more ...string) string {
		t.Helper()
		return strings.TrimSpace(s.mustCtl(append([]string{"machine", "compose", name, "--vm-host", h.name, "--memory", "64MiB", "--disk", "1MiB", "-o", "name"}, more...)...))
	}
	compose("gone")
	held := s.machine(compose("held"))
	if _, errs, code := s.ctl("vm-host", "remove", h.name, "--yes"); code != 7 || !strings.Contains(errs, "--forget") {
		t.Errorf("removing a host with machines: exit code %d\n%s", code, errs)
	}
	// One that does not say any more that it is ours is not touched.
	whole := h.virsh(t, "dumpxml", "--inactive", "held")
	h.virsh(t, "metadata", "held", "https://vmhost.dev/xmlns/libvirt/1", "--config", "--remove")
	other := h.virsh(t, "dumpxml", "held")
	out, errs, code := s.ctl("vm-host", "remove", h.name, "--decompose", "--yes")
	if code != 1 {
		t.Errorf("decompose with one that cannot be deleted: exit code %d\n%s%s", code, out, errs)
	}
	says(t, "decompose", out+errs, "gone", "held", "SUCCEEDED", "REFUSED")
	if v := s.vmHost(h.name); !v.GetCordoned() || v.GetUsage().GetMachines() != 1 {
		t.Errorf("cordoned %v, %v", v.GetCordoned(), v.GetUsage())
	}
	if got := h.virsh(t, "dumpxml", "held"); got != other || !slices.Contains(h.volumes(t), held.GetDisks()[0].GetVolume()) {
		t.Errorf("what another uses was changed: %s\n%v", got, h.volumes(t))
	}
	h.defineXML(t, "held", whole)
	s.mustCtl("vm-host", "remove", h.name, "--decompose", "--yes")
	if got := h.domains(t); fmt.Sprint(got) != fmt.Sprint(domains) || fmt.Sprint(h.volumes(t)) != fmt.Sprint(volumes) {
		t.Errorf("left behind: %v %v", got, h.volumes(t))
	}

	s.addHost(h, "--overcommit", "cores=10,memory=10")
	compose("stays", "--start")
	id := h.virsh(t, "domid", "stays")
	s.mustCtl("vm-host", "remove", h.name, "--forget", "--yes")
	if got := h.virsh(t, "dumpxml", "stays") + h.virsh(t, "dumpxml", "--inactive", "stays"); strings.Contains(got, "vmhost.dev/xmlns") || h.virsh(t, "domid", "stays") != id {
		t.Errorf("forgotten:\n%s", got)
	}

	s.addHost(h, "--overcommit", "cores=10,memory=10")
	compose("left")
	before := h.virsh(t, "dumpxml", "left")
	s.mustCtl("vm-host", "remove", h.name, "--abandon", "--yes")
	same(t, "abandoning the host", before, h.virsh(t, "dumpxml", "left"))
	if _, errs, code := s.ctl("machine", "get", "left"); code != 6 {
		t.Errorf("its record is there: exit code %d\n%s", code, errs)
	}
}

// P4, P9: a libvirt host whose pool is gone and whose network is stopped is
// mended by a check with --fix; labels choose networks; a machine undefined by
// hand is missing and keeps its room until it is deleted.
func TestP4P9ALibvirtHostIsCheckedMendedAndConfigured(t *testing.T) {
	h := host(t, "h3")
	s := newStandalone(t, h)
	address := "qemu+unix://" + h.name + "/system"
	// Whatever happens, the host is as it was.
	pool := filepath.Join(t.TempDir(), "pool.xml")
	if err := os.WriteFile(pool, []byte(h.virsh(t, "pool-dumpxml", "--inactive", "default")), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = h.tryVirsh("pool-destroy", "default")
		_, _ = h.tryVirsh("pool-undefine", "default")
		h.virsh(t, "pool-define", pool)
		h.virsh(t, "pool-autostart", "default")
		h.virsh(t, "pool-start", "default")
		_, _ = h.tryVirsh("net-start", "netboot")
	})
	volumes := h.volumes(t)
	h.virsh(t, "pool-destroy", "default")
	h.virsh(t, "pool-undefine", "default")
	h.virsh(t, "net-destroy", "netboot")
	out, errs, code := s.ctl("vm-host", "check", address)
	if code != 1 {
		t.Errorf("a host without a storage pool: exit code %d\n%s", code, errs)
	}
	says(t, "the check", out, "FAILED", "--fix")
	everyLineHelps(t, out)
	if got, err := h.tryVirsh("pool-list", "--all", "--name"); err != nil || strings.TrimSpace(got) != "" {
		t.Errorf("a check without --fix made %q, %v", got, err)
	}
	out = s.mustCtl("vm-host", "check", address, "--fix")
	says(t, "the check", out, "storage-pool   OK", "default", "netboot")
	everyLineHelps(t, out)
	if got := h.virsh(t, "pool-list", "--name"); strings.TrimSpace(got) != "default" || fmt.Sprint(h.volumes(t)) != fmt.Sprint(volumes) {
		t.Errorf("mended: %q, %v", got, h.volumes(t))
	}
	if got := h.virsh(t, "net-list", "--name"); !strings.Contains(got, "netboot") {
		t.Errorf("mended: %s", got)
	}
	out, _, code = s.ctl("vm-host", "check", "qemu+ssh://root@127.0.0.1:1/system")
	if code != 1 {
		t.Errorf("a host that is not reached: exit code %d", code)
	}
	says(t, "the check", out, "reach", "FAILED")
	everyLineHelps(t, out)

	s.addHost(h, "--overcommit", "cores=10,memory=10", "--network-label", "default:space=lab,tag=fast", "--network-label", "netboot:space=lab", "--reserved-memory", "1GiB")
	if v := s.vmHost(h.name).GetUsage().GetMemoryMib(); v.GetReserved() != 1024 || v.GetLimit() != (v.GetPhysical()-1024)*10 {
		t.Errorf("with 1 GiB reserved: %v", v)
	}
	networks := s.vmHost(h.name).GetObservation().GetNetworks()
	at := slices.IndexFunc(networks, func(n *vmhostv1.HostNetwork) bool { return n.GetName() == "default" })
	cidr := networks[at].GetCidrs()[0]
	ip := strings.Replace(cidr, ".0/24", ".77", 1)
	network := h.virsh(t, "net-dumpxml", "default")
	h.clean(t, []string{"fixed", "missing"}, nil)
	out = s.mustCtl("machine", "compose", "fixed", "--memory", "64MiB", "--diskless", "--nic", "subnet="+cidr+",ip="+ip, "--nic", "space=lab,tag=fast", "--dry-run")
	says(t, "the dry run", out, h.name, "default", ip)
	same(t, "a dry run", network, h.virsh(t, "net-dumpxml", "default"))
	name := strings.TrimSpace(s.mustCtl("machine", "compose", "fixed", "--memory", "64MiB", "--diskless", "--nic", "subnet="+cidr+",ip="+ip, "--nic", "space=lab,tag=fast", "-o", "name"))
	if m := s.machine(name); m.GetInterfaces()[0].GetFixedAddress() != ip || !strings.Contains(h.virsh(t, "net-dumpxml", "default"), "ip='"+ip+"'") {
		t.Errorf("with a fixed address: %v\n%s", m.GetInterfaces(), h.virsh(t, "net-dumpxml", "default"))
	}
	s.mustCtl("machine", "delete", "fixed", "--yes")
	same(t, "a machine with a fixed address", network, h.virsh(t, "net-dumpxml", "default"))

	name = strings.TrimSpace(s.mustCtl("machine", "compose", "missing", "--memory", "64MiB", "--diskless", "-o", "name"))
	h.virsh(t, "undefine", "missing")
	await(t, 30*time.Second, "the machine to be missing", func(context.Context) error {
		if !slices.ContainsFunc(s.machine(name).GetConditions(), func(c *vmhostv1.Condition) bool { return c.GetType() == "Missing" }) { //nolint:contextcheck // the test's ends it as well
			return errors.New("it is not")
		}
		return nil
	})
	if u := s.vmHost(h.name).GetUsage(); u.GetCores().GetCommitted() != 1 || u.GetMemoryMib().GetCommitted() != 64 {
		t.Errorf("with one missing: %v", u)
	}
	s.mustCtl("machine", "delete", "missing", "--yes")
	if u := s.vmHost(h.name).GetUsage(); u.GetCores().GetCommitted() != 0 {
		t.Errorf("after delete: %v", u)
	}
}
