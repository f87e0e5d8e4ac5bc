package lxd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	lxdapi "github.com/canonical/lxd/shared/api"
	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/lxdtest"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// trouble is what happens at one of the requests by which a move changes something.
type trouble struct {
	mu   sync.Mutex
	left int  // requests before it
	dies bool // the process is gone when the request was made; else the request fails
	came bool
	// copying: the instance is being copied. Its volumes were before, in the same way.
	copying bool
	conns   []*conn
}

// next says whether this request is the one. Not counted are the ends on the source
// of what is counted on the destination.
func (x *trouble) next(method, path string, to bool) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case method == http.MethodPost && strings.HasPrefix(path, "/1.0/instances"):
		x.copying = true
	case method == http.MethodGet && (!to || !x.copying || !strings.Contains(path, "/operations/")),
		method == http.MethodPost && !to && strings.Contains(path, "/volumes/"):
		return false
	}
	x.left--
	if x.left == 0 {
		x.came = true
	}
	return x.left == 0
}

func (x *trouble) through(c *conn, to api) api {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.conns = append(x.conns, c)
	return &troubled{api: to, trouble: x, to: len(x.conns) == 2}
}

// die is the end of the process as LXD sees it: everything that it waits for is
// closed.
func (x *trouble) die() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range x.conns {
		c.fail(errors.New("the rack is gone"))
	}
}

type troubled struct {
	api
	trouble *trouble
	to      bool // the destination
}

var errTrouble = lxdapi.NewStatusError(http.StatusInternalServerError, "something is broken here")

func (a *troubled) query(ctx context.Context, method, path string, body any, etag string) (*lxdapi.Response, string, error) {
	now := method != http.MethodGet && a.trouble.next(method, path, a.to)
	if now && !a.trouble.dies {
		return nil, "", errTrouble
	}
	resp, tag, err := a.api.query(ctx, method, path, body, etag)
	if now {
		a.trouble.die()
	}
	return resp, tag, err
}

func (a *troubled) websocket(ctx context.Context, path string) (*websocket.Conn, error) {
	now := a.trouble.next(http.MethodGet, path, a.to)
	if now && !a.trouble.dies {
		return nil, errTrouble
	}
	ws, err := a.api.websocket(ctx, path)
	if now {
		a.trouble.die()
	}
	return ws, err
}

// hosts are two hosts between which one machine is moved again and again.
type hosts struct {
	servers [2]lxdtest.Server
	targets [2]hypervisor.Target
	machine [2]*vmhostv1.Machine
	at      int // where it is
}

