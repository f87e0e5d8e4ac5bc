package api

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/api/query"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// signOfLife is how often a watch without events says that it is still there.
const signOfLife = 15 * time.Second

type events struct {
	vmhostv1.UnimplementedEventServiceServer
	*base
	hub *eventHub
}

// ListEvents are the events that are kept, newest first.
func (s *events) ListEvents(ctx context.Context, req *vmhostv1.ListEventsRequest) (*vmhostv1.ListEventsResponse, error) {
	page, next, err := answerOrdered[*vmhostv1.Event](ctx, s.base, vmhostv1.EventService_ListEvents_FullMethodName, req, "", "id desc",
		itemsOf(store.Events, "", func(_ *store.View, r store.Record[*storev1.StoredEvent]) proto.Message {
			return proto.CloneOf(r.Value.GetResource())
		}))
	if err != nil {
		return nil, err
	}
	return &vmhostv1.ListEventsResponse{Events: page, NextPageToken: next}, nil
}

// token is how a position travels: the revision, and the id of an event if the
// position is in the middle of a revision.
func (p position) token() string {
	revision := strconv.FormatInt(p.revision, 36)
	if p.id == "" {
		return revision
	}
	return revision + "." + p.id
}

func parsePosition(token string) (*position, error) {
	if token == "" {
		return nil, nil //nolint:nilnil // no token is a position of its own: from now on
	}
	text, id, hasID := strings.Cut(token, ".")
	revision, err := strconv.ParseInt(text, 36, 64)
	if err == nil && hasID {
		_, err = uuid.Parse(id)
	}
	if err != nil || revision < 0 {
		return nil, apierror.InvalidField("resume_token", "is not one of an answer")
	}
	return &position{revision: revision, id: id}, nil
}

// WatchEvents sends events as they happen.
func (s *events) WatchEvents(req *vmhostv1.WatchEventsRequest, stream grpc.ServerStreamingServer[vmhostv1.WatchEventsResponse]) error {
	ctx := stream.Context()
	filter, err := query.CompileFilter((&vmhostv1.Event{}).ProtoReflect().Descriptor(), req.GetFilter())
	if err != nil {
		return apierror.InvalidField("filter", "%s", err)
	}
	from, err := parsePosition(req.GetResumeToken())
	if err != nil {
		return err
	}
	// The token may be of another region that was ahead of this one.
	view, err := s.store.View(ctx)
	if err != nil {
		return err
	}
	what := interest{filter: req.GetFilter(), most: int(max(req.GetMaxEvents(), 1))}
	backlog, at, w, err := s.hub.watch(what, filter, from, view.Revision)
	if err != nil {
		return err
	}
	defer s.hub.leave(w)
	out := &eventStream{hub: s.hub, watcher: w, stream: stream, at: at}
	if err := out.begin(backlog); err != nil {
		return err
	}
	return out.follow(ctx)
}

// eventStream is the sending half of one watch.
type eventStream struct {
	hub     *eventHub
	watcher *watcher
	stream  grpc.ServerStreamingServer[vmhostv1.WatchEventsResponse]
	at      position // behind what was sent
}

// begin sends a sign of life, and what has happened since the token.
func (o *eventStream) begin(backlog []placedEvent) error {
	if err := o.stream.Send(&vmhostv1.WatchEventsResponse{ResumeToken: o.at.token()}); err != nil {
		return err
	}
	return o.send(o.watcher.audience.pick(backlog))
}

// alive sends a sign of life.
func (o *eventStream) alive() error {
	o.at = o.hub.reached(o.watcher, o.at)
	return o.stream.Send(&vmhostv1.WatchEventsResponse{ResumeToken: o.at.token()})
}

// send sends a delivery; it may be nil.
func (o *eventStream) send(d *delivery) error {
	if d == nil {
		return nil
	}
	if !o.at.before(d.events[0]) { // the token was ahead of the hub
		var ahead []placedEvent
		for _, e := range d.events {
			if o.at.before(e) {
				ahead = append(ahead, e)
			}
		}
		if d = o.watcher.audience.pick(ahead); d == nil {
			return nil
		}
	}
	for _, answer := range d.answers {
		if err := o.stream.SendMsg(answer); err != nil {
			return err
		}
	}
	o.at = d.events[len(d.events)-1].place()
	return nil
}

// take sends a delivery that was in the watcher's queue.
func (o *eventStream) take(d *delivery) error {
	defer o.watcher.behind.Add(-int64(len(d.events)))
	return o.send(d)
}

// follow sends what comes until the caller goes or the watch is ended.
func (o *eventStream) follow(ctx context.Context) error {
	ticker := time.NewTicker(signOfLife)
	defer ticker.Stop()
	for {
		select {
		case d, ok := <-o.watcher.c:
			if !ok {
				return o.watcher.err
			}
			if err := o.take(d); err != nil {
				return err
			}
		case <-ticker.C:
			if err := o.alive(); err != nil {
				return err
			}
		case <-ctx.Done():
			return errors.Join(ctx.Err(), context.Cause(ctx))
		}
	}
}
