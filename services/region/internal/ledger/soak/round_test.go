package soak

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

const (
	operators = 3
	// often is how long an operator waits between two changes.
	often = 4 * time.Millisecond
	// losses is how many races a change other than a compose may lose.
	losses = 2000
	// checkLimit bounds the search for an order of the calls of one host, which can
	// take for ever when there is none. No answer in that time fails the test.
	checkLimit = 20 * time.Second
)

// machine is one that a client has.
type machine struct {
	uid, operation, host string
	amount               amount
}

// client composes and deletes.
type client struct {
	id       int
	rng      *rand.Rand
	machines []machine
	full     bool // the last compose was refused
}

// soak is one run.
type soak struct {
	t       testing.TB
	o       options
	regions []*region
	clients []*client
	rng     []*rand.Rand // of operators
	began   time.Time

	mu      sync.Mutex
	history map[string][]porcupine.Operation // of this round, by host

	composed, refused, gaveUp, deleted, changed, lost, planned atomic.Int64
	spent, checking                                            time.Duration
	rounds                                                     int
	longest                                                    int // history of one host in one round
}

func newSoak(t testing.TB, o options, etcd *store.Client) *soak {
	s := &soak{t: t, o: o, began: time.Now(), history: map[string][]porcupine.Operation{}}
	for range o.regions {
		s.regions = append(s.regions, start(t, storetest.Again(t, etcd)))
	}
	furnish(t, s.regions[0].store, o.hosts)
	for i := range o.clients + operators {
		rng := rand.New(rand.NewPCG(o.seed, uint64(i)))
		if i < o.clients {
			s.clients = append(s.clients, &client{id: i, rng: rng})
		} else {
			s.rng = append(s.rng, rng)
		}
	}
	return s
}

// note records a call on hosts with its answer.
func (s *soak) note(id int, begin time.Time, in call, out any, hosts ...string) {
	op := porcupine.Operation{ClientId: id, Input: in, Output: out, Call: int64(begin.Sub(s.began)), Return: int64(time.Since(s.began))}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range hosts {
		s.history[h] = append(s.history[h], op)
	}
}

// look notes all hosts as they are while nobody calls.
func (s *soak) look() {
	s.t.Helper()
	begin := time.Now()
	v, err := s.regions[s.rounds%len(s.regions)].store.View(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range s.o.hosts {
		s.note(-1, begin, call{verb: look}, registerOf(v, hostID(i)), hostID(i))
	}
}

// round lets everybody call, and then checks what they were answered.
func (s *soak) round() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Minute)
	defer cancel()
	clear(s.history)
	s.look()
	begin := time.Now()
	var calling, changing sync.WaitGroup
	end := make(chan struct{})
	for _, c := range s.clients {
		calling.Go(func() {
			for range s.o.calls {
				if s.t.Failed() {
					return
				}
				s.call(ctx, c)
			}
		})
	}
	for i, rng := range s.rng {
		changing.Go(func() { s.operate(ctx, i, rng, end) })
	}
	calling.Wait()
	close(end)
	changing.Wait()
	s.spent += time.Since(begin)
	s.look()
	s.check()
	s.rounds++
}

// call is one call of a client: it fills hosts up until it is refused, and then
// deletes some machines.
func (s *soak) call(ctx context.Context, c *client) {
	r := s.regions[c.rng.IntN(len(s.regions))]
	if len(c.machines) > 0 && (c.full || c.rng.IntN(16) == 0) {
		n := min(1+c.rng.IntN(5), len(c.machines))
		some := make([]machine, 0, n)
		for range n {
			i := c.rng.IntN(len(c.machines))
			some = append(some, c.machines[i])
			c.machines = slices.Delete(c.machines, i, i+1)
		}
		c.full = false
		s.remove(ctx, c.id, r, some)
		return
	}
	s.compose(ctx, c, r)
}

// order is what a client asks for, and the hosts that may take it.
func (s *soak) order(c *client) (a amount, req *vmhostv1.ComposeMachineRequest, asked []string) {
	a = amount{int64(1 + c.rng.IntN(4)), int64(256 * (1 + c.rng.IntN(12))), int64(1024 * (1 + c.rng.IntN(40)))}
	req = &vmhostv1.ComposeMachineRequest{
		Cores: int32(a.cores), MemoryMib: a.memoryMiB, Disks: []*vmhostv1.DiskRequest{{SizeBytes: a.diskMiB * mib, StoragePool: pool}},
	}
	if c.rng.IntN(2) == 0 {
		// Some hosts are asked for more often than others.
		h := hostID(min(c.rng.IntN(s.o.hosts), c.rng.IntN(s.o.hosts)))
		req.VmHost = "vmHosts/" + h
		return a, req, []string{h}
	}
	for i := range s.o.hosts {
		asked = append(asked, hostID(i))
	}
	return a, req, asked
}

