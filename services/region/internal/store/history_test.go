package store

import (
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

func TestAViewRemembersWhichHostsChanged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type made struct {
			revision int64
			id       string
		}
		var all []made
		views := []*View{{Revision: 5}}
		sessions := map[int64]bool{}
		for range rapid.IntRange(0, 30).Draw(t, "batches") {
			last := views[len(views)-1]
			v := &View{Revision: last.Revision + rapid.Int64Range(1, 3).Draw(t, "step")}
			var changes []Change
			for range rapid.SampledFrom([]int{0, 1, 2, 600, 5000}).Draw(t, "changes") {
				id := strconv.Itoa(len(all) % 977)
				changes = append(changes, Change{Key: Ledgers.Key(id), Family: Ledgers.Name()}, Change{Key: Machines.Key("m"), Family: Machines.Name()})
				all = append(all, made{v.Revision, id})
			}
			if rapid.IntRange(0, 4).Draw(t, "session") == 0 {
				changes = append(changes, Change{Key: Sessions.Key("r"), Family: Sessions.Name()})
				sessions[v.Revision] = true
			}
			v.history = last.history.with(last.Revision, v.Revision, changes)
			views = append(views, v)
		}
		for _, v := range views {
			since := rapid.Int64Range(0, v.Revision+1).Draw(t, "since")
			got, ok := v.HostsChangedSince(since)
			if !ok {
				changed := 0
				for _, c := range all {
					if c.revision > since && c.revision <= v.Revision {
						changed++
					}
				}
				if since >= 5 && since <= v.Revision && changed <= maxHistory/2-5000 {
					t.Fatalf("%d changes after %d are forgotten at %d", changed, since, v.Revision)
				}
				continue
			}
			changed := false
			for r := since + 1; r <= v.Revision; r++ {
				changed = changed || sessions[r]
			}
			if v.SessionsChangedSince(since) != changed {
				t.Fatalf("after %d at %d sessions changed: %v", since, v.Revision, changed)
			}
			var want []string
			for _, c := range all {
				if c.revision > since && c.revision <= v.Revision {
					want = append(want, c.id)
				}
			}
			if !slices.Equal(got, want) {
				t.Fatalf("after %d at %d: %v, want %v", since, v.Revision, got, want)
			}
		}
	})
}
