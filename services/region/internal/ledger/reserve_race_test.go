package ledger

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// past is the state as etcd had it, revision by revision.
type past struct {
	ledgers      map[string]*storev1.StoredLedger
	machines     map[string]*storev1.StoredMachine
	reservations map[string]*storev1.StoredReservation
	usage        *storev1.StoredPoolUsage
	used         map[string]int32 // by reservation, at the most
}

// replayReservations checks at every revision that each ledger is the sum of
// machines and places, that none is past its cores, that the count of the default
// pool is exact, and that of every reservation count = used + lost + left until it
// ends.
func replayReservations(t *testing.T, s *store.Store, cores, quota int64) *past {
	t.Helper()
	p := &past{
		ledgers: map[string]*storev1.StoredLedger{}, machines: map[string]*storev1.StoredMachine{},
		reservations: map[string]*storev1.StoredReservation{}, used: map[string]int32{},
	}
	for _, now := range storetest.History(t, s) {
		changed := false
		for key, value := range now.Changed {
			var err error
			switch {
			case strings.HasPrefix(key, store.Ledgers.Prefix()):
				changed, err = true, keep(p.ledgers, store.Ledgers.ID(key), value, &storev1.StoredLedger{})
			case strings.HasPrefix(key, store.Machines.Prefix()):
				changed, err = true, keep(p.machines, store.Machines.ID(key), value, &storev1.StoredMachine{})
			case strings.HasPrefix(key, store.Reservations.Prefix()):
				changed, err = true, keep(p.reservations, store.Reservations.ID(key), value, &storev1.StoredReservation{})
			case key == store.PoolUsage.Key("default"):
				p.usage = &storev1.StoredPoolUsage{}
				changed, err = true, proto.Unmarshal(value, p.usage)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if changed {
			p.check(t, now.Number, cores, quota)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	return p
}

func keep[T proto.Message](m map[string]T, id string, value []byte, out T) error {
	if value == nil {
		delete(m, id)
		return nil
	}
	m[id] = out
	return proto.Unmarshal(value, out)
}

func (p *past) check(t *testing.T, revision, cores, quota int64) {
	t.Helper()
	sums, all := map[string]*storev1.StoredLedger{}, &vmhostv1.ResourceAmount{}
	take := func(host string, c *storev1.Commitment) {
		if sums[host] == nil {
			sums[host] = &storev1.StoredLedger{Total: &storev1.Commitment{}}
		}
		add(sums[host], c)
		all = sum(all, amountOf(c))
	}
	for _, m := range p.machines {
		take(hostOf(m), m.GetCommitment())
	}
	for uid, r := range p.reservations {
		for _, h := range r.GetHolds() {
			for range h.GetCount() {
				take(h.GetVmHost(), r.GetKinds()[h.GetKind()].GetCommitment())
			}
		}
		res := r.GetResource()
		if n := int(res.GetUsed()+res.GetLost()) + left(r); res.GetState() != vmhostv1.ReservationState_RESERVATION_STATE_EXPIRED && n != int(res.GetCount()) &&
			res.GetExpireTime().AsTime().After(time.Now()) { // one that is being deleted in parts expires
			t.Errorf("revision %d: reservation %s of %d has %d used, %d lost, %d left", revision, uid, res.GetCount(), res.GetUsed(), res.GetLost(), left(r))
		}
		p.used[uid] = max(p.used[uid], res.GetUsed())
	}
	for host, l := range p.ledgers {
		want := sums[host]
		if want == nil {
			want = &storev1.StoredLedger{Total: &storev1.Commitment{}}
		}
		if diff := cmp.Diff(want, l, protocmp.Transform(), protocmp.IgnoreEmptyMessages()); diff != "" {
			t.Errorf("revision %d: ledger of %s (-sum +ledger):\n%s", revision, host, diff)
		}
		if int64(l.GetTotal().GetCores()) > cores {
			t.Errorf("revision %d: %s is past its limit: %v", revision, host, l)
		}
	}
	if p.usage.GetCounted() {
		if diff := cmp.Diff(all, p.usage.GetAmount(), protocmp.Transform()); diff != "" || p.usage.GetAmount().GetCores() > quota {
			t.Errorf("revision %d: the quota of %d cores counts (-sum +count):\n%s", revision, quota, diff)
		}
	}
}

// Reservations, composes with and without them, deletes and expiry in random
// order by two regions at once.
func TestWhateverBecomesOfReservationsTheSumIsRightAtEveryRevision_P1(t *testing.T) {
	const hosts, workers, rounds, quota = 3, 4, 25, 11
	client := storetest.Client(t)
	s := storetest.On(t, client)
	regions := []*Ledger{open(t, s), New(storetest.On(t, client), slog.New(slog.DiscardHandler))}
	fleetOf(t, s, hosts, 1)
	setQuota(t, t, s, "default", &vmhostv1.ResourceQuota{Cores: proto.Int64(quota)})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var known []*vmhostv1.Reservation
	var machines []string
	counts := map[string]int{}
	note := func(what string, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			counts[what]++
			return
		}
		counts[what+" "+reasonOf(err).String()]++
	}
	for w := range workers * len(regions) {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(w)))
			l := regions[w%len(regions)]
			pick := func() *vmhostv1.Reservation {
				mu.Lock()
				defer mu.Unlock()
				if len(known) == 0 {
					return &vmhostv1.Reservation{Name: "reservations/none"}
				}
				return known[random.IntN(len(known))]
			}
			made := func(ops ...*vmhostv1.Operation) {
				mu.Lock()
				defer mu.Unlock()
				for _, op := range ops {
					machines = append(machines, strings.TrimPrefix(op.GetTarget(), "machines/"))
				}
			}
			for range rounds {
				switch random.IntN(9) {
				case 0, 1:
					r, err := l.Reserve(t.Context(), "a", &vmhostv1.ReserveRequest{Machine: small(), Count: 1 + random.Int32N(4), Ttl: durationpb.New(time.Hour)})
					note("reserve", err)
					if err == nil {
						mu.Lock()
						known = append(known, r)
						mu.Unlock()
					}
				case 2, 3, 4:
					op, err := l.Compose(t.Context(), "a", against(pick()))
					note("compose against", err)
					if err == nil {
						made(op)
					}
				case 5:
					out, err := l.ComposeMany(t.Context(), "a", manyOf(2, some, against(pick())))
					note("compose many against", err)
					made(out.GetOperations()...)
				case 6:
					op, err := l.Compose(t.Context(), "a", small())
					note("compose", err)
					if err == nil {
						made(op)
					}
				case 7:
					if random.IntN(3) == 0 {
						_, err := l.ExpireReservations(t.Context(), time.Now().Add(2*time.Hour)) // a clock that is far ahead
						note("expire", err)
						break
					}
					_, err := l.DeleteReservation(t.Context(), "a", &vmhostv1.DeleteReservationRequest{Name: pick().GetName()})
					note("give back", err)
				case 8:
					mu.Lock()
					n := len(machines)
					uids := slices.Clone(machines[max(n-3, 0):])
					machines = machines[:max(n-3, 0)]
					mu.Unlock()
					note("release", l.WithTurn(t.Context(), func() error {
						for {
							v, err := l.store.View(t.Context())
							if err != nil {
								return err
							}
							tx := store.NewTxn()
							if Release(tx, v, uids...) == 0 {
								return nil
							}
							if _, err := l.store.Commit(t.Context(), tx); !errors.Is(err, store.ErrConflict) {
								return err
							}
						}
					}))
				}
			}
		})
	}
	wg.Wait()
	t.Logf("what happened: %v", counts)
	for what := range counts {
		if strings.HasSuffix(what, "UNSPECIFIED") || strings.HasSuffix(what, "UNAVAILABLE") || strings.HasSuffix(what, "CONFLICT") {
			t.Errorf("%s: %d", what, counts[what])
		}
	}
	if counts["reserve"] == 0 || counts["compose against"] == 0 || counts["give back"] == 0 {
		t.Error("not everything happened")
	}
	p := replayReservations(t, s, 4, quota)
	for i := range hosts {
		checkBooks(t, s, fmt.Sprintf("h%04d", i))
	}
	t.Logf("%d reservations, %d left", len(p.used), len(p.reservations))
}

