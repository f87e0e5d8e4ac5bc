package ledger

import (
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// decision is what was decided on one view, not yet committed.
type decision struct {
	view  *store.View
	lane  placement.Lane
	fleet *placement.Draft // as it will be
	// shares says that fleet is the outlook, inexact that it has not exactly what was
	// taken of it.
	shares, inexact bool
	taken           claims

	tx        *store.Txn
	outcome   *outcome
	placed    []placed
	refused   []refusal
	postponed []*pending
	base      map[string]committed             // of the hosts in ledgers, as they were decided on
	ledgers   map[string]*storev1.StoredLedger // as they will be
	taking    map[string]*taking               // by pool with a quota
	sharing   map[string]*sharing              // by identity of a shared storage pool
}

// refuse answers those whose refusal is true whatever becomes of the decision,
// and is left with those who were refused beside others of it: they are answered
// when it is committed. Who must be decided on again is returned.
func (d *decision) refuse(final bool) (again []*pending) {
	again = d.postponed
	var beside []refusal
	for _, r := range d.refused {
		switch {
		case !final:
			r.refused, r.lanes = true, 0
			again = append(again, r.pending)
		case r.placed == 0:
			r.finish(nil, r.err)
		default:
			beside = append(beside, r)
		}
	}
	d.refused = beside
	return again
}

// pending are those who have no answer yet: first the refused, so that next time
// nothing is placed before them.
func (d *decision) pending() []*pending {
	out := make([]*pending, 0, len(d.refused)+len(d.placed))
	for _, r := range d.refused {
		out = append(out, r.pending)
	}
	for _, p := range d.placed {
		out = append(out, p.pending)
	}
	return out
}

// of is the ledger of a host as it will be, to be added to. It is read at the first
// machine of the host.
func (l *Ledger) of(d *decision, host string) *storev1.StoredLedger {
	led, ok := d.ledgers[host]
	if ok {
		return led
	}
	base, known := l.aheadOf(d.view, host)
	if known {
		led = cloneLedger(base.value)
	} else {
		rec, there := store.Ledgers.Read(d.view, host)
		if led = rec.Value; !there {
			led = &storev1.StoredLedger{}
		}
		base = committed{revision: rec.Revision}
		if len(led.GetSharedPools()) > 0 {
			base.value = cloneLedger(led) // what it holds of them already
		}
	}
	d.base[host], d.ledgers[host] = base, led
	return led
}

type placed struct {
	*pending
	machine   *storev1.StoredMachine
	operation *vmhostv1.Operation
}

type refusal struct {
	*pending

	err    error
	placed int // how many of the decision had been placed before
}

// claims is what earlier composes of the same batch take.
type claims struct {
	names    map[string]bool // keys of names
	requests map[string]bool // keys of requests
	macs     map[string]bool
	pools    map[string]bool
}

// newShared begins a decision on the outlook.
func (l *Ledger) newShared(v *store.View, lane placement.Lane) *decision {
	d := l.newOn(v, lane, l.outlookAt(v))
	d.shares = true
	return d
}

// newDecision begins a decision on the fleet of a view, over all hosts.
func (l *Ledger) newDecision(v *store.View) *decision {
	return l.newOn(v, placement.AllLanes, l.draft(v))
}

// newOn begins with nobody.
func (l *Ledger) newOn(v *store.View, lane placement.Lane, fleet *placement.Draft) *decision {
	l.index.prune(v)
	tx := store.NewTxn()
	tx.Grow(maxBatch * writesPerCompose)
	return &decision{
		view: v, lane: lane, fleet: fleet, tx: tx, outcome: &outcome{unknown},
		taken: claims{names: map[string]bool{}, requests: map[string]bool{}, macs: map[string]bool{}, pools: map[string]bool{}},
		base:  map[string]committed{}, ledgers: map[string]*storev1.StoredLedger{},
	}
}
