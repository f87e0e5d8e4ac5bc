package operation

import (
	"sync"
	"time"
)

// queue hands out keys to workers: a key is in it once, and never with two
// workers at the same time. It holds at most one entry and one timer per
// operation that has not ended.
type queue struct {
	mu      sync.Mutex
	cond    *sync.Cond
	order   []string
	waiting map[string]bool
	busy    map[string]bool
	again   map[string]bool // added while busy
	timers  map[string]*time.Timer
	closed  bool
}

func newQueue() *queue {
	q := &queue{waiting: map[string]bool{}, busy: map[string]bool{}, again: map[string]bool{}, timers: map[string]*time.Timer{}}
	q.cond = sync.NewCond(&q.mu)
	return q
}

func (q *queue) add(key string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.addLocked(key)
}

func (q *queue) addLocked(key string) {
	switch {
	case q.closed || q.waiting[key]:
	case q.busy[key]:
		q.again[key] = true
	default:
		q.waiting[key] = true
		q.order = append(q.order, key)
		q.cond.Signal()
	}
}

// next waits for a key; false when the queue is closed.
func (q *queue) next() (string, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.order) == 0 && !q.closed {
		q.cond.Wait()
	}
	if q.closed {
		return "", false
	}
	key := q.order[0]
	q.order = q.order[1:]
	delete(q.waiting, key)
	q.busy[key] = true
	return key, true
}

// done gives a key back and, if after is not 0, has it looked at again then.
func (q *queue) done(key string, after time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.busy, key)
	if q.closed {
		return
	}
	if q.again[key] {
		delete(q.again, key)
		q.addLocked(key)
	}
	q.stopTimer(key)
	if after > 0 {
		q.timers[key] = time.AfterFunc(after, func() { q.add(key) })
	}
}

// cancel forgets the key's timer.
func (q *queue) cancel(key string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopTimer(key)
}

func (q *queue) stopTimer(key string) {
	if t := q.timers[key]; t != nil {
		t.Stop()
		delete(q.timers, key)
	}
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for key := range q.timers {
		q.stopTimer(key)
	}
	q.cond.Broadcast()
}
