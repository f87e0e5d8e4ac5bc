package ledger

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// crowded is how many composes of these tests wait at the same time: enough for
// two lanes.
const crowded = 2 * manyCallers

// laneHosts are hosts of which every other one, from the first on, is in the even
// lane.
func laneHosts(t *testing.T, s *store.Store, cores func(i int) int32) {
	t.Helper()
	for i := range manyHosts {
		addHost(t, s, laneHost(i), cores(i), 1<<20)
	}
}

func laneHost(i int) string { return fmt.Sprintf("h%02d", i) }

type answered struct {
	op  *vmhostv1.Operation
	err error
}

// crowd sends many composes that wait at the same time.
func crowd(t *testing.T, l *Ledger, req func(i int) *vmhostv1.ComposeMachineRequest) []answered {
	t.Helper()
	l.turn <- struct{}{}
	out := make([]answered, crowded)
	var wg sync.WaitGroup
	for i := range out {
		wg.Go(func() {
			op, err := l.Compose(t.Context(), "alice", req(i))
			out[i] = answered{op, err}
		})
	}
	eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.queue) == crowded
	})
	<-l.turn
	wg.Wait()
	return out
}

// made counts those that were, and wants the others to have been refused for a
// reason.
func made(t *testing.T, answers []answered, refusal vmhostv1.ErrorReason) int {
	t.Helper()
	n := 0
	for _, a := range answers {
		if a.err == nil {
			n++
		} else if apierror.Reason(a.err) != refusal {
			t.Error(a.err)
		}
	}
	return n
}

func allBooks(t *testing.T, s *store.Store) (machines int32) {
	t.Helper()
	for i := range manyHosts {
		machines += checkBooks(t, s, laneHost(i)).GetMachines()
	}
	return machines
}

func one() *vmhostv1.ComposeMachineRequest {
	return &vmhostv1.ComposeMachineRequest{Cores: 1, MemoryMib: 1, Diskless: true}
}

func TestTwoLanesAreUnderWayAtTheSameTime(t *testing.T) {
	client, meddler := storetest.Meddle(t, storetest.Client(t))
	s := storetest.On(t, client)
	l := open(t, s)
	laneHosts(t, s, func(int) int32 { return 100 })
	meddler.Before(func() {
		second := make(chan struct{})
		meddler.Before(func() { close(second) })
		select {
		case <-second:
		case <-time.After(10 * time.Second):
			t.Error("the second transaction is not sent before the first is done")
		}
	})
	if n := made(t, crowd(t, l, func(int) *vmhostv1.ComposeMachineRequest { return one() }), 0); n != crowded {
		t.Errorf("%d of %d were made", n, crowded)
	}
	if l.Conflicts() != 0 {
		t.Errorf("%d transactions lost a race that nobody ran", l.Conflicts())
	}
	if n := allBooks(t, s); n != crowded {
		t.Errorf("ledgers have %d machines", n)
	}
}

func TestALaneThatLosesItsRaceDoesNotDisturbTheOther_P1(t *testing.T) {
	shared := storetest.Client(t)
	client, meddler := storetest.Meddle(t, shared)
	s, other := storetest.On(t, client), storetest.On(t, shared)
	l := open(t, s)
	laneHosts(t, s, func(int) int32 { return 100 })
	meddler.Before(func() { // the one that loses waits until the other has won
		if err := waitFor(func() bool { return len(withMachines(other.Cached())) > 0 }); err != nil {
			t.Error(err)
			return
		}
		won := withMachines(other.Cached())[0] % 2
		if err := renew(t.Context(), other, 1-won); err != nil {
			t.Error(err)
		}
	})
	if n := made(t, crowd(t, l, func(int) *vmhostv1.ComposeMachineRequest { return one() }), 0); n != crowded {
		t.Errorf("%d of %d were made", n, crowded)
	}
	if l.Conflicts() != 1 {
		t.Errorf("%d transactions lost a race, want one", l.Conflicts())
	}
	if n := allBooks(t, s); n != crowded {
		t.Errorf("ledgers have %d machines", n)
	}
}

