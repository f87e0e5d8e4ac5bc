package ledger

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// fixedCompares is what the transaction of many compares beside hosts, at the
// most: names, pool and its count, policy, request_id, groups and the last
// removal of a host.
const fixedCompares = 6 + 17

// putMachine adds the records of one machine.
func (d *decision) putMachine(w *want, machine *storev1.StoredMachine, op *storev1.StoredOperation, hostname string) {
	store.Give(d.tx, store.Machines, machine, w.uid)
	store.Give(d.tx, store.Names, &storev1.StoredName{Uid: w.uid}, w.place.ResourcePool, hostname)
	store.Give(d.tx, store.Operations, op, w.operationUID)
}

// bindMany makes the transaction depend on all that it was decided on. Names of
// many are compared as a range, and so are hosts of which there are more than
// etcd compares one by one.
func (l *Ledger) bindMany(d *manyDecision, m *many, out *vmhostv1.ComposeMachinesResponse) error {
	v, w := d.view, m.wants[0]
	pool := w.place.ResourcePool
	record, _ := store.ResourcePools.Get(v, pool)
	d.tx.IfRevision(store.ResourcePools.Key(pool), record.Revision)
	w.bindPolicy(d.tx)
	if m.single {
		r := d.placed[0].machine.GetResource()
		d.tx.IfAbsent(store.Names.Key(pool, r.GetHostname()))
		m.id.RecordOperation(d.tx, r.GetOperation())
	} else {
		d.tx.IfPrefixUnchanged(store.Names.Key(pool, number(d.prefix, 0)[:len(d.prefix)+1]), v.Revision)
		if err := m.id.RecordResponse(d.tx, briefly(out)); err != nil {
			return err
		}
	}
	l.bindGroups(d.decision, w)
	l.bindHosts(d)
	if !l.bindTaken(v, d.decision) {
		return store.ErrConflict
	}
	d.putUsage()
	for host, led := range d.ledgers {
		store.Give(d.tx, store.Ledgers, led, host)
	}
	return nil
}

// bindGroups makes the transaction depend on the groups that a request with rules
// on zones looked at, and others of the kind on it.
func (l *Ledger) bindGroups(d *decision, w *want) {
	if !w.byOtherZones() {
		return
	}
	pool := w.place.ResourcePool
	for _, group := range w.groupKeys() {
		g, _ := store.Groups.Get(d.view, pool, group)
		d.tx.IfRevision(store.Groups.Key(pool, group), g.Revision)
		store.Put(d.tx, store.Groups, &storev1.StoredGroup{}, pool, group)
	}
}

func (l *Ledger) bindHosts(d *manyDecision) {
	hosts := make([]string, 0, len(d.ledgers))
	for host := range d.ledgers {
		hosts = append(hosts, host)
	}
	slices.Sort(hosts)
	most := max((store.FewCompares-fixedCompares-len(d.sharing))/2, 1)
	if len(hosts) <= most {
		for _, host := range hosts {
			spec, _ := store.VmHosts.Get(d.view, host)
			d.tx.IfRevision(store.VmHosts.Key(host), spec.Revision)
			d.tx.IfRevision(store.Ledgers.Key(host), l.ledgerAt(d.view, host).revision)
		}
		return
	}
	// Hosts in between are compared too: a change of theirs is a race lost for
	// nothing. What a range does not notice is a host that went.
	last, _ := store.HostRemoval.Get(d.view)
	d.tx.IfRevision(store.HostRemoval.Key(), last.Revision)
	size := (len(hosts) + most - 1) / most
	for part := range slices.Chunk(hosts, size) {
		from, to := part[0], part[len(part)-1]
		d.tx.IfUnchanged(store.VmHosts.Key(from), store.VmHosts.Key(to), d.view.Revision)
		d.tx.IfUnchanged(store.Ledgers.Key(from), store.Ledgers.Key(to), d.view.Revision)
	}
}

// response is what the caller is told.
func (d *manyDecision) response(m *many, dry bool) *vmhostv1.ComposeMachinesResponse {
	out := &vmhostv1.ComposeMachinesResponse{Unplaced: int32(len(m.wants) - len(d.placed)), Refusal: d.refusal}
	for i := range d.placed {
		out.Placements = append(out.Placements, d.plans[i].Proto())
		if !dry {
			out.Operations = append(out.Operations, d.placed[i].operation)
		}
	}
	return out
}

// briefly is an answer as it is recorded with the request_id: operations by name,
// and of each placement what was chosen.
func briefly(out *vmhostv1.ComposeMachinesResponse) *vmhostv1.ComposeMachinesResponse {
	brief := &vmhostv1.ComposeMachinesResponse{Unplaced: out.GetUnplaced(), Refusal: proto.CloneOf(out.GetRefusal())}
	if r := brief.GetRefusal(); r != nil {
		r.Refusals = r.GetRefusals()[:min(len(r.GetRefusals()), maxNamed)]
	}
	for i, op := range out.GetOperations() {
		brief.Operations = append(brief.Operations, &vmhostv1.Operation{Name: op.GetName()})
		p := out.GetPlacements()[i]
		brief.Placements = append(brief.Placements, &vmhostv1.Placement{VmHost: p.GetVmHost(), StoragePools: p.GetStoragePools(), Networks: p.GetNetworks()})
	}
	return brief
}

// before is what the request_id made before; nil when it is new. Operations are
// as they are now.
func (m *many) before(v *store.View) (*vmhostv1.ComposeMachinesResponse, error) {
	if m.single {
		op, err := m.id.Operation(v)
		if err != nil || op == nil {
			return nil, err
		}
		return &vmhostv1.ComposeMachinesResponse{Operations: []*vmhostv1.Operation{op}}, nil
	}
	used, err := m.id.Lookup(v)
	if err != nil || used == nil {
		return nil, err
	}
	out := &vmhostv1.ComposeMachinesResponse{}
	if err := used.GetResponse().UnmarshalTo(out); err != nil {
		return nil, err
	}
	for i, op := range out.GetOperations() {
		if now, ok := store.Operations.Get(v, strings.TrimPrefix(op.GetName(), "operations/")); ok {
			out.Operations[i] = now.Value.GetResource()
		}
	}
	return out, nil
}