func (s *soak) compose(ctx context.Context, c *client, r *region) {
	a, req, asked := s.order(c)
	begin := time.Now()
	if c.rng.IntN(5) == 0 {
		s.sharing(ctx, c, r, a, req, asked)
		return
	}
	if c.rng.IntN(12) == 0 {
		s.gang(ctx, c, r, a, req, asked)
		return
	}
	if c.rng.IntN(16) == 0 {
		s.plan(ctx, c, r, a, req, asked)
		return
	}
	op, err := r.ledger.Compose(ctx, "soak", req)
	switch reason := apierror.Reason(err); {
	case err == nil:
		s.made(c, r, begin, a, asked, op)
	case reason == vmhostv1.ErrorReason_NO_CAPACITY:
		// Every host that may take it must have had a moment at which it could not.
		s.note(c.id, begin, call{verb: take, amount: a}, false, asked...)
		s.refused.Add(1)
		c.full = true
	case reason == vmhostv1.ErrorReason_CONFLICT:
		s.gaveUp.Add(1) // and nothing was done
	default:
		s.t.Errorf("compose: %v", err)
	}
}

// sharing composes a machine whose disk is in the pool that all hosts share.
func (s *soak) sharing(ctx context.Context, c *client, r *region, a amount, req *vmhostv1.ComposeMachineRequest, asked []string) {
	req.Disks[0].StoragePool, a.diskMiB = nas, 0
	begin := time.Now()
	op, err := r.ledger.Compose(ctx, "soak", req)
	switch reason := apierror.Reason(err); {
	case err == nil:
		s.made(c, r, begin, a, asked, op)
	case reason == vmhostv1.ErrorReason_NO_CAPACITY:
		s.refused.Add(1)
		c.full = true
	case reason == vmhostv1.ErrorReason_CONFLICT:
		s.gaveUp.Add(1)
	default:
		s.t.Errorf("compose in the shared pool: %v", err)
	}
}

// gang composes several machines in one transaction.
func (s *soak) gang(ctx context.Context, c *client, r *region, a amount, one *vmhostv1.ComposeMachineRequest, asked []string) {
	req := &vmhostv1.ComposeMachinesRequest{
		Machine: one, Count: int32(2 + c.rng.IntN(3)), Mode: vmhostv1.ComposeManyMode_COMPOSE_MANY_MODE_AS_MANY_AS_FIT,
	}
	if c.rng.IntN(2) == 0 {
		req.Mode = vmhostv1.ComposeManyMode_COMPOSE_MANY_MODE_ALL
	}
	begin := time.Now()
	out, err := r.ledger.ComposeMany(ctx, "soak", req)
	switch reason := apierror.Reason(err); {
	case err == nil:
		s.made(c, r, begin, a, asked, out.GetOperations()...)
		if n := int32(len(out.GetOperations())); n < req.GetCount() {
			// One more did not fit, beside those that did.
			s.note(c.id, begin, call{verb: take, amount: a}, false, asked...)
			c.full = true
			if req.GetMode() == vmhostv1.ComposeManyMode_COMPOSE_MANY_MODE_ALL {
				s.t.Errorf("%d of a gang of %d were made", n, req.GetCount())
			}
		}
	case reason == vmhostv1.ErrorReason_NO_CAPACITY:
		if len(asked) == 1 { // what all hosts together have no room for is no question of one
			all := amount{}
			for range req.GetCount() {
				all = all.plus(a)
			}
			s.note(c.id, begin, call{verb: take, amount: all}, false, asked...)
		}
		s.refused.Add(1)
		c.full = true
	case reason == vmhostv1.ErrorReason_CONFLICT:
		s.gaveUp.Add(1)
	default:
		s.t.Errorf("compose %d: %v", req.GetCount(), err)
	}
}

