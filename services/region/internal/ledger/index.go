package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/places"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// index finds who has a name on a hypervisor, and who has a MAC. It may be a
// little behind the store, so what it finds is looked up in a view.
type index struct {
	mu    sync.Mutex
	names places.Index // what was seen, by host and name on the hypervisor
	macs  places.Index // records, and what was seen, by MAC
	// claimed are MACs of machines that are being committed, or were and are not
	// in every view yet.
	claimed map[string]claimedMAC
	applied int64 // revision of what is in names and macs
}

// run keeps the index. Of every change of an operation, also is told.
func (x *index) run(ctx context.Context, s *store.Store, also func(store.Change)) error {
	for {
		sub := s.Subscribe(ctx)
		x.rebuild(sub.View)
		for batch := range sub.C {
			x.apply(batch)
			for _, c := range batch.Changes {
				if c.Family == store.Operations.Name() {
					also(c)
				}
			}
		}
		if err := sub.Err(); !errors.Is(err, store.ErrLagged) {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // ended because it was told to
			}
			return fmt.Errorf("follow the store: %w", err)
		}
	}
}

func (x *index) rebuild(v *store.View) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.applied = v.Revision
	x.names, x.macs = places.Index{}, places.Index{}
	for uid, m := range store.Machines.All(v) {
		x.putMACs(places.Place{Domain: uid}, m.Value.GetResource().GetInterfaces())
	}
	for id, m := range store.Seen.All(v) {
		x.putSeen(id, m.Value)
	}
	x.names.Pack()
	x.macs.Pack()
}

func (x *index) apply(batch store.Batch) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.applied = batch.Revision
	for _, c := range batch.Changes {
		switch c.Family {
		case store.Machines.Name():
			at := places.Place{Domain: store.Machines.ID(c.Key)}
			if old, ok := c.Old().(*storev1.StoredMachine); ok {
				x.dropMACs(at, old.GetResource().GetInterfaces())
			}
			if m, ok := c.New.(*storev1.StoredMachine); ok {
				x.putMACs(at, m.GetResource().GetInterfaces())
			}
		case store.Seen.Name():
			id := store.Seen.ID(c.Key)
			if old, ok := c.Old().(*storev1.StoredSeenMachine); ok {
				at := placeOf(id)
				x.dropMACs(at, old.GetObservation().GetInterfaces())
				x.names.Drop(at, at.Host, old.GetObservation().GetName())
			}
			if m, ok := c.New.(*storev1.StoredSeenMachine); ok {
				x.putSeen(id, m)
			}
		default:
		}
	}
}

func (x *index) putSeen(id string, m *storev1.StoredSeenMachine) {
	at := placeOf(id)
	x.names.Add(at, at.Host, m.GetObservation().GetName())
	x.putMACs(at, m.GetObservation().GetInterfaces())
}

// placeOf is the place of what was seen.
func placeOf(id string) places.Place {
	host, uuid := splitSeen(id)
	return places.Place{Host: host, Domain: uuid}
}

func (x *index) putMACs(at places.Place, interfaces []*vmhostv1.MachineInterface) {
	for _, i := range interfaces {
		if i.GetMac() != "" {
			x.macs.Add(at, i.GetMac())
		}
	}
}

func (x *index) dropMACs(at places.Place, interfaces []*vmhostv1.MachineInterface) {
	for _, i := range interfaces {
		x.macs.Drop(at, i.GetMac())
	}
}

// nameTaken says whether something on the host has the name now.
func (x *index) nameTaken(v *store.View, host, name string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for at := range x.names.Find(host, name) {
		if seen, ok := store.Seen.Get(v, at.Host, at.Domain); ok && at.Host == host && seen.Value.GetObservation().GetName() == name {
			return true
		}
	}
	return false
}

// macOwner is the key of the record that has the MAC; empty when none has.
func (x *index) macOwner(v *store.View, mac string) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c, ok := x.claimed[mac]; ok {
		if c.revision > v.Revision {
			return c.key
		}
		// The view has it, and the index perhaps not yet.
		if m, ok := store.Machines.Get(v, store.Machines.ID(c.key)); ok && has(m.Value.GetResource().GetInterfaces(), mac) {
			return c.key
		}
		delete(x.claimed, mac)
	}
	owner := ""
	for at := range x.macs.Find(mac) {
		if at.Host == "" {
			if m, ok := store.Machines.Get(v, at.Domain); ok && has(m.Value.GetResource().GetInterfaces(), mac) {
				// The record of a machine of ours comes first: it says whose MAC it is.
				return store.Machines.Key(at.Domain)
			}
		} else if m, ok := store.Seen.Get(v, at.Host, at.Domain); ok && has(m.Value.GetObservation().GetInterfaces(), mac) {
			owner = store.Seen.Key(at.Host, at.Domain)
		}
	}
	return owner
}

func has(interfaces []*vmhostv1.MachineInterface, mac string) bool {
	return slices.ContainsFunc(interfaces, func(i *vmhostv1.MachineInterface) bool { return i.GetMac() == mac })
}

// claim notes the MACs of a machine that is being committed, before any view has
// it. A revision of 0 takes that back.
func (x *index) claim(m *storev1.StoredMachine, revision int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.claimed == nil {
		x.claimed = map[string]claimedMAC{}
	}
	r := m.GetResource()
	for _, i := range r.GetInterfaces() {
		if revision == 0 {
			delete(x.claimed, i.GetMac())
		} else {
			x.claimed[i.GetMac()] = claimedMAC{key: store.Machines.Key(r.GetUid()), revision: revision}
		}
	}
}

// prune drops the claims of machines that the index has, and every view from this
// one on.
func (x *index) prune(v *store.View) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for mac, c := range x.claimed {
		if c.revision <= min(v.Revision, x.applied) {
			delete(x.claimed, mac)
		}
	}
}

// claimedMAC is the MAC of a machine that views get to see with the revision.
type claimedMAC struct {
	key      string
	revision int64
}
