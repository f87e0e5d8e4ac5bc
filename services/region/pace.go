package region

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// burstPercent is how far the heap may grow beyond what lives before it is
	// collected, while many racks connect.
	burstPercent = 30
	// burstOf is how many sessions that begin within burstFor are many. A burst is
	// over when fewer do: by then the hosts of the last have been reported.
	burstOf  = 32
	burstFor = 10 * time.Second
)

// pace has garbage collected more often while many racks connect. What a session
// consists of are hundreds of small objects that live for weeks, and it comes with
// the first reports of its hosts, ten times as much that is thrown away at once.
// When the heap may grow to three times its size meanwhile, the former come to lie
// between the latter, a few on each page, and keep all these pages in memory.
type pace struct {
	begins chan struct{}
}

func newPace() *pace { return &pace{begins: make(chan struct{}, burstOf)} }

// begun notes that a session begins.
func (p *pace) begun() {
	select {
	case p.begins <- struct{}{}:
	default: // it is known that there are many
	}
}

// run sets the pace until ctx ends.
func (p *pace) run(ctx context.Context) error {
	defer p.calm()
	count := 0
	window := time.NewTimer(burstFor)
	window.Stop()
	defer window.Stop()
	for {
		select {
		case <-p.begins:
			if count == 0 {
				window.Reset(burstFor)
			}
			if count++; count == burstOf {
				change(gcPercent, burstPercent)
			}
		case <-window.C:
			if count < burstOf {
				p.calm()
			}
			if count > 0 {
				window.Reset(burstFor)
			}
			count = 0
		case <-ctx.Done():
			return nil
		}
	}
}

func (p *pace) calm() { change(burstPercent, gcPercent) }

// change sets the garbage collector, unless it is set otherwise than we did: by an
// operator, or in a process that did not call TuneMemory.
func change(from, to int) {
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() == metrics.KindUint64 && sample[0].Value.Uint64() == uint64(from) {
		debug.SetGCPercent(to)
	}
}