// made notes what was acknowledged: machines of one transaction.
func (s *soak) made(c *client, r *region, begin time.Time, each amount, asked []string, ops ...*vmhostv1.Operation) {
	taken, revision := map[string]amount{}, int64(0)
	for _, op := range ops {
		h, uid := strings.TrimPrefix(op.GetVmHost(), "vmHosts/"), strings.TrimPrefix(op.GetTarget(), "machines/")
		rec, ok := store.Machines.Get(r.store.Cached(), uid)
		switch {
		case !ok:
			s.t.Errorf("%s was acknowledged, and its region does not have it", op.GetTarget())
		case revision != 0 && rec.CreateRevision != revision:
			s.t.Errorf("machines of one call were made at revisions %d and %d", revision, rec.CreateRevision)
		case !slices.Contains(asked, h):
			s.t.Errorf("asked for %v, got %s", asked, h)
		}
		revision = rec.CreateRevision
		taken[h] = taken[h].plus(each)
		c.machines = append(c.machines, machine{uid, strings.TrimPrefix(op.GetName(), "operations/"), h, each})
	}
	for h, a := range taken {
		s.note(c.id, begin, call{verb: take, amount: a, revision: revision}, true, h)
	}
	s.composed.Add(int64(len(ops)))
}

// again tries until nobody else was faster.
func (s *soak) again(what string, try func() (revision int64, err error)) (revision int64, ok bool) {
	for range losses {
		revision, err := try()
		if err == nil {
			return revision, true
		}
		if !errors.Is(err, store.ErrConflict) {
			s.t.Errorf("%s: %v", what, err)
			return 0, false
		}
		s.lost.Add(1)
	}
	s.t.Errorf("%s: lost %d races", what, losses)
	return 0, false
}

func (s *soak) remove(ctx context.Context, id int, r *region, machines []machine) {
	back := map[string]amount{}
	for _, m := range machines {
		back[m.host] = back[m.host].plus(m.amount)
	}
	begin := time.Now()
	revision, ok := s.again("delete", func() (int64, error) { return r.remove(ctx, machines) })
	if !ok {
		return
	}
	for _, h := range slices.Sorted(maps.Keys(back)) {
		s.note(id, begin, call{verb: give, amount: back[h], revision: revision}, nil, h)
	}
	s.deleted.Add(int64(len(machines)))
}

// operate changes hosts until the clients are done.
func (s *soak) operate(ctx context.Context, id int, rng *rand.Rand, end <-chan struct{}) {
	tick := time.NewTicker(often)
	defer tick.Stop()
	for {
		select {
		case <-end:
			return
		case <-tick.C:
		}
		r, i := s.regions[id%len(s.regions)], rng.IntN(s.o.hosts)
		h, who := hostID(i), s.o.clients+id
		begin := time.Now()
		switch rng.IntN(4) {
		case 0:
			on := rng.IntN(4) == 0
			if revision, ok := s.again("cordon", func() (int64, error) {
				return r.change(ctx, h, func(v *vmhostv1.VmHost) { v.Cordoned = on })
			}); ok {
				s.note(who, begin, call{verb: cordon, cordoned: on, revision: revision}, nil, h)
			}
		case 1:
			// Down to a host that is over its limits, and up again.
			ratios := tenths{int64(10 + rng.IntN(8)), int64(10 + rng.IntN(8)), int64(10 + rng.IntN(3))}
			if revision, ok := s.again("ratio", func() (int64, error) {
				return r.change(ctx, h, func(v *vmhostv1.VmHost) { v.Overcommit = ratios.proto() })
			}); ok {
				has := shape(i)
				has.cores -= reservedCores
				s.note(who, begin, call{verb: resize, amount: ratios.of(has), revision: revision}, nil, h)
			}
		default:
			n := rng.IntN(legacyEach)
			// What the host carries stays the same, so that there is nothing to note.
			_, _ = s.again("change of sides", func() (int64, error) { return r.changeSides(ctx, h, n) })
		}
		s.changed.Add(1)
	}
}

func (r tenths) proto() *vmhostv1.OvercommitRatios {
	ratio := func(n int64) *float64 { return new(float64(n) / 10) }
	return &vmhostv1.OvercommitRatios{Cores: ratio(r.cores), Memory: ratio(r.memory), Storage: ratio(r.disk)}
}

// check looks for an order of the calls that explains their answers, host by host.
func (s *soak) check() {
	s.t.Helper()
	begin := time.Now()
	defer func() { s.checking += time.Since(begin) }()
	for _, h := range slices.Sorted(maps.Keys(s.history)) {
		history := s.history[h]
		s.longest = max(s.longest, len(history))
		if porcupine.CheckOperationsTimeout(model(), ranked(history), checkLimit) == porcupine.Ok {
			continue
		}
		result := porcupine.CheckOperationsTimeout(model(), history, checkLimit)
		if result == porcupine.Ok {
			s.t.Logf("round %d, host %s: linearizable, though not in the order of etcd's revisions", s.rounds, h)
			continue
		}
		s.t.Errorf("round %d, host %s: no order of these %d calls explains their answers (porcupine says %s):\n%s",
			s.rounds, h, len(history), result, describe(history))
		return // one is enough to look at, and to search in vain takes long
	}
}
