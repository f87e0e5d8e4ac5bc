package ledger

import (
	"slices"

	"github.com/vmhost-project/vmhost/services/region/internal/placement"
)

// maxQueue bounds the composes that wait for the turn.
const maxQueue = 4096

func (l *Ledger) enqueue(p *pending) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) >= maxQueue {
		return false
	}
	l.queue = append(l.queue, p)
	p.queued = true
	select {
	case l.arrived <- struct{}{}:
	default:
	}
	return true
}

func (l *Ledger) withdraw(p *pending) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.queue, p)
	if i < 0 {
		return false
	}
	l.queue = slices.Delete(l.queue, i, i+1)
	p.queued = false
	return true
}

// waits says whether a compose is in the queue, and in no batch.
func (l *Ledger) waits(p *pending) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return p.queued
}

// first is who has waited longest; nil when nobody waits.
func (l *Ledger) first() *pending {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		return nil
	}
	return l.queue[0]
}

// take removes the first of the queue that may be decided on in a lane, at most so
// many.
func (l *Ledger) take(lane placement.Lane, most int) []*pending {
	l.mu.Lock()
	defer l.mu.Unlock()
	batch := make([]*pending, 0, min(len(l.queue), most))
	stay, seen := 0, 0
	for ; seen < len(l.queue) && len(batch) < most; seen++ {
		p := l.queue[seen]
		if p.goesTo(lane) {
			p.queued = false
			batch = append(batch, p)
			continue
		}
		l.queue[stay] = p
		stay++
	}
	l.queue = slices.Delete(l.queue, stay, seen)
	return batch
}

// back puts composes before all others of the queue: they have waited longest.
// Their callers are told, since one of them has to lead.
func (l *Ledger) back(again []*pending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = slices.Concat(again, l.queue)
	for _, p := range again {
		p.queued = true
		select {
		case p.again <- struct{}{}:
		default:
		}
	}
}
