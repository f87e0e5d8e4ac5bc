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
	backlog, at, w, err := s.hub.watch(from, view.Revision)
	if err != nil {
		return err
	}
	defer s.hub.leave(w)
	out := &eventStream{stream: stream, filter: filter, at: at}
	if err := out.alive(); err != nil {
		return err
	}
	if err := out.send(backlog); err != nil {
		return err
	}
	return out.follow(ctx, w)
}

// eventStream is the sending half of one watch.
type eventStream struct {
	stream grpc.ServerStreamingServer[vmhostv1.WatchEventsResponse]
	filter *query.Filter
	at     position
}

// alive sends a sign of life.
func (o *eventStream) alive() error {
	return o.stream.Send(&vmhostv1.WatchEventsResponse{ResumeToken: o.at.token()})
}

func (o *eventStream) send(found []placedEvent) error {
	for i, e := range found {
		if !o.at.before(e) {
			continue // the token was ahead of the hub
		}
		o.at = position{revision: e.revision, id: e.event.GetId()}
		if i == len(found)-1 || found[i+1].revision != e.revision {
			o.at.id = "" // the last of its revision
		}
		if !o.filter.Match(e.event) {
			continue
		}
		if err := o.stream.SendMsg(e.answer); err != nil {
			return err
		}
	}
	return nil
}

// follow sends what comes until the caller goes or the watch is ended.
func (o *eventStream) follow(ctx context.Context, w *watcher) error {
	ticker := time.NewTicker(signOfLife)
	defer ticker.Stop()
	for {
		select {
		case found, ok := <-w.c:
			if !ok {
				return w.err
			}
			if err := o.send(found); err != nil {
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
