package figure

import (
	"context"
	"time"

	"github.com/vmhost-project/vmhost/services/region/regiontest/placementbench"
	"github.com/vmhost-project/vmhost/tests/bench/internal/measure"
)

// placementTime is how long one side of a figure about placement runs.
const placementTime = 500 * time.Millisecond

// timed is a run of one call after the other, in the time that one takes.
func timed(unit time.Duration, call func() error) measure.Side {
	return func(ctx context.Context) (float64, error) {
		n, began := 0, time.Now()
		for {
			if err := call(); err != nil {
				return 0, err
			}
			n++
			if took := time.Since(began); took >= placementTime || ctx.Err() != nil {
				return float64(took) / float64(unit) / float64(n), context.Cause(ctx)
			}
		}
	}
}

// decide is one decision, against reading two numbers of every host and keeping
// the best.
func decide(name string, hosts int, target measure.Target) Figure {
	return Figure{
		Name: name, About: "one decision over all hosts of a mixed fleet, one goroutine, all filters on; against a bare pass over two numbers of each host",
		Pair: func(context.Context, *Env) (measure.Pair, error) {
			f := placementbench.New(hosts)
			return measure.Pair{Unit: "µs", A: timed(time.Microsecond, f.Decide), Vs: "bare-scan", B: timed(time.Microsecond, f.Scan), Target: target}, nil
		},
	}
}

func decideGrowth() Figure {
	return Figure{
		Name: "decide_growth", About: "one decision over 10,000 hosts, against one over 1,000",
		Pair: func(context.Context, *Env) (measure.Pair, error) {
			large, small := placementbench.New(10_000), placementbench.New(1000)
			return measure.Pair{
				Unit: "µs", A: timed(time.Microsecond, large.Decide), Vs: "decide_1000", B: timed(time.Microsecond, small.Decide),
				Target: measure.Target{AtMost: 4},
			}, nil
		},
	}
}

// question is one of the larger questions, against a decision on the same fleet.
func question(name, about string, hosts int, ask func(f *placementbench.Fleet) func() error, atMost float64) Figure {
	return Figure{
		Name: name, About: about + "; against one decision",
		Pair: func(context.Context, *Env) (measure.Pair, error) {
			f := placementbench.New(hosts)
			return measure.Pair{
				Unit: "ms", A: timed(time.Millisecond, ask(f)), Vs: "decide", B: timed(time.Millisecond, f.Decide),
				Target: measure.Target{ValueAtMost: atMost},
			}, nil
		},
	}
}

// placements are the figures about placement.
func placements() []Figure {
	type fleet = *placementbench.Fleet
	return []Figure{
		decide("decide_1000", 1000, measure.Target{}),
		decide("decide_10000", 10_000, measure.Target{ValueAtMost: 100}),
		decide("decide_50000", 50_000, measure.Target{}),
		decideGrowth(),
		question("explain_5000", "the reasons of all of 5,000 hosts that are refused and the scores of the others", 5000,
			func(f fleet) func() error { return f.Explain }, 5),
		question("capacity_5000", "how many more of a machine with one disk and one interface fit 5,000 hosts", 5000,
			func(f fleet) func() error { return f.Capacity }, 2),
		question("drain_plan_500", "where the 500 machines of a host go, of 1,000 hosts", 1000,
			func(f fleet) func() error { return func() error { return f.Drain(500) } }, 50),
	}
}
