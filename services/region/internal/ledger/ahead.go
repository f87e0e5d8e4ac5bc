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
}

// ledgerAt is the newest ledger of a host that is known: the view's, or what was
// committed since.
func (l *Ledger) ledgerAt(v *store.View, host string) committed {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c, ok := l.ahead[host]; ok && c.revision > v.Revision {
		return c
	}
	delete(l.ahead, host)
	rec, _ := store.Ledgers.Get(v, host)
	return committed{rec.Value, rec.Revision}
}

// bind makes a decision depend on the ledgers it was made on, now that nothing is
// under way, and lets the next one be made on what it will leave. False when
// those ledgers did not come to be.
func (l *Ledger) bind(d *decision) bool {
	v := d.view
	for host, base := range d.base {
		now := l.ledgerAt(v, host)
		if now.value != base || now.revision == underway {
			return false
		}
		d.tx.IfRevision(store.Ledgers.Key(host), now.revision)
	}
	if !l.bindTaken(v, d) {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for host, led := range d.ledgers {
		l.ahead[host] = committed{led, underway}
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

// settle says what became of what was under way.
func (l *Ledger) settle(d *decision, revision int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for host, led := range d.ledgers {
		if err == nil {
			l.ahead[host] = committed{led, revision}
		} else {
			delete(l.ahead, host)
		}
	}
	l.settleUsage(d, revision, err)
	l.settleShared(d, revision, err)
	for _, p := range d.placed {
		l.index.claim(p.machine, revision) // 0 with an error
	}
}
