package inventory

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// writer collects the writes of one report into transactions that etcd takes.
type writer struct {
	inventory *Inventory
	scope     *scope
	tx        *store.Txn
	whole     bool
	bytes     int
	swaps     []swap   // of a delta: what changed of what is not committed
	leaving   []string // ours that went and are on another host of the cluster
}

// machines records the machines of a report, in an order that is always the
// same.
func (w *writer) machines(ctx context.Context, u *update) error {
	s := w.scope
	found, lost := 0, 0
	for _, uuid := range slices.Sorted(maps.Keys(u.machines)) {
		m, old := u.machines[uuid], s.old(uuid)
		if m == nil {
			if old == nil {
				continue
			}
			if err := w.gone(ctx, uuid, old, &lost); err != nil {
				return err
			}
			continue
		}
		if old == nil && u.delta && !w.inventory.rooms.take(s) {
			u.dropped++ // the condition says so
			delete(u.machines, uuid)
			continue
		}
		if err := w.machine(ctx, old, m, &found); err != nil {
			return err
		}
	}
	if !u.delta {
		for uuid := range store.Seen.IDs(s.view, s.host) {
			if _, there := u.machines[uuid]; there {
				continue
			}
			if err := w.gone(ctx, uuid, s.old(uuid), &lost); err != nil {
				return err
			}
		}
	}
	w.many("machine.discovered", "discovered", found)
	w.many("machine.vanished", "vanished", lost)
	return nil
}

// flush commits what was collected when there is no room for another machine.
func (w *writer) flush(ctx context.Context) error {
	if w.tx.Writes() < batchOps && w.bytes < batchBytes {
		return nil
	}
	tx := w.tx
	w.tx, w.bytes = w.scope.begin(), 0
	w.scope.memory.counted = 0 // the host's record comes later
	_, err := w.inventory.commit(ctx, tx)
	return err
}

func (w *writer) machine(ctx context.Context, old *storev1.StoredSeenMachine, m *rackv1.MachineObservation, found *int) error {
	s, before := w.scope, old.GetObservation()
	if proto.Equal(before, m) {
		if w.whole {
			w.note(m) // it may have come while another process looked
		}
		return nil
	}
	now := timestamppb.Now()
	next := &storev1.StoredSeenMachine{Observation: m, FirstSeenTime: old.GetFirstSeenTime(), ChangeTime: now}
	if old == nil {
		next.FirstSeenTime = now
	}
	store.Put(w.tx, store.Seen, next, s.host, m.GetUuid())
	w.bytes += proto.Size(next)
	record, ours := s.of(m)
	w.swaps = append(w.swaps, swap{before: takes(s.view, s.resource, before), after: takes(s.view, s.resource, m)})
	stray := !ours && w.note(m)
	if s.moves(record) {
		w.tellMoving(before, m, record)
	} else {
		w.tell(before, m, record, stray, found)
	}
	return w.flush(ctx)
}

// note remembers a machine whose record is on another host of the cluster.
func (w *writer) note(m *rackv1.MachineObservation) bool {
	s := w.scope
	if _, ok := strayRecord(s.view, s.resource, m); !ok {
		delete(s.memory.strays, m.GetUuid())
		return false
	}
	if s.memory.strays == nil {
		s.memory.strays = map[string]struct{}{}
	}
	s.memory.strays[m.GetUuid()] = struct{}{}
	return true
}

// tell adds the events of a machine that came or changed.
func (w *writer) tell(before, m *rackv1.MachineObservation, record *vmhostv1.Machine, stray bool, found *int) {
	host := w.scope.host
	switch {
	case before == nil && record.GetPhase() == vmhostv1.MachinePhase_MACHINE_PHASE_READY:
		w.event("machine.found", m, record, m.GetName()+" is on "+host+" again")
	case before == nil && record == nil && !stray:
		if *found++; *found <= maxEvents {
			w.event("machine.discovered", m, nil, m.GetName()+" is on "+host)
		}
	case before != nil && before.GetPowerState() != m.GetPowerState():
		w.event("machine.power_changed", m, record, m.GetName()+" is "+powerWord(m.GetPowerState()))
	}
	if record == nil {
		return
	}
	var known []string
	if before != nil {
		known = view.Changed(record, before)
	}
	if now := view.Changed(record, m); len(now) > 0 && !slices.Equal(now, known) {
		w.event("machine.changed_outside", m, record, record.GetHostname()+" was changed outside of vmhost: "+strings.Join(now, "; "))
	}
}

