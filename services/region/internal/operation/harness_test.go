package operation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/api"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errCrash = errors.New("the process was killed here")

// world is a fleet of one host with a scripted rack; engines come and go in it.
type world struct {
	told func(*vmhostv1.Operation) // of every end; may be nil
	// What the rack says of itself in its next session, see RackHello.
	sharedMovers []string
	t            *testing.T
	store        *store.Store
	ledger       *ledger.Ledger
	rack         *fakeRack
	log          *slog.Logger

	mu     sync.Mutex
	engine *Engine
	stop   func()
	crash  func() // when the commit hook says so
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s := storetest.New(t)
	w := &world{t: t, store: s, log: slog.New(slog.DiscardHandler), ledger: ledger.New(s, slog.New(slog.DiscardHandler))}
	w.rack = &fakeRack{world: w, session: "s1", domains: map[string]bool{}, moved: map[string]bool{}, journal: map[string]*rackv1.StepResult{}, tried: map[string]int{}}
	tx := store.NewTxn()
	store.Put(tx, store.Zones, &storev1.StoredZone{Resource: &vmhostv1.Zone{Name: "zones/default"}}, "default")
	store.Put(tx, store.ResourcePools, &storev1.StoredResourcePool{Resource: &vmhostv1.ResourcePool{Name: "resourcePools/default"}}, "default")
	store.Put(tx, store.VmHosts, &storev1.StoredVmHost{Resource: &vmhostv1.VmHost{
		Name: "vmHosts/h", Uid: "uid-h", ResourcePool: "resourcePools/default", Zone: "zones/default", Address: "fake://h",
	}}, "h")
	store.Put(tx, store.Observed, &storev1.StoredVmHostObservation{
		State: vmhostv1.VmHostState_VM_HOST_STATE_READY, VmHostUid: "uid-h",
		Observation: &vmhostv1.VmHostObservation{
			Architectures: []string{"x86_64"}, Cores: 100, MemoryMib: 1 << 20,
			StoragePools: []*vmhostv1.StoragePool{{Name: "default", CapacityBytes: 1 << 50, Active: true}},
			Networks:     []*vmhostv1.HostNetwork{{Name: "default", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK, Active: true}},
		},
	}, "h")
	store.Put(tx, store.Racks, &storev1.StoredRack{Resource: &vmhostv1.Rack{Name: "racks/r1", Uid: "uid-r1", Zone: "zones/default"}}, "r1")
	store.Put(tx, store.Assignments, &storev1.StoredAssignment{Rack: "r1", VmHostUid: "uid-h"}, "h")
	w.put(tx)
	w.connect("s1")
	t.Cleanup(w.halt)
	return w
}

func (w *world) put(tx *store.Txn) {
	w.t.Helper()
	if _, err := w.store.Commit(w.t.Context(), tx); err != nil {
		w.t.Fatal(err)
	}
}

// connect gives the rack a new session; what it could not report before it
// reports again.
func (w *world) connect(session string) {
	w.t.Helper()
	w.rack.mu.Lock()
	w.rack.session = session
	w.rack.mu.Unlock()
	tx := store.NewTxn()
	store.Put(tx, store.Sessions, &storev1.StoredSession{Region: "here", Session: session, Drivers: []string{"fake"}, SharedMovers: w.sharedMovers}, "r1")
	w.put(tx)
	w.rack.reportAgain()
}

