package inventory

import (
	"context"
	"errors"
	"sync"
	"time"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// staleAfter is how many reports of a host may be missed.
const staleAfter = 3

// Sessions are the sessions of racks that this process holds.
type Sessions interface {
	// Session is the id of the session that this process holds of the rack; empty
	// when it holds none.
	Session(rack string) string
}

// Run notices hosts that are not reported any more though the session of their
// rack lives, and keeps the index that Locate finds by, until ctx ends.
func (i *Inventory) Run(ctx context.Context, sessions Sessions) error {
	ctx, cancel := context.WithCancel(ctx)
	var looking sync.WaitGroup
	looking.Go(func() { patrol(ctx, i.interval/4, func(now time.Time) { i.pass(ctx, sessions, now) }) })
	err := i.locations.run(ctx, i.store)
	cancel()
	looking.Wait()
	return err
}

// patrol calls look now and then until ctx ends.
func patrol(ctx context.Context, every time.Duration, look func(now time.Time)) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			look(now)
		case <-ctx.Done():
			return
		}
	}
}

// pass looks at the hosts of all racks that this process has a session of.
func (i *Inventory) pass(ctx context.Context, sessions Sessions, now time.Time) {
	v := i.store.Cached()
	held := map[string]store.Record[*storev1.StoredSession]{}
	for rack, session := range store.Sessions.All(v) {
		if session.Value.GetSession() == sessions.Session(rack) {
			held[rack] = session
		}
	}
	if len(held) == 0 {
		return
	}
	for host, a := range store.Assignments.All(v) {
		session, ok := held[a.Value.GetRack()]
		if !ok || ctx.Err() != nil {
			continue
		}
		since := i.memory.of(v, host).silentSince(session.Value.GetSession(), now)
		if now.Sub(since) < staleAfter*i.interval {
			continue
		}
		if err := i.silent(ctx, host, now, a, session); err != nil && ctx.Err() == nil {
			i.log.WarnContext(ctx, "state of a host that is not reported not recorded", "vm_host", host, "error", err)
		}
	}
}

// silent records that nothing was heard of a host that was ready.
func (i *Inventory) silent(ctx context.Context, host string, now time.Time, a store.Record[*storev1.StoredAssignment], session store.Record[*storev1.StoredSession]) error {
	rack := a.Value.GetRack()
	return i.record(ctx, rack, "vmHosts/"+host, a.Revision, func(s *scope) error {
		if s.observed.Value.GetState() != vmhostv1.VmHostState_VM_HOST_STATE_READY {
			return nil // it is known to be in trouble, or was never reached
		}
		if now.Sub(s.memory.silentSince(session.Value.GetSession(), now)) < staleAfter*i.interval {
			return nil // it was reported this moment
		}
		last := s.memory.lastSeen()
		if stored := s.observed.Value.GetObservation().GetObserveTime().AsTime(); stored.After(last) {
			last = stored
		}
		next := s.next()
		next.State = vmhostv1.VmHostState_VM_HOST_STATE_UNREACHABLE
		c := stale(rack, last)
		setCondition(next, c)
		setCondition(next, &vmhostv1.Condition{Type: conditionReachable, Reason: c.GetReason(), Message: c.GetMessage(), Hint: c.GetHint(), TransitionTime: c.GetTransitionTime()})
		tx := s.begin()
		tx.IfRevision(store.Sessions.Key(rack), session.Revision)
		if err := i.amend(ctx, s, tx, next); !errors.Is(err, store.ErrConflict) {
			return err
		}
		return nil // it is looked at again soon
	})
}
