package session

import (
	"sync"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

// Hub is the sessions that this process holds, by rack. It is what the
// operations send by.
type Hub struct {
	mu     sync.Mutex
	byRack map[string]*session
}

// NewHub makes an empty hub.
func NewHub() *Hub { return &Hub{byRack: map[string]*session{}} }

// Session is the id of the session that this process holds of the rack; empty
// when it holds none.
func (h *Hub) Session(rack string) string {
	if s := h.get(rack); s != nil {
		return s.id
	}
	return ""
}

// Send queues a step for the rack; false when it has no session here, or so much
// waits for it already that this must be tried again a little later.
func (h *Hub) Send(rack string, step *rackv1.Step) bool {
	s := h.get(rack)
	return s != nil && s.offer(step)
}

func (h *Hub) get(rack string) *session {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.byRack[rack]
}

func (h *Hub) all() []*session {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]*session, 0, len(h.byRack))
	for _, s := range h.byRack {
		out = append(out, s)
	}
	return out
}

// put makes s the rack's session and answers the one before, if any.
func (h *Hub) put(s *session) *session {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.byRack[s.rack]
	h.byRack[s.rack] = s
	return before
}

func (h *Hub) drop(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byRack[s.rack] == s {
		delete(h.byRack, s.rack)
	}
}
