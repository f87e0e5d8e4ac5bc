package soak

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// Three regions, 64 clients. The short form takes a few seconds under the race
// detector, the long one is `make soak`.
func TestThreeRegionsAnd64ClientsAreLinearizableAndNeverOvershoot_P1(t *testing.T) {
	o := options{clients: 64, hosts: 8, calls: 7, commits: 250, limit: time.Minute, seed: long.seed}
	if long.wanted {
		o = long.options
	}
	o.regions = 3
	if o.etcd == "" {
		o.etcd = storetest.Endpoint(t)
	}
	run(t, o)
}

func run(t *testing.T, o options) {
	t.Helper()
	t.Logf("seed %d (to ask for the same again: make soak ARGS='-seed %d')", o.seed, o.seed)
	client := storetest.At(t, o.etcd)
	until, done := make(chan int64, 1), make(chan error, 1)
	r := newReplay()
	go func() { done <- storetest.Follow(t.Context(), client, until, r.apply) }()
	begin := time.Now()
	s := newSoak(t, o, client)
	for s.composed.Load() < int64(o.commits) && time.Since(begin) < o.limit && !t.Failed() {
		s.round()
		if len(done) > 0 {
			break // with a fault, see below
		}
		if s.rounds%10 == 0 {
			t.Log(s.progress())
		}
	}
	v, err := s.regions[0].store.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	end := storetest.Mark(t, client)
	until <- end
	overshoot := fmt.Sprintf("nothing past a limit at any of %d revisions", end)
	if err := <-done; err != nil {
		overshoot = err.Error()
		t.Errorf("replay: %s", overshoot)
	}
	t.Log(s.progress())
	conflicts := int64(0)
	for _, g := range s.regions {
		conflicts += g.ledger.Conflicts()
	}
	t.Logf("%d composes in %d writes of ledgers, %.0f/s; %d transactions of composes lost a race, of other changes %d; %d composes gave up; "+
		"%d times a host was over its limit by a change of ratio; worst host: %s; %s",
		s.composed.Load(), r.revisions, float64(s.composed.Load())/s.spent.Seconds(), conflicts, s.lost.Load(), s.gaveUp.Load(),
		r.over, r.worst, overshoot)
	t.Logf("the shared pool held %d MiB at the most, of %d", r.nas/mib, nasMiB)
	if r.nas == 0 {
		t.Error("nothing was in the shared pool: that proves less")
	}
	if got := s.composed.Load(); r.composed != int(got) {
		t.Errorf("%d machines came to be, %d composes were acknowledged", r.composed, got)
	}
	if want := s.composed.Load() - s.deleted.Load(); !t.Failed() && adoptedLess(v) != want {
		t.Errorf("%d machines are left, want %d", adoptedLess(v), want)
	}
	if s.composed.Load() < int64(o.commits) || s.refused.Load() == 0 || s.deleted.Load() == 0 || s.planned.Load() == 0 || s.changed.Load() == 0 {
		t.Errorf("there was too little load: %s, wanted %d composes in %s", s.progress(), o.commits, o.limit)
	}
}

// adoptedLess is how many machines there are beside adopted ones.
func adoptedLess(v *store.View) (n int64) {
	for _, m := range store.Machines.All(v) {
		if m.Value.GetResource().GetOperation() != "" {
			n++
		}
	}
	return n
}

func (s *soak) progress() string {
	return fmt.Sprintf("round %d: %d composed, %d refused, %d deleted, %d reservations, %d changes of hosts, at most %d calls on one host in a round; calls took %s, checking them %s",
		s.rounds, s.composed.Load(), s.refused.Load(), s.deleted.Load(), s.planned.Load(), s.changed.Load(), s.longest,
		s.spent.Round(time.Millisecond), s.checking.Round(time.Millisecond))
}

// describe is a history in the order of its ends.
func describe(history []porcupine.Operation) string {
	sorted := slices.SortedFunc(slices.Values(history), func(a, b porcupine.Operation) int { return int(a.Return - b.Return) })
	var out strings.Builder
	for _, op := range sorted {
		fmt.Fprintf(&out, "%6d %6d µs  client %2d  %+v -> %+v\n", op.Call/1000, op.Return/1000, op.ClientId, op.Input, op.Output)
	}
	return out.String()
}