// One place; a compose takes it while a region whose clock is ahead gives it back.
func TestOfAComposeAndTheExpiryOfItsPlaceExactlyOneWins_P1(t *testing.T) {
	client := storetest.Client(t)
	s := storetest.On(t, client)
	here, there := open(t, s), New(storetest.On(t, client), slog.New(slog.DiscardHandler))
	addHost(t, s, "h", 1, 1<<20) // room for one
	wins := map[bool]int{}
	for i := range 30 {
		r := reserve(t, here, 1, small())
		var wg sync.WaitGroup
		var op *vmhostv1.Operation
		var composed, expired error
		n := 0
		compose := func() { op, composed = here.Compose(t.Context(), "a", against(r)) }
		// Not so far ahead that it forgets one that was used just before it looked.
		expire := func() { n, expired = there.ExpireReservations(t.Context(), time.Now().Add(keepReservations/2)) }
		if i%2 == 0 {
			compose, expire = expire, compose
		}
		wg.Go(compose)
		wg.Go(expire)
		wg.Wait()
		state := reservationNow(t, s, r).Value.GetResource().GetState()
		switch {
		case expired != nil:
			t.Fatal(expired)
		case composed == nil && (n != 0 || state != vmhostv1.ReservationState_RESERVATION_STATE_USED):
			t.Fatalf("round %d: composed, and %d expired: %s", i, n, state)
		case composed != nil && (reasonOf(composed) != vmhostv1.ErrorReason_RESERVATION_EXPIRED || state != vmhostv1.ReservationState_RESERVATION_STATE_EXPIRED):
			t.Fatalf("round %d: %v, and it is %s", i, composed, state)
		}
		wins[composed == nil]++
		if composed == nil {
			tx := store.NewTxn()
			Release(tx, s.Cached(), strings.TrimPrefix(op.GetTarget(), "machines/"))
			commit(t, s, tx)
		}
		if led := checkBooks(t, s, "h"); led.GetMachines() != 0 {
			t.Fatalf("round %d: the ledger keeps %v", i, led)
		}
	}
	t.Logf("composes won %d, expiry %d", wins[true], wins[false])
}

