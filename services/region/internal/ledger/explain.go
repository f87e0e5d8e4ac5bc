package ledger

import (
	"context"

	"google.golang.org/protobuf/proto"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Plan says what a compose would come to now: where the machine would go and why
// other hosts would be refused, and how the pool's quota stands. It records
// nothing. That no host fits is no error here; that the quota does not allow it
// is, as placement is not tried then.
func (l *Ledger) Plan(ctx context.Context, req *vmhostv1.ComposeMachineRequest) (*vmhostv1.ComposePlan, error) {
	if req.GetReservation() != "" {
		return l.planReserved(ctx, req)
	}
	w, err := newWant("", req)
	if err != nil {
		return nil, err
	}
	v, err := l.store.View(ctx)
	if err != nil {
		return nil, unavailable(err)
	}
	if err := w.chooseMACs(v, &l.index, nil); err != nil {
		return nil, err
	}
	out := &vmhostv1.ComposePlan{}
	pool, _ := store.ResourcePools.Get(v, w.place.ResourcePool)
	if out.Quota = proto.CloneOf(quotaOf(pool.Value)); out.GetQuota() != nil {
		out.Used = Used(v, w.place.ResourcePool)
		if err := checkQuota(w.place.ResourcePool, out.GetQuota(), out.GetUsed(), w.amount()); err != nil {
			return nil, err
		}
	}
	w.place.Explain = true
	plan, hostname, err := l.place(v, l.fleets.at(v), w, placement.AllLanes, nil)
	if err != nil {
		return nil, err
	}
	out.Placement = plan.Proto()
	if plan.Host != nil {
		out.Machine = w.draft(w.newMachine(plan, hostname).GetResource())
	}
	return out, nil
}

// draft is a machine without what the next try would draw anew.
func (w *want) draft(m *vmhostv1.Machine) *vmhostv1.Machine {
	m.Name, m.Uid, m.HypervisorUuid, m.Operation = "", "", "", ""
	m.CreateTime, m.UpdateTime = nil, nil
	m.Phase, m.Origin = vmhostv1.MachinePhase_MACHINE_PHASE_UNSPECIFIED, vmhostv1.MachineOrigin_MACHINE_ORIGIN_UNSPECIFIED
	for _, d := range m.GetDisks() {
		d.Volume = ""
	}
	for i, n := range m.GetInterfaces() {
		if w.req.GetInterfaces()[i].GetMac() == "" {
			n.Mac = ""
		}
	}
	return m
}
