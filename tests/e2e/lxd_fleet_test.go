package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// lxdOfOthers: instances made by hand, one that runs and two that do not, and
// one that was composed and given away.
func lxdOfOthers(t *testing.T, s *standalone) {
	h := lxdProject(t, "lxd3", "others")
	h.init(t, "running", "limits.cpu=1", "limits.memory=32MiB", "user.note=keep me")
	h.lxc(t, "start", "running")
	h.init(t, "stopped", "limits.cpu=0-1", "limits.memory=10%")
	h.init(t, "taken", "limits.cpu=1", "limits.memory=32MiB")
	before := map[string]string{}
	for _, n := range []string{"running", "stopped", "taken"} {
		before[n] = h.shown(t, n)
	}
	unchanged := func(after string) {
		t.Helper()
		for n, text := range before {
			same(t, after, text, h.shown(t, n))
		}
	}
	adopt := func(name string, more ...string) string {
		t.Helper()
		uid := s.named(h.name, h.project, name).GetUid()
		s.mustCtl(append([]string{"machine", "adopt", uid}, more...)...)
		return uid
	}

	s.addLXD(h)
	unchanged("adding the host")
	s.mustCtl("vm-host", "refresh", h.name)
	unchanged("a refresh")

	// Adopted: metadata and nothing else; released: not even that.
	pid := h.pid(t, "running")
	uid := adopt("running", "--hostname", "kept")
	m := s.machine("machines/" + uid)
	if m.GetOrigin() != vmhostv1.MachineOrigin_MACHINE_ORIGIN_ADOPTED || m.GetHostname() != "kept" || m.GetPowerState() != vmhostv1.PowerState_POWER_STATE_ON {
		t.Errorf("adopted: %v", m)
	}
	var left []string
	adopted := h.shown(t, "running")
	for l := range strings.SplitSeq(adopted, "\n") {
		if !strings.HasPrefix(l, "  user.vmhost.") {
			left = append(left, l)
		}
	}
	same(t, "an adoption, besides metadata", before["running"], strings.Join(left, "\n"))
	says(t, "lxc config show", adopted, "user.vmhost.uid: "+uid)
	s.mustCtl("machine", "release", "kept", "--yes")
	unchanged("adopt and release")
	if h.pid(t, "running") != pid {
		t.Error("it was restarted")
	}

	// Composed and given away, it is somebody else's, as it was.
	name := s.container(h, "given")
	says(t, "lxc config show", h.shown(t, "given"), "user.vmhost.uid: "+strings.TrimPrefix(name, "machines/"))
	s.mustCtl("machine", "release", "given", "--yes")
	before["given"] = h.shown(t, "given")
	if strings.Contains(before["given"], "user.vmhost.") {
		t.Errorf("released: %s", before["given"])
	}
	if m := s.named(h.name, h.project, "given"); m.GetOrigin() != vmhostv1.MachineOrigin_MACHINE_ORIGIN_DISCOVERED {
		t.Errorf("released: %v", m)
	}
	s.mustCtl("vm-host", "refresh", h.name)
	unchanged("a refresh")

	// Adopted, used, and deleted.
	uid = adopt("taken")
	s.mustCtl("machine", "start", uid)
	s.mustCtl("machine", "stop", uid, "--hard")
	s.mustCtl("machine", "delete", uid, "--yes")
	if got := h.instances(t); strings.Contains(got, "taken") {
		t.Errorf("deleted: %s", got)
	}
	delete(before, "taken")
	unchanged("adopting, using and deleting another")

	adopt("stopped")
	s.mustCtl("vm-host", "remove", h.name, "--forget", "--yes")
	unchanged("forgetting the host")
}

