package libvirt

import (
	"context"
	"fmt"

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
		d.listeners.Tell(uuid.UUID(e.Msg.Dom.UUID).String())
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
	d.listeners.Tell(uuid.UUID(dom.UUID).String())
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
	return d.listeners.Deliver(ctx, d.conn.dead), nil
}
