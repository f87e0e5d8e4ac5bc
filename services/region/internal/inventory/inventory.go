// Package inventory records what racks report of hosts and their machines:
// `observed/` and `seen/`.
//
// A report counts only with the epoch of the host's present assignment, and each
// write compares the assignment, so that a rack that lost a host cannot write
// about it any more (P7). Only what changed is written: a report that changes
// nothing makes no write, and when a host was last reported is kept in memory
// (LastSeen) and stored with the next thing that is.
//
// The first report of a session and epoch is whole, later ones are deltas and
// touch only what they name. A delta that follows no whole report of its session
// is answered with ErrReportAgain.
//
// Nothing a rack says is trusted: numbers are clamped, texts are bounded and
// cleaned, lists are cut (see clean.go). What had to be refused becomes a
// condition of the host.
//
// What counts as foreign is decided here: every machine seen on a host that has
// no record saying that it is ours (view.Ours), and of ours what somebody gave them
// beyond what is committed. Foreign use is the sum over that, at every revision at which the host's record was written; others who
// change it (adopt, release) compare the record's revision as this package does.
//
// A machine of ours that shows up on another host of its cluster is followed: its
// record moves there (follow.go).
//
// Run owns two goroutines and ends them with its context: one notices hosts which
// a living session does not report any more (stale.go), one keeps an index of
// what was seen (locate.go).
package inventory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

const (
	// batchOps and batchBytes are how much goes into one transaction, with room for
	// a few writes more. etcd takes 1.5 MiB.
	batchOps   = store.MaxCompares - 8
	batchBytes = 512 << 10
	// maxEvents is how many machines of one report get an event of their own.
	maxEvents = 50
	// recordTries is how often a report is recorded anew when others changed the
	// same records.
	recordTries = 16
)

// Inventory records reports.
type Inventory struct {
	store  *store.Store
	log    *slog.Logger
	rooms  rooms
	memory memory
	// locations is kept by Run; without it things are found more slowly.
	locations locations
	// interval is how often racks report every host.
	interval time.Duration
}

// New makes an inventory over the store.
func New(s *store.Store, log *slog.Logger) *Inventory {
	return &Inventory{store: s, log: log.With("component", "inventory"), rooms: rooms{most: maxMachines}, interval: time.Minute}
}

// LastSeen is when a host was last reported to this process; the zero time when
// it was not.
func (i *Inventory) LastSeen(host string) time.Time { return i.memory.lastSeen(host) }

// scope is the host that a report is about, as far as the rack may report on it.
type scope struct {
	view     *store.View
	host     string
	epoch    int64
	resource *vmhostv1.VmHost
	spec     int64 // revision of the host's record
	observed store.Record[*storev1.StoredVmHostObservation]
	memory   *hostMemory
}

// scope answers false for a report that does not count: of a rack that does not
// drive the host, or does so with another epoch.
func (i *Inventory) scope(ctx context.Context, rack, name string, epoch int64) (*scope, bool) {
	v := i.store.Cached()
	host, ok := strings.CutPrefix(name, "vmHosts/")
	if !ok {
		return nil, false
	}
	a, ok := store.Assignments.Get(v, host)
	if !ok || a.Value.GetRack() != rack || a.Revision != epoch {
		i.log.DebugContext(ctx, "report with another epoch", "vm_host", host, "rack", rack, "epoch", epoch)
		return nil, false
	}
	s, ok := i.look(v, host)
	if !ok || a.Value.GetVmHostUid() != s.resource.GetUid() {
		return nil, false
	}
	s.epoch = epoch
	return s, true
}

// look is a host as a view has it, whoever drives it.
func (i *Inventory) look(v *store.View, host string) (*scope, bool) {
	spec, ok := store.VmHosts.Get(v, host)
	if !ok {
		return nil, false
	}
	s := &scope{view: v, host: host, resource: spec.Value.GetResource(), spec: spec.Revision, memory: i.memory.of(v, host)}
	s.observed, _ = store.Observed.Get(v, host)
	if u := s.observed.Value.GetVmHostUid(); u != "" && u != s.resource.GetUid() {
		s.observed.Value = nil // of the host that had the id before
	}
	return s, true
}

