package gateway_test

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/client"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// watching is an open watch.
type watching struct {
	t     *testing.T
	resp  *http.Response
	lines *bufio.Reader
	stop  context.CancelFunc
}

// watch opens a watch; the region must have something to send.
func (h *harness) watch(path string, header http.Header) *watching {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+path, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header = header
	resp, err := h.client.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { cancel(); resp.Body.Close() })
	return &watching{t: h.t, resp: resp, lines: bufio.NewReader(resp.Body), stop: cancel}
}

// block reads up to an empty line.
func (w *watching) block() string {
	w.t.Helper()
	var b strings.Builder
	for {
		line, err := w.lines.ReadString('\n')
		if err != nil {
			w.t.Fatalf("read watch: %v after %q", err, b.String())
		}
		if line == "\n" {
			return b.String()
		}
		b.WriteString(line)
	}
}

func (w *watching) line() string {
	w.t.Helper()
	line, err := w.lines.ReadString('\n')
	if err != nil {
		w.t.Fatalf("read watch: %v", err)
	}
	return line
}

var sse = http.Header{"Accept": {"text/event-stream"}}

func event(token, kind string) *vmhostv1.WatchEventsResponse {
	return &vmhostv1.WatchEventsResponse{ResumeToken: token, Event: &vmhostv1.Event{Type: kind, Message: "two\nlines"}}
}

func TestServerSentEventsArriveAtOnceAndCarryTheResumeToken(t *testing.T) {
	h := start(t)
	h.region.sends <- &vmhostv1.WatchEventsResponse{ResumeToken: "1"}
	w := h.watch("/v1/events:watch?filter=x", sse)
	if got := w.resp.Header.Get("Content-Type"); w.resp.StatusCode != http.StatusOK || got != "text/event-stream" {
		t.Fatalf("answer = %s %s", w.resp.Status, got)
	}
	if got := w.block(); got != "id: 1\n: sign of life\n" {
		t.Errorf("first = %q, want a sign of life with the token", got)
	}
	h.region.sends <- event("2", "machine.composed")
	id, data, _ := strings.Cut(w.block(), "\ndata: ")
	if id != "id: 2" || strings.Count(data, "\n") != 1 {
		t.Fatalf("event = %q %q, want one line of data", id, data)
	}
	golden(t, "event", []byte(data))
	if asked := <-h.region.watched; asked.GetFilter() != "x" {
		t.Errorf("filter = %q", asked.GetFilter())
	}
}

func TestEventsThatComeTogetherAreMessagesOfTheirOwn(t *testing.T) {
	h := start(t)
	together := &vmhostv1.WatchEventsResponse{ResumeToken: "4", Events: []*vmhostv1.WatchedEvent{
		{Event: &vmhostv1.Event{Type: "first"}, ResumeToken: "3"},
		{Event: &vmhostv1.Event{Type: "second"}, ResumeToken: "4"},
	}}
	h.region.sends <- together
	w := h.watch("/v1/events:watch", sse)
	for _, want := range []struct{ id, kind string }{{"3", "first"}, {"4", "second"}} {
		id, data, _ := strings.Cut(w.block(), "\ndata: ")
		if id != "id: "+want.id || !strings.Contains(data, `"`+want.kind+`"`) {
			t.Errorf("message = %q %q, want %v", id, data, want)
		}
	}
	if asked := <-h.region.watched; asked.GetMaxEvents() != client.MaxEvents {
		t.Errorf("the region was asked for %d at a time", asked.GetMaxEvents())
	}
	w.stop()
	<-h.region.ended // it would take the next watch's events

	h.region.sends <- together
	w = h.watch("/v1/events:watch", nil)
	for _, want := range []struct{ token, kind string }{{"3", "first"}, {"4", "second"}} {
		if line := w.line(); !strings.Contains(line, `"resumeToken":"`+want.token+`"`) || !strings.Contains(line, `"`+want.kind+`"`) {
			t.Errorf("line = %q, want %v", line, want)
		}
	}
}

