package inventory

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// A cluster moves its machines by itself. One of ours that is seen on another
// host of the cluster is the same machine, and its record goes there: host, zone
// and capacity, in one transaction that compares everything it was decided on, so
// that it does not matter which process does it, or how many do.

// followTries is how often a move is decided anew. After that it waits for the
// next report.
const followTries = 4

// siblings says whether two hosts stand for members of one cluster, and for the
// same project of it.
func siblings(a, b *vmhostv1.VmHost) bool {
	return a.GetClusterGroup() != "" && a.GetClusterGroup() == b.GetClusterGroup() && project(a.GetProject()) == project(b.GetProject()) &&
		a.GetName() != b.GetName()
}

func project(p string) string {
	if p == "" {
		return "default"
	}
	return p
}

// strayRecord is the record of a machine on a host, when it says that the
// machine is on another host of the cluster.
func strayRecord(v *store.View, h *vmhostv1.VmHost, m *rackv1.MachineObservation) (store.Record[*storev1.StoredMachine], bool) {
	none := store.Record[*storev1.StoredMachine]{}
	if h.GetClusterGroup() == "" || m.GetUid() == "" || m.GetProject() != "" && m.GetProject() != project(h.GetProject()) {
		return none, false
	}
	r, ok := store.Machines.Get(v, m.GetUid())
	if !ok || view.Domain(r.Value.GetResource()) != m.GetUuid() {
		return none, false // a clone, or of another deployment
	}
	if r.Value.GetMove() != nil {
		return none, false // we are moving it: it goes where that says
	}
	at, ok := store.VmHosts.Get(v, strings.TrimPrefix(r.Value.GetResource().GetVmHost(), "vmHosts/"))
	return r, ok && siblings(h, at.Value.GetResource())
}

// ready says whether what a host shows is how it is now.
func ready(v *store.View, host string) bool {
	o, _ := store.Observed.Get(v, host)
	return o.Value.GetState() == vmhostv1.VmHostState_VM_HOST_STATE_READY
}

// elsewhere are the other hosts of the cluster that show a machine.
func elsewhere(v *store.View, h *vmhostv1.VmHost, uuid string) []string {
	if h.GetClusterGroup() == "" {
		return nil
	}
	var out []string
	for host, r := range store.VmHosts.All(v) {
		if !siblings(h, r.Value.GetResource()) {
			continue
		}
		if _, ok := store.Seen.Get(v, host, uuid); ok && ready(v, host) {
			out = append(out, host)
		}
	}
	return out
}

// follow moves the record of a machine to the host that shows it, if it can be
// moved now: no operation works on it, and the host it was on does not show it,
// or was looked at before it came here.
func (i *Inventory) follow(ctx context.Context, host, uuid string) error {
	for range followTries {
		tx, ok := i.move(i.store.Cached(), host, uuid)
		if !ok {
			return nil
		}
		if _, err := i.store.Commit(ctx, tx); !errors.Is(err, store.ErrConflict) {
			if err != nil {
				return fmt.Errorf("follow a machine to another host: %w", err)
			}
			i.log.InfoContext(ctx, "machine followed to another host of its cluster", "vm_host", host, "hypervisor_uuid", uuid)
			return nil
		}
	}
	return nil // somebody is busy with it; the next report finds it again
}

// move is the transaction; false when there is nothing to move, or not now.
func (i *Inventory) move(v *store.View, host, uuid string) (*store.Txn, bool) {
	s, ok := i.look(v, host)
	seen, there := store.Seen.Get(v, host, uuid)
	if !ok || !there || !ready(v, host) {
		return nil, false
	}
	record, stray := strayRecord(v, s.resource, seen.Value.GetObservation())
	r := record.Value.GetResource()
	if !stray || busy(v, r) {
		return nil, false
	}
	old, ok := i.look(v, strings.TrimPrefix(r.GetVmHost(), "vmHosts/"))
	if !ok || i.showsLater(old, uuid, seen.Value) {
		return nil, false
	}
	tx := store.NewTxn()
	for _, side := range []*scope{old, s} {
		spec, _ := store.VmHosts.Get(v, side.host)
		tx.IfRevision(store.VmHosts.Key(side.host), spec.Revision)
		was, _ := store.Seen.Get(v, side.host, uuid)
		tx.IfRevision(store.Seen.Key(side.host, uuid), was.Revision)
	}
	tx.IfRevision(store.Machines.Key(r.GetUid()), record.Revision)
	next := proto.CloneOf(record.Value)
	next.Resource.VmHost, next.Resource.Zone, next.Resource.UpdateTime = s.resource.GetName(), s.resource.GetZone(), timestamppb.Now()
	store.Put(tx, store.Machines, next, r.GetUid())
	books := ledger.Open(tx, v)
	books.Move(record.Value, host)
	books.Unsee(old.host, uuid, record.Value.GetCommitment())
	books.Close()
	// It was one of others here as long as its record was elsewhere.
	if s.observed.Value.GetObservation() != nil {
		observed := proto.CloneOf(s.observed.Value)
		observed.Observation.Foreign = foreign(uncommitted(v, s.resource, record.Value, after(v, host, nil)), observed.GetObservation().GetSriovDevices())
		tx.IfRevision(store.Observed.Key(host), s.observed.Revision)
		store.Put(tx, store.Observed, observed, host)
	}
	store.AddEvent(tx, &vmhostv1.Event{
		Type: "machine.moved", Resource: r.GetName(), VmHost: s.resource.GetName(),
		Message:    r.GetHostname() + " moved from " + old.host + " to " + host,
		Attributes: map[string]string{"from": old.resource.GetName(), "to": s.resource.GetName(), "hypervisor_name": seen.Value.GetObservation().GetName()},
	})
	return tx, true
}

// showsLater says whether a host was seen with the machine after another was.
func (i *Inventory) showsLater(old *scope, uuid string, here *storev1.StoredSeenMachine) bool {
	was := old.old(uuid)
	if was == nil {
		return false
	}
	at := old.observed.Value.GetObservation().GetObserveTime().AsTime()
	for _, t := range []*timestamppb.Timestamp{was.GetChangeTime(), timestamppb.New(old.memory.lastSeen())} {
		if t.AsTime().After(at) {
			at = t.AsTime()
		}
	}
	return !at.Before(here.GetFirstSeenTime().AsTime())
}

// busy says whether somebody works on a machine, or nobody knows how it is.
func busy(v *store.View, m *vmhostv1.Machine) bool {
	if m.GetPhase() != vmhostv1.MachinePhase_MACHINE_PHASE_READY {
		return true
	}
	op, ok := store.Operations.Get(v, strings.TrimPrefix(m.GetOperation(), "operations/"))
	return ok && op.Value.GetResource().GetEndTime() == nil
}