func TestAnExpiredReservationCannotBeUsedBeforeItIsSwept(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	addHost(t, s, "h", 2, 1<<20)
	r := reserve(t, l, 2, small())
	rec := reservationNow(t, s, r)
	late := proto.CloneOf(rec.Value)
	late.Resource.Expiration = &vmhostv1.Reservation_ExpireTime{ExpireTime: r.GetCreateTime()}
	tx := store.NewTxn()
	store.Put(tx, store.Reservations, late, r.GetUid())
	commit(t, s, tx)
	if _, err := l.Compose(t.Context(), "a", against(r)); reasonOf(err) != vmhostv1.ErrorReason_RESERVATION_EXPIRED {
		t.Errorf("compose: %v", err)
	}
	at := r.GetCreateTime().AsTime()
	for _, tt := range []struct {
		after time.Duration
		want  int
	}{{ExpiryMargin, 0}, {ExpiryMargin + time.Millisecond, 1}, {time.Minute, 0}} {
		if n, err := l.ExpireReservations(t.Context(), at.Add(tt.after)); err != nil || n != tt.want {
			t.Errorf("%s after its time %d expire, want %d: %v", tt.after, n, tt.want, err)
		}
	}
	if led := checkBooks(t, s, "h"); led.GetMachines() != 0 {
		t.Errorf("the ledger keeps %v", led)
	}
	if _, err := l.Compose(t.Context(), "a", against(r)); reasonOf(err) != vmhostv1.ErrorReason_RESERVATION_EXPIRED {
		t.Errorf("compose after it was swept: %v", err)
	}
	if _, err := l.ExpireReservations(t.Context(), time.Now().Add(keepReservations+time.Second)); err != nil {
		t.Error(err)
	}
	if _, err := l.Compose(t.Context(), "a", against(r)); reasonOf(err) != vmhostv1.ErrorReason_NOT_FOUND {
		t.Errorf("compose after it was forgotten: %v", err)
	}
}