func TestLastEventIDResumes(t *testing.T) {
	h := start(t)
	for _, tt := range []struct{ path, last, want string }{
		{"/v1/events:watch?resumeToken=5", "", "5"},
		{"/v1/events:watch?resumeToken=5", "7", "7"},
		{"/v1/events:watch", "7", "7"},
	} {
		h.region.sends <- event("8", "x")
		header := sse.Clone()
		if tt.last != "" {
			header.Set("Last-Event-ID", tt.last)
		}
		w := h.watch(tt.path, header)
		w.block()
		if asked := <-h.region.watched; asked.GetResumeToken() != tt.want {
			t.Errorf("%s after %q: resumed from %q, want %q", tt.path, tt.last, asked.GetResumeToken(), tt.want)
		}
		w.stop()
		<-h.region.ended // it would take the next watch's event
	}
}

func TestAnExpiredTokenIsAnOrdinaryErrorSoThatBrowsersStop(t *testing.T) {
	h := start(t)
	header := sse.Clone()
	header.Set("Last-Event-ID", "expired")
	resp, body := h.do("GET", "/v1/events:watch", "", header)
	if e := readError(t, body); resp.StatusCode != http.StatusBadRequest || e.reason != "RESUME_TOKEN_EXPIRED" || e.hint != "list again" {
		t.Errorf("answer = %s: %s", resp.Status, body)
	}
}

func TestWithoutSSEAWatchIsOneObjectALine(t *testing.T) {
	h := start(t)
	h.region.sends <- &vmhostv1.WatchEventsResponse{ResumeToken: "1"}
	h.region.sends <- event("2", "machine.composed")
	w := h.watch("/v1/events:watch", nil)
	if got := w.resp.Header.Get("Content-Type"); got != "application/x-ndjson" {
		t.Errorf("content type = %s", got)
	}
	sameJSON(t, `{"result":{"resumeToken":"1","event":null}}`, w.line())
	if line := w.line(); !strings.Contains(line, `"machine.composed"`) {
		t.Errorf("second line = %q", line)
	}
	h.region.fails <- apierror.New(codes.Unavailable, vmhostv1.ErrorReason_REGION_DRAINING, "stopping")
	line := w.line()
	if !strings.HasPrefix(line, `{"error":`) || !strings.Contains(line, "REGION_DRAINING") {
		t.Errorf("last line = %q, want the error", line)
	}
}

func TestAFailureInTheMiddleIsAnEventOfItsOwn(t *testing.T) {
	h := start(t)
	h.region.sends <- event("2", "x")
	w := h.watch("/v1/events:watch", sse)
	w.block()
	h.region.fails <- apierror.New(codes.Unavailable, vmhostv1.ErrorReason_REGION_DRAINING, "stopping")
	kind, data, _ := strings.Cut(w.block(), "\ndata: ")
	if kind != "event: failure" || readError(t, []byte(data)).reason != "REGION_DRAINING" {
		t.Errorf("last = %q %q", kind, data)
	}
}

func TestStoppingEndsStreamsAtOnceAndGoroutinesWithThem(t *testing.T) {
	h := start(t)
	h.region.sends <- event("2", "x")
	w := h.watch("/v1/events:watch", sse)
	w.block()
	begin := time.Now()
	h.stop()
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("stopping took %s, want less than the grace of 15s", took)
	}
	if _, err := w.lines.ReadString('\n'); err == nil {
		t.Error("the stream goes on")
	}
}

func TestAClientThatLeavesEndsTheRegionsStream(t *testing.T) {
	h := start(t)
	h.region.sends <- event("2", "x")
	w := h.watch("/v1/events:watch", sse)
	w.block()
	w.stop()
	select {
	case <-h.region.ended:
	case <-time.After(20 * time.Second):
		t.Error("the region's stream goes on")
	}
}
