// Package listener tells the readers of a driver's events which machines changed.
// What a reader was not told yet is bounded by the number of machines, however
// slow it is: an event says only that a machine changed. Deliver owns one
// goroutine per call, which ends with its context or the connection.
package listener

import (
	"context"
	"sync"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// Listener holds what one reader has not been told yet.
type Listener struct {
	mu      sync.Mutex
	order   []string
	pending map[string]bool
	wake    chan struct{}
}

// Wake gets a word when there is something to take.
func (l *Listener) Wake() <-chan struct{} { return l.wake }

// Take answers the machines that changed since the last time, oldest change first.
func (l *Listener) Take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.order
	l.order = nil
	clear(l.pending)
	return out
}

func (l *Listener) tell(id string) {
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

// Set are the readers of one connection. The zero value is ready to use.
type Set struct {
	mu  sync.Mutex
	set map[*Listener]struct{}
}

// Add makes a reader; Remove it.
func (s *Set) Add() *Listener {
	l := &Listener{pending: map[string]bool{}, wake: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set == nil {
		s.set = map[*Listener]struct{}{}
	}
	s.set[l] = struct{}{}
	return l
}

// Remove ends a reader.
func (s *Set) Remove(l *Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.set, l)
}

// Any says whether anybody reads.
func (s *Set) Any() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.set) > 0
}

// Tell tells all readers that a machine changed. It never waits.
func (s *Set) Tell(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.set {
		l.tell(id)
	}
}

// Deliver is a reader as a channel of events, closed when ctx ends or dead is
// closed.
func (s *Set) Deliver(ctx context.Context, dead <-chan struct{}) <-chan hypervisor.Event {
	l := s.Add()
	out := make(chan hypervisor.Event)
	// Not waited for by a driver's Close: it may be blocked on a reader that is
	// about to call Close.
	go func() {
		defer close(out)
		defer s.Remove(l)
		for {
			select {
			case <-l.wake:
			case <-ctx.Done():
				return
			case <-dead:
				return
			}
			for _, id := range l.Take() {
				select {
				case out <- hypervisor.Event{UUID: id}:
				case <-ctx.Done():
					return
				case <-dead:
					return
				}
			}
		}
	}()
	return out
}
