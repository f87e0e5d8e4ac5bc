package inventory

import (
	"maps"
	"sync"
	"time"

	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// maxHosts bounds what is remembered of hosts. A fleet has at most half as many.
const maxHosts = 20_000

// memory is what this process remembers of hosts and need not be in the store:
// everything in it can be lost.
type memory struct {
	mu     sync.Mutex
	byHost map[string]*hostMemory
}

// hostMemory is what is remembered of one host.
type hostMemory struct {
	// recording is held while something of the host is recorded.
	recording sync.Mutex
	// counted is the revision of the host's record whose foreign use is known to
	// be the sum over its machines; 0: none is. Guarded by recording.
	counted int64
	// strays are machines on the host, by uuid, whose records are on another host
	// of its cluster. Guarded by recording.
	strays map[string]struct{}

	mu sync.Mutex
	// seen is when the host was last reported.
	seen time.Time
	// session is the session in which it is expected to be reported, since when.
	session string
	since   time.Time
}

// of is what is remembered of a host. Of hosts that are not in the view any more
// nothing need be.
func (m *memory) of(v *store.View, host string) *hostMemory {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.byHost[host]
	if h != nil {
		return h
	}
	if m.byHost == nil {
		m.byHost = map[string]*hostMemory{}
	}
	if len(m.byHost) >= maxHosts {
		maps.DeleteFunc(m.byHost, func(host string, _ *hostMemory) bool { _, ok := store.VmHosts.Get(v, host); return !ok })
	}
	for other := range m.byHost { // any, should it ever come to that
		if len(m.byHost) < maxHosts {
			break
		}
		delete(m.byHost, other)
	}
	h = &hostMemory{}
	m.byHost[host] = h
	return h
}

// lastSeen is when a host was last reported here; the zero time when it was not.
func (m *memory) lastSeen(host string) time.Time {
	m.mu.Lock()
	h := m.byHost[host]
	m.mu.Unlock()
	if h == nil {
		return time.Time{}
	}
	return h.lastSeen()
}

func (h *hostMemory) lastSeen() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen
}

func (h *hostMemory) see(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen = now
}

// silentSince is since when nothing was heard of the host in the session: since
// its last report, or since this process first knew of the session.
func (h *hostMemory) silentSince(session string, now time.Time) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.session != session {
		h.session, h.since = session, now
	}
	if h.seen.After(h.since) {
		return h.seen
	}
	return h.since
}