// run starts an engine. hook, if any, is asked at every commit whether to crash
// before or after it.
func (w *world) run(hook func(n int) (before, after bool)) *Engine {
	w.t.Helper()
	e := New(Config{
		Store: w.store, Sender: w.rack, Turn: w.ledger, Places: w.ledger, Secrets: plainSecrets{}, Log: slog.New(slog.DiscardHandler),
		Ended: w.told, TakeOut: api.TakeOut, FullPass: 200 * time.Millisecond, RetryMin: time.Millisecond, RetryMax: 5 * time.Millisecond, Workers: 2,
	})
	ctx, cancel := context.WithCancel(context.Background())
	var once sync.Once
	crash := func() { once.Do(cancel) }
	if hook != nil {
		var mu sync.Mutex
		n, dead := 0, false
		e.commit = func(c context.Context, tx *store.Txn) (int64, error) {
			mu.Lock()
			defer mu.Unlock()
			if dead {
				return 0, errCrash
			}
			n++
			before, after := hook(n)
			if before {
				dead = true
				crash()
				return 0, errCrash
			}
			revision, err := w.store.Commit(c, tx)
			if after {
				dead = true
				crash()
				return 0, errCrash
			}
			return revision, err
		}
	}
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	w.mu.Lock()
	w.engine, w.crash = e, crash
	w.stop = func() {
		crash()
		if err := <-done; err != nil {
			w.t.Errorf("engine: %v", err)
		}
		w.rack.wait()
	}
	w.mu.Unlock()
	return e
}

// halt ends the engine that runs.
func (w *world) halt() {
	w.mu.Lock()
	stop := w.stop
	w.stop, w.engine = nil, nil
	w.mu.Unlock()
	if stop != nil {
		stop()
	}
}

func (w *world) current() *Engine {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.engine
}

func (w *world) compose(start bool) *vmhostv1.Operation {
	w.t.Helper()
	op, err := w.ledger.Compose(w.t.Context(), "alice", &vmhostv1.ComposeMachineRequest{Cores: 1, MemoryMib: 64, Start: start})
	if err != nil {
		w.t.Fatal(err)
	}
	return op
}

func uidOf(name string) string { _, uid, _ := strings.Cut(name, "/"); return uid }

func (w *world) operation(name string) *storev1.StoredOperation {
	w.t.Helper()
	v, err := w.store.View(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	rec, ok := store.Operations.Get(v, uidOf(name))
	if !ok {
		w.t.Fatalf("operation %s is gone", name)
	}
	return rec.Value
}

func (w *world) machine(name string) *vmhostv1.Machine {
	w.t.Helper()
	v, err := w.store.View(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	rec, _ := store.Machines.Get(v, uidOf(name))
	return rec.Value.GetResource()
}

// eventually waits for a condition of the state.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	tick, late := time.NewTicker(time.Millisecond), time.After(20*time.Second)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			w.t.Fatalf("%s: not in 20 s", what)
		}
	}
}

// ended waits for the operation's end.
func (w *world) ended(name string) *vmhostv1.Operation {
	w.t.Helper()
	w.eventually("end of "+name, func() bool { return ended(w.operation(name)) })
	return w.operation(name).GetResource()
}

