package lxd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	lxdapi "github.com/canonical/lxd/shared/api"
	"github.com/gorilla/websocket"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// mostMessage bounds one event: an operation of LXD carries what it did.
const mostMessage = 8 << 20

// subscribe listens for events before anything is read, so that what is kept of a
// reading can be trusted.
func (d *Driver) subscribe(ctx context.Context) error {
	const op, kinds = "listen for events", "&type=lifecycle,operation"
	ws, err := d.conn.api.websocket(ctx, "/1.0/events?all-projects=true"+kinds)
	if lxdapi.StatusErrorCheck(err, 400, 403, 404) {
		// A restricted certificate hears of its projects only.
		ws, err = d.conn.api.websocket(ctx, d.in("/1.0/events")+kinds)
	}
	if err != nil {
		return d.conn.refused(ctx, op, err)
	}
	ws.SetReadLimit(mostMessage)
	ws.SetPongHandler(d.conn.answer)
	// The library gives its own answer to a ping a second to be written, and a write
	// over TLS that is late spoils the connection: a busy machine would lose it.
	ws.SetPingHandler(func(word string) error {
		err := ws.WriteControl(websocket.PongMessage, []byte(word), time.Now().Add(d.conn.pingTimeout))
		if errors.Is(err, websocket.ErrCloseSent) {
			return nil
		}
		return err
	})
	d.conn.mu.Lock()
	d.conn.events = ws
	d.conn.mu.Unlock()
	d.wg.Go(func() { d.listen(ws) })
	return nil
}

// listen reads events until the connection ends, which it is the first to notice.
func (d *Driver) listen(ws *websocket.Conn) {
	defer func() { _ = ws.NetConn().Close() }()
	for {
		_, message, err := ws.ReadMessage()
		if err != nil {
			d.conn.fail(fmt.Errorf("LXD ended the events: %w", err))
			return
		}
		var event lxdapi.Event
		if json.Unmarshal(message, &event) != nil {
			continue
		}
		switch event.Type {
		case "operation":
			var o lxdapi.Operation
			if json.Unmarshal(event.Metadata, &o) == nil {
				d.operations.happened(&o)
			}
		case "lifecycle":
			var l lxdapi.EventLifecycle
			if json.Unmarshal(event.Metadata, &l) == nil {
				d.happened(&l, event.Project)
			}
		}
	}
}

// change is an event of an instance, to be told by its uuid.
type change struct {
	place   place
	from    string // the name before a rename
	deleted bool
}

// happened notes one event.
func (d *Driver) happened(l *lxdapi.EventLifecycle, project string) {
	d.facts.happened(l.Action)
	if strings.HasPrefix(l.Action, "storage-volume-") {
		d.volumes.drop()
	}
	if !strings.HasPrefix(l.Action, "instance-") {
		return
	}
	source, err := url.Parse(l.Source)
	if err != nil {
		return
	}
	// /1.0/instances/NAME, and below it snapshots, files and the like.
	parts := strings.Split(strings.TrimPrefix(source.Path, "/1.0/instances/"), "/")
	if parts[0] == "" || !strings.HasPrefix(source.Path, "/1.0/instances/") {
		return
	}
	c := change{place: place{projectOf(firstOf(source.Query().Get("project"), l.Project, project)), parts[0]}, deleted: l.Action == lxdapi.EventLifecycleInstanceDeleted}
	if l.Action == lxdapi.EventLifecycleInstanceRenamed {
		c.from, _ = l.Context["old_name"].(string)
	}
	d.addresses.changed(d.index.uuidOf(c.place))
	d.changes.happened(c)
}

func firstOf(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}

// resolve finds the uuids of instances that events name and tells the listeners.
func (d *Driver) resolve(ctx context.Context) {
	for {
		select {
		case <-d.changes.wake:
		case <-d.conn.dead:
			return
		case <-ctx.Done():
			return
		}
		for _, c := range d.changes.take() {
			if id := d.identify(ctx, c); id != "" {
				d.listeners.Tell(id)
			}
		}
	}
}

// identify answers the uuid of an instance that changed, empty when there is none.
func (d *Driver) identify(ctx context.Context, c change) string {
	if c.deleted {
		return d.index.remove(c.place)
	}
	if c.from != "" {
		d.index.rename(place{c.place.project, c.from}, c.place)
	}
	if id := d.index.uuidOf(c.place); id != "" {
		return id
	}
	look, cancel := context.WithTimeout(ctx, d.cfg.DialTimeout)
	defer cancel()
	i, err := d.byName(look, c.place)
	if err != nil && !errors.Is(err, hypervisor.ErrUnreachable) {
		d.log.DebugContext(ctx, "an instance that changed cannot be read", "instance", c.place.name, "error", err)
	}
	if i == nil {
		return ""
	}
	return i.uuid
}

// Events delivers changes of machines until ctx ends or the connection is lost.
func (d *Driver) Events(ctx context.Context) (<-chan hypervisor.Event, error) {
	if d.conn.isDead() {
		return nil, d.conn.gone("listen for events")
	}
	return d.listeners.Deliver(ctx, d.conn.dead), nil
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// changes are what is still to be told the listeners: the resolver takes all of it
// at once, and needs a request at most for an instance that is new.
type changes struct {
	mu      sync.Mutex
	pending []change
	wake    chan struct{}
}

func newChanges() changes { return changes{wake: make(chan struct{}, 1)} }

// happened queues a change.
func (s *changes) happened(c change) {
	s.mu.Lock()
	if n := len(s.pending); n == 0 || s.pending[n-1] != c {
		s.pending = append(s.pending, c)
	}
	s.mu.Unlock()
	nudge(s.wake)
}

func (s *changes) take() []change {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.pending
	s.pending = nil
	return out
}

// pause waits, and answers whether there is any use in going on.
func pause(ctx context.Context, dead <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-dead:
	case <-ctx.Done():
	}
	return false
}
