package view

import (
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/types/known/timestamppb"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Hosts knows of hosts what their machines are shown with, so that not three
// records of a host are looked up for each of its machines. What it answers is what
// the records of the asker's snapshot say: of a host that has changed it forgets
// what it knew. It holds some 300 bytes for a host.
type Hosts struct {
	mu       sync.Mutex // for all but looking up
	revision atomic.Int64
	known    sync.Map // *hostFacts by id: what holds from its revision to this one
}

type hostFacts struct {
	revision int64
	zone     string
	reported bool   // ready, by what was reported last
	rack     string // that drives it
	observed *timestamppb.Timestamp
}

// ready is hostReady.
func (f *hostFacts) ready(v *store.View) bool { return f.reported && connected(v, f.rack) }

// get is what is known of a host; nil when there is none. The snapshot may be older
// or newer than those before.
func (h *Hosts) get(v *store.View, id string) *hostFacts {
	if h.revision.Load() < v.Revision {
		h.follow(v)
	}
	if known, ok := h.known.Load(id); ok {
		// It has not changed up to h.revision, which is that of v or a later one.
		if f, ok := known.(*hostFacts); ok && f.revision <= v.Revision {
			return f
		}
	}
	f := factsOf(v, id)
	h.mu.Lock()
	defer h.mu.Unlock()
	if f != nil && h.revision.Load() == v.Revision {
		h.known.Store(id, f)
	}
	return f
}

// follow forgets what has changed up to a snapshot.
func (h *Hosts) follow(v *store.View) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.revision.Load()
	if at >= v.Revision {
		return
	}
	changed, ok := v.HostsChangedSince(at)
	if !ok {
		h.known.Clear()
	}
	for _, id := range changed {
		h.known.Delete(id)
	}
	h.revision.Store(v.Revision)
}

func factsOf(v *store.View, id string) *hostFacts {
	host, ok := store.VmHosts.Get(v, id)
	if !ok {
		return nil
	}
	spec := host.Value.GetResource()
	observed := observationOf(v, spec)
	return &hostFacts{
		revision: v.Revision, zone: spec.GetZone(), rack: driverOf(v, spec),
		reported: observed.GetState() == vmhostv1.VmHostState_VM_HOST_STATE_READY,
		observed: observed.GetObservation().GetObserveTime(),
	}
}
