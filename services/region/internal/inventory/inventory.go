// Package inventory records what racks report of hosts and their machines:
// `observed/` and `seen/`.
//
// A report counts only with the epoch of the host's present assignment, and each
// write compares the assignment, so that a rack that lost a host cannot write
// about it any more (P7). Only what changed is written; a report that changes
// nothing but its time is written every 30 seconds.
//
// Nothing a rack says is trusted: numbers are clamped, texts are bounded and
// cleaned, lists are cut (see clean.go). What had to be refused becomes a
// condition of the host.
//
// What counts as foreign is decided here: every machine seen on a host that has
// no record saying that it is ours. The package starts no goroutine.
package inventory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

const (
	// freshness is how often a report is written that changes nothing but its time.
	freshness = 30 * time.Second
	// batchOps is how many writes go into one transaction, with room for a few
	// more.
	batchOps = store.MaxCompares - 8
	// maxEvents is how many machines of one report get an event of their own.
	maxEvents = 50
)

// Inventory records reports.
type Inventory struct {
	store *store.Store
	log   *slog.Logger
	rooms rooms
}

// New makes an inventory over the store.
func New(s *store.Store, log *slog.Logger) *Inventory {
	return &Inventory{store: s, log: log.With("component", "inventory"), rooms: rooms{most: maxMachines}}
}

// scope is the host that a report is about, as far as the rack may report on it.
type scope struct {
	view     *store.View
	host     string
	epoch    int64
	resource *vmhostv1.VmHost
	observed store.Record[*storev1.StoredVmHostObservation]
}

// scope answers false for a report that does not count: of a rack that does not
// drive the host, or does so with another epoch.
func (i *Inventory) scope(ctx context.Context, rack, name string, epoch int64) (*scope, bool) {
	v := i.store.Cached()
	host, ok := strings.CutPrefix(name, "vmHosts/")
	if !ok {
		return nil, false
	}
	spec, ok := store.VmHosts.Get(v, host)
	if !ok {
		return nil, false
	}
	a, ok := store.Assignments.Get(v, host)
	if !ok || a.Value.GetRack() != rack || a.Revision != epoch || a.Value.GetVmHostUid() != spec.Value.GetResource().GetUid() {
		i.log.DebugContext(ctx, "report with another epoch", "vm_host", host, "rack", rack, "epoch", epoch)
		return nil, false
	}
	s := &scope{view: v, host: host, epoch: epoch, resource: spec.Value.GetResource()}
	s.observed, _ = store.Observed.Get(v, host)
	if u := s.observed.Value.GetVmHostUid(); u != "" && u != s.resource.GetUid() {
		s.observed.Value = nil // of the host that had the id before
	}
	return s, true
}

// begin is a transaction that holds only while the rack drives the host.
func (s *scope) begin() *store.Txn {
	tx := store.NewTxn()
	tx.IfRevision(store.Assignments.Key(s.host), s.epoch)
	return tx
}

// commit leaves out empty transactions. That the assignment changed meanwhile is
// no failure: the report does not count any more.
func (i *Inventory) commit(ctx context.Context, tx *store.Txn) error {
	if tx.Writes() == 0 {
		return nil
	}
	if _, err := i.store.Commit(ctx, tx); err != nil && !errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("record a report: %w", err)
	}
	return nil
}

// next is what is recorded of the host, to be changed.
func (s *scope) next() *storev1.StoredVmHostObservation {
	next := &storev1.StoredVmHostObservation{State: vmhostv1.VmHostState_VM_HOST_STATE_PENDING}
	if s.observed.Value != nil {
		next = proto.CloneOf(s.observed.Value)
	}
	next.Epoch, next.VmHostUid = s.epoch, s.resource.GetUid()
	return next
}

// put adds the new record if it says something new, with an event when the
// host's state changed.
func (s *scope) put(tx *store.Txn, next *storev1.StoredVmHostObservation) {
	if !s.news(next) {
		return
	}
	store.Put(tx, store.Observed, next, s.host)
	if next.GetState() != s.observed.Value.GetState() {
		putStateEvent(tx, s.resource.GetName(), next)
	}
}

func (s *scope) news(next *storev1.StoredVmHostObservation) bool {
	old := s.observed.Value
	if old == nil {
		return true
	}
	since := next.GetObservation().GetObserveTime().AsTime().Sub(old.GetObservation().GetObserveTime().AsTime())
	if since >= freshness {
		return true
	}
	same := proto.CloneOf(next)
	if same.GetObservation() != nil {
		same.Observation.ObserveTime = old.GetObservation().GetObserveTime()
	}
	return !proto.Equal(same, old)
}

