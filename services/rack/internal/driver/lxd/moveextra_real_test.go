package lxd

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/lxdtest"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// twoServers are drivers of two servers, and what somebody else does to them.
func twoServers(t *testing.T) (from, to *Driver, lxcFrom, lxcTo func(args ...string) string) {
	t.Helper()
	one, two := lxdtest.Devhost(t, "lxd1"), lxdtest.Devhost(t, "lxd2")
	from, to = openTarget(t, NewOpener(Config{}), targetOf(t, one)), openTarget(t, NewOpener(Config{}), targetOf(t, two))
	return from, to, func(args ...string) string { return one.Lxc(t, args...) }, func(args ...string) string { return two.Lxc(t, args...) }
}

// An adopted instance has whatever names, profiles and snapshots somebody gave it.
// Profiles of the same name say something else on the destination; it stays what it
// was.
func TestRealAdoptedInstanceIsMovedWithProfilesVolumesAndSnapshots(t *testing.T) {
	from, to, one, two := twoServers(t)
	uid := uuid.NewString()
	name, profile, data := "adopted-"+uid[:6], "move-"+uid[:6], "data-"+uid[:6]
	t.Cleanup(func() {
		for _, server := range []string{"lxd1", "lxd2"} {
			s := lxdtest.Devhost(t, server)
			_, _ = s.TryLxc("delete", "--force", name)
			_, _ = s.TryLxc("profile", "delete", profile)
			_, _ = s.TryLxc("storage", "volume", "delete", "default", data)
			_, _ = s.TryLxc("storage", "volume", "delete", "btrfs", volumePrefix(uid)+"1")
		}
	})
	for lxc, config := range map[*func(...string) string][]string{&one: {"limits.memory=64MiB"}, &two: {"limits.memory=128MiB"}} {
		(*lxc)("profile", "create", profile)
		(*lxc)("profile", "set", profile, config[0])
		(*lxc)("profile", "device", "add", profile, "root", "disk", "path=/", "pool=default")
	}
	one("profile", "device", "add", profile, "eth0", "nic", "network=lxdbr0", "name=eth0")
	two("profile", "device", "add", profile, "eth1", "nic", "network=lxdbr0", "name=eth1")
	one("init", "tiny", name, "--profile", profile, "--config", "limits.cpu=1", "--config", "user.note=kept")
	one("storage", "volume", "create", "default", data, "size=8MiB", "user.note=kept")
	one("config", "device", "add", name, "data", "disk", "pool=default", "source="+data, "path=/data")
	one("start", name)
	one("exec", name, "--", "sh", "-c", "echo kept > /data/mark; echo kept > /mark; sync")
	one("stop", "--force", name)
	one("snapshot", name, "before")
	one("storage", "volume", "snapshot", "default", data, "before")
	id := strings.TrimSpace(one("config", "get", name, volatileUUID))
	was, err := from.Adopt(timeout(t, time.Minute), hypervisor.Ref{UID: uid, UUID: id}, "operations/1")
	if err != nil {
		t.Fatal(err)
	}
	machine := &vmhostv1.Machine{Uid: uid, HypervisorUuid: id, HypervisorName: name, VmHost: "vmHosts/lxd1", Disks: was.GetDisks(), Interfaces: was.GetInterfaces()}
	moved := proto.CloneOf(machine)
	moved.VmHost = "vmHosts/lxd2"
	for i, k := range moved.GetDisks() {
		k.StoragePool, k.Volume = "btrfs", volumePrefix(uid)+[]string{"0", "1"}[i]
	}
	what := &rackv1.MoveMachine{Machine: machine, Moved: moved}
	done, err := from.Move(timeout(t, 2*time.Minute), to, what, "operations/move")
	if err != nil {
		t.Fatal(err)
	}
	got := done.Machine
	if got.GetUid() != uid || got.GetUuid() != id || got.GetName() != name || got.GetMemoryMib() != 64 || len(got.GetInterfaces()) != 1 ||
		got.GetInterfaces()[0].GetMac() != was.GetInterfaces()[0].GetMac() || len(got.GetDisks()) != 2 || got.GetDisks()[1].GetVolume() != volumePrefix(uid)+"1" {
		t.Errorf("arrived as %v", got)
	}
	if got := two("config", "get", name, "user.note") + two("storage", "volume", "get", "btrfs", volumePrefix(uid)+"1", "user.note"); got != "keptkept" {
		t.Errorf("what others wrote on it is %q", got)
	}
	for _, path := range []string{"/1.0/instances/" + name + "/snapshots", "/1.0/storage-pools/btrfs/volumes/custom/" + volumePrefix(uid) + "1/snapshots"} {
		if got := two("query", path); !strings.Contains(got, "/before\"") {
			t.Errorf("%s is %s", path, got)
		}
	}
	if got := inContainer(t, lxdtest.Devhost(t, "lxd2"), name, "cat /mark /data/mark; ls /sys/class/net"); got != "kept\nkept\neth0\nlo" {
		t.Errorf("it has %q", got)
	}
	if _, err := lxdtest.Devhost(t, "lxd1").TryLxc("info", name); err == nil {
		t.Error("it is still on the source")
	}
	// Its volume there was made by somebody else, who may look for it.
	one("storage", "volume", "show", "default", data)
}