// renew writes the records of every other host, from one on, as an operator would.
func renew(ctx context.Context, s *store.Store, from int) error {
	v, err := s.View(ctx)
	if err != nil {
		return err
	}
	tx := store.NewTxn()
	for i := from; i < manyHosts; i += 2 {
		h, ok := store.VmHosts.Get(v, laneHost(i))
		if !ok {
			return errors.New("no host " + laneHost(i))
		}
		store.Put(tx, store.VmHosts, h.Value, laneHost(i))
	}
	_, err = s.Commit(ctx, tx)
	return err
}

// withMachines are the hosts that have any.
func withMachines(v *store.View) (hosts []int) {
	for i := range manyHosts {
		if led, _ := store.Ledgers.Get(v, laneHost(i)); led.Value.GetMachines() > 0 {
			hosts = append(hosts, i)
		}
	}
	return hosts
}

func TestWhatFitsInOneLaneOnlyIsNotRefused(t *testing.T) {
	const room = 40
	for _, only := range []int{6, 7} {
		s := storetest.New(t)
		l := open(t, s)
		laneHosts(t, s, func(i int) int32 {
			if i == only {
				return room
			}
			return 0
		})
		answers := crowd(t, l, func(i int) *vmhostv1.ComposeMachineRequest {
			req := one()
			if i%2 == 0 {
				req.VmHost = "vmHosts/" + laneHost(only)
			}
			return req
		})
		if n := made(t, answers, vmhostv1.ErrorReason_NO_CAPACITY); n != room {
			t.Errorf("with room on host %d: %d of %d were made", only, n, room)
		}
		if n := allBooks(t, s); n != room {
			t.Errorf("ledgers have %d machines", n)
		}
	}
}

func TestAQuotaIsExactWithTwoLanes(t *testing.T) {
	const quota = 40
	s := storetest.New(t)
	l := open(t, s)
	laneHosts(t, s, func(int) int32 { return 100 })
	setQuota(t, t, s, "default", &vmhostv1.ResourceQuota{Machines: proto.Int32(quota)})
	answers := crowd(t, l, func(int) *vmhostv1.ComposeMachineRequest { return one() })
	if n := made(t, answers, vmhostv1.ErrorReason_QUOTA_EXCEEDED); n != quota {
		t.Errorf("%d of %d were made", n, quota)
	}
	if n := allBooks(t, s); n != quota {
		t.Errorf("ledgers have %d machines", n)
	}
}

func TestANameARequestAndAMACAreOfOneMachineWithTwoLanes_P2(t *testing.T) {
	const each = crowded / 8
	for name, tt := range map[string]struct {
		set     func(req *vmhostv1.ComposeMachineRequest, i int)
		refusal vmhostv1.ErrorReason
	}{
		"names": {func(req *vmhostv1.ComposeMachineRequest, i int) { req.Hostname = fmt.Sprintf("web-%d", i) }, vmhostv1.ErrorReason_ALREADY_EXISTS},
		"MACs": {func(req *vmhostv1.ComposeMachineRequest, i int) {
			req.Interfaces = []*vmhostv1.InterfaceRequest{{Mac: fmt.Sprintf("52:54:00:00:00:%02x", i)}}
		}, vmhostv1.ErrorReason_INVALID_FIELD},
		"requests": {func(req *vmhostv1.ComposeMachineRequest, i int) {
			req.RequestId = uuid.NewSHA1(uuid.Nil, fmt.Append(nil, i)).String()
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := storetest.New(t)
			l := open(t, s)
			laneHosts(t, s, func(int) int32 { return 100 })
			answers := crowd(t, l, func(i int) *vmhostv1.ComposeMachineRequest {
				req := one()
				tt.set(req, i%each)
				return req
			})
			ops := map[string]bool{}
			for _, a := range answers {
				if a.err == nil {
					ops[a.op.GetName()] = true
				}
			}
			made(t, answers, tt.refusal)
			if n := allBooks(t, s); len(ops) != each || n != each {
				t.Errorf("%d operations and %d machines, want %d", len(ops), n, each)
			}
		})
	}
}