// record runs fn on the host of a report, and again on what is newer when
// others changed the same records. A report that does not count, or not any more,
// is no failure.
func (i *Inventory) record(ctx context.Context, rack, name string, epoch int64, fn func(s *scope) error) error {
	s, ok := i.scope(ctx, rack, name, epoch)
	if !ok {
		return nil
	}
	s.memory.recording.Lock()
	defer s.memory.recording.Unlock()
	for range recordTries {
		if s, ok = i.scope(ctx, rack, name, epoch); !ok {
			return nil
		}
		if err := fn(s); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("record a report: %w", store.ErrConflict)
}

// begin is a transaction that holds only while the rack drives the host.
func (s *scope) begin() *store.Txn {
	tx := store.NewTxn()
	tx.IfRevision(store.Assignments.Key(s.host), s.epoch)
	return tx
}

// commit leaves out empty transactions. Its revision is 0 then.
func (i *Inventory) commit(ctx context.Context, tx *store.Txn) (int64, error) {
	if tx.Writes() == 0 {
		return 0, nil
	}
	revision, err := i.store.Commit(ctx, tx)
	if err != nil {
		return 0, fmt.Errorf("record a report: %w", err)
	}
	return revision, nil
}

// finish commits the last transaction of a report. Foreign use is known to be
// right after it, as counted says, at the host's revision of then.
func (i *Inventory) finish(ctx context.Context, s *scope, tx *store.Txn, put, counted bool) error {
	if tx.Writes() > 0 {
		s.memory.counted = 0 // until it is known that it was done
	}
	revision, err := i.commit(ctx, tx)
	if err != nil {
		return err
	}
	switch {
	case !counted:
		s.memory.counted = 0
	case put:
		s.memory.counted = revision
	default:
		s.memory.counted = s.observed.Revision
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
// host's state changed. When the host was last seen goes with it, and what its
// ledger says of storage pools that it shares: as the host's record has a say in
// that, it is compared.
func (s *scope) put(tx *store.Txn, next *storev1.StoredVmHostObservation) bool {
	old := s.observed.Value
	if o := next.GetObservation(); o != nil {
		o.ObserveTime = old.GetObservation().GetObserveTime()
		shared := ledger.FollowPools(tx, s.view, s.host, s.resource, o)
		if old.GetObservation() != nil && proto.Equal(next, old) && !shared {
			return false
		}
		tx.IfRevision(store.VmHosts.Key(s.host), s.spec)
		if t := s.memory.lastSeen(); !t.IsZero() && (o.GetObserveTime() == nil || t.After(o.GetObserveTime().AsTime())) {
			o.ObserveTime = timestamppb.New(t)
		}
	} else if old != nil && proto.Equal(next, old) {
		return false
	}
	tx.IfRevision(store.Observed.Key(s.host), s.observed.Revision)
	store.Put(tx, store.Observed, next, s.host)
	if next.GetState() != old.GetState() {
		putStateEvent(tx, s.resource.GetName(), next)
	}
	return true
}

// amend records a change of the host alone; foreign use stays as it is.
func (i *Inventory) amend(ctx context.Context, s *scope, tx *store.Txn, next *storev1.StoredVmHostObservation) error {
	counted := s.memory.counted != 0 && s.memory.counted == s.observed.Revision
	put := s.put(tx, next)
	return i.finish(ctx, s, tx, put, counted)
}

// Status records whether a host is reached. A host that is reached is ready when
// its inventory is here.
func (i *Inventory) Status(ctx context.Context, rack string, m *rackv1.HostStatus) error {
	return i.record(ctx, rack, m.GetVmHost(), m.GetEpoch(), func(s *scope) error {
		next := s.next()
		if m.GetReachable() {
			next.ConnectionVersion = cleanText(m.GetConnectionVersion(), maxName)
			setCondition(next, reachable())
		} else {
			var c *vmhostv1.Condition
			next.State, c = unreachable(m.GetError())
			setCondition(next, c)
			dropCondition(next, conditionStale) // it is known why now
		}
		return i.amend(ctx, s, s.begin(), next)
	})
}

// NoRack records that no rack can drive a host. It compares what is recorded, so
// that it never wins over a report.
func (i *Inventory) NoRack(ctx context.Context, host, why string) error {
	v := i.store.Cached()
	s, ok := i.look(v, host)
	if !ok {
		return nil
	}
	s.memory.recording.Lock()
	defer s.memory.recording.Unlock()
	next := s.next()
	next.Epoch = s.observed.Value.GetEpoch()
	next.State = vmhostv1.VmHostState_VM_HOST_STATE_NO_RACK
	setCondition(next, noRack(why))
	dropCondition(next, conditionStale)
	tx := store.NewTxn()
	tx.IfPresent(store.VmHosts.Key(host))
	if err := i.amend(ctx, s, tx, next); !errors.Is(err, store.ErrConflict) {
		return err
	}
	return nil
}
