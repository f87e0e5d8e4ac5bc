package session

import (
	"context"
	"errors"
	"strings"
	"time"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/reach"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// assigner gives hosts to racks. Every region runs one; a compare on the
// assignment decides between them. It follows from the state alone, and from
// since when this process has seen racks without a session.
type assigner struct {
	server *Server
	absent map[string]time.Time // racks without a session: since when
	lonely map[string]time.Time // hosts that no rack can drive: since when
}

func newAssigner(s *Server) *assigner {
	return &assigner{server: s, absent: map[string]time.Time{}, lonely: map[string]time.Time{}}
}

func (a *assigner) run(ctx context.Context) {
	ticker := time.NewTicker(a.server.cfg.AssignEvery)
	defer ticker.Stop()
	seen := int64(-1)
	waiting := false
	for {
		// A state that has not changed needs no second look, unless some time is
		// running.
		if v := a.server.store.Cached(); v.Revision != seen || waiting {
			seen = v.Revision
			waiting = a.pass(ctx, v, time.Now())
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// pass looks at every host and answers whether it must look again although
// nothing changes.
func (a *assigner) pass(ctx context.Context, v *store.View, now time.Time) bool {
	a.notePresence(v, now)
	waiting := len(a.absent) > 0
	for host, spec := range store.VmHosts.All(v) {
		if ctx.Err() != nil {
			return true
		}
		if a.host(ctx, v, host, spec, now) {
			waiting = true
		}
	}
	for host := range a.lonely {
		if _, ok := store.VmHosts.Get(v, host); !ok {
			delete(a.lonely, host)
		}
	}
	return waiting
}

func (a *assigner) notePresence(v *store.View, now time.Time) {
	for rack := range store.Racks.All(v) {
		if _, ok := store.Sessions.Get(v, rack); ok {
			delete(a.absent, rack)
		} else if _, known := a.absent[rack]; !known {
			a.absent[rack] = now
		}
	}
	for rack := range a.absent {
		if _, ok := store.Racks.Get(v, rack); !ok {
			delete(a.absent, rack)
		}
	}
}

// host gives one host to a rack if it needs one. It answers whether the host
// waits for some time to pass.
func (a *assigner) host(ctx context.Context, v *store.View, host string, spec store.Record[*storev1.StoredVmHost], now time.Time) bool {
	r := spec.Value.GetResource()
	present, assigned := store.Assignments.Get(v, host)
	pinned := strings.TrimPrefix(r.GetRack(), "racks/")
	rack := present.Value.GetRack()
	valid := assigned && present.Value.GetVmHostUid() == r.GetUid() && (pinned == "" || pinned == rack)
	if valid && reach.Can(v, r.GetAddress(), rack) {
		delete(a.lonely, host)
		return false
	}
	_, enrolled := store.Racks.Get(v, rack)
	_, connected := store.Sessions.Get(v, rack)
	if valid && enrolled && !connected && now.Sub(a.absent[rack]) < a.server.cfg.Grace {
		return true // it may be back in a moment, with what it has begun
	}
	racks := reach.Racks(v, r.GetAddress(), strings.TrimPrefix(r.GetZone(), "zones/"), pinned)
	if len(racks) > 0 {
		delete(a.lonely, host)
		a.give(ctx, v, host, spec, present, racks)
		return true
	}
	// Nobody can. A rack that may still come back keeps the host, so that what it
	// has begun has an owner; one that must not drive it loses it.
	if assigned && (!valid || !enrolled || connected) {
		tx := store.NewTxn()
		tx.IfRevision(store.Assignments.Key(host), present.Revision)
		tx.Delete(store.Assignments.Key(host))
		a.commit(ctx, tx, "assignment taken back", host, rack)
	}
	since, known := a.lonely[host]
	if !known {
		a.lonely[host], since = now, now
	}
	if now.Sub(since) < a.server.cfg.Grace && (!assigned || connected) {
		return true
	}
	observed, _ := store.Observed.Get(v, host)
	if observed.Value.GetState() == vmhostv1.VmHostState_VM_HOST_STATE_NO_RACK {
		return false
	}
	if err := a.server.cfg.Inventory.NoRack(ctx, host, whyNone(rack, pinned, connected)); err != nil && ctx.Err() == nil {
		a.server.log.WarnContext(ctx, "state of a host without a rack not recorded", "vm_host", host, "error", err)
	}
	return true
}

func whyNone(rack, pinned string, connected bool) string {
	switch {
	case pinned != "":
		return "rack " + pinned + ", which must drive the host, is not connected or cannot reach it"
	case rack != "" && !connected:
		return "rack " + rack + " is not connected, and no other connected rack can reach the host"
	default:
		return "no connected rack can reach the host"
	}
}

// give makes the host the rack's that has the fewest of those that are best
// placed.
func (a *assigner) give(ctx context.Context, v *store.View, host string, spec store.Record[*storev1.StoredVmHost], present store.Record[*storev1.StoredAssignment], racks []string) {
	rack := racks[0]
	if len(racks) > 1 {
		rack = fewest(v, spec.Value.GetResource().GetZone(), racks)
	}
	tx := store.NewTxn()
	tx.IfRevision(store.VmHosts.Key(host), spec.Revision)
	tx.IfRevision(store.Assignments.Key(host), present.Revision)
	tx.IfPresent(store.Sessions.Key(rack))
	store.Put(tx, store.Assignments, &storev1.StoredAssignment{Rack: rack, VmHostUid: spec.Value.GetResource().GetUid()}, host)
	a.commit(ctx, tx, "host assigned", host, rack)
}

func fewest(v *store.View, zone string, racks []string) string {
	count := map[string]int{}
	for _, a := range store.Assignments.All(v) {
		count[a.Value.GetRack()]++
	}
	zoneOf := func(rack string) string {
		r, _ := store.Racks.Get(v, rack)
		return r.Value.GetResource().GetZone()
	}
	best := racks[0]
	for _, r := range racks[1:] {
		if zoneOf(best) == zone && zoneOf(r) != zone {
			break // those of the zone come first
		}
		if count[r] < count[best] {
			best = r
		}
	}
	return best
}

func (a *assigner) commit(ctx context.Context, tx *store.Txn, what, host, rack string) {
	switch _, err := a.server.store.Commit(ctx, tx); {
	case err == nil:
		a.server.log.InfoContext(ctx, "assignments changed", "change", what, "vm_host", host, "rack", rack)
	case !errors.Is(err, store.ErrConflict) && ctx.Err() == nil: // another region was faster, or looks again
		a.server.log.WarnContext(ctx, "assignment not recorded", "vm_host", host, "error", err)
	}
}
