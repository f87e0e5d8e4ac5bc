package inventory

import (
	"sync"

	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// maxRooms bounds what is remembered of hosts; some of them are gone.
const maxRooms = 10_000

// rooms remembers how many more machines hosts may have, so that the machines of
// a host are not counted for each that is new. It never says more than there is:
// with its epoch a host has one writer, every machine that this one adds is
// taken from the room, and a whole report makes it forgotten.
type rooms struct {
	most   int // machines of a host
	mu     sync.Mutex
	byHost map[string]room
}

type room struct {
	epoch int64
	left  int
}

// take takes the room of one machine; false when the host is full.
func (r *rooms) take(s *scope) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.byHost[s.host]
	if m.left == 0 || m.epoch != s.epoch {
		m = room{epoch: s.epoch, left: r.most - store.Seen.Count(s.view, r.most, s.host)}
	}
	if m.left == 0 {
		delete(r.byHost, s.host)
		return false
	}
	m.left--
	if r.byHost == nil || len(r.byHost) >= maxRooms {
		r.byHost = map[string]room{}
	}
	r.byHost[s.host] = m
	return true
}

// forget has the machines of a host counted anew.
func (r *rooms) forget(host string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.byHost, host)
}
