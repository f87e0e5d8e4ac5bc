package operation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/inventory"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Machines are adopted, released, composed and deleted at once, with failures, on
// a host that is nearly full, while reports come. At every revision what is
// committed and foreign together is what the machines there take, and never above
// the limit.
func TestWhatAHostCarriesDoesNotJumpWhenMachinesChangeSides_P1(t *testing.T) {
	const physical = 40
	w := newWorld(t)
	w.rack.script = func(step *rackv1.Step, _ int) *rackv1.StepError {
		switch n := rand.IntN(10); {
		case n < 2:
			return &rackv1.StepError{Class: rackv1.ErrorClass_ERROR_CLASS_REFUSED, Message: "no"}
		case n < 4:
			return &rackv1.StepError{Class: rackv1.ErrorClass_ERROR_CLASS_BUSY, Message: "later"}
		}
		return nil
	}
	rec, _ := store.Observed.Get(w.store.Cached(), "h")
	next := proto.CloneOf(rec.Value)
	next.Observation.Cores, next.Observation.MemoryMib = physical, physical*512
	tx := store.NewTxn()
	store.Put(tx, store.Observed, next, "h")
	w.put(tx)
	var machines []*rackv1.MachineObservation
	for i := range 6 {
		machines = append(machines, found(fmt.Sprintf("legacy%d", i), int32(i+2))) // 27 cores
	}
	names := w.legacy(machines...)
	e := w.run(nil)

	ctx, done := context.WithCancel(t.Context())
	sub := w.store.Subscribe(ctx)
	var watcher, reporter, workers sync.WaitGroup
	revisions := 0
	watcher.Go(func() { revisions = watchSum(t, sub, physical) })
	for _, name := range names {
		workers.Go(func() {
			for range 6 {
				op, err := e.Adopt(t.Context(), "alice", &adoptRequest{Name: name})
				if err != nil {
					t.Errorf("adopt: %v", err)
					return
				}
				if w.ended(op.GetName()).GetPhase() != succeeded {
					continue
				}
				for {
					if op, err = e.Release(t.Context(), "alice", &releaseRequest{Name: name}); err != nil {
						t.Errorf("release: %v", err)
						return
					}
					if w.ended(op.GetName()).GetPhase() == succeeded {
						break
					}
				}
			}
		})
	}
	for range 3 {
		workers.Go(func() {
			for range 8 {
				op, err := w.ledger.Compose(t.Context(), "bob", &vmhostv1.ComposeMachineRequest{Cores: 6, MemoryMib: 64, Diskless: true})
				if apierror.Reason(err) == vmhostv1.ErrorReason_NO_CAPACITY {
					continue
				}
				if err != nil {
					t.Errorf("compose: %v", err)
					return
				}
				if w.ended(op.GetName()); w.machine(op.GetTarget()) == nil {
					continue
				}
				del, err := e.Delete(t.Context(), "bob", &vmhostv1.DeleteMachineRequest{Name: op.GetTarget()})
				if err != nil {
					t.Errorf("delete: %v", err)
					return
				}
				w.ended(del.GetName())
			}
		})
	}
	stop := make(chan struct{})
	r := w.reports(machines)
	reporter.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				r.next()
			case <-stop:
				return
			}
		}
	})
	workers.Wait()
	close(stop)
	reporter.Wait()
	done()
	watcher.Wait()
	if revisions < 50 {
		t.Errorf("only %d changes were looked at", revisions)
	}
	w.checkBooks()
}

// reports is a rack that reports machines of others to the inventory: all of them,
// or that one of them was turned on or off.
type reports struct {
	w         *world
	inventory *inventory.Inventory
	session   *inventory.Assembler
	machines  []*rackv1.MachineObservation
	host      *vmhostv1.VmHostObservation
	n         int64
}

func (w *world) reports(machines []*rackv1.MachineObservation) *reports {
	return &reports{w: w, inventory: inventory.New(w.store, w.log), machines: machines, host: proto.CloneOf(w.observed())}
}

func (r *reports) next() {
	r.w.t.Helper()
	a, _ := store.Assignments.Get(r.w.store.Cached(), "h")
	part := &rackv1.HostInventory{VmHost: "vmHosts/h", Epoch: a.Revision, Sequence: r.n, Last: true, Delta: r.n%8 != 0}
	r.n++
	if part.GetDelta() {
		m := proto.CloneOf(r.machines[rand.IntN(len(r.machines))])
		m.PowerState = vmhostv1.PowerState(1 + r.n%2)
		part.Machines = []*rackv1.MachineObservation{m}
	} else {
		r.session = inventory.NewAssembler()
		part.Observation, part.Machines = r.host, r.machines
	}
	if err := r.inventory.Report(r.w.t.Context(), "r1", r.session.Add(part)); err != nil && !errors.Is(err, inventory.ErrReportAgain) {
		r.w.t.Errorf("report: %v", err)
	}
}

// watchSum follows the state and compares what is committed and foreign with the
// machines that are there.
func watchSum(t *testing.T, sub *store.Subscription, limit int32) int {
	t.Helper()
	var foreign, committed int32
	machines, seen := map[string]*vmhostv1.Machine{}, map[string]int32{}
	for uuid, s := range store.Seen.All(sub.View, "h") {
		seen[uuid] = s.Value.GetObservation().GetCores()
	}
	o, _ := store.Observed.Get(sub.View, "h")
	foreign = o.Value.GetObservation().GetForeign().GetCores()
	n := 0
	for batch := range sub.C {
		changed := false
		for _, c := range batch.Changes {
			switch value := c.New.(type) {
			case *storev1.StoredVmHostObservation:
				foreign, changed = value.GetObservation().GetForeign().GetCores(), true
			case *storev1.StoredLedger:
				committed, changed = value.GetTotal().GetCores(), true
			case *storev1.StoredMachine:
				machines[c.Key] = value.GetResource()
			case nil:
				if c.Family == store.Machines.Name() {
					delete(machines, c.Key)
				}
			}
		}
		if !changed {
			continue
		}
		n++
		want := int32(0)
		for _, cores := range seen {
			want += cores
		}
		for _, m := range machines {
			if m.GetOrigin() == vmhostv1.MachineOrigin_MACHINE_ORIGIN_COMPOSED {
				want += m.GetCores()
			}
		}
		if foreign+committed != want || foreign+committed > limit {
			t.Errorf("at revision %d: %d foreign and %d committed, of machines that take %d, limit %d", batch.Revision, foreign, committed, want, limit)
			return n
		}
	}
	return n
}
