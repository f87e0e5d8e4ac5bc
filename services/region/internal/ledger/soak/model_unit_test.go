package soak

import (
	"testing"

	"github.com/anishathalye/porcupine"
)

// The checks below would be worth nothing if they let everything pass.
func TestTheModelTellsRightFromWrong(t *testing.T) {
	one := amount{1, 1, 1}
	full := register{limit: amount{3, 3, 3}, used: amount{2, 2, 2}}
	at := func(begin, end int64, in call, out any) porcupine.Operation {
		return porcupine.Operation{Input: in, Output: out, Call: begin, Return: end}
	}
	taking, giving := call{verb: take, amount: one}, call{verb: give, amount: one}
	for name, tt := range map[string]struct {
		right   bool
		history []porcupine.Operation
	}{
		"one fits":                       {true, []porcupine.Operation{at(2, 3, taking, true)}},
		"two do not":                     {false, []porcupine.Operation{at(2, 3, taking, true), at(2, 3, taking, true)}},
		"two, with one given back":       {true, []porcupine.Operation{at(2, 5, taking, true), at(3, 4, taking, true), at(2, 3, giving, nil)}},
		"given back too late":            {false, []porcupine.Operation{at(2, 3, taking, true), at(2, 3, taking, true), at(4, 5, giving, nil)}},
		"refused with room":              {false, []porcupine.Operation{at(2, 3, taking, false)}},
		"refused when full":              {true, []porcupine.Operation{at(2, 3, taking, true), at(2, 3, taking, false)}},
		"taken while cordoned":           {false, []porcupine.Operation{at(2, 3, call{verb: cordon, cordoned: true}, nil), at(4, 5, taking, true)}},
		"refused when the limit is less": {true, []porcupine.Operation{at(2, 3, call{verb: resize, amount: amount{9, 9, 2}}, nil), at(4, 5, taking, false)}},
		"taken when another is over":     {false, []porcupine.Operation{at(2, 3, call{verb: resize, amount: amount{9, 9, 1}}, nil), at(4, 5, call{verb: take, amount: amount{cores: 1}}, true)}},
		"seen otherwise than it is":      {false, []porcupine.Operation{at(2, 3, taking, true), at(4, 5, call{verb: look}, full)}},
	} {
		history := append([]porcupine.Operation{at(0, 1, call{verb: look}, full)}, tt.history...)
		if got := porcupine.CheckOperations(model(), history); got != tt.right {
			t.Errorf("%s: linearizable %t", name, got)
		}
	}
}
