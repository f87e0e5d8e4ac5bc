package inventory

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// Report records what a host has: whole, where what is not in it is not on the
// host, or what changed since the report before. Errors: ErrReportAgain when the
// rack must send it whole.
func (i *Inventory) Report(ctx context.Context, rack string, r *Report) error {
	if _, counts := i.scope(ctx, rack, r.vmHost, r.epoch); !counts {
		return nil
	}
	now := time.Now()
	if r.delta {
		if r.refused != "" {
			return ErrReportAgain
		}
		if ok, err := r.follows(now); !ok {
			return err
		}
	} else if r.refused != "" {
		r.settle(now)
		return i.record(ctx, rack, r.vmHost, r.epoch, func(s *scope) error {
			next := s.next()
			setCondition(next, refusedReport(r.refused))
			return i.amend(ctx, s, s.begin(), next)
		})
	}
	var strays []string
	if err := i.record(ctx, rack, r.vmHost, r.epoch, func(s *scope) error {
		if r.delta && r.observation == nil && s.observed.Value.GetObservation() == nil {
			return ErrReportAgain // it is gone from the store
		}
		s.memory.see(now)
		if !r.delta {
			i.rooms.forget(s.host)
			s.memory.strays = nil
		}
		err := i.apply(ctx, s, &update{Report: r, tells: true})
		maps.DeleteFunc(s.memory.strays, func(uuid string, _ struct{}) bool {
			_, ok := strayRecord(s.view, s.resource, s.old(uuid).GetObservation())
			return !ok && s.old(uuid) != nil
		})
		strays = slices.Sorted(maps.Keys(s.memory.strays))
		return err
	}); err != nil {
		return err
	}
	if !r.delta {
		r.settle(time.Time{})
	}
	return i.followAll(ctx, strings.TrimPrefix(r.vmHost, "vmHosts/"), strays)
}

// Change records that one machine changed.
func (i *Inventory) Change(ctx context.Context, rack string, m *rackv1.MachineChange) error {
	uuid, ok := cleanUUID(m.GetPresent().GetUuid() + m.GetGoneUuid())
	if !ok {
		return nil
	}
	change := &Report{delta: true, machines: map[string]*rackv1.MachineObservation{uuid: nil}}
	if p := m.GetPresent(); p != nil {
		change.machines[uuid] = cleanMachine(p, uuid)
	}
	stray := false
	if err := i.record(ctx, rack, m.GetVmHost(), m.GetEpoch(), func(s *scope) error {
		err := i.apply(ctx, s, &update{Report: change})
		_, stray = s.memory.strays[uuid]
		return err
	}); err != nil || !stray {
		return err
	}
	return i.followAll(ctx, strings.TrimPrefix(m.GetVmHost(), "vmHosts/"), []string{uuid})
}

// Observe records a machine that came with the result of a step.
func (i *Inventory) Observe(ctx context.Context, rack, vmHost string, m *rackv1.MachineObservation) error {
	a, ok := store.Assignments.Get(i.store.Cached(), strings.TrimPrefix(vmHost, "vmHosts/"))
	if !ok {
		return nil
	}
	return i.Change(ctx, rack, &rackv1.MachineChange{VmHost: vmHost, Epoch: a.Revision, Change: &rackv1.MachineChange_Present{Present: m}})
}

// update is a report being recorded.
type update struct {
	*Report
	tells bool // of the host, not of one machine alone
}

