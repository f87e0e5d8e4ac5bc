package ledger

import (
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// outlook is the fleet as it will be once all that is under way has succeeded:
// what composes that share transactions are decided on. It is kept from one
// decision to the next, each of which takes from it, so that a host is made anew
// of its records only when something else changed it. Guarded by the turn, but for
// what says otherwise.
type outlook struct {
	draft    *placement.Draft
	revision int64 // of the view that it has seen; guarded by Ledger.mu
	uses     int
	// stale are hosts that are not as the outlook has them: of decisions that came
	// to nothing, and of what was not taken by its decisions. Guarded by Ledger.mu.
	stale map[string]struct{}
}

// outlookUses is after how many decisions words that no host has any more are
// dropped.
const outlookUses = 4096

// outlookAt is the outlook at a view. Whoever calls it has the turn; what he takes
// of it comes to be by settle, or to nothing by giveUp.
func (l *Ledger) outlookAt(v *store.View) *placement.Draft {
	o := &l.outlook
	anew, known := l.outdated(v)
	if o.draft == nil || !known {
		o.draft = l.draft(v)
		return o.draft
	}
	for id := range anew {
		spec, ok := store.VmHosts.Get(v, id)
		if !ok {
			o.draft.Remove(id)
			continue
		}
		observed, _ := store.Observed.Get(v, id)
		o.draft.Put(placement.NewHost(spec.Value, observed.Value, l.ledgerAt(v, id).value))
	}
	if o.uses++; o.uses%outlookUses == 0 {
		o.draft = o.draft.Fleet().Draft()
	}
	return o.draft
}

// outdated are the hosts that the outlook has not as they are in a view, or will
// be by what is under way. False when that is not known.
func (l *Ledger) outdated(v *store.View) (map[string]struct{}, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := &l.outlook
	changes, known := v.HostChangesSince(o.revision)
	for _, c := range changes {
		own, ahead := l.ahead[c.ID]
		if !ahead || !c.Ledger || c.ModRevision == 0 || own.revision < c.ModRevision {
			o.outdate(c.ID)
			continue
		}
		// Ours, and the outlook has it. Were it somebody else's, and ours under way,
		// then ours would fail by it.
		if own.revision == c.ModRevision {
			delete(l.ahead, c.ID)
		}
	}
	anew := o.stale
	o.revision, o.stale = v.Revision, nil
	return anew, known
}

// giveUp says that nothing becomes of a decision, or that the outlook has not what
// became of it. Call it with l.mu held.
func (l *Ledger) giveUp(d *decision) {
	for host := range d.ledgers {
		l.outlook.outdate(host)
	}
}

// outdate says that a host is not as the outlook has it. Call it with Ledger.mu
// held.
func (o *outlook) outdate(host string) {
	if o.stale == nil {
		o.stale = map[string]struct{}{}
	}
	o.stale[host] = struct{}{}
}
