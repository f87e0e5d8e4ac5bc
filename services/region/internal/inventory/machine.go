package inventory

import (
	"context"
	"iter"
	"math"
	"strconv"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// ours says whether a record says that the machine of this hypervisor uuid is on
// the host. Composed machines have one uid in the fleet and on the hypervisor.
func (s *scope) ours(uuid string) bool {
	m, ok := store.Machines.Get(s.view, uuid)
	return ok && m.Value.GetResource().GetVmHost() == s.resource.GetName()
}

// withChange are the machines of the host after a change; nil is one that is
// gone.
func (s *scope) withChange(change map[string]*rackv1.MachineObservation) iter.Seq[*rackv1.MachineObservation] {
	return func(yield func(*rackv1.MachineObservation) bool) {
		for uuid, m := range store.Seen.All(s.view, s.host) {
			if _, changed := change[uuid]; !changed && !yield(m.Value.GetObservation()) {
				return
			}
		}
		for _, m := range change {
			if m != nil && !yield(m) {
				return
			}
		}
	}
}

// foreign is what machines that are not ours use, running or not.
func foreign(machines iter.Seq[*rackv1.MachineObservation], ours func(uuid string) bool) *vmhostv1.ForeignUsage {
	out := &vmhostv1.ForeignUsage{}
	cores := int64(0)
	for m := range machines {
		if ours(m.GetUuid()) {
			continue
		}
		out.Machines++
		cores += int64(m.GetCores())
		out.MemoryMib += m.GetMemoryMib()
	}
	out.Cores = int32(min(cores, math.MaxInt32))
	return out
}

// writer collects the writes of one report into transactions that etcd takes.
type writer struct {
	inventory *Inventory
	scope     *scope
	tx        *store.Txn
}

func (w *writer) room(ctx context.Context) error {
	if w.tx.Writes() < batchOps {
		return nil
	}
	tx := w.tx
	w.tx = w.scope.begin()
	return w.inventory.commit(ctx, tx)
}

func (w *writer) machine(ctx context.Context, old *storev1.StoredSeenMachine, m *rackv1.MachineObservation, ours, tell bool) error {
	if proto.Equal(old.GetObservation(), m) {
		return nil
	}
	now := timestamppb.Now()
	next := &storev1.StoredSeenMachine{Observation: m, FirstSeenTime: old.GetFirstSeenTime(), ChangeTime: now}
	if old == nil {
		next.FirstSeenTime = now
	}
	store.Put(w.tx, store.Seen, next, w.scope.host, m.GetUuid())
	switch {
	case old == nil && !ours && tell:
		w.event("machine.discovered", m, ours, m.GetName()+" is on "+w.scope.host)
	case old != nil && old.GetObservation().GetPowerState() != m.GetPowerState():
		w.event("machine.power_changed", m, ours, m.GetName()+" is "+powerWord(m.GetPowerState()))
	}
	return w.room(ctx)
}

func (w *writer) gone(ctx context.Context, uuid string, old *storev1.StoredSeenMachine, ours, tell bool) error {
	w.tx.Delete(store.Seen.Key(w.scope.host, uuid))
	if ours {
		// Wanted or not: a machine that is being deleted does not vanish.
		m, ok := store.Machines.Get(w.scope.view, uuid)
		tell = ok && m.Value.GetResource().GetPhase() != vmhostv1.MachinePhase_MACHINE_PHASE_DELETING
	}
	if tell {
		w.event("machine.vanished", old.GetObservation(), ours, old.GetObservation().GetName()+" is not on "+w.scope.host+" any more")
	}
	return w.room(ctx)
}

func (w *writer) event(kind string, m *rackv1.MachineObservation, ours bool, message string) {
	uid := m.GetUuid()
	if !ours {
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