func TestAReservationOnManyHostsIsGivenBackInPartsThatAddUp_P1(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	fleetOf(t, s, 2*hostsAtOnce+1, 1)
	setQuota(t, t, s, "default", &vmhostv1.ResourceQuota{Cores: proto.Int64(1000)})
	for range 2 {
		r, err := l.Reserve(t.Context(), "a", &vmhostv1.ReserveRequest{Machine: &vmhostv1.ComposeMachineRequest{Cores: 3}, Count: 2*hostsAtOnce + 1})
		if err != nil {
			t.Fatal(err)
		}
		if size := proto.Size(reservationNow(t, s, r).Value); size > 30*len(r.GetPlaces()) {
			t.Errorf("%d places on as many hosts are %d bytes", len(r.GetPlaces()), size)
		}
		if _, err := l.DeleteReservation(t.Context(), "a", &vmhostv1.DeleteReservationRequest{Name: r.GetName()}); err != nil {
			t.Fatal(err)
		}
		if _, ok := store.Reservations.Get(s.Cached(), r.GetUid()); ok {
			t.Error("it is still there")
		}
	}
	replayReservations(t, s, 4, 1000)
	if used := Used(s.Cached(), "default"); used.GetMachines() != 0 || used.GetCores() != 0 {
		t.Errorf("the pool keeps %v", used)
	}
}

func TestPlacesGoWithTheirHostAndNoComposeFollowsThem(t *testing.T) {
	client := storetest.Client(t)
	s := storetest.On(t, client)
	open(t, s)
	mine, meddler := storetest.Meddle(t, client)
	l := New(storetest.On(t, mine), slog.New(slog.DiscardHandler))
	fleetOf(t, s, 2, 1)
	setQuota(t, t, s, "default", &vmhostv1.ResourceQuota{Machines: proto.Int32(10)})
	r := reserve(t, l, 4, &vmhostv1.ComposeMachineRequest{Cores: 2})
	drop := func(host string) {
		tx := store.NewTxn()
		v, err := s.View(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n := DropHeld(tx, v, host, "op"); n != 0 {
			t.Errorf("%d reservations still have places on %s", n, host)
		}
		commit(t, s, tx)
	}
	// The host goes between the decision and the transaction of a compose there.
	req := against(r)
	req.VmHost = "vmHosts/h0000"
	meddler.Before(func() { drop("h0000") })
	if _, err := l.Compose(t.Context(), "a", req); reasonOf(err) != vmhostv1.ErrorReason_INVALID_FIELD {
		t.Errorf("compose on a host that went: %v", err)
	}
	now := reservationNow(t, s, r).Value
	if now.GetResource().GetLost() != 2 || left(now) != 2 || len(machinesOf(t, s)) != 0 || Used(s.Cached(), "default").GetMachines() != 2 {
		t.Errorf("after one host went: %v", now)
	}
	drop("h0001")
	if now := reservationNow(t, s, r).Value; now.GetResource().GetState() != vmhostv1.ReservationState_RESERVATION_STATE_USED {
		t.Errorf("after both went: %v", now)
	}
	if _, err := l.Compose(t.Context(), "a", against(r)); reasonOf(err) != vmhostv1.ErrorReason_RESERVATION_USED {
		t.Errorf("compose: %v", err)
	}
	for i := range 2 {
		checkBooks(t, s, fmt.Sprintf("h%04d", i))
	}
}
