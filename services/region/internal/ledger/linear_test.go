package ledger

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// call is one compose (cores > 0) or release (cores < 0) of the history.
type call struct{ cores int }

// book is what the ledger of a host with so many cores should do: take while
// there is room, refuse only when there is none.
func book(limit int) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return 0 },
		Step: func(state, input, output any) (bool, any) {
			used, in, ok := state.(int), input.(call), output.(bool)
			fits := used+in.cores <= limit
			if in.cores < 0 {
				return ok, used + in.cores
			}
			if ok {
				return fits, used + in.cores
			}
			return !fits, used
		},
	}
}

func TestTheLedgerOfOneHostIsLinearizable_P1(t *testing.T) {
	const limit = 6
	ledgers, stores := regions(t, 2)
	addHost(t, stores[0], "h", limit, 1<<20)
	history := race(t, ledgers, stores, vmhostv1.ErrorReason_NO_CAPACITY)
	if !porcupine.CheckOperations(book(limit), history) {
		t.Errorf("no order of these %d calls explains their answers: %+v", len(history), history)
	}
	checkBooks(t, stores[0], "h")
}

// race composes and releases from several clients and answers what they saw.
func race(t *testing.T, ledgers []*Ledger, stores []*store.Store, refusal vmhostv1.ErrorReason) []porcupine.Operation {
	const clients, rounds = 6, 8
	var mu sync.Mutex
	var history []porcupine.Operation
	began := time.Now()
	record := func(id int, in call, do func() bool) bool {
		start := time.Since(began).Nanoseconds()
		ok := do()
		end := time.Since(began).Nanoseconds()
		mu.Lock()
		defer mu.Unlock()
		history = append(history, porcupine.Operation{ClientId: id, Input: in, Call: start, Output: ok, Return: end})
		return ok
	}
	var wg sync.WaitGroup
	for id := range clients {
		l, s := ledgers[id%2], stores[id%2]
		wg.Go(func() {
			for round := range rounds {
				cores, uid := 1+(id+round)%3, ""
				made := record(id, call{cores}, func() bool {
					op, err := l.Compose(t.Context(), "alice", &vmhostv1.ComposeMachineRequest{Cores: int32(cores), MemoryMib: 1})
					if err != nil && apierror.Reason(err) != refusal {
						t.Errorf("compose: %v", err)
					}
					uid = strings.TrimPrefix(op.GetTarget(), "machines/")
					return err == nil
				})
				if made && round%3 != 2 {
					record(id, call{-cores}, func() bool { return release(t, l, s, uid) })
				}
			}
		})
	}
	wg.Wait()
	return history
}

func release(t *testing.T, l *Ledger, s *store.Store, uid string) bool {
	for range 200 {
		done := false
		if err := l.WithTurn(t.Context(), func() error {
			tx := store.NewTxn()
			if Release(tx, s.Cached(), uid) != 1 {
				return nil
			}
			_, err := s.Commit(t.Context(), tx)
			done = err == nil
			return nil
		}); err != nil {
			t.Errorf("release: %v", err)
			return false
		}
		if done {
			return true
		}
	}
	t.Error("release lost 200 races")
	return false
}