// checkBooks compares ledger, records and hypervisor with one another.
func (w *world) checkBooks() {
	w.t.Helper()
	v, err := w.store.View(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for host := range store.VmHosts.All(v) {
		led, _ := store.Ledgers.Get(v, host)
		if diff := cmp.Diff(ledger.Recount(v, host), led.Value, protocmp.Transform()); diff != "" && led.Value != nil {
			w.t.Errorf("ledger of %s differs from machines (-machines +ledger):\n%s", host, diff)
		}
	}
	w.rack.mu.Lock()
	defer w.rack.mu.Unlock()
	for uid := range w.rack.domains {
		if _, ok := store.Machines.Get(v, uid); !ok {
			w.t.Errorf("domain %s has no record", uid)
		}
	}
	for uid, m := range store.Machines.All(v) {
		_, there := w.rack.domains[uid]
		if m.Value.GetResource().GetVmHost() != "vmHosts/h" {
			_, there = w.rack.moved[uid]
		}
		if m.Value.GetResource().GetPhase() == vmhostv1.MachinePhase_MACHINE_PHASE_READY && !there {
			w.t.Errorf("machine %s is ready and not there", uid)
		}
		if busy := m.Value.GetResource().GetOperation(); busy != "" {
			if op, ok := store.Operations.Get(v, uidOf(busy)); !ok || ended(op.Value) {
				w.t.Errorf("machine %s is busy with %s, which has ended", uid, busy)
			}
		}
	}
	// What is seen and not ours is what counts as foreign (P1).
	want := &vmhostv1.ForeignUsage{}
	for _, seen := range view.AllDiscovered(v) {
		o := seen.Value.GetObservation()
		want.Machines, want.Cores, want.MemoryMib = want.GetMachines()+1, want.GetCores()+o.GetCores(), want.GetMemoryMib()+o.GetMemoryMib()
	}
	if o, ok := store.Observed.Get(v, "h"); ok {
		got := o.Value.GetObservation().GetForeign()
		if got.GetMachines() != want.GetMachines() || got.GetCores() != want.GetCores() || got.GetMemoryMib() != want.GetMemoryMib() {
			w.t.Errorf("foreign use %v, of the machines that are seen %v", got, want)
		}
	}
	names := 0
	for range store.Names.All(v) {
		names++
	}
	machines := 0
	for range store.Machines.All(v) {
		machines++
	}
	if names != machines {
		w.t.Errorf("%d names of %d machines", names, machines)
	}
}

// plainSecrets marks what it encrypts.
type plainSecrets struct{}

func (plainSecrets) Encrypt(key string, p []byte) ([]byte, error) {
	return append([]byte("encrypted for "+key+":"), p...), nil
}

func (plainSecrets) Decrypt(key string, c []byte) ([]byte, error) {
	p, ok := strings.CutPrefix(string(c), "encrypted for "+key+":")
	if !ok {
		return nil, fmt.Errorf("not for %s", key)
	}
	return []byte(p), nil
}

// legacy makes machines of others seen on the host, as inventory does, and
// answers their names.
func (w *world) legacy(machines ...*rackv1.MachineObservation) []string {
	w.t.Helper()
	var names []string
	for _, m := range machines {
		rec, _ := store.Observed.Get(w.store.Cached(), "h")
		next := proto.CloneOf(rec.Value)
		if next.GetObservation().GetForeign() == nil {
			next.Observation.Foreign = &vmhostv1.ForeignUsage{HugepagesMib: proto.Int64(0)}
		}
		f := next.GetObservation().GetForeign()
		f.Machines, f.Cores, f.MemoryMib = f.GetMachines()+1, f.GetCores()+m.GetCores(), f.GetMemoryMib()+m.GetMemoryMib()
		if m.GetHugepages() {
			f.HugepagesMib = proto.Int64(f.GetHugepagesMib() + m.GetMemoryMib())
		}
		tx := seenOf("h", m)
		tx.IfRevision(store.Observed.Key("h"), rec.Revision)
		store.Put(tx, store.Observed, next, "h")
		w.put(tx)
		names = append(names, "machines/"+view.DiscoveredUID("uid-h", m.GetUuid()))
	}
	return names
}

// found is a machine of others, of a few cores.
func found(name string, cores int32) *rackv1.MachineObservation {
	return &rackv1.MachineObservation{Uuid: uuid.NewString(), Name: name, Cores: cores, MemoryMib: 512 * int64(cores)}
}

// allDiscovered are the names of machines that were found.
func allDiscovered(w *world) map[string]bool {
	out := map[string]bool{}
	for host, seen := range view.AllDiscovered(w.store.Cached()) {
		out["machines/"+view.DiscoveredUID(host.GetUid(), seen.Value.GetObservation().GetUuid())] = true
	}
	return out
}

// late moves the deadline of an operation to now.
func (w *world) late(name string) {
	w.t.Helper()
	w.eventually("deadline moved", func() bool {
		rec, _ := store.Operations.Get(w.store.Cached(), uidOf(name))
		next := proto.CloneOf(rec.Value)
		next.Resource.DeadlineTime = timestamppb.New(time.Now())
		tx := store.NewTxn()
		tx.IfRevision(store.Operations.Key(uidOf(name)), rec.Revision)
		store.Put(tx, store.Operations, next, uidOf(name))
		_, err := w.store.Commit(w.t.Context(), tx)
		return err == nil
	})
}
