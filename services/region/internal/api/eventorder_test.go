package api

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/vmhost-project/vmhost/pkg/client"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/api/query"
	"github.com/vmhost-project/vmhost/services/region/internal/encoded"
)

// history is what has happened: the events of each revision, of which the first
// is 1. All regions have the same.
type history struct {
	revisions [][]*vmhostv1.Event
	events    int
}

func (h *history) happens(t *rapid.T) {
	var events []*vmhostv1.Event
	for range rapid.IntRange(0, 4).Draw(t, "events") {
		h.events++
		events = append(events, &vmhostv1.Event{
			Id:      fmt.Sprintf("00000000-0000-7000-8000-%012d", h.events),
			Type:    rapid.SampledFrom([]string{"a", "b"}).Draw(t, "type"),
			Message: rapid.SampledFrom([]string{"", "", "", string(make([]byte, mostBytes/3))}).Draw(t, "message"),
		})
	}
	h.revisions = append(h.revisions, events)
}

func (h *history) now() int64 { return int64(len(h.revisions)) }

// after are the ids of what happened after a revision and is of a type; the empty
// type is all.
func (h *history) after(revision int64, kind string) (ids []string) {
	for _, events := range h.revisions[revision:] {
		for _, e := range events {
			if kind == "" || e.GetType() == kind {
				ids = append(ids, e.GetId())
			}
		}
	}
	return ids
}

// follow has a region hear of some more of what has happened, in one go.
func (h *history) follow(region *eventHub, revisions int64) {
	var found []placedEvent
	to := min(region.head+revisions, h.now())
	for r := region.head + 1; r <= to; r++ {
		for _, e := range h.revisions[r-1] {
			found = append(found, placedEvent{revision: r, event: e})
		}
	}
	if to > region.head {
		region.publish(found, to)
	}
}

// reader is a client: it watches one region after the other, and goes on where it
// was.
type reader struct {
	grpc.ServerStream
	history *history

	kind  string // the type of event that it asked for
	most  int
	since int64 // the revision at which it began

	region *eventHub
	out    *eventStream
	sent   []*vmhostv1.WatchedEvent // by the region

	token string
	seen  []string
}

func (r *reader) Context() context.Context { return context.Background() }

func (r *reader) SendMsg(m any) error { // as gRPC does, by bytes
	data, err := encoded.Codec().Marshal(m)
	if err != nil {
		return err
	}
	answer := &vmhostv1.WatchEventsResponse{}
	if err := proto.Unmarshal(data.Materialize(), answer); err != nil {
		return err
	}
	if len(answer.GetEvents()) > 0 && (r.most <= 1 || answer.GetEvent() != nil || answer.GetEvents()[len(answer.GetEvents())-1].GetResumeToken() != answer.GetResumeToken()) {
		return fmt.Errorf("asked for %d, sent %v", r.most, answer)
	}
	if len(answer.GetEvents()) > r.most || proto.Size(answer) > 2*mostBytes {
		return fmt.Errorf("an answer of %d events and %d bytes", len(answer.GetEvents()), proto.Size(answer))
	}
	r.sent = slices.AppendSeq(r.sent, client.EventsOf(answer))
	return nil
}

func (r *reader) Send(m *vmhostv1.WatchEventsResponse) error { return r.SendMsg(m) }

// watch begins, or goes on, at a region.
func (r *reader) watch(t *rapid.T, region *eventHub) {
	text := ""
	if r.kind != "" {
		text = fmt.Sprintf("type = %q", r.kind)
	}
	filter, err := query.CompileFilter((&vmhostv1.Event{}).ProtoReflect().Descriptor(), text)
	if err != nil {
		t.Fatal(err)
	}
	from, err := parsePosition(r.token)
	if err != nil {
		t.Fatal(err)
	}
	backlog, at, w, err := region.watch(interest{filter: text, most: r.most}, filter, from, r.history.now())
	if err != nil {
		t.Fatal(err)
	}
	r.region, r.out = region, &eventStream{hub: region, watcher: w, stream: r, at: at}
	if err := r.out.begin(backlog); err != nil {
		t.Fatal(err)
	}
}

// take has the region send what it has for the reader, at most so often.
func (r *reader) take(t *rapid.T, times int) {
	for range min(times, len(r.out.watcher.c)) {
		if err := r.out.take(<-r.out.watcher.c); err != nil {
			t.Fatal(err)
		}
	}
}

// read has some of what was sent reach the reader. The rest never does.
func (r *reader) read(n int) {
	for _, one := range r.sent[:n] {
		if one.GetEvent() != nil {
			r.seen = append(r.seen, one.GetEvent().GetId())
		}
		r.token = one.GetResumeToken()
	}
	r.sent = nil
}

// Every watcher sees every event that it asked for once and in order, however
// events are gathered, of whichever region, and wherever its streams break.
func TestEveryWatcherSeesEveryEventOnceAndInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		past := &history{}
		regions := make([]*eventHub, 2)
		for i := range regions {
			regions[i] = newEventHub(nil, slog.New(slog.DiscardHandler))
			regions[i].publish(nil, 0)
		}
		anyRegion := rapid.Custom(func(t *rapid.T) *eventHub { return rapid.SampledFrom(regions).Draw(t, "region") })
		var readers []*reader
		some := func(t *rapid.T) *reader {
			if len(readers) == 0 {
				t.Skip("nobody watches")
			}
			return rapid.SampledFrom(readers).Draw(t, "reader")
		}
		t.Repeat(map[string]func(*rapid.T){
			"something happens": past.happens,
			"a region hears of it": func(t *rapid.T) {
				past.follow(anyRegion.Draw(t, "which"), rapid.Int64Range(1, 8).Draw(t, "revisions"))
			},
			"somebody watches": func(t *rapid.T) {
				r := &reader{
					history: past, since: past.now(),
					kind: rapid.SampledFrom([]string{"", "a"}).Draw(t, "kind"),
					most: rapid.SampledFrom([]int{1, 2, 3, 1000}).Draw(t, "most"),
				}
				r.watch(t, anyRegion.Draw(t, "which"))
				r.read(1) // the sign of life: before it, nothing was promised
				readers = append(readers, r)
			},
			"a watcher is sent events": func(t *rapid.T) { some(t).take(t, rapid.IntRange(1, 3).Draw(t, "times")) },
			"a sign of life": func(t *rapid.T) {
				if err := some(t).out.alive(); err != nil {
					t.Fatal(err)
				}
			},
			"a stream breaks": func(t *rapid.T) {
				r := some(t)
				r.read(rapid.IntRange(0, len(r.sent)).Draw(t, "arrived"))
				r.region.leave(r.out.watcher)
				r.watch(t, anyRegion.Draw(t, "which"))
			},
			"": func(t *rapid.T) {
				for _, r := range readers {
					want := past.after(r.since, r.kind)
					if len(r.seen) > len(want) || !slices.Equal(r.seen, want[:len(r.seen)]) {
						t.Fatalf("seen %v of %v", r.seen, want)
					}
				}
			},
		})
		for _, region := range regions {
			past.follow(region, past.now())
		}
		for _, r := range readers {
			r.take(t, len(r.out.watcher.c))
			if err := r.out.alive(); err != nil {
				t.Fatal(err)
			}
			if r.out.at.revision != past.now() {
				t.Fatalf("a sign of life is of %v, now is %d", r.out.at, past.now())
			}
			r.read(len(r.sent))
			if want := past.after(r.since, r.kind); !slices.Equal(r.seen, want) {
				t.Fatalf("seen %v, want %v", r.seen, want)
			}
			r.region.leave(r.out.watcher)
		}
	})
}
