package api

import (
	"context"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// forgetBatch is how many machines one transaction forgets: each takes a few
// writes, and a transaction takes a bounded number of compares.
const forgetBatch = 25

// DeleteVmHost takes a host out of the fleet. Nothing is sent to any rack but
// that it stops driving the host (promise P5).
//
// The records of many machines do not fit in one transaction. They go first, a
// batch at a time and each batch with its part of the ledger, and the host goes
// last: a crash in between leaves a cordoned host with fewer machines, and the
// call can be repeated.
func (s *vmHosts) DeleteVmHost(ctx context.Context, req *vmhostv1.DeleteVmHostRequest) (*vmhostv1.DeleteVmHostResponse, error) {
	if req.GetForget() && !req.GetValidateOnly() {
		if err := s.forgetMachines(ctx, req); err != nil {
			return nil, err
		}
	}
	name, id := req.GetName(), idOf(req.GetName())
	return mutate(ctx, s.base, vmhostv1.VmHostService_DeleteVmHost_FullMethodName, req, func(v *store.View, tx *store.Txn) (*vmhostv1.DeleteVmHostResponse, error) {
		r, ok := store.VmHosts.Get(v, id)
		if !ok {
			return nil, apierror.NotFound(name)
		}
		// Forgetting has cordoned the host, which is no change of others.
		if !req.GetForget() || req.GetValidateOnly() {
			if err := checkEtag(name, req.GetEtag(), r.Revision); err != nil {
				return nil, err
			}
		}
		found, coming := machinesOn(v, name)
		held := ledger.ReservationsOn(v, id)
		if err := deletable(name, found, held, req); err != nil {
			return nil, err
		}
		if err := notComing(name, coming, req); err != nil {
			return nil, err
		}
		if len(found)+len(coming)+len(held) > 0 && !req.GetValidateOnly() {
			return nil, store.ErrConflict // one was composed while others were forgotten
		}
		if err := TakeOut(v, tx, id); err != nil {
			return nil, err
		}
		addEvent(ctx, tx, "vm_host.deleted", name, name)
		return &vmhostv1.DeleteVmHostResponse{}, nil
	})
}

// TakeOut adds to a transaction that a host goes with all that is known of it.
// Machines on it must be gone before, and places that reservations hold there. The transaction holds only if neither the
// host nor its ledger changed since the view.
func TakeOut(v *store.View, tx *store.Txn, id string) error {
	r, ok := store.VmHosts.Get(v, id)
	if !ok {
		return apierror.NotFound(vmHostsCollection + id)
	}
	place, err := placeOf(r.Value.GetResource())
	if err != nil {
		return err
	}
	committed, _ := store.Ledgers.Get(v, id)
	if len(ledger.ReservationsOn(v, id)) > 0 {
		return store.ErrConflict // a place was reserved since they were dropped
	}
	tx.IfRevision(store.VmHosts.Key(id), r.Revision)
	tx.IfRevision(store.Ledgers.Key(id), committed.Revision) // no compose meanwhile, and no reservation
	place.give(tx, hostPlace{})
	tx.Delete(store.VmHosts.Key(id))
	tx.Delete(store.Observed.Key(id))
	tx.Delete(store.Ledgers.Key(id))
	ledger.DropPools(tx, v, id)
	tx.Delete(store.Assignments.Key(id))
	tx.Delete(store.Secrets.Key(secretParts(id)...))
	tx.DeletePrefix(store.Seen.Prefix(id))
	store.Put(tx, store.HostRemoval, &storev1.StoredHostRemoval{VmHostUid: r.Value.GetResource().GetUid()})
	return nil
}

// DrainVmHost brings the machines of a host to others.
func (s *vmHosts) DrainVmHost(ctx context.Context, req *vmhostv1.DrainVmHostRequest) (*vmhostv1.Operation, error) {
	return s.operations.Drain(ctx, principal(ctx), req)
}

// RemoveVmHost takes a host and its machines out of the fleet.
func (s *vmHosts) RemoveVmHost(ctx context.Context, req *vmhostv1.RemoveVmHostRequest) (*vmhostv1.Operation, error) {
	return s.operations.Remove(ctx, principal(ctx), req)
}

// hostMachine is a machine of ours on a host.
type hostMachine struct {
	uid    string
	record store.Record[*storev1.StoredMachine]
}

// machinesOn are the machines on a host, and those that are being moved to it.
func machinesOn(v *store.View, host string) (found, coming []hostMachine) {
	for uid, m := range store.Machines.All(v) {
		if m.Value.GetResource().GetVmHost() == host {
			found = append(found, hostMachine{uid, m})
		} else if m.Value.GetMove().GetVmHost() == idOf(host) {
			coming = append(coming, hostMachine{uid, m})
		}
	}
	return found, coming
}

// deletable refuses to take out a host whose machines would be lost sight of
// against the user's will, or in the middle of work.
func deletable(name string, found []hostMachine, held []string, req *vmhostv1.DeleteVmHostRequest) error {
	var names []string
	for _, m := range found {
		names = append(names, m.record.Value.GetResource().GetName())
		if resource := m.record.Value.GetResource(); resource.GetOperation() != "" && req.GetForget() {
			return busy(resource)
		}
		if to := m.record.Value.GetMove(); to != nil && req.GetForget() {
			// What it has on the other host would be nobody's.
			return inUse(name, names[len(names)-1:], "a move of it to vmHosts/"+to.GetVmHost()+" ended without it being known where it is; "+
				"move it again or delete it, or, if vmHosts/"+to.GetVmHost()+" is lost as well, remove that with --abandon first")
		}
	}
	if len(found) > 0 && !req.GetForget() {
		return inUse(name, names, "say what becomes of them: `vmhostctl vm-host remove "+strings.TrimPrefix(name, "vmHosts/")+
			"` with --decompose deletes them, with --forget leaves them as they are without our metadata, with --abandon drops their records and does not reach the host")
	}
	if len(held) > 0 && !req.GetForget() {
		return inUse(name, held, "delete the reservations, wait until they have expired, or take the host out with `vmhostctl vm-host remove "+strings.TrimPrefix(name, "vmHosts/")+" --forget"+
			"`, by which they lose their places there")
	}
	return nil
}

// notComing refuses to take out a host that a machine is being moved to, or may be
// on since a move to it ended.
func notComing(name string, coming []hostMachine, req *vmhostv1.DeleteVmHostRequest) error {
	for _, m := range coming {
		resource := m.record.Value.GetResource()
		switch {
		case resource.GetOperation() != "":
			return busy(resource)
		case !req.GetForget():
			return inUse(name, []string{resource.GetName()}, "a move of it to this host ended without it being known where it is; move it again or delete it, "+
				"or, if this host is lost, remove it with --abandon")
		}
	}
	return nil
}

// forgetMachines drops the records of all machines on a host, a batch at a time.
func (s *vmHosts) forgetMachines(ctx context.Context, req *vmhostv1.DeleteVmHostRequest) error {
	const method = vmhostv1.VmHostService_DeleteVmHost_FullMethodName
	view, err := s.store.View(ctx)
	if err != nil {
		return err
	}
	id, err := s.requestOf(ctx, method, req)
	if err != nil {
		return err
	}
	if _, found, err := repeated[*vmhostv1.DeleteVmHostResponse](ctx, view, id); found || err != nil {
		return err // done before: mutate gives that answer
	}
	// Without the request_id: only the removal of the host is what is recorded as
	// done and answered again.
	batch := &vmhostv1.DeleteVmHostRequest{Name: req.GetName(), Forget: true}
	dropped, err := s.dropHeld(ctx, req)
	if err != nil {
		return err
	}
	for first, left := !dropped, 1; left > 0; first = false {
		if _, err := mutate(ctx, s.base, method, batch, func(v *store.View, tx *store.Txn) (*vmhostv1.DeleteVmHostResponse, error) {
			left, err = forgetSome(v, tx, req, first)
			return &vmhostv1.DeleteVmHostResponse{}, err
		}); err != nil {
			return err
		}
	}
	return nil
}

// forgetSome adds the removal of one batch to tx and says how many are left. The
// first batch also checks the etag and cordons the host.
func forgetSome(v *store.View, tx *store.Txn, req *vmhostv1.DeleteVmHostRequest, first bool) (left int, err error) {
	id := idOf(req.GetName())
	host, ok := store.VmHosts.Get(v, id)
	if !ok {
		return 0, apierror.NotFound(req.GetName())
	}
	if first {
		if err := checkEtag(req.GetName(), req.GetEtag(), host.Revision); err != nil {
			return 0, err
		}
	}
	found, coming := machinesOn(v, req.GetName())
	if err := deletable(req.GetName(), found, nil, req); err != nil {
		return 0, err
	}
	if err := notComing(req.GetName(), coming, req); err != nil {
		return 0, err
	}
	if len(found)+len(coming) == 0 {
		return 0, nil
	}
	tx.IfRevision(store.VmHosts.Key(id), host.Revision)
	if !host.Value.GetResource().GetCordoned() {
		cordoned := proto.CloneOf(host.Value)
		cordoned.Resource.Cordoned = true
		store.Put(tx, store.VmHosts, cordoned, id)
	}
	forget, batch := ledger.Release, found
	if len(coming) > 0 {
		forget, batch = ledger.UndoMove, coming // they stay where their records say
	}
	batch = batch[:min(len(batch), forgetBatch)]
	uids := make([]string, 0, len(batch))
	for _, m := range batch {
		uids = append(uids, m.uid)
	}
	forget(tx, v, uids...)
	return len(found) + len(coming) - len(batch), nil
}
