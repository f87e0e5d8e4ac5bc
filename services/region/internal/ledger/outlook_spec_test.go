package ledger

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// hostChange leaves machines less of the host of these tests, of which they may have
// 100 cores.
type hostChange struct {
	name  string
	do    func(h *vmhostv1.VmHost, o *vmhostv1.VmHostObservation)
	limit int32 // how many cores machines may have after it
	// spec says that it is the spec that changes: what was decided on before it does not
	// come to be after it. Of what is observed that is not so.
	spec bool
}

func hostChanges() []hostChange {
	return []hostChange{
		{"the ratio is lowered", func(h *vmhostv1.VmHost, _ *vmhostv1.VmHostObservation) {
			h.Overcommit = &vmhostv1.OvercommitRatios{Cores: proto.Float64(0.5)}
		}, 50, true},
		{"the reserve is raised", func(h *vmhostv1.VmHost, _ *vmhostv1.VmHostObservation) { h.ReservedCores = 50 }, 50, true},
		{"it is cordoned", func(h *vmhostv1.VmHost, _ *vmhostv1.VmHostObservation) { h.Cordoned = true }, 0, true},
		{"it is given to another pool", func(h *vmhostv1.VmHost, _ *vmhostv1.VmHostObservation) { h.ResourcePool = "resourcePools/x" }, 0, true},
		{"machines of others are seen", func(_ *vmhostv1.VmHost, o *vmhostv1.VmHostObservation) { o.Foreign = &vmhostv1.ForeignUsage{Cores: 50} }, 50, false},
		{"it has fewer cores", func(_ *vmhostv1.VmHost, o *vmhostv1.VmHostObservation) { o.Cores = 50 }, 50, false},
	}
}

// commit makes the change, as an operator or a rack does.
func (c hostChange) commit(ctx context.Context, s *store.Store) error {
	v, err := s.View(ctx)
	if err != nil {
		return err
	}
	spec, _ := store.VmHosts.Read(v, "h")
	observed, _ := store.Observed.Read(v, "h")
	c.do(spec.Value.GetResource(), observed.Value.GetObservation())
	tx := store.NewTxn()
	if c.spec {
		store.Put(tx, store.VmHosts, spec.Value, "h")
	} else {
		store.Put(tx, store.Observed, observed.Value, "h")
	}
	_, err = s.Commit(ctx, tx)
	return err
}

// changing is a ledger with the host that changes.
type changing struct {
	t *testing.T
	s *store.Store
	l *Ledger
}

func newChanging(t *testing.T, s *store.Store) *changing {
	t.Helper()
	w := &changing{t: t, s: s, l: open(t, s)}
	addHost(t, s, "h", 100, 1<<20)
	return w
}

