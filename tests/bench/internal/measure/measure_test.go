package measure

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

func TestSidesTakeTurnsAndTheFirstRunDoesNotCount(t *testing.T) {
	var order []string
	a, b := []float64{900, 3, 1, 2}, []float64{900, 10, 30, 20}
	side := func(name string, values *[]float64) Side {
		return func(context.Context) (float64, error) {
			order = append(order, name)
			v := (*values)[0]
			*values = (*values)[1:]
			return v, nil
		}
	}
	runner := Runner{Reps: 3, Settle: func(context.Context) { order = append(order, "-") }, Stolen: stolen(0)}
	r, err := runner.Run(t.Context(), Pair{Name: "n", Unit: "ms", Vs: "floor", A: side("a", &a), B: side("b", &b), Target: Target{AtMost: 0.1}})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"-", "a", "b", "-", "a", "b", "-", "a", "b", "-", "a", "b"}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	var out bytes.Buffer
	if err := r.Print(&out); err != nil {
		t.Fatal(err)
	}
	if want := "bench n 2 ms vs floor 20 ratio 0.1  (spread 1..3 vs 10..30, target <=0.1 met)\n"; out.String() != want {
		t.Errorf("got  %swant %s", out.String(), want)
	}
}

// stolen says these shares one after another, and then the last of them.
func stolen(shares ...float64) func() func() float64 {
	return func() func() float64 {
		s := shares[0]
		if len(shares) > 1 {
			shares = shares[1:]
		}
		return func() float64 { return s }
	}
}

func TestATurnInWhichOthersHadTheProcessorsIsRunAgain(t *testing.T) {
	side := func(values ...float64) Side {
		return func(context.Context) (float64, error) {
			v := values[0]
			values = values[1:]
			return v, nil
		}
	}
	begun := 0
	p := Pair{
		Name: "n", Unit: "ms", Vs: "floor", Before: func(context.Context) error { begun++; return nil },
		A: side(900, 7, 2), B: side(900, 50, 20, 40),
	}
	// The turns that do not count; A, the first of which was disturbed; B, all of which were.
	runner := Runner{Reps: 1, Settle: func(context.Context) {}, Stolen: stolen(0, 0, 0.5, 0, 0.5, 0.08, 0.3)}
	r, err := runner.Run(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if r.Value != 2 || r.VsValue != 20 {
		t.Errorf("%v against %v, want the runs with the least stolen, 2 and 20", r.Value, r.VsValue)
	}
	if begun != 7 {
		t.Errorf("it was begun %d times, for 7 runs", begun)
	}
	var out bytes.Buffer
	if err := r.Print(&out); err != nil {
		t.Fatal(err)
	}
	if want := "bench n 2 ms vs floor 20 ratio 0.1  (spread 2..2 vs 20..20, target none met, 8 % of the processors stolen)\n"; out.String() != want {
		t.Errorf("got  %swant %s", out.String(), want)
	}
}

func TestTarget(t *testing.T) {
	for _, tt := range []struct {
		target       Target
		value, ratio float64
		want         bool
	}{
		{Target{AtMost: 1.2}, 9, 1.2, true},
		{Target{AtMost: 1.2}, 1, 1.21, false},
		{Target{AtLeast: 20}, 1, 20, true},
		{Target{AtLeast: 20}, 30, 19.9, false},
		{Target{ValueAtMost: 250}, 250, 9, true},
		{Target{ValueAtMost: 250}, 251, 1, false},
		{Target{}, 1, 7, true},
	} {
		if got := tt.target.Met(tt.value, tt.ratio); got != tt.want {
			t.Errorf("%v with value %v and ratio %v: %v", tt.target, tt.value, tt.ratio, got)
		}
	}
}

func TestPercentile(t *testing.T) {
	in := []int{5, 1, 4, 2, 3}
	for p, want := range map[float64]int{0: 1, 50: 3, 99: 5, 100: 5} {
		if got := Percentile(in, p); got != want {
			t.Errorf("percentile %v is %d, want %d", p, got, want)
		}
	}
	if !slices.Equal(in, []int{5, 1, 4, 2, 3}) {
		t.Errorf("the values were changed: %v", in)
	}
}

func TestClientsStopAtTheFirstError(t *testing.T) {
	broken := errors.New("broken")
	_, err := Clients(t.Context(), 4, time.Hour, func(_ context.Context, _ int, number int64) error {
		if number == 100 {
			return broken
		}
		return nil
	})
	if !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}
