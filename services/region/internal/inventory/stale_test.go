package inventory

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// held are the sessions of this process, by rack.
type held map[string]string

func (h held) Session(rack string) string { return h[rack] }

func (w *world) connect(session string) {
	w.put(func(tx *store.Txn) {
		store.Put(tx, store.Sessions, &storev1.StoredSession{Region: "here", Session: session}, "r1")
	})
}

func TestAHostThatALivingSessionDoesNotReportIsUnreachable(t *testing.T) {
	w := newWorld(t)
	w.connect("s1")
	w.report(w.epoch, domain(1, "a", true))
	reported := w.inv.LastSeen("h")
	at := func(after time.Duration, sessions held) *storev1.StoredVmHostObservation {
		w.inv.pass(t.Context(), sessions, reported.Add(after))
		return w.observed()
	}
	interval := w.inv.interval
	for what, o := range map[string]*storev1.StoredVmHostObservation{
		"just reported":                   at(0, held{"r1": "s1"}),
		"two reports missed":              at(3*interval-time.Second, held{"r1": "s1"}),
		"a session of another process":    at(time.Hour, held{}),
		"another session of this process": at(time.Hour, held{"r1": "s0"}),
	} {
		if o.GetState() != vmhostv1.VmHostState_VM_HOST_STATE_READY {
			t.Errorf("%s: %v", what, o)
		}
	}
	o := at(3*interval+time.Second, held{"r1": "s1"})
	c := w.condition(conditionStale)
	if o.GetState() != vmhostv1.VmHostState_VM_HOST_STATE_UNREACHABLE || !c.GetStatus() || !c.GetTransitionTime().AsTime().Equal(reported) ||
		!strings.Contains(c.GetMessage(), reported.UTC().Format(time.RFC3339)) || w.condition(conditionReachable).GetStatus() {
		t.Errorf("after three: %v", o)
	}
	revision := w.store.Cached().Revision
	at(time.Hour, held{"r1": "s1"})
	if w.store.Cached().Revision != revision || len(w.events("vm_host.unreachable")) != 1 {
		t.Errorf("it is told of again and again: %v", w.events("vm_host.unreachable"))
	}
	// One report, even without anything, and all is well.
	w.must(w.delta(nil))
	if w.observed().GetState() != vmhostv1.VmHostState_VM_HOST_STATE_READY || w.condition(conditionStale) != nil || !w.condition(conditionReachable).GetStatus() {
		t.Errorf("reported again: %v", w.observed())
	}
	// A host that is in trouble already stays as it is.
	w.must(w.inv.Status(t.Context(), "r1", &rackv1.HostStatus{VmHost: "vmHosts/h", Epoch: w.epoch, Error: &rackv1.StepError{Class: rackv1.ErrorClass_ERROR_CLASS_AUTH}}))
	if o := at(24*time.Hour, held{"r1": "s1"}); o.GetState() != vmhostv1.VmHostState_VM_HOST_STATE_AUTH_FAILED {
		t.Errorf("refused: %v", o)
	}
}

func TestAProcessThatJustGotASessionWaitsForItsReports(t *testing.T) {
	w := newWorld(t)
	w.connect("s1")
	w.report(w.epoch, domain(1, "a", true))
	other := New(w.store, w.inv.log) // after a restart, or another region
	w.connect("s2")
	began := time.Now().Add(time.Hour)
	other.pass(t.Context(), held{"r1": "s2"}, began)
	other.pass(t.Context(), held{"r1": "s2"}, began.Add(3*other.interval-time.Second))
	if w.observed().GetState() != vmhostv1.VmHostState_VM_HOST_STATE_READY {
		t.Errorf("too soon: %v", w.observed())
	}
	other.pass(t.Context(), held{"r1": "s2"}, began.Add(3*other.interval))
	stored := w.observed().GetObservation().GetObserveTime().AsTime()
	if c := w.condition(conditionStale); w.observed().GetState() != vmhostv1.VmHostState_VM_HOST_STATE_UNREACHABLE || !c.GetTransitionTime().AsTime().Equal(stored) {
		t.Errorf("observed %v", w.observed())
	}
}

func TestHostsAreLookedAfterUntilTheContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hostMemory{}
		ctx, cancel := context.WithCancel(t.Context())
		began, missed := time.Now(), atomic.Int64{}
		done := make(chan struct{})
		go func() {
			defer close(done)
			patrol(ctx, time.Second, func(now time.Time) { missed.Store(int64(now.Sub(h.silentSince("s1", now)))) })
		}()
		wait := func(d time.Duration) {
			time.Sleep(d) //nolint:forbidigo // fake clock
			synctest.Wait()
		}
		for range 5 { // reported every minute
			wait(time.Minute)
			h.see(time.Now())
		}
		if wait(30 * time.Second); missed.Load() != int64(30*time.Second) {
			t.Errorf("silent for %v since a report half a minute ago", time.Duration(missed.Load()))
		}
		if wait(time.Hour); missed.Load() != int64(time.Hour+30*time.Second) {
			t.Errorf("silent for %v", time.Duration(missed.Load()))
		}
		cancel()
		<-done
		if h.lastSeen().Sub(began) != 5*time.Minute {
			t.Errorf("last seen %v after the begin", h.lastSeen().Sub(began))
		}
	})
}

func TestWhatIsRememberedOfHostsIsBounded(t *testing.T) {
	w := newWorld(t)
	w.report(w.epoch)
	v := w.store.Cached()
	for n := range maxHosts + 10 {
		w.inv.memory.of(v, "gone-"+id(n))
	}
	if n := len(w.inv.memory.byHost); n > maxHosts || w.inv.LastSeen("h").IsZero() {
		t.Errorf("%d hosts remembered, one that exists last seen %v", n, w.inv.LastSeen("h"))
	}
}
