package journal_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	"github.com/vmhost-project/vmhost/services/rack/internal/journal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, path string) *journal.Journal {
	t.Helper()
	j, err := journal.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

// crash is what a kill leaves: the file as it is at this moment, while the
// process that writes it is still there.
func crash(t *testing.T, path string) string {
	t.Helper()
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	copied := filepath.Join(t.TempDir(), "journal")
	out, err := os.Create(copied)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return copied
}

func step(id string, epoch int64) *rackv1.Step {
	return &rackv1.Step{Id: id, VmHostUid: "host", Epoch: epoch}
}

func accept(t *testing.T, j *journal.Journal, s *rackv1.Step) {
	t.Helper()
	if result, err := j.Accept(s); err != nil || result != nil {
		t.Fatalf("accept %s: result %v, error %v", s.GetId(), result, err)
	}
}

func TestP6WhatWasReportedAsDoneSurvivesAKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := open(t, path)
	accept(t, j, step("interrupted", 3))
	accept(t, j, step("finished", 4))
	result := &rackv1.StepResult{Id: "finished", Machine: &rackv1.MachineObservation{Uid: "m"}}
	if err := j.Finish(result); err != nil {
		t.Fatal(err)
	}
	after := open(t, crash(t, path))
	if got, err := after.Interrupted(); err != nil || !slices.Equal(got, []string{"interrupted"}) {
		t.Errorf("interrupted steps %v, error %v", got, err)
	}
	got, err := after.Results()
	if diff := cmp.Diff([]*rackv1.StepResult{result}, got, protocmp.Transform()); err != nil || diff != "" {
		t.Errorf("results, error %v (-want +got):\n%s", err, diff)
	}
	if got := after.Epoch("host"); got != 4 {
		t.Errorf("epoch %d, want 4", got)
	}
	if again, err := after.Accept(step("finished", 4)); err != nil || !cmp.Equal(again, result, protocmp.Transform()) {
		t.Errorf("a repeated step is answered %v, error %v; want its result", again, err)
	}
}

func TestAResultStaysUntilItIsAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := open(t, path)
	for _, id := range []string{"a", "b"} {
		accept(t, j, step(id, 1))
		if err := j.Finish(&rackv1.StepResult{Id: id}); err != nil {
			t.Fatal(err)
		}
	}
	j.Ack("a")
	j.Ack("unknown")
	if err := j.Persist("host"); err != nil { // behind the acks in the queue
		t.Fatal(err)
	}
	after := open(t, crash(t, path))
	if got, err := after.Results(); err != nil || len(got) != 1 || got[0].GetId() != "b" {
		t.Errorf("results %v, error %v; want b only", got, err)
	}
}

func TestP7AnOlderEpochIsRefusedAlsoAfterARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := open(t, path)
	if !j.Raise("host", 7) {
		t.Fatal("a first epoch is refused")
	}
	if err := j.Persist("host"); err != nil {
		t.Fatal(err)
	}
	for _, j := range []*journal.Journal{j, open(t, crash(t, path))} {
		if _, err := j.Accept(step("old", 6)); !errors.Is(err, journal.ErrStaleEpoch) {
			t.Errorf("a step of epoch 6 after 7: %v", err)
		}
		if j.Raise("host", 6) {
			t.Error("an assignment of epoch 6 after 7 is accepted")
		}
		if ids, err := j.Interrupted(); err != nil || len(ids) != 0 {
			t.Errorf("a refused step is recorded: %v, error %v", ids, err)
		}
		accept(t, j, step("same", 7))
		if err := j.Finish(&rackv1.StepResult{Id: "same"}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestManyWritersShareTheDisk(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal"))
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			id := fmt.Sprint(i)
			if _, err := j.Accept(&rackv1.Step{Id: id, VmHostUid: id, Epoch: int64(i)}); err != nil {
				t.Error(err)
			}
			if err := j.Finish(&rackv1.StepResult{Id: id}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got, err := j.Results(); err != nil || len(got) != 200 {
		t.Errorf("%d results, error %v; want 200", len(got), err)
	}
}

func TestAClosedJournalSaysSo(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal"))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Accept(step("late", 1)); err == nil {
		t.Error("a closed journal accepts")
	}
	j.Ack("late") // must not wait for ever
}

func TestJournalAgreesWithAModel(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		path := filepath.Join(dir, fmt.Sprint(n))
		j, err := journal.OpenNoSync(path)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = j.Close() }()
		var epoch int64
		running, done := map[string]bool{}, map[string]bool{}
		id := rapid.StringMatching(`[a-d]`)
		rt.Repeat(map[string]func(*rapid.T){
			"accept": func(rt *rapid.T) {
				s := step(id.Draw(rt, "id"), rapid.Int64Range(1, 5).Draw(rt, "epoch"))
				result, err := j.Accept(s)
				if stale := s.GetEpoch() < epoch; stale != errors.Is(err, journal.ErrStaleEpoch) {
					rt.Fatalf("epoch %d after %d: %v", s.GetEpoch(), epoch, err)
				} else if stale {
					return
				}
				epoch = s.GetEpoch()
				if (result != nil) != done[s.GetId()] {
					rt.Fatalf("step %s: result %v, done %v", s.GetId(), result, done[s.GetId()])
				}
				if result == nil {
					running[s.GetId()] = true
				}
			},
			"finish": func(rt *rapid.T) {
				for id := range running {
					if err := j.Finish(&rackv1.StepResult{Id: id}); err != nil {
						rt.Fatal(err)
					}
					delete(running, id)
					done[id] = true
				}
			},
			"ack": func(rt *rapid.T) {
				id := id.Draw(rt, "id")
				j.Ack(id)
				delete(done, id)
				if err := j.Persist("host"); err != nil {
					rt.Fatal(err)
				}
			},
			"restart": func(rt *rapid.T) {
				if err := j.Close(); err != nil {
					rt.Fatal(err)
				}
				if j, err = journal.OpenNoSync(path); err != nil {
					rt.Fatal(err)
				}
			},
			"": func(rt *rapid.T) {
				results, err := j.Results()
				ids, err2 := j.Interrupted()
				if errors.Join(err, err2) != nil || len(results) != len(done) || len(ids) != len(running) || j.Epoch("host") != epoch {
					rt.Fatalf("results %v, interrupted %v, epoch %d; want %v, %v, %d", results, ids, j.Epoch("host"), done, running, epoch)
				}
			},
		})
	})
}