// apply records a report in one transaction, or in several when it is large. It
// may be called again after it failed: what was written then is no change any
// more, and foreign use is summed up anew.
func (i *Inventory) apply(ctx context.Context, s *scope, u *update) error {
	if u.tells && u.delta && u.observation == nil && len(u.machines) == 0 && u.dropped == 0 && s.settled() {
		return nil
	}
	w := &writer{inventory: i, scope: s, tx: s.begin(), whole: !u.delta}
	if err := w.machines(ctx, u); err != nil {
		return err
	}
	if !u.tells && s.observed.Value.GetObservation() == nil {
		return i.finish(ctx, s, w.tx, false, false) // the host was never reported
	}
	if s.leaves(u, w.swaps) {
		if err := i.finish(ctx, s, w.tx, false, true); err != nil {
			return err
		}
		return w.left(ctx)
	}
	next := s.next()
	if u.observation != nil {
		next.Observation = proto.CloneOf(u.observation)
		claim(s.view, s.host, next.GetObservation())
		calm(s.observed.Value.GetObservation(), next.GetObservation())
	}
	next.Observation.Foreign = s.foreign(u, w.swaps, next.GetObservation())
	if u.tells {
		next.State = vmhostv1.VmHostState_VM_HOST_STATE_READY
		setCondition(next, reachable())
		dropCondition(next, conditionStale)
		if !u.delta {
			dropCondition(next, conditionReport)
		}
	}
	if u.dropped > 0 {
		setCondition(next, partlyRefused(u.dropped))
	}
	put := s.put(w.tx, next)
	if err := i.finish(ctx, s, w.tx, put, true); err != nil {
		return err
	}
	return w.left(ctx)
}

// leaves says whether what is told of one machine leaves the host's record as it is,
// which it mostly does: to compare whole records costs several times what all the rest does.
func (s *scope) leaves(u *update, swaps []swap) bool {
	old := s.observed.Value
	o := old.GetObservation()
	return !u.tells && u.dropped == 0 && old.GetEpoch() == s.epoch && old.GetVmHostUid() == s.resource.GetUid() &&
		proto.Equal(s.foreign(u, swaps, o), o.GetForeign()) && !ledger.PoolsDiffer(s.view, s.host, s.resource, o)
}

// settled says whether a report without anything would change nothing.
func (s *scope) settled() bool {
	o := s.observed.Value
	return s.memory.counted == s.observed.Revision && o.GetObservation() != nil && o.GetState() == vmhostv1.VmHostState_VM_HOST_STATE_READY &&
		o.GetEpoch() == s.epoch && !slices.ContainsFunc(o.GetConditions(), func(c *vmhostv1.Condition) bool {
		return c.GetType() == conditionStale || c.GetType() == conditionReachable && !c.GetStatus()
	})
}

// foreign is what others use after the report. It follows from what changed, when
// what is recorded is known to be right and nothing else was written meanwhile;
// else all machines are gone through.
func (s *scope) foreign(u *update, swaps []swap, next *vmhostv1.VmHostObservation) *vmhostv1.ForeignUsage {
	if !u.delta {
		return foreign(uncommitted(s.view, s.resource, nil, maps.Values(u.machines)), next.GetSriovDevices())
	}
	old := s.observed.Value.GetObservation()
	sameDevices := slices.EqualFunc(old.GetSriovDevices(), next.GetSriovDevices(), func(a, b *vmhostv1.SriovDevice) bool { return a.GetName() == b.GetName() })
	if s.memory.counted != 0 && s.memory.counted == s.observed.Revision && sameDevices {
		if f, ok := changed(old.GetForeign(), swaps); ok {
			return f
		}
	}
	return foreign(uncommitted(s.view, s.resource, nil, after(s.view, s.host, u.machines)), next.GetSriovDevices())
}

// old is what was seen of a machine before; nil when it was not.
func (s *scope) old(uuid string) *storev1.StoredSeenMachine {
	r, _ := store.Seen.Get(s.view, s.host, uuid)
	return r.Value
}

// of is our record of a machine on the host, as it was seen.
func (s *scope) of(m *rackv1.MachineObservation) (*vmhostv1.Machine, bool) {
	if m == nil {
		return nil, false
	}
	r, ok := view.Ours(s.view, s.resource, m)
	return r.Value.GetResource(), ok
}

// moves says whether a machine of ours is being moved, to the host or away from it.
func (s *scope) moves(m *vmhostv1.Machine) bool {
	r, ok := store.Machines.Get(s.view, m.GetUid())
	return m != nil && ok && r.Value.GetMove() != nil
}

func (i *Inventory) followAll(ctx context.Context, host string, uuids []string) error {
	var all error
	for _, uuid := range uuids {
		all = errors.Join(all, i.follow(ctx, host, uuid))
	}
	return all
}
