package jsonapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/vmhost-project/vmhost/pkg/client"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/gateway/internal/front"
)

const watchPath = "/v1/events:watch"

// watch sends events as they happen: as server-sent events to who accepts
// text/event-stream, else as one JSON object a line, `{"result":…}` or, at the
// end, `{"error":…}`. An error before the first answer is an ordinary one, so
// that a browser does not try a token again that has expired.
func (a *API) watch(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-a.draining:
			cancel()
		case <-ctx.Done():
		}
	}()
	front.SetRoute(ctx, watchPath)
	front.SetStream(ctx)

	sse := acceptsSSE(r)
	req := &vmhostv1.WatchEventsRequest{}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err == nil {
		err = runtime.PopulateQueryParameters(req, query, utilities.NewDoubleArray(nil))
	}
	if err != nil {
		a.fail(ctx, w, a.explain(ctx, vmhostv1.EventService_WatchEvents_FullMethodName, err), 0)
		return
	}
	if last := r.Header.Get("Last-Event-ID"); sse && last != "" {
		req.ResumeToken = last // newer than the one in the address
	}
	// Whatever the region sends at once, each event is a message or a line by
	// itself, with the token to go on after it.
	req.MaxEvents = client.MaxEvents
	stream, err := a.events.WatchEvents(ctx, req)
	if err != nil {
		a.fail(ctx, w, err, 0)
		return
	}
	first, err := stream.Recv()
	if err != nil {
		a.fail(ctx, w, err, 0)
		return
	}
	var out eventWriter = ndjson{w}
	contentType := "application/x-ndjson"
	if sse {
		out, contentType = serverSent{w}, "text/event-stream"
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("X-Accel-Buffering", "no") // proxies must not hold events back
	a.forward(ctx, out, first, stream, http.NewResponseController(w))
}

// forward sends until one side ends.
func (a *API) forward(ctx context.Context, out eventWriter, msg *vmhostv1.WatchEventsResponse,
	stream vmhostv1.EventService_WatchEventsClient, control *http.ResponseController,
) {
	for {
		var err error
		for one := range client.EventsOf(msg) {
			if err = out.event(one); err != nil {
				break
			}
		}
		if err != nil || control.Flush() != nil {
			return // the client is gone
		}
		if msg, err = stream.Recv(); err == nil {
			continue
		}
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			return
		}
		body, _ := protojson.Marshal(a.status(ctx, err)) // of our own types only
		if out.failure(body) == nil {
			_ = control.Flush() // it is the end either way
		}
		return
	}
}

func acceptsSSE(r *http.Request) bool {
	for _, accept := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(accept, ",") {
			if media, _, _ := strings.Cut(part, ";"); strings.EqualFold(strings.TrimSpace(media), "text/event-stream") {
				return true
			}
		}
	}
	return false
}

// eventWriter writes one event of a watch, or a sign of life, which has none.
type eventWriter interface {
	event(msg *vmhostv1.WatchedEvent) error
	failure(status []byte) error
}

// serverSent writes text/event-stream. Every message carries the resume token as
// its id, signs of life as well, so that EventSource resumes by itself.
type serverSent struct{ w io.Writer }

func (s serverSent) event(msg *vmhostv1.WatchedEvent) error {
	var b bytes.Buffer
	if token := msg.GetResumeToken(); printable(token) {
		b.WriteString("id: " + token + "\n")
	}
	if msg.GetEvent() == nil {
		b.WriteString(": sign of life\n\n")
	} else {
		data, err := codec{}.Marshal(msg.GetEvent())
		if err != nil {
			return err
		}
		b.WriteString("data: ")
		b.Write(data) // one line: JSON escapes line ends
		b.WriteString("\n\n")
	}
	_, err := s.w.Write(b.Bytes())
	return err
}

func (s serverSent) failure(status []byte) error {
	_, err := s.w.Write([]byte("event: failure\ndata: " + string(status) + "\n\n"))
	return err
}

// ndjson writes one object a line.
type ndjson struct{ w io.Writer }

func (n ndjson) event(msg *vmhostv1.WatchedEvent) error {
	data, err := codec{}.Marshal(msg)
	if err != nil {
		return err
	}
	return n.line("result", data)
}

func (n ndjson) failure(status []byte) error { return n.line("error", status) }

func (n ndjson) line(key string, value []byte) error {
	_, err := n.w.Write([]byte(`{"` + key + `":` + string(value) + "}\n"))
	return err
}