// Status records whether a host is reached. A host that is reached is ready when
// its inventory is here.
func (i *Inventory) Status(ctx context.Context, rack string, m *rackv1.HostStatus) error {
	s, ok := i.scope(ctx, rack, m.GetVmHost(), m.GetEpoch())
	if !ok {
		return nil
	}
	next := s.next()
	if m.GetReachable() {
		next.ConnectionVersion = m.GetConnectionVersion()
		setCondition(next, reachable())
	} else {
		var c *vmhostv1.Condition
		next.State, c = unreachable(m.GetError())
		setCondition(next, c)
	}
	tx := s.begin()
	s.put(tx, next)
	return i.commit(ctx, tx)
}

// NoRack records that no rack can drive a host. It compares what is recorded, so
// that it never wins over a report.
func (i *Inventory) NoRack(ctx context.Context, host, why string) error {
	v := i.store.Cached()
	spec, ok := store.VmHosts.Get(v, host)
	if !ok {
		return nil
	}
	s := &scope{view: v, host: host, resource: spec.Value.GetResource()}
	s.observed, _ = store.Observed.Get(v, host)
	next := s.next()
	next.Epoch = s.observed.Value.GetEpoch()
	next.State = vmhostv1.VmHostState_VM_HOST_STATE_NO_RACK
	setCondition(next, noRack(why))
	tx := store.NewTxn()
	tx.IfRevision(store.Observed.Key(host), s.observed.Revision)
	tx.IfPresent(store.VmHosts.Key(host))
	s.put(tx, next)
	return i.commit(ctx, tx)
}

// Report records what a host has, whole: what is not in it is not on the host.
func (i *Inventory) Report(ctx context.Context, rack string, r *Report) error {
	s, ok := i.scope(ctx, rack, r.vmHost, r.epoch)
	if !ok {
		return nil
	}
	if r.refused != "" {
		next := s.next()
		setCondition(next, refusedReport(r.refused))
		tx := s.begin()
		s.put(tx, next)
		return i.commit(ctx, tx)
	}
	i.rooms.forget(s.host)
	w := &writer{inventory: i, scope: s, tx: s.begin()}
	found := 0
	for _, uuid := range slices.Sorted(maps.Keys(r.machines)) {
		old, known := store.Seen.Get(s.view, s.host, uuid)
		if !known && !s.ours(uuid) {
			found++
		}
		if err := w.machine(ctx, old.Value, r.machines[uuid], s.ours(uuid), found <= maxEvents); err != nil {
			return err
		}
	}
	lost := 0
	for uuid, old := range store.Seen.All(s.view, s.host) {
		if _, there := r.machines[uuid]; there {
			continue
		}
		lost++
		if err := w.gone(ctx, uuid, old.Value, s.ours(uuid), lost <= maxEvents); err != nil {
			return err
		}
	}
	w.many("machine.discovered", "discovered", found)
	w.many("machine.vanished", "vanished", lost)
	next := s.next()
	next.Observation = proto.CloneOf(r.observation)
	next.Observation.ObserveTime = timestamppb.Now()
	next.Observation.Foreign = foreign(maps.Values(r.machines), s.ours)
	next.State = vmhostv1.VmHostState_VM_HOST_STATE_READY
	setCondition(next, reachable())
	dropCondition(next, conditionReport)
	if r.dropped > 0 {
		setCondition(next, partlyRefused(r.dropped))
	}
	s.put(w.tx, next)
	return i.commit(ctx, w.tx)
}

// Change records that one machine changed.
func (i *Inventory) Change(ctx context.Context, rack string, m *rackv1.MachineChange) error {
	s, ok := i.scope(ctx, rack, m.GetVmHost(), m.GetEpoch())
	if !ok {
		return nil
	}
	uuid, ok := cleanUUID(m.GetPresent().GetUuid() + m.GetGoneUuid())
	if !ok {
		return nil
	}
	old, known := store.Seen.Get(s.view, s.host, uuid)
	w := &writer{inventory: i, scope: s, tx: s.begin()}
	change := map[string]*rackv1.MachineObservation{uuid: nil}
	if p := m.GetPresent(); p != nil {
		change[uuid] = cleanMachine(p, uuid)
		if !known && !i.rooms.take(s) {
			return nil // the next whole report says so
		}
		if err := w.machine(ctx, old.Value, change[uuid], s.ours(uuid), true); err != nil {
			return err
		}
	} else if known {
		if err := w.gone(ctx, uuid, old.Value, s.ours(uuid), true); err != nil {
			return err
		}
	}
	if !s.ours(uuid) && s.observed.Value.GetObservation() != nil {
		next := s.next()
		next.Observation.Foreign = foreign(s.withChange(change), s.ours)
		s.put(w.tx, next)
	}
	return i.commit(ctx, w.tx)
}

// Observe records a machine that came with the result of a step.
func (i *Inventory) Observe(ctx context.Context, rack, vmHost string, m *rackv1.MachineObservation) error {
	a, ok := store.Assignments.Get(i.store.Cached(), strings.TrimPrefix(vmHost, "vmHosts/"))
	if !ok {
		return nil
	}
	return i.Change(ctx, rack, &rackv1.MachineChange{VmHost: vmHost, Epoch: a.Revision, Change: &rackv1.MachineChange_Present{Present: m}})
}
