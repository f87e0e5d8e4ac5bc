package ledger

import (
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/policy"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// A move holds capacity on two hosts (ADR 0017): what the machine holds in the
// ledger of the one it is on, as before, and from the transaction that records
// the move on what it will hold in that of its destination. Either is given back
// only when it is known that the machine is not there (P4): the destination's by
// UndoMove, the source's by EndMove, both by Release. The quota is of the machine
// and is not charged twice. Of disks that stay where they are see staying.go.

// MoveQuery is what is asked of the destination of a move.
type MoveQuery struct {
	// To is the only host considered, an id; empty: any.
	To string
	// Not are hosts that cannot be it, by id, with why.
	Not map[string]string
	// Explain asks for the refusals also when a host was found.
	Explain bool
}

// MoveChoice is where a machine would be moved.
type MoveChoice struct {
	// Plan says where, and why not elsewhere.
	Plan placement.Plan
	// Move is what is recorded of it; nil when no host fits.
	Move *storev1.StoredMove

	request placement.Request
}

// Refusal is the error of a choice that found no host.
func (c *MoveChoice) Refusal() error {
	return noCapacity(&c.Plan).WithHint("the machine stays where it is; %s", advice(&c.Plan, "a dry run of the move"))
}

// ChooseMove chooses the destination of a machine, as a compose of it would be
// placed on any host but its own, and decides everything about it. It takes
// nothing. Call it by WithTurn when it is to be taken.
func (l *Ledger) ChooseMove(v *store.View, m *storev1.StoredMachine, q MoveQuery) MoveChoice {
	req := l.MachineOf(v, m).Request
	req.VMHost, req.Explain = q.To, q.Explain
	d := l.draft(v)
	ruleOut(d, q.Not)
	out := MoveChoice{Plan: d.Choose(&req), request: req}
	if out.Plan.Host != nil {
		out.Move = moveOf(m, &out.Plan, &req)
	}
	return out
}

// ruleOut marks hosts of a draft that nothing can be brought to.
func ruleOut(d *placement.Draft, not map[string]string) {
	for id, why := range not {
		if h := d.Host(id); h != nil {
			out := *h
			if out.State == vmhostv1.VmHostState_VM_HOST_STATE_READY { // else it says itself what is the matter
				out.State, out.Barred = vmhostv1.VmHostState_VM_HOST_STATE_UNSPECIFIED, why
			}
			d.Put(&out)
		}
	}
}

// DrainPlan is where the machines of a host would go, the largest first, each on
// what those before it left, and those that have no place. It takes nothing.
func (l *Ledger) DrainPlan(v *store.View, host string, machines []*storev1.StoredMachine, not map[string]string) ([]placement.Move, []placement.Stranded) {
	list := make([]placement.Machine, 0, len(machines))
	for _, m := range machines {
		list = append(list, l.MachineOf(v, m))
	}
	d := l.fleets.at(v).Draft()
	ruleOut(d, not)
	return d.Fleet().DrainPlan(host, list)
}

// moveOf is the machine at its destination, with every decision made.
func moveOf(m *storev1.StoredMachine, plan *placement.Plan, req *placement.Request) *storev1.StoredMove {
	h, r := plan.Host, proto.CloneOf(m.GetResource())
	r.VmHost, r.Zone, r.PinnedCores = "vmHosts/"+h.ID, "zones/"+h.Zone, plan.PinnedCores
	if h.Type == vmhostv1.VmHostType_VM_HOST_TYPE_LXD {
		r.Project = h.Project
	}
	var staying []int32
	for i, d := range r.GetDisks() {
		d.StoragePool, d.Path = plan.Pools[i], ""
		if plan.Stays(i) {
			staying = append(staying, int32(i))
			continue
		}
		if r.GetOrigin() == vmhostv1.MachineOrigin_MACHINE_ORIGIN_ADOPTED {
			// Its own name may be taken there. The copy is made by us, and ours.
			d.Volume = "vmhost-" + r.GetUid() + "-" + strconv.Itoa(i)
		}
	}
	for i, n := range plan.Networks {
		to := r.GetInterfaces()[i]
		to.Source, to.Kind, to.Vlan, to.Addresses = n.Source, n.Kind, n.VLAN, nil
		if n.Kind == vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN {
			to.MacvlanMode = macvlanMode(to.GetMacvlanMode(), h.MacvlanMode)
		} else {
			to.MacvlanMode = vmhostv1.MacvlanMode_MACVLAN_MODE_UNSPECIFIED
		}
	}
	c := plan.Commitment(req)
	c.Groups = m.GetCommitment().GetGroups()
	return &storev1.StoredMove{VmHost: h.ID, VmHostUid: h.UID, Moved: r, Commitment: c, StayingDisks: staying}
}

// TakeMove adds to a transaction what a machine's move takes: room on its
// destination, beside what it holds. The transaction holds only if nothing
// changed that the choice was made on, as with a compose; the caller adds the
// record, which must have the move. Errors: NOT_FOUND, QUOTA_EXCEEDED.
func (l *Ledger) TakeMove(tx *store.Txn, v *store.View, m *storev1.StoredMachine, c MoveChoice) error {
	before := proto.CloneOf(m)
	before.Move = nil
	pool := poolOf(m)
	record, ok := store.ResourcePools.Get(v, pool)
	if !ok {
		return apierror.NotFound("resourcePools/" + pool)
	}
	spec, _ := store.VmHosts.Get(v, c.Move.GetVmHost())
	tx.IfRevision(store.VmHosts.Key(c.Move.GetVmHost()), spec.Revision)
	after := proto.CloneOf(m)
	after.Move = c.Move
	b := Open(tx, v)
	more := sum(heldBy(after), minus(heldBy(before)))
	if used := b.pool(pool); used != nil {
		if err := checkQuota(pool, quotaOf(record.Value), used.GetAmount(), more); err != nil {
			return err
		}
		charge(used, more)
	}
	comesTo(b.ledger(c.Move.GetVmHost()), after)
	b.Close()
	if len(c.Move.GetStayingDisks()) > 0 { // what is behind the pools that they are in
		here, _ := store.Ledgers.Get(v, hostOf(m))
		tx.IfRevision(store.Ledgers.Key(hostOf(m)), here.Revision)
	}
	if name := c.request.Policy.Name; !policy.IsPreset(name) {
		p, _ := store.Policies.Get(v, name)
		tx.IfRevision(store.Policies.Key(name), p.Revision)
	}
	// Rules on other zones look at groups on hosts that are not compared.
	if w := (&want{place: c.request}); w.byOtherZones() {
		for _, group := range w.groupKeys() {
			g, _ := store.Groups.Get(v, pool, group)
			tx.IfRevision(store.Groups.Key(pool, group), g.Revision)
			store.Put(tx, store.Groups, &storev1.StoredGroup{}, pool, group)
		}
	}
	return nil
}

// heldBy is what a machine takes of its pool's quota, also while it is moved.
func heldBy(m *storev1.StoredMachine) *vmhostv1.ResourceAmount {
	a := amountOf(m.GetCommitment())
	if m.GetMove() == nil {
		return a
	}
	// A machine that was adopted commits no storage before it is copied, and does
	// afterwards.
	b := amountOf(arrived(m))
	return &vmhostv1.ResourceAmount{
		Machines: 1, Cores: max(a.GetCores(), b.GetCores()), MemoryMib: max(a.GetMemoryMib(), b.GetMemoryMib()),
		StorageBytes: max(a.GetStorageBytes(), b.GetStorageBytes()),
	}
}

// EndMove adds to a transaction that a machine is at its destination, and that its
// source was seen without it: the record is of the destination, and the source's
// capacity is given back. False when the machine is not being moved.
func EndMove(tx *store.Txn, v *store.View, uid string) bool {
	m, ok := store.Machines.Get(v, uid)
	if !ok || m.Value.GetMove() == nil {
		return false
	}
	b := Open(tx, v)
	next := Moved(v, m.Value)
	if used := b.pool(poolOf(m.Value)); used != nil {
		charge(used, sum(heldBy(next), minus(heldBy(m.Value))))
	}
	subtract(b.ledger(hostOf(m.Value)), m.Value.GetCommitment())
	if len(Handed(m.Value)) > 0 {
		arrives(b.ledger(m.Value.GetMove().GetVmHost()), m.Value)
	}
	b.Unsee(hostOf(m.Value), m.Value.GetResource().GetHypervisorUuid(), m.Value.GetCommitment())
	b.unshow(hostOf(m.Value), m.Value.GetResource().GetHypervisorUuid(), kept(m.Value))
	b.Disclaim(hostOf(m.Value), uid)
	b.Close()
	tx.IfRevision(store.Machines.Key(uid), m.Revision)
	store.Put(tx, store.Machines, next, uid)
	return true
}

// Moved is the record of a machine after its move.
func Moved(v *store.View, m *storev1.StoredMachine) *storev1.StoredMachine {
	next := proto.CloneOf(m)
	r, to := next.GetResource(), m.GetMove().GetMoved()
	r.VmHost, r.Zone, r.PinnedCores, r.Project = to.GetVmHost(), to.GetZone(), to.GetPinnedCores(), to.GetProject()
	if spec, ok := store.VmHosts.Get(v, m.GetMove().GetVmHost()); ok {
		r.Zone = spec.Value.GetResource().GetZone() // it may have been changed meanwhile
	}
	r.HypervisorName, r.Disks, r.Interfaces = to.GetHypervisorName(), to.GetDisks(), to.GetInterfaces()
	r.Operation, r.UpdateTime = "", timestamppb.Now()
	next.Commitment, next.Move = arrived(m), nil
	return next
}

// UndoMove adds to a transaction that machines are where and as they were, and
// that their destinations were seen without them, never heard of them, or are
// forgotten. The answer is how many of them were being moved.
func UndoMove(tx *store.Txn, v *store.View, uids ...string) int {
	undone := 0
	b := Open(tx, v)
	for _, uid := range uids {
		m, ok := store.Machines.Get(v, uid)
		if !ok || m.Value.GetMove() == nil {
			continue
		}
		undone++
		next := proto.CloneOf(m.Value)
		next.Move, next.Resource.Operation, next.Resource.UpdateTime = nil, "", timestamppb.Now()
		if used := b.pool(poolOf(m.Value)); used != nil {
			charge(used, sum(heldBy(next), minus(heldBy(m.Value))))
		}
		comesNot(b.ledger(m.Value.GetMove().GetVmHost()), m.Value)
		b.Unsee(m.Value.GetMove().GetVmHost(), m.Value.GetResource().GetHypervisorUuid(), m.Value.GetMove().GetCommitment())
		b.unshow(m.Value.GetMove().GetVmHost(), m.Value.GetResource().GetHypervisorUuid(), Handed(m.Value))
		b.Disclaim(m.Value.GetMove().GetVmHost(), uid)
		tx.IfRevision(store.Machines.Key(uid), m.Revision)
		store.Put(tx, store.Machines, next, uid)
	}
	b.Close()
	return undone
}

// HostsOf are the hosts, by id, that a machine can be on: one, and while it is
// moved two, the one it is on first.
func HostsOf(m *storev1.StoredMachine) []string {
	hosts := []string{hostOf(m)}
	if to := m.GetMove(); to != nil && !slices.Contains(hosts, to.GetVmHost()) {
		hosts = append(hosts, to.GetVmHost())
	}
	return hosts
}
