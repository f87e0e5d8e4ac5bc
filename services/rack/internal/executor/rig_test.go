package executor_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack/internal/executor"
	"github.com/vmhost-project/vmhost/services/rack/internal/journal"
	"github.com/vmhost-project/vmhost/services/rack/internal/metric"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is an executor in a bubble, with a fleet behind it and a region that
// remembers what it was told.
type rig struct {
	*executor.Executor
	t       *testing.T
	path    string
	fleet   *fake.Fleet
	journal *journal.Journal
	region  *ear
	drivers map[vmhostv1.VmHostType]hypervisor.Opener
	phones  *exchange
	muted   *atomic.Bool
	opened  atomic.Pointer[hypervisor.Target]
	hangUp  func() // ends the session
	stop    func()
}

// ear is a session that remembers.
type ear struct {
	mu   sync.Mutex
	said []*rackv1.ConnectRequest
	deaf bool
	left int // how many messages are taken before it fails; 0 means all
	then func(*rackv1.ConnectRequest)
}

func (e *ear) Send(_ context.Context, m *rackv1.ConnectRequest) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.deaf || e.left == 1 {
		return errors.New("the session has ended")
	}
	if e.left > 1 {
		e.left--
	}
	e.said = append(e.said, proto.CloneOf(m))
	if e.then != nil {
		go e.then(m)
	}
	return nil
}

// failAfter makes it take so many messages and no more; below 0: all.
func (e *ear) failAfter(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.left = max(0, n+1)
}

// answer calls a function with every message from now on.
func (e *ear) answer(then func(*rackv1.ConnectRequest)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.then = then
}

func (e *ear) all() []*rackv1.ConnectRequest {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]*rackv1.ConnectRequest(nil), e.said...)
}

func (e *ear) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.said = nil
}

func pick[T any](e *ear, of func(*rackv1.ConnectRequest) *T) []*T {
	var out []*T
	for _, m := range e.all() {
		if v := of(m); v != nil {
			out = append(out, v)
		}
	}
	return out
}

func (e *ear) results() []*rackv1.StepResult {
	return pick(e, (*rackv1.ConnectRequest).GetStepResult)
}

func (e *ear) inventories() []*rackv1.HostInventory {
	return pick(e, (*rackv1.ConnectRequest).GetHostInventory)
}

func (e *ear) changes() []*rackv1.MachineChange {
	return pick(e, (*rackv1.ConnectRequest).GetMachineChange)
}

func (e *ear) statuses() []*rackv1.HostStatus {
	return pick(e, (*rackv1.ConnectRequest).GetHostStatus)
}

// status is the last that was said of the host's connection.
func (e *ear) status() *rackv1.HostStatus {
	all := e.statuses()
	if len(all) == 0 {
		return nil
	}
	return all[len(all)-1]
}

// result is the result of a step; it fails the test when there is not one.
func (r *rig) result(id string) *rackv1.StepResult {
	r.t.Helper()
	var found *rackv1.StepResult
	for _, x := range r.region.results() {
		if x.GetId() == id {
			found = x
		}
	}
	if found == nil {
		r.t.Fatalf("no result of %s among %v", id, r.region.results())
	}
	return found
}

// bubble runs a test with a fleet of hosts h1, h2 and so on, on a fake clock.
func bubble(t *testing.T, hosts int, test func(r *rig)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		fleet := fake.NewFleet()
		for i := range hosts {
			fleet.AddHost(fake.HostSpec{Name: fmt.Sprintf("h%d", i+1)})
		}
		r := start(t, filepath.Join(dir, "journal"), fleet)
		test(r)
		r.stop()
	})
}

func start(t *testing.T, path string, fleet *fake.Fleet) *rig {
	t.Helper()
	j, err := journal.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, path: path, fleet: fleet, journal: j, region: &ear{}, phones: &exchange{}, muted: &atomic.Bool{}}
	r.drivers = map[vmhostv1.VmHostType]hypervisor.Opener{vmhostv1.VmHostType_VM_HOST_TYPE_FAKE: muffled{fleet, r.muted, &r.opened}}
	r.Executor = executor.New(executor.Config{
		Drivers: r.drivers,
		Console: r.phones.dial,
		Journal: j,
		Unseal:  unseal,
		Rack:    func() string { return "racks/r1" },
		Metrics: metric.New(prometheus.NewRegistry(), func() time.Time { return time.Time{} }),
		Log:     slog.New(slog.DiscardHandler),
	})
	r.connect()
	r.stop = sync.OnceFunc(func() {
		r.hangUp()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := r.Close(ctx); err != nil {
			t.Error(err)
		}
		if err := j.Close(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
	})
	return r
}

// quietly does something to hosts that no event tells of.
func (r *rig) quietly(f func()) {
	r.muted.Store(true)
	f()
	synctest.Wait()
	r.muted.Store(false)
}

// target is what a driver was opened with last.
func (r *rig) target() hypervisor.Target { return *r.opened.Load() }