func newHosts(t *testing.T, disks int, members ...string) *hosts {
	t.Helper()
	h := &hosts{}
	for n, name := range members {
		h.servers[n] = lxdtest.Devhost(t, name)
		h.targets[n] = targetOf(t, h.servers[n])
		if strings.HasPrefix(name, "lxdc") {
			h.targets[n].ClusterMember = name
		}
	}
	drivers := [2]*Driver{}
	for n, target := range h.targets {
		drivers[n] = openTarget(t, NewOpener(Config{}), target)
	}
	c := container(t, drivers[0], "lxdbr0")
	c.Machine.Disks = c.GetMachine().GetDisks()[:disks]
	c.Machine.MemoryMib, c.Machine.Cores = 64, 1
	h.machine[0], h.machine[1] = c.GetMachine(), proto.CloneOf(c.GetMachine())
	h.machine[0].VmHost, h.machine[1].VmHost = h.targets[0].Name, h.targets[1].Name
	for _, k := range h.machine[1].GetDisks() {
		k.StoragePool = "btrfs" // and back
	}
	if _, err := drivers[0].Create(timeout(t, time.Minute), c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if err := drivers[1].Delete(ctx, h.machine[1]); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	power(t, drivers[0], c.GetMachine().GetUid(), rackv1.PowerAction_POWER_ACTION_START, 0)
	inContainer(t, h.servers[0], c.GetMachine().GetHypervisorName(), "for d in / /mnt/disk*/; do test -d $d && echo kept > ${d}mark; done; sync")
	return h
}

// move moves the machine to where it is not, by a process of its own.
func (h *hosts) move(t *testing.T, x *trouble) error {
	t.Helper()
	cfg := Config{}
	if x != nil {
		cfg.through = x.through
	}
	o := NewOpener(cfg)
	from, to := openTarget(t, o, h.targets[h.at]), openTarget(t, o, h.targets[1-h.at])
	defer func() { _, _ = from.Close(), to.Close() }()
	done, err := from.Move(timeout(t, 2*time.Minute), to, &rackv1.MoveMachine{
		Machine: h.machine[h.at], Moved: h.machine[1-h.at], AllowOffline: true, Autostart: true,
	}, "operations/move")
	if err != nil {
		return err
	}
	if got := done.Machine; got.GetPowerState() != vmhostv1.PowerState_POWER_STATE_ON || got.GetUid() != h.machine[0].GetUid() {
		t.Errorf("moved, it is %v", got)
	}
	return nil
}

// once fails the test unless the machine is where it is said to be, as it was, and
// nothing of it is elsewhere.
func (h *hosts) once(t *testing.T, what string) {
	t.Helper()
	m := h.machine[h.at]
	for n := range h.targets {
		d := openTarget(t, NewOpener(Config{}), h.targets[n])
		got, err := d.Machine(timeout(t, time.Minute), m.GetUid())
		if n != h.at {
			if !errors.Is(err, hypervisor.ErrNotFound) {
				t.Errorf("%s: it is on the other host as well: %v, error %v", what, got, err)
			}
		} else if err != nil || got.GetPowerState() != vmhostv1.PowerState_POWER_STATE_ON || got.GetName() != m.GetHypervisorName() {
			t.Fatalf("%s: it is %v, error %v", what, got, err)
		}
		for _, k := range h.machine[n].GetDisks()[1:] {
			v, err := d.findVolume(timeout(t, time.Minute), k.GetStoragePool(), k.GetVolume())
			if err != nil || (v != nil) != (n == h.at) {
				t.Errorf("%s: a volume is on %s: %v, error %v", what, h.targets[n].Name, v, err)
			}
		}
		_ = d.Close()
	}
	i := outside{Server: h.servers[h.at], project: "default"}
	config := i.Lxc(t, "config", "show", m.GetHypervisorName())
	for _, key := range []string{labelMoving, labelAside, applyTemplate} {
		if strings.Contains(config, key) {
			t.Errorf("%s: %s is still there:\n%s", what, key, config)
		}
	}
	got := inContainer(t, h.servers[h.at], m.GetHypervisorName(), "for d in / /mnt/disk*/; do test -d $d && cat ${d}mark; done; true")
	if strings.TrimSpace(got) != strings.TrimSpace(strings.Repeat("kept\n", len(m.GetDisks()))) {
		t.Errorf("%s: on its disks is %q", what, got)
	}
}

// atEveryPoint moves a running machine to and fro until trouble at one point more
// does not come any more.
func (h *hosts) atEveryPoint(t *testing.T, dies bool, first int) {
	t.Helper()
	for point := first; ; point++ {
		x := &trouble{left: point, dies: dies}
		err := h.move(t, x)
		switch {
		case err == nil:
			h.at = 1 - h.at
		case dies, errors.Is(err, hypervisor.ErrTimeout), h.runsThere(t):
			// It is not known what is where, or only the source is to be removed: whoever
			// comes next goes on.
			if again := h.move(t, nil); again != nil {
				t.Fatalf("point %d: %v, moved again: %v", point, err, again)
			}
			h.at = 1 - h.at
		}
		t.Logf("point %d: %v", point, err)
		h.once(t, fmt.Sprint("point ", point))
		if !x.came {
			if err != nil {
				t.Errorf("without trouble: %v", err)
			}
			if point < 10 {
				t.Errorf("a move has %d points only, so that this proves little", point)
			}
			return
		}
	}
}

// runsThere says whether the machine runs on the host that it is moved to.
func (h *hosts) runsThere(t *testing.T) bool {
	t.Helper()
	d := openTarget(t, NewOpener(Config{}), h.targets[1-h.at])
	defer func() { _ = d.Close() }()
	got, err := d.Machine(timeout(t, time.Minute), h.machine[0].GetUid())
	return err == nil && got.GetPowerState() == vmhostv1.PowerState_POWER_STATE_ON
}

func TestRealMoveThatDiesAtAnyPointGoesOn_P3(t *testing.T) {
	t.Parallel()
	newHosts(t, 2, "lxd1", "lxd2").atEveryPoint(t, true, 1)
}

// Noting and stopping is the same within a cluster.
const afterStop = 3

func TestRealMoveWithinAClusterThatDiesAtAnyPointGoesOn_P3(t *testing.T) {
	t.Parallel()
	newHosts(t, 1, "lxdc1", "lxdc2").atEveryPoint(t, true, afterStop)
}

func TestRealMoveWithinAClusterThatFailsAtAnyPointLeavesTheMachineRunning_P3(t *testing.T) {
	t.Parallel()
	newHosts(t, 1, "lxdc1", "lxdc2").atEveryPoint(t, false, afterStop)
}
