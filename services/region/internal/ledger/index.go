package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// index finds who has a name on a hypervisor, and who has a MAC. It may be a
// little behind the store, so what it finds is looked up in a view.
type index struct {
	mu    sync.Mutex
	names map[string]map[string]string // host, name on the hypervisor: uuid
	macs  map[string]string            // MAC: key of the record that has it
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
	x.names, x.macs = map[string]map[string]string{}, map[string]string{}
	for uid, m := range store.Machines.All(v) {
		x.putMachine(store.Machines.Key(uid), m.Value)
	}
	for id, m := range store.Seen.All(v) {
		x.putSeen(id, m.Value)
	}
}

func (x *index) apply(batch store.Batch) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.applied = batch.Revision
	for _, c := range batch.Changes {
		switch c.Family {
		case store.Machines.Name():
			if old, ok := c.Old().(*storev1.StoredMachine); ok {
				x.dropMACs(c.Key, old.GetResource().GetInterfaces())
			}
			if m, ok := c.New.(*storev1.StoredMachine); ok {
				x.putMachine(c.Key, m)
			}
		case store.Seen.Name():
			id := store.Seen.ID(c.Key)
			if old, ok := c.Old().(*storev1.StoredSeenMachine); ok {
				x.dropMACs(c.Key, old.GetObservation().GetInterfaces())
				host, uuid := splitSeen(id)
				if name := old.GetObservation().GetName(); x.names[host][name] == uuid {
					delete(x.names[host], name)
				}
			}
			if m, ok := c.New.(*storev1.StoredSeenMachine); ok {
				x.putSeen(id, m)
			}
		default:
		}
	}
}

func (x *index) putMachine(key string, m *storev1.StoredMachine) {
	for _, i := range m.GetResource().GetInterfaces() {
		x.macs[i.GetMac()] = key
	}
}

func (x *index) putSeen(id string, m *storev1.StoredSeenMachine) {
	host, uuid := splitSeen(id)
	if x.names[host] == nil {
		x.names[host] = map[string]string{}
	}
	x.names[host][m.GetObservation().GetName()] = uuid
	for _, i := range m.GetObservation().GetInterfaces() {
		// The record of a machine of ours comes first: it says whose MAC it is.
		if _, known := x.macs[i.GetMac()]; !known && i.GetMac() != "" {
			x.macs[i.GetMac()] = store.Seen.Key(id)
		}
	}
}

func (x *index) dropMACs(key string, interfaces []*vmhostv1.MachineInterface) {
	for _, i := range interfaces {
		if x.macs[i.GetMac()] == key {
			delete(x.macs, i.GetMac())
		}
	}
}

// nameTaken says whether something on the host has the name now.
func (x *index) nameTaken(v *store.View, host, name string) bool {
	x.mu.Lock()
	uuid, ok := x.names[host][name]
	x.mu.Unlock()
	if !ok {
		return false
	}
	seen, ok := store.Seen.Get(v, host, uuid)
	return ok && seen.Value.GetObservation().GetName() == name
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
	key := x.macs[mac]
	if key == "" {
		return ""
	}
	if uid := store.Machines.ID(key); uid != key {
		if m, ok := store.Machines.Get(v, uid); ok && has(m.Value.GetResource().GetInterfaces(), mac) {
			return key
		}
		return ""
	}
	if m, ok := store.Seen.Get(v, store.Seen.ID(key)); ok && has(m.Value.GetObservation().GetInterfaces(), mac) {
		return key
	}
	return ""
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
