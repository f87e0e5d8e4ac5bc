package lxd

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	lxdapi "github.com/canonical/lxd/shared/api"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/lxdtest"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// processOf is the process that listens on a socket.
func processOf(t testing.TB, socket string) int {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	file, err := conn.(*net.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cred, err := syscall.GetsockoptUcred(int(file.Fd()), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	if err != nil {
		t.Fatal(err)
	}
	return int(cred.Pid)
}

// A pool on a file system that is too small for the image.
func TestRealPoolThatIsFullIsOutOfCapacity(t *testing.T) {
	s := lxdtest.Devhost(t, "lxd1")
	pid, path := strconv.Itoa(processOf(t, s.Socket)), "/run/vmhost-test-small"
	inside := func(script string) error {
		return exec.CommandContext(t.Context(), "nsenter", "-t", pid, "-m", "sh", "-c", script).Run()
	}
	if err := inside("mkdir -p " + path + " && mount -t tmpfs -o size=512k tmpfs " + path); err != nil {
		t.Skipf("a file system cannot be mounted where LXD is: %v", err)
	}
	t.Cleanup(func() {
		_, _ = s.TryLxc("storage", "delete", "small")
		_ = exec.Command("nsenter", "-t", pid, "-m", "sh", "-c", "umount "+path+" && rmdir "+path).Run()
	})
	s.Lxc(t, "storage", "create", "small", "dir", "source="+path)
	d := overSocket(t, s, "")
	c := container(t, d, "")
	c.Machine.Disks = c.GetMachine().GetDisks()[:1]
	c.Machine.Disks[0].StoragePool, c.Machine.Disks[0].SizeBytes = "small", 256<<10
	_, err := d.Create(timeout(t, time.Minute), c)
	wantClass(t, err, hypervisor.ErrCapacity)
	if _, err := s.TryLxc("info", c.GetMachine().GetHypervisorName()); err == nil {
		t.Error("the instance is there all the same")
	}
}

func TestRealClusterMembersAreHostsOfTheirOwn(t *testing.T) {
	s := lxdtest.Devhost(t, "lxdc1")
	target := targetOf(t, s)
	first := openTarget(t, NewOpener(Config{}), target)
	target.ClusterMember = "lxdc2"
	second := openTarget(t, NewOpener(Config{}), target)
	ctx := timeout(t, 2*time.Minute)
	for member, d := range map[string]*Driver{"lxdc1": first, "lxdc2": second} {
		o, err := d.Probe(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if o.GetClusterMember() != member || len(o.GetClusterMembers()) != 2 || !o.GetClusterMembers()[1].GetOnline() || o.GetHostname() != member ||
			!strings.HasPrefix(o.GetClusterMembers()[1].GetAddress(), "https://") {
			t.Errorf("%s is %q, member %q of %v", member, o.GetHostname(), o.GetClusterMember(), o.GetClusterMembers())
		}
		if i := slices.IndexFunc(o.GetStoragePools(), func(p *vmhostv1.StoragePool) bool { return p.GetName() == "default" }); i < 0 || o.GetStoragePools()[i].GetCapacityBytes() == 0 {
			t.Errorf("%s has the pools %v", member, o.GetStoragePools())
		}
	}
	c := container(t, second, "")
	c.Machine.Disks = c.GetMachine().GetDisks()[:1]
	m := c.GetMachine()
	if _, err := second.Create(ctx, c); err != nil {
		t.Fatal(err)
	}
	where := func(d *Driver) bool {
		t.Helper()
		list, err := d.Machines(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(list, func(o *rackv1.MachineObservation) bool { return o.GetUuid() == m.GetUid() && o.GetUid() == m.GetUid() })
	}
	if where(first) || !where(second) {
		t.Errorf("made on lxdc2 it is on lxdc1: %v, on lxdc2: %v", where(first), where(second))
	}
	s.Lxc(t, "move", m.GetHypervisorName(), "--target", "lxdc1")
	if !where(first) || where(second) {
		t.Errorf("moved to lxdc1 it is on lxdc1: %v, on lxdc2: %v", where(first), where(second))
	}
	if _, err := second.Create(ctx, c); err == nil {
		t.Error("a machine that is on another member is made again")
	} else {
		wantClass(t, err, hypervisor.ErrForeign)
	}
	_, err := second.SetPower(ctx, hypervisor.Ref{UID: m.GetUid()}, rackv1.PowerAction_POWER_ACTION_START, 0)
	wantClass(t, err, hypervisor.ErrNotFound)
	if err == nil || !strings.Contains(err.Error(), "lxdc1") {
		t.Errorf("error %v does not say where it is", err)
	}
	// A machine that is to go is not left behind because it has moved.
	if err := second.Delete(ctx, m); err != nil {
		t.Fatal(err)
	}
	if where(first) {
		t.Error("it is still on lxdc1")
	}
	target.ClusterMember = "lxdc9"
	err = open(t, target)
	wantClass(t, err, hypervisor.ErrRefused)
	if err != nil && !strings.Contains(err.Error(), "lxdc1, lxdc2") {
		t.Errorf("error %v does not name the members", err)
	}
}

// instances makes many instances in a project, as fast as LXD does.
func instances(t testing.TB, s lxdtest.Server, d *Driver, n int) {
	t.Helper()
	var wg sync.WaitGroup
	next := make(chan int)
	for range 4 {
		wg.Go(func() {
			for i := range next {
				post := lxdapi.InstancesPost{Name: fmt.Sprintf("many-%d", i), Type: typeContainer, Source: lxdapi.InstanceSource{Type: "none"}}
				post.Profiles = []string{}
				post.Config = map[string]string{"limits.cpu": "1", "limits.memory": "64MiB"}
				post.Devices = map[string]map[string]string{
					"root": {"type": "disk", "path": "/", "pool": "default"}, "eth0": {"type": "nic", "network": "lxdbr0", "name": "eth0"},
				}
				if err := d.change(t.Context(), "make", http.MethodPost, d.in("/1.0/instances"), post, ""); err != nil {
					t.Errorf("make %s: %v", post.Name, err)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// A resync costs little more than LXD's own list.
func TestRealResyncOf200InstancesCostsHardlyMoreThanTheirList(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 200 instances: not in the short form")
	}
	s := lxdtest.Devhost(t, "lxd2")
	const name = "vmhost-test-many"
	d := overSocket(t, s, name)
	t.Cleanup(func() {
		var names []string
		for i := range 200 {
			names = append(names, fmt.Sprintf("many-%d", i))
		}
		for batch := range slices.Chunk(names, 50) {
			_, _ = s.TryLxc(append([]string{"delete", "--force", "--project", name}, batch...)...)
		}
		_, _ = s.TryLxc("project", "delete", name)
	})
	instances(t, s, d, 200)
	ctx := timeout(t, 2*time.Minute)
	list := func() int {
		resp, _, err := d.conn.api.query(ctx, http.MethodGet, "/1.0/instances?recursion=1&all-projects=true", nil, "")
		if err != nil {
			t.Fatal(err)
		}
		var all []json.RawMessage
		if err := json.Unmarshal(resp.Metadata, &all); err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	resync := func() int {
		_, machines, err := d.Inventory(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return len(machines)
	}
	if a, b := list(), resync(); a < 200 || b < 200 {
		t.Fatalf("%d in the list, %d machines", a, b)
	}
	median := func(f func() int) time.Duration {
		var took []time.Duration
		for range 9 {
			began := time.Now()
			f()
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		return took[len(took)/2]
	}
	bare, whole := median(list), median(resync)
	t.Logf("list alone %v, resync %v: %.2f times", bare, whole, float64(whole)/float64(bare))
	if whole > 2*bare {
		t.Errorf("a resync takes %v, the list alone %v", whole, bare)
	}
}
