package turn_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/services/rack/internal/driver/turn"
)

func TestOneAtATimeWorksOnAMachine(t *testing.T) {
	var k turn.Keyed
	var wg sync.WaitGroup
	n := 0 // the race detector sees whether it is guarded
	for range 50 {
		for _, id := range []string{"AB", "ab"} {
			wg.Go(func() {
				unlock, err := k.Lock(t.Context(), id, "work")
				if err != nil {
					t.Error(err)
					return
				}
				n++
				unlock()
			})
		}
	}
	wg.Wait()
	if n != 100 {
		t.Errorf("%d worked", n)
	}
}

func TestWaitingEndsWithItsContextAndOthersAreNotHeldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k turn.Keyed
		unlock, err := k.Lock(t.Context(), "a", "work")
		if err != nil {
			t.Fatal(err)
		}
		defer unlock()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := k.Lock(ctx, "a", "work"); !errors.Is(err, hypervisor.ErrTimeout) {
			t.Errorf("waited and got %v", err)
		}
		if other, err := k.Lock(ctx, "b", "work"); err != nil {
			t.Error(err)
		} else {
			other()
		}
	})
}
