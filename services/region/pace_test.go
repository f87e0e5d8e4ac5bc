package region

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// The collector is the process's: these tests do not run beside one another.

func percent(t *testing.T) int {
	t.Helper()
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		t.Fatal("the runtime does not tell how it collects garbage")
	}
	return int(sample[0].Value.Uint64())
}

func TestWhileManyRacksConnectGarbageIsCollectedMoreOften(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	TuneMemory(func(string) string { return "" })
	synctest.Test(t, func(t *testing.T) {
		p := newPace()
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = p.run(ctx) })
		begin := func(sessions int) {
			for range sessions {
				p.begun()
				synctest.Wait()
			}
		}
		check := func(when string, want int) {
			t.Helper()
			synctest.Wait()
			if got := percent(t); got != want {
				t.Errorf("%s: %d %%, want %d %%", when, got, want)
			}
		}
		begin(burstOf - 1)
		check("few racks", gcPercent)
		time.Sleep(burstFor + time.Second) //nolint:forbidigo // fake clock
		begin(burstOf - 1)
		check("few more later", gcPercent)
		begin(1)
		check("many", burstPercent)
		time.Sleep(burstFor + time.Second) //nolint:forbidigo // fake clock
		check("many a moment ago", burstPercent)
		begin(1)
		time.Sleep(burstFor + time.Second) //nolint:forbidigo // fake clock
		check("one came since", gcPercent)
		begin(burstOf)
		check("many again", burstPercent)
		cancel()
		running.Wait()
		check("at the end", gcPercent)
	})
}

func TestAnOperatorsPaceOfTheCollectorStays(t *testing.T) {
	const operators = 77
	before := debug.SetGCPercent(operators)
	defer debug.SetGCPercent(before)
	synctest.Test(t, func(t *testing.T) {
		p := newPace()
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = p.run(ctx) })
		for range 2 * burstOf {
			p.begun()
			synctest.Wait()
		}
		if got := percent(t); got != operators {
			t.Errorf("%d %%", got)
		}
		cancel()
		running.Wait()
		if got := percent(t); got != operators {
			t.Errorf("at the end: %d %%", got)
		}
	})
}
