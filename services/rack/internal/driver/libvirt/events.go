package libvirt

import (
	"context"
	"fmt"
	"sync"

	lv "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// subscribed are the kinds of events that a machine's observation depends on.
// Only the first is needed; others are missing in old libvirtds.
var subscribed = []lv.DomainEventID{
	lv.DomainEventIDLifecycle,
	lv.DomainEventIDReboot,
	lv.DomainEventIDDeviceAdded,
	lv.DomainEventIDDeviceRemoved,
	lv.DomainEventIDMetadataChange,
	lv.DomainEventIDDiskChange,
}

// subscribe asks libvirtd for events before anything is read, so that what is
// kept of a reading can be trusted.
func (d *Driver) subscribe(ctx context.Context) error {
	for i, id := range subscribed {
		events, err := call(ctx, d.conn, fmt.Sprintf("subscribe to events of kind %d", id), fast, func(a api) (<-chan any, error) {
			return a.SubscribeEvents(d.background, id, nil)
		})
		if err != nil {
			if number(err) == lv.ErrOk {
				return err
			}
			d.log.WarnContext(ctx, "libvirt sends no events of a kind", "kind", int32(id), "error", err)
			continue
		}
		if i == 0 {
			d.library.mu.Lock()
			d.library.hasEvents = true
			d.library.mu.Unlock()
		}
		// Read until the library closes the channel: one that nobody reads blocks a
		// goroutine of the library for ever.
		d.wg.Go(func() {
			for event := range events {
				d.happened(event)
			}
			// Events are what the kept XML relies on: without them, nothing is kept.
			d.conn.fail(fmt.Errorf("libvirt ended the events of kind %d", id))
		})
	}
	return nil
}

// happened notes one event and tells the listeners.
func (d *Driver) happened(event any) {
	var dom lv.Domain
	switch e := event.(type) {
	case *lv.DomainEventCallbackLifecycleMsg:
		dom = e.Msg.Dom
	case *lv.DomainEventCallbackRebootMsg:
		// The XML is the same, only listeners may want to know.
		d.listeners.tell(uuid.UUID(e.Msg.Dom.UUID).String())
		return
	case *lv.DomainEventCallbackDeviceAddedMsg:
		dom = e.Dom
	case *lv.DomainEventCallbackDeviceRemovedMsg:
		dom = e.Msg.Dom
	case *lv.DomainEventCallbackMetadataChangeMsg:
		dom = e.Dom
	case *lv.DomainEventCallbackDiskChangeMsg:
		dom = e.Msg.Dom
	default:
		return
	}
	d.library.changed(dom.UUID)
	d.listeners.tell(uuid.UUID(dom.UUID).String())
}

// Events delivers changes of machines until ctx ends or the connection is lost.
func (d *Driver) Events(ctx context.Context) (<-chan hypervisor.Event, error) {
	select {
	case <-d.conn.dead:
		return nil, d.conn.gone("listen for events")
	default:
	}
	d.library.mu.Lock()
	has := d.library.hasEvents
	d.library.mu.Unlock()
	if !has {
		return nil, &hypervisor.Error{Class: hypervisor.ErrUnsupported, Op: "listen for events", Err: lv.ErrEventsNotSupported}
	}
	l := d.listeners.add()
	out := make(chan hypervisor.Event)
	// Not waited for by Close: it may be blocked on a reader that is about to call
	// Close. It ends with the connection all the same.
	go func() {
		defer close(out)
		defer d.listeners.remove(l)
		for {
			select {
			case <-l.wake:
			case <-ctx.Done():
				return
			case <-d.conn.dead:
				return
			}
			for _, id := range l.take() {
				select {
				case out <- hypervisor.Event{UUID: id}:
				case <-ctx.Done():
					return
				case <-d.conn.dead:
					return
				}
			}
		}
	}()
	return out, nil
}

// listener holds what one reader of Events has not been told yet. It is bounded
// by the number of machines, however slow the reader is: an event says only that
// a machine changed.
type listener struct {
	mu      sync.Mutex
	order   []string
	pending map[string]bool
	wake    chan struct{}
}

func (l *listener) tell(id string) {
	l.mu.Lock()
	if !l.pending[id] {
		l.pending[id] = true
		l.order = append(l.order, id)
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *listener) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.order
	l.order = nil
	clear(l.pending)
	return out
}

type listeners struct {
	mu  *sync.Mutex
	set map[*listener]struct{}
}

func newListeners() listeners {
	return listeners{mu: &sync.Mutex{}, set: map[*listener]struct{}{}}
}

func (s listeners) add() *listener {
	l := &listener{pending: map[string]bool{}, wake: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set[l] = struct{}{}
	return l
}

func (s listeners) remove(l *listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.set, l)
}

func (s listeners) any() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.set) > 0
}

func (s listeners) tell(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.set {
		l.tell(id)
	}
}
