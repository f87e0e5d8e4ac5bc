package ledger

import (
	"math"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// underway is the revision of what is being submitted.
const underway = math.MaxInt64

// committed is a host's ledger as this process wrote it, or is writing it. The
// watch brings it to the copy of the state a little later; the next batch need
// not wait for that.
type committed struct {
	value    *storev1.StoredLedger
	revision int64
	outcome  *outcome // of what is being submitted
}

// outcome is the revision that a transaction got, unknown until it did. Guarded by
// Ledger.mu.
type outcome struct{ revision int64 }

// unknown is the revision of what is under way, and of what failed.
const unknown = -1

// ledgerAt is the newest ledger of a host that is known: the view's, or what was
// committed since.
func (l *Ledger) ledgerAt(v *store.View, host string) committed {
	if c, ok := l.aheadOf(v, host); ok {
		return c
	}
	rec, _ := store.Ledgers.Get(v, host)
	return committed{value: rec.Value, revision: rec.Revision}
}

// aheadOf is the ledger of a host that was committed, or is under way, since a
// view.
func (l *Ledger) aheadOf(v *store.View, host string) (committed, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.ahead[host]
	if ok && c.revision <= v.Revision {
		delete(l.ahead, host)
		ok = false
	}
	return c, ok
}

// bind makes a decision depend on the ledgers it was made on, now that nothing is
// under way, and lets the next one be made on what it will leave. False when
// those ledgers did not come to be.
func (l *Ledger) bind(d *decision) bool {
	v := d.view
	if !l.bindOutlook(d) || !l.bindLedgers(d) {
		return false
	}
	if !l.bindTaken(v, d) {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for host, led := range d.ledgers {
		l.ahead[host] = committed{led, underway, d.outcome}
	}
	for _, p := range d.placed {
		l.index.claim(p.machine, underway)
	}
	return true
}

// bindTaken makes a decision depend on what it takes of that is no host's alone:
// quotas, and storage pools that hosts share. False when what it was decided on did
// not come to be.
func (l *Ledger) bindTaken(v *store.View, d *decision) bool {
	if !l.bindShared(d) {
		return false
	}
	if l.bindUsage(v, d) {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settleShared(d, 0, store.ErrConflict)
	return false
}

// bindOutlook says whether a decision was made on what the records say: what was
// under way on one of its hosts may have failed since it began, by what others took
// there, and then its ledger is newer than what it was decided on. A storage pool
// that hosts share is taken by any of them.
func (l *Ledger) bindOutlook(d *decision) bool {
	if !d.shares {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(d.sharing) > 0 && len(l.outlook.stale) > 0 {
		return false
	}
	for host := range d.base {
		if _, stale := l.outlook.stale[host]; stale {
			return false
		}
	}
	return true
}

// bindLedgers compares the ledgers that a decision was made on with the newest
// ones that are known.
func (l *Ledger) bindLedgers(d *decision) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for host, base := range d.base {
		now, ahead := l.ahead[host]
		if !ahead || now.revision <= d.view.Revision {
			now.revision = store.Ledgers.RevisionOf(d.view, host)
		}
		if base.revision == underway {
			base.revision = base.outcome.revision
		}
		if now.revision != base.revision {
			return false
		}
		d.tx.IfRevision(store.Ledgers.Key(host), now.revision)
	}
	return true
}

// settle says what became of what was under way.
func (l *Ledger) settle(d *decision, revision int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for host, led := range d.ledgers {
		if err == nil && (!d.shares || l.outlook.revision < revision) {
			l.ahead[host] = committed{value: led, revision: revision}
		} else { // failed, or every view that is decided on from now on has it
			delete(l.ahead, host)
		}
	}
	if err != nil || !d.shares || d.inexact {
		l.giveUp(d)
	}
	if err == nil {
		d.outcome.revision = revision
	}
	l.settleUsage(d, revision, err)
	l.settleShared(d, revision, err)
	for _, p := range d.placed {
		l.index.claim(p.machine, revision) // 0 with an error
	}
}