// view has all that was committed.
func (w *changing) view() *store.View {
	w.t.Helper()
	v, err := w.s.View(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

// change makes the change, and answers with a view that has it.
func (w *changing) change(c hostChange) *store.View {
	w.t.Helper()
	if err := c.commit(w.t.Context(), w.s); err != nil {
		w.t.Fatal(err)
	}
	return w.view()
}

// decide decides on a machine, as composes do.
func (w *changing) decide(v *store.View, cores int32) *decision {
	w.t.Helper()
	want, err := newWant("alice", &vmhostv1.ComposeMachineRequest{Cores: cores, MemoryMib: 1, Diskless: true})
	if err != nil {
		w.t.Fatal(err)
	}
	d := w.l.newShared(v, placement.AllLanes)
	w.l.decide(d, []*pending{newPending(want)})
	return d
}

// underWay is a decision on a machine that is about to be sent.
func (w *changing) underWay(v *store.View, cores int32) *decision {
	w.t.Helper()
	d := w.decide(v, cores)
	if len(d.placed) != 1 || !w.l.bind(d) {
		w.t.Fatalf("%d cores are not taken: %v", cores, why(d))
	}
	return d
}

// send sends what is under way; the ledger knows what became of it once answer is
// called.
func (w *changing) send(d *decision) (answer func() error) {
	for host, led := range d.ledgers {
		store.Give(d.tx, store.Ledgers, led, host)
	}
	revision, err := w.l.store.Submit(w.t.Context(), d.tx)
	return func() error {
		w.l.settle(d, revision, err)
		return err
	}
}

// refuses wants so many cores not to be taken.
func (w *changing) refuses(v *store.View, cores int32) {
	w.t.Helper()
	d := w.decide(v, cores)
	if len(d.placed) != 0 || len(d.refused) != 1 || apierror.Reason(d.refused[0].err) != vmhostv1.ErrorReason_NO_CAPACITY {
		w.t.Fatalf("%d cores are taken, which is one more than are free; refused: %v", cores, why(d))
	}
}

// why is what a decision refused somebody for.
func why(d *decision) error {
	var all []error
	for _, r := range d.refused {
		all = append(all, r.err)
	}
	return errors.Join(all...)
}

// full wants machines to have so many cores at the end, and everything to know that.
func (w *changing) full(cores int32) {
	w.t.Helper()
	if led := checkBooks(w.t, w.s, "h"); led.GetTotal().GetCores() != cores {
		w.t.Errorf("machines have %d cores, want %d", led.GetTotal().GetCores(), cores)
	}
	checkOutlook(w.t, w.l)
}

// The host changes before, while and after a compose of this process takes of it, of
// which the ledger knows before the watch brings it, or the other way round.
func TestTheOutlookHasAHostAsItChangedWithItsNewestLedger_P1(t *testing.T) {
	const taken = 40
	for _, moment := range []struct {
		name string
		// late says that the change is before the transaction.
		late bool
		// do has the change made and what is under way sent, and answers with the view to
		// decide on, and with what became of it.
		do func(w *changing, first *decision, c hostChange) (*store.View, error)
	}{
		{"after its ledger was seen", false, func(w *changing, first *decision, c hostChange) (*store.View, error) {
			err := w.send(first)()
			w.l.outlookAt(w.view())
			return w.change(c), err
		}},
		{"and is seen together with its ledger", false, func(w *changing, first *decision, c hostChange) (*store.View, error) {
			err := w.send(first)()
			return w.change(c), err
		}},
		{"and is seen together with its ledger before etcd's answer", false, func(w *changing, first *decision, c hostChange) (*store.View, error) {
			answer := w.send(first)
			v := w.change(c)
			w.l.outlookAt(v)
			return v, answer()
		}},
		{"and is seen while its ledger is under way", true, func(w *changing, first *decision, c hostChange) (*store.View, error) {
			v := w.change(c)
			w.l.outlookAt(v)
			return v, w.send(first)()
		}},
		{"and is seen before its ledger, which is committed", true, func(w *changing, first *decision, c hostChange) (*store.View, error) {
			v := w.change(c)
			return v, w.send(first)()
		}},
	} {
		for _, c := range hostChanges() {
			t.Run(c.name+", "+moment.name, func(t *testing.T) {
				w := newChanging(t, storetest.New(t))
				first := w.underWay(w.s.Cached(), taken)
				v, err := moment.do(w, first, c)
				room := c.limit - taken
				if c.spec && moment.late {
					if room = c.limit; !errors.Is(err, store.ErrConflict) {
						t.Fatalf("decided on the spec before, and sent: %v", err)
					}
				} else if err != nil {
					t.Fatal(err)
				}
				if w.refuses(v, max(room, 0)+1); room <= 0 {
					return
				}
				if err := w.send(w.underWay(v, room))(); err != nil {
					t.Fatal(err)
				}
				w.full(c.limit)
			})
		}
	}
}

// A transaction compares the spec that it was decided on, and not the newest one.
func TestWhatIsDecidedOnTheSpecBeforeDoesNotComeToBe_P1(t *testing.T) {
	for _, c := range hostChanges() {
		if !c.spec {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			w := newChanging(t, storetest.New(t))
			before := w.s.Cached()
			after := w.change(c)
			if err := w.send(w.underWay(before, c.limit+1))(); !errors.Is(err, store.ErrConflict) {
				t.Fatalf("%d cores, and after the change %d may be had: %v", c.limit+1, c.limit, err)
			}
			if w.refuses(after, c.limit+1); c.limit == 0 {
				return
			}
			if err := w.send(w.underWay(after, c.limit))(); err != nil {
				t.Fatal(err)
			}
			w.full(c.limit)
		})
	}
}

// While a transaction is under way the next one is decided on the host as it changed
// and on the ledger that will be; it holds if that came to be.
func TestWhatIsDecidedBesideATransactionIsOnTheHostAsItChanged_P1(t *testing.T) {
	const taken = 40
	for _, c := range hostChanges() {
		t.Run(c.name, func(t *testing.T) {
			w := newChanging(t, storetest.New(t))
			first := w.underWay(w.s.Cached(), taken)
			v := w.change(c)
			w.refuses(v, max(c.limit-taken, 0)+1)
			if c.limit == 0 {
				return
			}
			second := w.decide(v, c.limit-taken)
			if len(second.placed) != 1 {
				t.Fatalf("%d cores are not taken: %v", c.limit-taken, why(second))
			}
			if err := w.send(first)(); errors.Is(err, store.ErrConflict) != c.spec || err != nil && !c.spec {
				t.Fatalf("decided on the host before, and sent: %v", err)
			}
			if held := w.l.bind(second); held == c.spec {
				t.Fatalf("what it was decided on came to be: %v, and it holds: %v", !c.spec, held)
			}
			if c.spec { // decided on again
				w.l.mu.Lock()
				w.l.giveUp(second)
				w.l.mu.Unlock()
				second = w.underWay(v, c.limit)
			}
			if err := w.send(second)(); err != nil {
				t.Fatal(err)
			}
			w.full(c.limit)
		})
	}
}

// The spec changes while the first of many transactions is on its way.
func TestALimitLoweredUnderManyComposesIsNotPassed_P1(t *testing.T) {
	const each = 2
	for _, c := range hostChanges() {
		if !c.spec {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			shared := storetest.Client(t)
			client, meddler := storetest.Meddle(t, shared)
			other := storetest.On(t, shared)
			w := newChanging(t, storetest.On(t, client))
			meddler.Before(func() {
				if err := c.commit(t.Context(), other); err != nil {
					t.Error(err)
				}
			})
			answers := crowd(t, w.l, func(int) *vmhostv1.ComposeMachineRequest {
				return &vmhostv1.ComposeMachineRequest{Cores: each, MemoryMib: 1, Diskless: true}
			})
			if n := made(t, answers, vmhostv1.ErrorReason_NO_CAPACITY); int32(n) != c.limit/each {
				t.Errorf("%d were made, want %d", n, c.limit/each)
			}
			if w.l.Conflicts() == 0 {
				t.Error("what was decided on the spec before was not refused")
			}
			w.full(c.limit)
		})
	}
}
