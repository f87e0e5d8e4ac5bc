package places

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

type found struct {
	by string
	Place
}

func TestAnIndexMissesNoPlaceThatWasAdded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var x Index
		model := map[found]bool{}
		gen := rapid.Custom(func(t *rapid.T) found {
			n := rapid.IntRange(0, 30).Draw(t, "n")
			domain := uuid.NewSHA1(uuid.Nil, []byte{byte(n % 10)}).String()
			if n%7 == 0 {
				domain = fmt.Sprint("odd-", n) // of tests, and of who knows what hypervisor
			}
			return found{fmt.Sprint("by-", n%3), Place{rapid.SampledFrom([]string{"", "h1", "h2"}).Draw(t, "host"), domain}}
		})
		for range rapid.IntRange(0, 100).Draw(t, "steps") {
			f := gen.Draw(t, "place")
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 4:
				x.Pack()
			case 0:
				x.DropHost(f.Host)
				for g := range model {
					if g.Host == f.Host {
						delete(model, g)
					}
				}
			case 1, 2, 3:
				x.Drop(f.Place, "kind", f.by)
				delete(model, f)
			default:
				x.Add(f.Place, "kind", f.by)
				model[f] = true
			}
		}
		for n := range 3 {
			by := fmt.Sprint("by-", n)
			got := slices.Collect(x.Find("kind", by))
			want := 0
			for f := range model {
				if f.by == by {
					want++
					if !slices.Contains(got, f.Place) {
						t.Fatalf("%v is missing from %v", f, got)
					}
				}
			}
			if len(got) != want { // among so few, hashes are not the same
				t.Fatalf("%s: got %v, want %d of %v", by, got, want, model)
			}
		}
	})
}

func TestPartsOfWhatIsFoundByAreNotRunTogether(t *testing.T) {
	var x Index
	x.Add(Place{"", "u"}, "ab", "c")
	for p := range x.Find("a", "bc") {
		t.Errorf("found %v", p)
	}
}
