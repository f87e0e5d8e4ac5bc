// Package measure compares two ways of doing the same work on one machine.
//
// A figure has two sides: ours and the floor or peer it is held against. They
// run in turns, A B A B and so on, so that whatever else the machine does falls
// on both; what is told is the median of the runs, and how far they spread. A
// figure's ratio is the quotient of the two medians that are printed.
//
// The package starts no goroutine. It does not know what is measured.
package measure

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"time"
)

// Side is one of the two things that are compared. Each call is one run and
// answers with its value in the figure's unit.
type Side func(ctx context.Context) (float64, error)

// Target is what a figure's ratio should be, at most or at least a limit, or what
// its value should be at most. The zero Target is none.
type Target struct {
	AtMost, AtLeast, ValueAtMost float64
}

// String is the target as it is printed.
func (t Target) String() string {
	switch {
	case t.AtMost > 0:
		return fmt.Sprintf("<=%g", t.AtMost)
	case t.AtLeast > 0:
		return fmt.Sprintf(">=%g", t.AtLeast)
	case t.ValueAtMost > 0:
		return fmt.Sprintf("value<=%g", t.ValueAtMost)
	}
	return "none"
}

// Met says whether a figure is within the target.
func (t Target) Met(value, ratio float64) bool {
	switch {
	case t.AtMost > 0:
		return ratio <= t.AtMost
	case t.AtLeast > 0:
		return ratio >= t.AtLeast
	case t.ValueAtMost > 0:
		return value <= t.ValueAtMost
	}
	return true
}

// Pair is what is compared. Ratio is A's median over B's.
type Pair struct {
	Name string
	Unit string
	// Before, if there is one, is called before every turn and takes no part in it.
	Before func(ctx context.Context) error
	A      Side
	// Vs says in one word what B is.
	Vs     string
	B      Side
	Target Target
}

// Result is a figure as it is written to the file.
type Result struct {
	Name    string  `json:"name"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
	Vs      string  `json:"vs"`
	VsValue float64 `json:"vs_value"`
	Ratio   float64 `json:"ratio"`
	Min     float64 `json:"min"`
	Max     float64 `json:"max"`
	// Stolen is the share of the processors that others had in the worst turn.
	Stolen float64 `json:"stolen"`

	vsMin, vsMax float64
	target       Target
}

// Runner is how pairs are measured.
type Runner struct {
	// Reps is how often each side runs.
	Reps int
	// Settle is called before the two sides take their turns.
	Settle func(ctx context.Context)
	// Stolen begins to look at which share of the processors others have, and what it
	// answers with says it.
	Stolen func() func() float64
}

const (
	// mostStolen is how much of the processors others may have in a turn: with a tenth
	// gone both sides are slower by that and by much more, as what is fast on its own
	// core waits for what is not on any. Such a turn is tried again, and the best of
	// turnTries counts.
	mostStolen = 0.03
	turnTries  = 3
)

// turn is one run of a side.
func (r Runner) turn(ctx context.Context, before func(context.Context) error, side Side) (value, stolen float64, err error) {
	for try := range turnTries {
		if before != nil {
			if err := before(ctx); err != nil {
				return 0, 0, err
			}
		}
		since := r.Stolen()
		v, err := side(ctx)
		if err != nil {
			return 0, 0, err
		}
		if s := since(); try == 0 || s < stolen {
			value, stolen = v, s
		}
		if stolen <= mostStolen {
			break
		}
	}
	return value, stolen, nil
}

// Run measures a pair: one run of each that does not count, since what is cold
// is not what is asked for, then the others in turns.
func (r Runner) Run(ctx context.Context, p Pair) (Result, error) {
	var a, b []float64
	var worst float64
	for i := range r.Reps + 1 {
		r.Settle(ctx)
		va, stolenA, err := r.turn(ctx, p.Before, p.A)
		if err != nil {
			return Result{}, fmt.Errorf("%s: %w", p.Name, err)
		}
		vb, stolenB, err := r.turn(ctx, p.Before, p.B)
		if err != nil {
			return Result{}, fmt.Errorf("%s, %s: %w", p.Name, p.Vs, err)
		}
		if i > 0 {
			a, b, worst = append(a, va), append(b, vb), max(worst, stolenA, stolenB)
		}
	}
	out := Result{
		Name: p.Name, Unit: p.Unit, Vs: p.Vs, Value: round(Median(a)), VsValue: round(Median(b)),
		Min: round(slices.Min(a)), Max: round(slices.Max(a)),
		Stolen: round(worst), vsMin: round(slices.Min(b)), vsMax: round(slices.Max(b)), target: p.Target,
	}
	out.Ratio = round(out.Value / out.VsValue)
	return out, nil
}

// Met says whether the figure is within its target.
func (r Result) Met() bool { return r.target.Met(r.Value, r.Ratio) }

// Print writes the figure's one line.
func (r Result) Print(w io.Writer) error {
	verdict := "met"
	if !r.Met() {
		verdict = "MISSED"
	}
	if r.Stolen > mostStolen {
		verdict += fmt.Sprintf(", %.0f %% of the processors stolen", 100*r.Stolen)
	}
	_, err := fmt.Fprintf(w, "bench %s %v %s vs %s %v ratio %v  (spread %v..%v vs %v..%v, target %s %s)\n",
		r.Name, r.Value, r.Unit, r.Vs, r.VsValue, r.Ratio, r.Min, r.Max, r.vsMin, r.vsMax, r.target, verdict)
	return err
}

// Median is the middle value, the lower of the two middle ones of an even count.
func Median[T cmp.Ordered](values []T) T { return Percentile(values, 50) }

// Percentile is the value that p percent of the values are not above.
func Percentile[T cmp.Ordered](values []T, p float64) T {
	s := slices.Sorted(slices.Values(values))
	i := int(math.Ceil(p/100*float64(len(s)))) - 1
	return s[min(max(i, 0), len(s)-1)]
}

// Milliseconds is a duration as the figures tell it.
func Milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// round keeps four digits: what is behind them is noise.
func round(v float64) float64 {
	if v == 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return v
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}