// tellMoving adds the events of a machine that is being moved: that it comes to its
// destination, and how it is there before it runs, is told of by the move's end.
func (w *writer) tellMoving(before, m *rackv1.MachineObservation, record *vmhostv1.Machine) {
	if before != nil && before.GetPowerState() != m.GetPowerState() && record.GetVmHost() == w.scope.resource.GetName() {
		w.event("machine.power_changed", m, record, m.GetName()+" is "+powerWord(m.GetPowerState()))
	}
}

func (w *writer) gone(ctx context.Context, uuid string, old *storev1.StoredSeenMachine, lost *int) error {
	s, before := w.scope, old.GetObservation()
	w.tx.Delete(store.Seen.Key(s.host, uuid))
	delete(s.memory.strays, uuid)
	w.swaps = append(w.swaps, swap{before: takes(s.view, s.resource, before)})
	record, ours := s.of(before)
	switch {
	case !ours:
		if *lost++; *lost <= maxEvents {
			w.event("machine.vanished", before, nil, before.GetName()+" is not on "+s.host+" any more")
		}
	case s.moves(record): // the move's end says where it is
	case len(elsewhere(s.view, s.resource, uuid)) > 0:
		w.leaving = append(w.leaving, uuid)
	case settledPhase(record.GetPhase()): // one that is being made or removed does not go missing
		w.event("machine.missing", before, record, record.GetHostname()+" is not on "+s.host+" any more; its record and its capacity stay")
	}
	return w.flush(ctx)
}

func settledPhase(p vmhostv1.MachinePhase) bool {
	return p == vmhostv1.MachinePhase_MACHINE_PHASE_READY || p == vmhostv1.MachinePhase_MACHINE_PHASE_ADOPTING ||
		p == vmhostv1.MachinePhase_MACHINE_PHASE_RELEASING
}

// left follows machines that went to other hosts of the cluster.
func (w *writer) left(ctx context.Context) error {
	for _, uuid := range w.leaving {
		for _, host := range elsewhere(w.scope.view, w.scope.resource, uuid) {
			if err := w.inventory.follow(ctx, host, uuid); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *writer) event(kind string, m *rackv1.MachineObservation, record *vmhostv1.Machine, message string) {
	uid := record.GetUid()
	if record == nil {
		uid = view.DiscoveredUID(w.scope.resource.GetUid(), m.GetUuid())
	}
	store.AddEvent(w.tx, &vmhostv1.Event{
		Type: kind, Resource: "machines/" + uid, VmHost: w.scope.resource.GetName(), Message: message,
		Attributes: map[string]string{"hypervisor_name": m.GetName(), "power_state": m.GetPowerState().String()},
	})
}

// many tells in one event of what had too many for one each.
func (w *writer) many(kind, word string, n int) {
	if n <= maxEvents {
		return
	}
	store.AddEvent(w.tx, &vmhostv1.Event{
		Type: kind, Resource: w.scope.resource.GetName(), VmHost: w.scope.resource.GetName(),
		Message:    strconv.Itoa(n) + " machines " + word + " on " + w.scope.host,
		Attributes: map[string]string{"machines": strconv.Itoa(n)},
	})
}

func powerWord(p vmhostv1.PowerState) string {
	switch p {
	case vmhostv1.PowerState_POWER_STATE_ON:
		return "on"
	case vmhostv1.PowerState_POWER_STATE_OFF:
		return "off"
	case vmhostv1.PowerState_POWER_STATE_PAUSED:
		return "paused"
	case vmhostv1.PowerState_POWER_STATE_CRASHED:
		return "crashed"
	default:
		return "in an unknown state"
	}
}