func lxdRemoval(t *testing.T, s *standalone) {
	h := lxdProject(t, "lxd3", "removed")
	h.init(t, "byhand")
	others := h.everything(t)
	s.addLXD(h)
	for _, n := range []string{"gone-1", "gone-2", "protected"} {
		s.container(h, n)
	}
	if _, errs, code := s.ctl("vm-host", "remove", h.name, "--yes"); code != 7 || !strings.Contains(errs, "--decompose") {
		t.Errorf("removing a host with machines: exit code %d\n%s", code, errs)
	}

	h.lxc(t, "config", "set", "protected", "security.protection.delete=true")
	out, errs, code := s.ctl("vm-host", "remove", h.name, "--decompose", "--yes")
	if code != 1 {
		t.Errorf("decompose with one that cannot be deleted: exit code %d", code)
	}
	says(t, "decompose", out+errs, "gone-1", "gone-2", "protected from being deleted", "lxc config set protected security.protection.delete=false")
	if got := h.instances(t); got != "byhand,STOPPED\nprotected,STOPPED" {
		t.Errorf("left on the server: %q", got)
	}
	v := s.vmHost(h.name)
	if !v.GetCordoned() || v.GetUsage().GetMachines() != 1 || v.GetUsage().GetCores().GetCommitted() != 1 {
		t.Errorf("the host is cordoned: %v, and has %v", v.GetCordoned(), v.GetUsage())
	}
	if _, errs, code := s.ctl("machine", "compose", "nomore", "--vm-host", h.name, "--container", "--image", "tiny", "--memory", "64MiB", "--disk", "10MB"); code != 8 {
		t.Errorf("compose on the cordoned host: exit code %d\n%s", code, errs)
	}
	h.lxc(t, "config", "set", "protected", "security.protection.delete=false")
	s.mustCtl("vm-host", "remove", h.name, "--decompose", "--yes")
	same(t, "compose and decompose", others, h.everything(t))

	// Forget: the metadata goes, everything stays.
	s.addLXD(h)
	s.container(h, "stays", "--start")
	pid := h.pid(t, "stays")
	s.mustCtl("vm-host", "remove", h.name, "--forget", "--yes")
	if got := h.shown(t, "stays"); strings.Contains(got, "user.vmhost.") || !strings.Contains(h.instances(t), "stays,RUNNING") {
		t.Errorf("forgotten: %s\n%s", got, h.instances(t))
	}
	if h.pid(t, "stays") != pid {
		t.Error("it was restarted")
	}

	// Abandon: the server is not even asked.
	s.addLXD(h)
	left := s.container(h, "left")
	before := h.everything(t)
	s.mustCtl("vm-host", "remove", h.name, "--abandon", "--yes")
	same(t, "abandoning the host", before, h.everything(t))
	if _, errs, code := s.ctl("machine", "get", left); code != 6 {
		t.Errorf("its record is there: exit code %d\n%s", code, errs)
	}
}

// line is the first line with a word in it.
func line(text, word string) string {
	for l := range strings.SplitSeq(text, "\n") {
		if strings.Contains(l, word) {
			return strings.TrimSpace(l)
		}
	}
	return ""
}

