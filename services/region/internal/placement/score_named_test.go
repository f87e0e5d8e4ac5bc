package placement

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestTheScoresThatAreNamedMakeTheTotal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, req := NewFleet(drawFleet(t, 150)), drawWish(t)
		w, soft := req.Policy.Weights, 0
		if w == (Weights{}) {
			w.LeastLoaded = 1
		}
		for _, r := range req.Affinity {
			if r.Soft {
				soft++
			}
		}
		for _, c := range f.Explain(req, 10000, 10000).Candidates {
			s := c.Scores
			named := w.LeastLoaded*s.LeastLoaded + w.MostLoaded*s.MostLoaded + w.Balance*s.Balance + w.FreeStorage*s.FreeStorage + w.SpreadZones*s.SpreadZones +
				w.AvoidOvercommit*s.AvoidOvercommit + w.AvoidEmulation*s.AvoidEmulation + w.AvoidRefusing*s.AvoidRefusing + s.Affinity*float64(soft)*(1+w.sum())
			if math.Abs(named-s.Total) > 1e-6 {
				t.Fatalf("%s: the scores make %v, the total is %v: %+v by %+v", c.Host.ID, named, s.Total, s, w)
			}
		}
	})
}