// muffled is a fleet whose events can be kept back.
type muffled struct {
	*fake.Fleet
	muted  *atomic.Bool
	opened *atomic.Pointer[hypervisor.Target]
}

// Open opens a driver that can all the fake's can.
func (m muffled) Open(ctx context.Context, target hypervisor.Target) (hypervisor.Driver, error) {
	m.opened.Store(&target)
	d, err := m.Fleet.Open(ctx, target)
	if err != nil {
		return nil, err
	}
	return muffledDriver{d, d.(hypervisor.Adopter), d.(hypervisor.Consoler), d.(hypervisor.Fixer), m.muted}, nil
}

type muffledDriver struct {
	hypervisor.Driver
	hypervisor.Adopter
	hypervisor.Consoler
	hypervisor.Fixer

	muted *atomic.Bool
}

// Move moves to another muffled driver.
func (m muffledDriver) Move(ctx context.Context, to hypervisor.Driver, move *rackv1.MoveMachine, operation string) (*hypervisor.Moved, error) {
	return m.Driver.(hypervisor.Mover).Move(ctx, to.(muffledDriver).Driver, move, operation)
}

func (m muffledDriver) Events(ctx context.Context) (<-chan hypervisor.Event, error) {
	from, err := m.Driver.Events(ctx)
	if err != nil {
		return nil, err
	}
	to := make(chan hypervisor.Event, 1000)
	go func() {
		defer close(to)
		for e := range from {
			if !m.muted.Load() {
				to <- e
			}
		}
	}()
	return to, nil
}

// restart is the death of the process and a new one: what runs is cut off.
func (r *rig) restart() *rig {
	r.t.Helper()
	r.stop()
	return start(r.t, r.path, r.fleet)
}

func (r *rig) connect() {
	r.region = &ear{}
	ctx, cancel := context.WithCancel(r.t.Context())
	ended := make(chan struct{})
	r.Connected(r.region, &rackv1.RegionHello{Session: "s1"})
	go func() {
		defer close(ended)
		r.Resume(ctx)
	}()
	r.hangUp = sync.OnceFunc(func() {
		r.region.mu.Lock()
		r.region.deaf = true
		r.region.mu.Unlock()
		cancel()
		<-ended
		r.Disconnected()
	})
	synctest.Wait()
}

func (r *rig) disconnect() { r.hangUp() }

// seal and unseal stand for real sealing, which package enroll tests.
func seal(aad, password string) []byte {
	raw, _ := proto.Marshal(&vmhostv1.Credential{Kind: &vmhostv1.Credential_Password{Password: password}})
	return append([]byte(aad+"|"), raw...)
}

func unseal(aad, sealed []byte) ([]byte, error) {
	if prefix := string(aad) + "|"; len(sealed) >= len(prefix) && string(sealed[:len(prefix)]) == prefix {
		return sealed[len(prefix):], nil
	}
	return nil, errors.New("sealed for another purpose")
}

func assignment(host string, epoch int64) *rackv1.Assignment {
	return &rackv1.Assignment{
		VmHost: "vmHosts/" + host, Uid: "uid-" + host, Epoch: epoch, Type: vmhostv1.VmHostType_VM_HOST_TYPE_FAKE,
		Address: "fake://" + host, ConnectionVersion: "1",
	}
}

// assign assigns a host and waits until it is reported.
func (r *rig) assign(host string, epoch int64) {
	r.t.Helper()
	r.Assign(r.t.Context(), assignment(host, epoch))
	wait(time.Millisecond)
}

func step(host, id string, epoch int64) *rackv1.Step {
	return &rackv1.Step{
		Id: id, Operation: "operations/" + id, VmHost: "vmHosts/" + host, VmHostUid: "uid-" + host, Epoch: epoch,
		Timeout: durationpb.New(time.Minute),
	}
}

func machine(uid string) *vmhostv1.Machine {
	return &vmhostv1.Machine{
		Uid: uid, HypervisorName: "name-" + uid, Cores: 1, MemoryMib: 64, Architecture: "x86_64",
		Disks: []*vmhostv1.MachineDisk{{StoragePool: "default", Volume: "vmhost-" + uid + "-0", SizeBytes: 1 << 20}},
	}
}

func createStep(host, id, uid string, epoch int64) *rackv1.Step {
	s := step(host, id, epoch)
	s.Action = &rackv1.Step_CreateMachine{CreateMachine: &rackv1.CreateMachine{Machine: machine(uid)}}
	return s
}

func powerStep(host, id, uid string, epoch int64, action rackv1.PowerAction) *rackv1.Step {
	s := step(host, id, epoch)
	s.Action = &rackv1.Step_SetPower{SetPower: &rackv1.SetPower{Uid: uid, Action: action}}
	return s
}

// wait lets the fake clock run that far, and everything that is due happen.
func wait(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // fake clock
	synctest.Wait()
}
