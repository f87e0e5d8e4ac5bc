package fake

import (
	"context"
	"sync"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// maxPending bounds what waits for a subscriber; one who falls further behind
// loses its channel, as from a real hypervisor.
const maxPending = 10_000

// subscription carries events from a host, which never waits, to a channel.
type subscription struct {
	mu      sync.Mutex
	pending []hypervisor.Event
	broken  bool
	wake    chan struct{}
	out     chan hypervisor.Event
}

func newSubscription() *subscription {
	return &subscription{wake: make(chan struct{}, 1), out: make(chan hypervisor.Event)}
}

func (s *subscription) push(e hypervisor.Event) {
	s.mu.Lock()
	if len(s.pending) >= maxPending {
		s.broken = true
	} else {
		s.pending = append(s.pending, e)
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *subscription) take() (events []hypervisor.Event, broken bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	events, s.pending = s.pending, nil
	return events, s.broken
}

// pump delivers until the context ends or the connection does, then closes out.
func (s *subscription) pump(ctx context.Context, lost, closed <-chan struct{}) {
	defer close(s.out)
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return
		case <-lost:
			return
		case <-closed:
			return
		}
		events, broken := s.take()
		if broken {
			return
		}
		for _, e := range events {
			select {
			case s.out <- e:
			case <-ctx.Done():
				return
			case <-lost:
				return
			case <-closed:
				return
			}
		}
	}
}
