package view

import (
	"sync"

	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Hosts knows of hosts what their machines are shown with, so that not four
// records of a host are looked up for each of its machines. What it answers is what
// the records of the asker's snapshot say: of a host that has changed it forgets
// what it knew. It holds some 120 bytes for a host. The zero value knows none.
type Hosts struct {
	mu       sync.RWMutex
	revision int64
	known    map[string]hostFacts // by id: what holds from its revision to this one
	zones    map[string]string    // each once
}

// hostFacts has no pointers of its own but to its zone: with many hosts each would
// be waited for.
type hostFacts struct {
	revision int64
	zone     string
	observed instant
	ready    bool // see hostReady
}

// get is what is known of a host; false when there is none. The snapshot may be
// older or newer than those before.
func (h *Hosts) get(v *store.View, id string) (hostFacts, bool) {
	h.mu.RLock()
	at := h.revision
	f, ok := h.known[id]
	h.mu.RUnlock()
	if at < v.Revision {
		h.follow(v)
		h.mu.RLock()
		f, ok = h.known[id]
		h.mu.RUnlock()
	}
	// It has not changed up to h.revision, which is that of v or a later one.
	if ok && f.revision <= v.Revision {
		return f, true
	}
	if f, ok = factsOf(v, id); ok {
		h.keep(v, id, f)
	}
	return f, ok
}

// follow forgets what has changed up to a snapshot.
func (h *Hosts) follow(v *store.View) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.revision >= v.Revision {
		return
	}
	changed, ok := v.HostsChangedSince(h.revision)
	if !ok || v.SessionsChangedSince(h.revision) {
		clear(h.known)
	}
	for _, id := range changed {
		delete(h.known, id)
	}
	h.revision = v.Revision
}

// keep keeps what a snapshot says, unless it is of another one by now.
func (h *Hosts) keep(v *store.View, id string, f hostFacts) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.revision != v.Revision {
		return
	}
	if h.known == nil {
		h.known, h.zones = map[string]hostFacts{}, map[string]string{}
	}
	if len(h.zones) > len(h.known)+1 { // most are of hosts that are gone
		clear(h.zones)
	}
	if zone, ok := h.zones[f.zone]; ok {
		f.zone = zone
	}
	h.zones[f.zone] = f.zone
	h.known[id] = f
}

func factsOf(v *store.View, id string) (hostFacts, bool) {
	host, ok := store.VmHosts.Get(v, id)
	if !ok {
		return hostFacts{}, false
	}
	spec := host.Value.GetResource()
	observed := observationOf(v, spec)
	return hostFacts{
		revision: v.Revision, zone: spec.GetZone(), ready: hostReady(v, spec, observed),
		observed: instantOf(observed.GetObservation().GetObserveTime()),
	}, true
}
