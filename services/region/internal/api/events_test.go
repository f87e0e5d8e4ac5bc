package api_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/client"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// next is the next answer of a watch that has an event.
func next(t *testing.T, w vmhostv1.EventService_WatchEventsClient) *vmhostv1.WatchEventsResponse {
	t.Helper()
	for {
		m, err := w.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.GetEvent() != nil {
			return m
		}
	}
}

func (f *fixture) watch(ctx context.Context, token, filter string) (vmhostv1.EventService_WatchEventsClient, string) {
	f.t.Helper()
	w, err := f.events.WatchEvents(ctx, &vmhostv1.WatchEventsRequest{ResumeToken: token, Filter: filter})
	if err != nil {
		f.t.Fatal(err)
	}
	first, err := w.Recv()
	if err != nil {
		f.t.Fatal(err)
	}
	if first.GetEvent() != nil || first.GetResumeToken() == "" {
		f.t.Fatalf("first answer is %v, want a sign of life", first)
	}
	return w, first.GetResumeToken()
}

func TestAWatchTellsEverythingOnceAlsoAfterABreak(t *testing.T) {
	f := start(t)
	ctx := f.within(f.admin(), 30*time.Second)
	w, token := f.watch(ctx, "", `type:"zone."`)
	zone := func(id string) {
		t.Helper()
		if _, err := f.zones.CreateZone(ctx, &vmhostv1.CreateZoneRequest{ZoneId: id, Zone: &vmhostv1.Zone{}}); err != nil {
			t.Fatal(err)
		}
	}
	zone("a")
	f.addHost(ctx, "h1")
	zone("b")
	got := next(t, w)
	if got.GetEvent().GetResource() != "zones/a" || got.GetEvent().GetType() != "zone.created" || got.GetEvent().GetPrincipal() == "" {
		t.Errorf("first: %v", got)
	}
	after := got.GetResumeToken()
	if got = next(t, w); got.GetEvent().GetResource() != "zones/b" {
		t.Errorf("second: %v", got)
	}
	zone("c")
	for name, tc := range map[string]struct {
		token string
		want  []string
	}{
		"from the beginning": {token, []string{"zones/a", "vmHosts/h1", "zones/b", "zones/c"}},
		"after the first":    {after, []string{"vmHosts/h1", "zones/b", "zones/c"}},
	} {
		again, _ := f.watch(ctx, tc.token, "")
		for _, want := range tc.want {
			if got := next(t, again); got.GetEvent().GetResource() != want {
				t.Errorf("%s: got %v, want %s", name, got, want)
			}
		}
	}
	list, err := f.events.ListEvents(ctx, &vmhostv1.ListEventsRequest{PageSize: 2})
	if err != nil || len(list.GetEvents()) != 2 || list.GetEvents()[0].GetResource() != "zones/c" || list.GetNextPageToken() == "" {
		t.Errorf("list: %v, %v", list, err)
	}
}

func TestSeveralEventsComeInOneAnswerToWhoAsksForThem(t *testing.T) {
	f := start(t)
	ctx := f.within(f.admin(), 30*time.Second)
	w, token := f.watch(ctx, "", "")
	var want []string
	for i := range 5 {
		id := fmt.Sprintf("z%d", i)
		if _, err := f.zones.CreateZone(ctx, &vmhostv1.CreateZoneRequest{ZoneId: id, Zone: &vmhostv1.Zone{}}); err != nil {
			t.Fatal(err)
		}
		want = append(want, "zones/"+id)
		next(t, w) // so that all are there for those who come late
	}
	for most, sizes := range map[int32][]int{0: {1, 1, 1, 1, 1}, 1: {1, 1, 1, 1, 1}, 2: {2, 2, 1}, 1000: {5}} {
		w, err := f.events.WatchEvents(ctx, &vmhostv1.WatchEventsRequest{ResumeToken: token, MaxEvents: most})
		if err != nil {
			t.Fatal(err)
		}
		var (
			got     []string
			answers []int
			tokens  = map[string]bool{}
		)
		for len(got) < len(want) {
			m, err := w.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if m.GetEvent() == nil && m.GetEvents() == nil {
				continue // a sign of life
			}
			if (m.GetEvents() != nil) != (most > 1) {
				t.Errorf("asked for %d: got %v", most, m)
			}
			answers = append(answers, max(1, len(m.GetEvents())))
			for one := range client.EventsOf(m) {
				got = append(got, one.GetEvent().GetResource())
				tokens[one.GetResumeToken()] = true
			}
		}
		if !slices.Equal(got, want) || len(tokens) != len(want) || !slices.Equal(answers, sizes) {
			t.Errorf("asked for %d: got %v with %d tokens, in answers of %v, want %v", most, got, len(tokens), answers, sizes)
		}
	}
}

func TestAWatchThatCannotGoOnSaysSo(t *testing.T) {
	f := start(t)
	ctx := f.within(f.admin(), 30*time.Second)
	_, _ = f.watch(ctx, "", "")
	fail := func(req *vmhostv1.WatchEventsRequest) error {
		w, err := f.events.WatchEvents(ctx, req)
		if err != nil {
			return err
		}
		_, err = w.Recv()
		return err
	}
	wantReason(t, "too old", fail(&vmhostv1.WatchEventsRequest{ResumeToken: "1"}), codes.OutOfRange, vmhostv1.ErrorReason_RESUME_TOKEN_EXPIRED)
	wantReason(t, "from the future", fail(&vmhostv1.WatchEventsRequest{ResumeToken: "zzzzzzz"}), codes.OutOfRange, vmhostv1.ErrorReason_RESUME_TOKEN_EXPIRED)
	for _, token := range []string{"!", "a.b", "-1", strings.Repeat("a", 60)} {
		wantReason(t, token, fail(&vmhostv1.WatchEventsRequest{ResumeToken: token}), codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "resume_token")
	}
	wantReason(t, "a bad filter", fail(&vmhostv1.WatchEventsRequest{Filter: "x = 1"}), codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "filter")
}

func TestAStoppingRegionEndsItsWatches(t *testing.T) {
	f := start(t)
	ctx := f.within(f.admin(), 30*time.Second)
	w, _ := f.watch(ctx, "", "")
	f.api.Drain()
	_, err := w.Recv()
	wantReason(t, "under way", err, codes.Unavailable, vmhostv1.ErrorReason_REGION_DRAINING)
	late, err := f.events.WatchEvents(ctx, &vmhostv1.WatchEventsRequest{})
	if err == nil {
		_, err = late.Recv()
	}
	wantReason(t, "a new one", err, codes.Unavailable, vmhostv1.ErrorReason_REGION_DRAINING)
}