// What can be seen to be impossible is refused before anything is stopped or made.
func TestRealMoveThatIsImpossibleIsRefusedBeforeAnythingIsStopped_P5(t *testing.T) {
	from, to, one, two := twoServers(t)
	c := container(t, from, "lxdbr0")
	m := c.GetMachine()
	m.Disks = m.GetDisks()[:1]
	if _, err := from.Create(timeout(t, time.Minute), c); err != nil {
		t.Fatal(err)
	}
	name := m.GetHypervisorName()
	power(t, from, m.GetUid(), rackv1.PowerAction_POWER_ACTION_START, 0)
	profile := "move-" + m.GetUid()[:6]
	one("profile", "create", profile)
	two("profile", "create", profile)
	two("profile", "set", profile, "security.nesting=true")
	t.Cleanup(func() {
		for _, s := range []string{"lxd1", "lxd2"} {
			_, _ = lxdtest.Devhost(t, s).TryLxc("profile", "delete", profile)
		}
	})
	for word, test := range map[string]struct {
		do, undo []string
		class    error
		there    bool // another destination may do
	}{
		"is paused":               {[]string{"pause", name}, []string{"start", name}, hypervisor.ErrRefused, false},
		"protected from being":    {[]string{"config", "set", name, "security.protection.delete=true"}, []string{"config", "unset", name, "security.protection.delete"}, hypervisor.ErrRefused, false},
		"is a device of its host": {[]string{"config", "device", "add", name, "null", "unix-char", "source=/dev/null", "path=/dev/null2"}, []string{"config", "device", "remove", name, "null"}, hypervisor.ErrUnsupported, false},
		"of its host, which the":  {[]string{"config", "device", "add", name, "tmp", "disk", "source=/tmp", "path=/hosts"}, []string{"config", "device", "remove", name, "tmp"}, hypervisor.ErrUnsupported, false},
		"2 network cards":         {[]string{"config", "device", "add", name, "eth7", "nic", "nictype=p2p"}, []string{"config", "device", "remove", name, "eth7"}, hypervisor.ErrRefused, false},
		"set security.nesting":    {[]string{"profile", "add", name, profile}, []string{"profile", "remove", name, profile}, hypervisor.ErrRefused, true},
		"backups on its server":   {[]string{"query", "-X", "POST", "--wait", "-d", `{"name":"b1","instance_only":true}`, "/1.0/instances/" + name + "/backups"}, []string{"query", "-X", "DELETE", "--wait", "/1.0/instances/" + name + "/backups/b1"}, hypervisor.ErrUnsupported, false},
		"do not move what runs":   {nil, nil, hypervisor.ErrRefused, false},
		"no storage pool":         {nil, nil, hypervisor.ErrNotFound, true},
		"that both hosts have":    {nil, nil, hypervisor.ErrUnsupported, false},
		"the same LXD server":     {nil, nil, hypervisor.ErrUnsupported, false},
	} {
		t.Run(word, func(t *testing.T) {
			what := &rackv1.MoveMachine{Machine: m, Moved: proto.CloneOf(m), AllowOffline: true}
			destination := to
			switch word {
			case "do not move what runs":
				what.AllowOffline = false
			case "no storage pool":
				what.Moved.Disks[0].StoragePool = "not-there"
			case "that both hosts have":
				what.StayingDisks = []int32{0}
			case "the same LXD server":
				destination = openTarget(t, NewOpener(Config{}), targetOf(t, lxdtest.Devhost(t, "lxd1")))
			}
			if test.do != nil {
				one(test.do...)
				defer one(test.undo...)
			}
			before := one("config", "show", name) + one("list", name, "--format", "csv", "--columns", "s")
			_, err := from.Move(timeout(t, time.Minute), destination, what, "operations/move")
			wantClass(t, err, test.class)
			e, ok := errors.AsType[*hypervisor.Error](err)
			if !ok || !strings.Contains(err.Error(), word) || e.AtDestination != test.there || e.Hint == "" && !test.there {
				t.Errorf("refused with %v: %+v", err, e)
			}
			if after := one("config", "show", name) + one("list", name, "--format", "csv", "--columns", "s"); after != before {
				t.Errorf("changed:\n%s\nwas:\n%s", after, before)
			}
			if got := two("list", name, "--format", "csv", "--columns", "n"); got != "" {
				t.Errorf("on the destination is %s", got)
			}
		})
	}
}
