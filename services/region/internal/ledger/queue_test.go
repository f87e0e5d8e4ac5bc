package ledger

import (
	"log/slog"
	"testing"
	"testing/synctest"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
)

// A bubble comes to rest only when nobody in it runs: with callers that take
// turns at an empty queue this test does not end.
func TestWhoseBatchIsUnderWayWaitsWithoutTakingTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const callers = 8
		l := New(nil, slog.New(slog.DiscardHandler))
		l.turn <- struct{}{}
		answers := make(chan *vmhostv1.Operation, callers)
		for range callers {
			go func() {
				op, err := l.Compose(t.Context(), "alice", &vmhostv1.ComposeMachineRequest{Cores: 1, MemoryMib: 1, Diskless: true})
				if err != nil {
					t.Error(err)
				}
				answers <- op
			}()
		}
		synctest.Wait()
		batch := l.take(placement.AllLanes, callers)
		<-l.turn // as when a batch is submitted
		synctest.Wait()

		// It has lost its race: they are in the queue again, and one of them leads.
		l.turn <- struct{}{}
		l.back(batch)
		if !l.waits(batch[0]) {
			t.Error("what was put back does not wait")
		}
		synctest.Wait()
		again := l.take(placement.AllLanes, callers)
		<-l.turn
		synctest.Wait()
		if len(again) != callers {
			t.Errorf("%d of %d are in the queue again", len(again), callers)
		}
		for i, p := range again {
			p.finish(&vmhostv1.Operation{Name: string(rune('a' + i))}, nil)
		}
		seen := map[string]bool{}
		for range callers {
			seen[(<-answers).GetName()] = true
		}
		if len(seen) != callers {
			t.Errorf("%d answers of %d", len(seen), callers)
		}
	})
}
