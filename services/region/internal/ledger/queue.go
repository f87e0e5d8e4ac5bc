package ledger

import "slices"

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

// take removes the first of the queue, at most so many.
func (l *Ledger) take(most int) []*pending {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(l.queue), most)
	batch := slices.Clone(l.queue[:n])
	l.queue = slices.Delete(l.queue, 0, n)
	for _, p := range batch {
		p.queued = false
	}
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

// getInLine waits until nothing is being submitted. Whenever the queue has grown
// meanwhile, more is called; it may be nil.
func (l *Ledger) getInLine(more func()) (end func()) {
	arrived := l.arrived
	if more == nil {
		arrived = nil
	}
	for {
		select {
		case l.line <- struct{}{}:
			return func() { <-l.line }
		case <-arrived:
			more()
		}
	}
}