func lxdQuotasAndNetworks(t *testing.T, s *standalone) {
	h := lxdProject(t, "lxd3", "networks")
	s.mustCtl("pool", "create", "team", "--quota", "machines=2,cores=3,memory=200MiB,storage=1GB")
	s.addLXD(h, "--pool", "team", "--network-label", "lxdbr0:space=lab,tag=fast", "--network-label", "br0:space=wire", "--storage-pool-label", "btrfs:tag=snap",
		"--reserved-cores", "1")
	if v := s.vmHost(h.name).GetUsage().GetCores(); v.GetReserved() != 1 || v.GetLimit() != (v.GetPhysical()-1)*10 {
		t.Errorf("with one core of %d reserved at ratio 10: %v", v.GetPhysical(), v)
	}
	subnet := s.vmHost(h.name).GetObservation().GetNetworks()
	at := slices.IndexFunc(subnet, func(n *vmhostv1.HostNetwork) bool { return n.GetName() == "lxdbr0" })
	cidr := subnet[at].GetCidrs()[0]
	address := strings.Replace(cidr, ".0/24", ".210", 1)
	physical := s.vmHost(h.name).GetObservation().GetCores()

	// What a dry run says, and that it does nothing.
	before := h.everything(t)
	out := s.mustCtl("machine", "compose", "planned", "--pool", "team", "--container", "--image", "tiny", "--memory", "64MiB", "--disk", "10MB,tag=snap",
		"--nic", "space=lab,tag=fast", "--nic", "space=wire", "--dry-run")
	says(t, "the dry run", out, h.name, "btrfs", "lxdbr0", "br0")
	same(t, "a dry run", before, h.everything(t))
	out, errs, code := s.ctl("machine", "compose", "large", "--pool", "team", "--container", "--image", "tiny", "--memory", "64MiB", "--disk", "10MB",
		"--cores", fmt.Sprint(physical), "--dry-run")
	if code != 8 {
		t.Errorf("a machine larger than the host without its reserve: exit code %d", code)
	}
	says(t, "the dry run", out+errs, "reserved")

	// By subnet with an address, by space, by tag.
	name := s.container(h, "placed", "--pool", "team", "--nic", "subnet="+cidr+",ip="+address, "--start")
	await(t, 60*time.Second, "the address that was asked for", func(context.Context) error {
		if got := s.machine(name).GetAddresses(); !slices.Contains(got, address) { //nolint:contextcheck // the test's ends it as well
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	says(t, "lxc list", h.lxc(t, "list", "--format", "csv", "--columns", "n4"), address)
	if _, errs, code := s.ctl("machine", "compose", "twin", "--pool", "team", "--vm-host", h.name, "--container", "--image", "tiny", "--memory", "64MiB", "--disk", "10MB",
		"--nic", "subnet="+cidr+",ip="+address); code == 0 {
		t.Errorf("an address that is taken was given twice: %s", errs)
	}
	second := s.container(h, "wired", "--pool", "team", "--nic", "space=wire", "--disk", "10MB,tag=snap")
	if m := s.machine(second); m.GetInterfaces()[0].GetSource() != "br0" || m.GetDisks()[1].GetStoragePool() != "btrfs" {
		t.Errorf("by space and tag: %v", m)
	}

	// The quota is of the pool, whatever room the host has.
	_, errs, code = s.ctl("machine", "compose", "third", "--pool", "team", "--container", "--image", "tiny", "--memory", "64MiB", "--disk", "10MB")
	if code != 8 {
		t.Errorf("past the quota: exit code %d", code)
	}
	says(t, "the refusal", errs, "QUOTA_EXCEEDED", "machines")
	says(t, "pool get", s.mustCtl("pool", "get", "team"), "2/2", "2/3", "128MiB/200MiB")

	// Removed by hand: it is missing, and what it took stays taken until somebody
	// says so.
	h.lxc(t, "delete", s.machine(second).GetHypervisorName())
	await(t, 30*time.Second, "the machine to be missing", func(context.Context) error {
		if !slices.ContainsFunc(s.machine(second).GetConditions(), func(c *vmhostv1.Condition) bool { return c.GetType() == "Missing" }) { //nolint:contextcheck // the test's ends it as well
			return errors.New("it is not")
		}
		return nil
	})
	if v := s.vmHost(h.name).GetUsage(); v.GetCores().GetCommitted() != 2 || v.GetMachines() != 2 {
		t.Errorf("with one missing: %v", v)
	}
	says(t, "machine get", s.mustCtl("machine", "get", "wired"), "Missing")
	s.mustCtl("machine", "delete", "wired", "--yes")
	if v := s.vmHost(h.name).GetUsage(); v.GetCores().GetCommitted() != 1 || v.GetMachines() != 1 {
		t.Errorf("after delete: %v", v)
	}

	// The host shrinks below what is committed: nothing new, nothing lost.
	s.mustCtl("vm-host", "update", h.name, "--overcommit", "memory=0")
	v := s.vmHost(h.name)
	if !slices.ContainsFunc(v.GetConditions(), func(c *vmhostv1.Condition) bool {
		return c.GetType() == "Overcommitted" && strings.Contains(c.GetMessage(), "memory") && c.GetHint() != ""
	}) {
		t.Errorf("a host with less than is committed: %v", v.GetConditions())
	}
	out, errs, code = s.ctl("machine", "compose", "nomore", "--pool", "team", "--container", "--image", "tiny", "--memory", "64MiB", "--disk", "10MB", "--dry-run")
	if code != 8 {
		t.Errorf("on an overcommitted host: exit code %d", code)
	}
	says(t, "the dry run", out+errs, "overcommitted")
	if !strings.Contains(h.instances(t), s.machine(name).GetHypervisorName()+",RUNNING") {
		t.Errorf("lost: %s", h.instances(t))
	}
	s.mustCtl("machine", "stop", "placed", "--hard")
	s.mustCtl("machine", "start", "placed") // what is there can be used
	s.mustCtl("vm-host", "update", h.name, "--overcommit", "memory=10")
	s.container(h, "again", "--pool", "team")
	s.mustCtl("machine", "delete", "again", "--yes", "--pool", "team")
	s.mustCtl("machine", "delete", "placed", "--yes")
	s.mustCtl("vm-host", "remove", h.name, "--yes")
	s.mustCtl("pool", "delete", "team")
}

func cluster(t *testing.T, s *standalone) {
	h := lxdProject(t, "lxdc1", "cluster")
	s.addLXD(h)
	first := s.vmHost(h.name).GetObservation().GetClusterMember()
	s.mustCtl("vm-host", "add-cluster-members", h.name)
	second := map[string]string{"lxdc1": "lxdc2", "lxdc2": "lxdc1"}[first]
	hosts := map[string]string{first: h.name, second: h.name + "-" + second}
	await(t, 30*time.Second, "the other member's host", func(context.Context) error {
		if v := s.vmHost(hosts[second]); v.GetState() != vmhostv1.VmHostState_VM_HOST_STATE_READY || v.GetClusterMember() != second { //nolint:contextcheck // the test's ends it as well
			return fmt.Errorf("%v of %q", v.GetState(), v.GetClusterMember())
		}
		return nil
	})
	if a, b := s.vmHost(hosts[first]).GetClusterGroup(), s.vmHost(hosts[second]).GetClusterGroup(); a != b || a == "" {
		t.Errorf("the members are of the groups %q and %q", a, b)
	}
	location := func(instance string) string { return h.lxc(t, "list", instance, "--format", "csv", "--columns", "L") }
	machines := map[string]string{}
	for member, host := range hosts {
		on := h
		on.name = host
		machines[member] = s.container(on, "on-"+member, "--cores", "2")
		if got := location("on-" + member); got != member {
			t.Errorf("the machine of %s is on %s", member, got)
		}
	}
	committed := func(member string) int64 { return s.vmHost(hosts[member]).GetUsage().GetCores().GetCommitted() }
	if a, b := committed(first), committed(second); a != 2 || b != 2 {
		t.Errorf("committed are %d and %d cores", a, b)
	}

	h.lxc(t, "move", "on-"+first, "--target", second)
	moved := machines[first]
	await(t, 90*time.Second, "the machine to follow its instance", func(context.Context) error {
		if m := s.machine(moved); m.GetVmHost() != "vmHosts/"+hosts[second] { //nolint:contextcheck // the test's ends it as well
			return fmt.Errorf("it is on %s", m.GetVmHost())
		}
		return nil
	})
	if a, b := committed(first), committed(second); a != 0 || b != 4 {
		t.Errorf("after the move committed are %d and %d cores", a, b)
	}
	events, err := s.grpc().Events.ListEvents(t.Context(), &vmhostv1.ListEventsRequest{PageSize: 100, Filter: fmt.Sprintf("type = \"machine.moved\" AND resource = %q", moved)})
	if err != nil || len(events.GetEvents()) != 1 {
		t.Errorf("events of the move: %v, %v", events, err)
	}
	s.mustCtl("machine", "start", "on-"+first)
	if !strings.Contains(h.instances(t), "on-"+first+",RUNNING") {
		t.Errorf("after start: %s", h.instances(t))
	}
	s.mustCtl("machine", "delete", "on-"+first, "--yes")
	s.mustCtl("machine", "delete", "on-"+second, "--yes")
	if got := h.instances(t); got != "" {
		t.Errorf("left behind: %s", got)
	}
	for _, host := range hosts {
		s.mustCtl("vm-host", "remove", host, "--yes")
	}
}

func lxdCheck(t *testing.T, s *standalone) {
	h := lxdProject(t, "lxd3", "checked")
	key := "SHA256:" + h.Fingerprint
	check := func(want int, args ...string) string {
		t.Helper()
		out, errs, code := s.ctl(append([]string{"vm-host", "check"}, args...)...)
		if code != want {
			t.Errorf("vm-host check %v: exit code %d\n%s%s", args, code, out, errs)
		}
		everyLineHelps(t, out)
		return out
	}
	says(t, "an unknown server", check(0, h.URL, "--fix"), h.Fingerprint, "give it as host key")
	says(t, "an untrusted server", check(1, h.URL, "--host-key", key, "--fix"), "FAILED", "lxc config trust add")
	says(t, "another server", check(1, h.URL, "--host-key", "SHA256:"+strings.Repeat("0", 64)), "host-key", "FAILED", h.Fingerprint)
	says(t, "nobody", check(1, "https://127.0.0.1:1"), "reach", "FAILED", "firewall")
	cert, private := clientCertificate(t)
	h.Lxc(t, "config", "trust", "add", cert, "--name", "e2e-check")
	before := h.everything(t)
	out := check(0, h.URL, "--host-key", key, "--project", h.project, "--tls-cert", cert, "--tls-key", private, "--fix")
	says(t, "a server that is well", out, "storage-pool   OK", "network        OK", "machine-types", "containers")
	same(t, "a check", before, h.everything(t))
}

// everyLineHelps fails the test where a check says FAILED or WARNING and not
// what to do.
func everyLineHelps(t *testing.T, out string) {
	t.Helper()
	lines := 0
	for l := range strings.SplitSeq(out, "\n") {
		f := strings.Fields(l)
		if len(f) < 3 || !slices.Contains([]string{"OK", "WARNING", "FAILED", "SKIPPED"}, f[1]) {
			continue
		}
		lines++
		if _, todo, _ := strings.Cut(out, "To do\n"); f[1] != "OK" && f[1] != "SKIPPED" && !strings.Contains(todo, "  "+f[0]+"\n    do: ") {
			t.Errorf("%s is %s, and what to do is not said:\n%s", f[0], f[1], out)
		}
	}
	if lines < 5 {
		t.Errorf("only %d lines of checks:\n%s", lines, out)
	}
}
