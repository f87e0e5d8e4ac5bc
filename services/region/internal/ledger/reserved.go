package ledger

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/policy"
	"github.com/vmhost-project/vmhost/services/region/internal/request"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// A compose against a reservation takes places of it. Nothing is placed, and no
// ledger changes: what the reservation held the machine holds from now on, by the
// transaction that takes the place out of the one record and makes the other. It
// compares the reservation, so that a place is used once, and not after it was
// given back; since no host goes before its places did, that is enough for the
// host as well.

// reserved is a compose of one or many machines against a reservation.
type reserved struct {
	principal string
	uid       string // of the reservation
	one       *vmhostv1.ComposeMachineRequest
	many      *vmhostv1.ComposeMachinesRequest // nil: one machine
	id        request.ID
}

// composeReserved is Compose against a reservation.
func (l *Ledger) composeReserved(ctx context.Context, principal string, req *vmhostv1.ComposeMachineRequest) (*vmhostv1.Operation, error) {
	id, err := request.New(principal, "ComposeMachine", req)
	if err != nil {
		return nil, err
	}
	uid, err := idOf("reservation", reservations, req.GetReservation())
	if err != nil {
		return nil, err
	}
	out, err := l.useReservation(ctx, &reserved{principal: principal, uid: uid, one: req, id: id})
	if err != nil {
		return nil, err
	}
	return out.GetOperations()[0], nil
}

// composeManyReserved is ComposeMany against a reservation.
func (l *Ledger) composeManyReserved(ctx context.Context, principal string, req *vmhostv1.ComposeMachinesRequest) (*vmhostv1.ComposeMachinesResponse, error) {
	id, err := request.New(principal, "ComposeMachines", req)
	if err != nil {
		return nil, err
	}
	uid, err := idOf("machine.reservation", reservations, req.GetMachine().GetReservation())
	if err != nil {
		return nil, err
	}
	r := &reserved{principal: principal, uid: uid, one: req.GetMachine(), many: req, id: id}
	if !req.GetValidateOnly() {
		return l.useReservation(ctx, r)
	}
	v, err := l.store.View(ctx)
	if err != nil {
		return nil, unavailable(err)
	}
	d, m, err := l.decideReserved(v, r)
	if err != nil {
		return nil, err
	}
	return d.response(m, true), nil
}

// planReserved is Plan against a reservation.
func (l *Ledger) planReserved(ctx context.Context, req *vmhostv1.ComposeMachineRequest) (*vmhostv1.ComposePlan, error) {
	uid, err := idOf("reservation", reservations, req.GetReservation())
	if err != nil {
		return nil, err
	}
	v, err := l.store.View(ctx)
	if err != nil {
		return nil, unavailable(err)
	}
	d, m, err := l.decideReserved(v, &reserved{uid: uid, one: req})
	if err != nil {
		return nil, err
	}
	return &vmhostv1.ComposePlan{Placement: d.plans[0].Proto(), Machine: m.wants[0].draft(proto.CloneOf(d.placed[0].machine.GetResource()))}, nil
}

// useReservation decides and commits until nothing came in between.
func (l *Ledger) useReservation(ctx context.Context, r *reserved) (out *vmhostv1.ComposeMachinesResponse, err error) {
	err = l.again(ctx, "compose against "+reservations+r.uid, func() (int64, error) {
		v, err := l.store.View(ctx)
		if err != nil {
			return 0, unavailable(err)
		}
		if out, err = (&many{id: r.id, single: r.many == nil}).before(v); err != nil || out != nil {
			return 0, err
		}
		d, m, err := l.decideReserved(v, r)
		if err != nil {
			return 0, err
		}
		out = d.response(m, false)
		if err := l.bindMany(&d.manyDecision, m, out); err != nil {
			return 0, err
		}
		d.write(r.principal)
		if n := d.tx.Bytes(); n > store.MaxBytes {
			return 0, apierror.InvalidField("count", "is too much at once: the records of %d machines like this are %d bytes, and one transaction takes %d", len(d.placed), n, store.MaxBytes).
				WithHint("ask for about %d at a time", len(d.placed)*store.MaxBytes/n*9/10)
		}
		revision, err := l.store.Submit(ctx, d.tx)
		l.settle(d.decision, revision, err)
		return revision, err
	})
	return out, err
}

// reservedDecision is which places machines take.
type reservedDecision struct {
	manyDecision
	before store.Record[*storev1.StoredReservation]
	after  *storev1.StoredReservation
	policy string // id of the policy that places were chosen by
}

// decideReserved chooses places of the reservation.
func (l *Ledger) decideReserved(v *store.View, r *reserved) (*reservedDecision, *many, error) {
	field := ""
	if r.many != nil {
		field = "machine."
	}
	name := reservations + r.uid
	record, ok := store.Reservations.Get(v, r.uid)
	if !ok {
		return nil, nil, apierror.NotFound(name).WithField(field+"reservation", "does not exist, or has ended").
			WithHint("see which there are: `vmhostctl reservation list`")
	}
	if err := Usable(record.Value, time.Now()); err != nil {
		return nil, nil, err
	}
	m, err := r.wants(name, record.Value.GetResource().GetMachine())
	if err != nil {
		return nil, nil, err
	}
	d := &reservedDecision{manyDecision: manyDecision{decision: l.newDecision(v)}, before: record, after: proto.CloneOf(record.Value)}
	if d.policy, err = policy.ID("placement_policy", d.after.GetResource().GetMachine().GetPlacementPolicy()); err != nil {
		return nil, nil, err
	}
	names := l.names(v, m, &d.manyDecision)
	free, err := d.open(v, m.wants[0], field)
	if err != nil {
		return nil, nil, err
	}
	for i, w := range m.wants {
		if err := w.chooseMACs(v, &l.index, d.taken.macs); err != nil {
			return nil, nil, below(field, err)
		}
		if d.taken.hasMAC(w.macs) {
			return nil, nil, store.ErrConflict // one that the request names; decided again
		}
		hostname, err := names(w)
		if err != nil {
			return nil, nil, below(field, err)
		}
		at := slices.IndexFunc(free, func(p *place) bool {
			return p.hold.GetCount() > 0 && !l.index.nameTaken(v, p.host.ID, nameOn(p.host, w, hostname))
		})
		if at < 0 {
			d.stopped = d.none(free, len(m.wants)-i, hostname)
			if i > 0 && !m.all {
				d.refusal = &vmhostv1.Placement{Refusals: []*vmhostv1.PlacementRefusal{{
					Filter: "reservation", Message: d.stopped.Error(), Reason: apierror.Reason(d.stopped),
				}}}
				break
			}
			return nil, nil, d.stopped
		}
		d.take(w, free[at], hostname)
	}
	return d, m, nil
}

// wants are the machines that are asked for, with what the reservation says.
func (r *reserved) wants(name string, what *vmhostv1.ComposeMachineRequest) (*many, error) {
	one, err := asReserved(name, what, r.one)
	m := &many{all: true, single: true}
	switch {
	case err != nil && r.many != nil:
		return nil, below("machine.", err)
	case err != nil:
		return nil, err
	case r.many != nil:
		req := proto.CloneOf(r.many)
		req.Machine = one
		if m, err = newMany(r.principal, req); err != nil {
			return nil, err
		}
	default:
		w, err := newWant(r.principal, one)
		if err != nil {
			return nil, err
		}
		m.wants = []*want{w}
	}
	m.id = r.id
	for _, w := range m.wants {
		if m.single {
			w.id = r.id
		}
		// The places are there: rules and policy have been kept when they were chosen.
		w.place.Affinity, w.place.MaxPerZone = nil, 0
		w.policy = &policy.Policy{ID: policy.Default}
	}
	return m, nil
}

// place is where a machine of a reservation can go.
type place struct {
	host *placement.Host
	hold *storev1.StoredHold // of the reservation as it will be
	kind *storev1.StoredHoldKind
}

// open are the places that machines alike can take, those first that can be made
// at once: on hosts that are reached, and not cordoned. Places on a host that was
// cordoned since can be used, as was promised.
func (d *reservedDecision) open(v *store.View, w *want, field string) ([]*place, error) {
	var out []*place
	elsewhere, withoutImage := false, ""
	for _, h := range d.after.GetHolds() {
		spec, ok := store.VmHosts.Get(v, h.GetVmHost())
		if !ok {
			continue
		}
		observed, _ := store.Observed.Get(v, h.GetVmHost())
		led, _ := store.Ledgers.Get(v, h.GetVmHost())
		p := &place{host: placement.NewHost(spec.Value, observed.Value, led.Value), hold: h, kind: d.after.GetKinds()[h.GetKind()]}
		asked := d.before.Value.GetResource().GetMachine()
		switch {
		case w.place.VMHost != "" && w.place.VMHost != p.host.ID, w.place.Zone != "" && w.place.Zone != p.host.Zone && w.req.GetZone() != asked.GetZone():
			elsewhere = true
		case w.place.Image != asked.GetImage() && !p.host.HasImage(&w.place, p.kind.GetArchitecture()):
			withoutImage = p.host.ID
		default:
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		name := d.after.GetResource().GetName()
		switch {
		case withoutImage != "":
			return nil, apierror.InvalidField(field+"image", "is not on vmHosts/%s, nor on another host that %s holds a place on", withoutImage, name).
				WithHint("bring it there, or use the image that was reserved for")
		case elsewhere && w.place.VMHost != "":
			return nil, apierror.InvalidField(field+"vm_host", "is vmHosts/%s, where %s holds no place", w.place.VMHost, name).WithHint("leave it out")
		case elsewhere:
			return nil, apierror.InvalidField(field+"zone", "is zones/%s, where %s holds no place", w.place.Zone, name).WithHint("leave it out")
		}
	}
	rank := func(p *place) int {
		switch {
		case p.host.State != vmhostv1.VmHostState_VM_HOST_STATE_READY:
			return 2
		case p.host.Cordoned:
			return 1
		}
		return 0
	}
	slices.SortStableFunc(out, func(a, b *place) int { return rank(a) - rank(b) })
	return out, nil
}

// nameOn is what the machine would be called on a host.
func nameOn(h *placement.Host, w *want, hostname string) string {
	if h.Type == vmhostv1.VmHostType_VM_HOST_TYPE_LXD {
		return instanceName(hostname, w.place.ResourcePool)
	}
	return hypervisorName(hostname, w.place.ResourcePool)
}

// none says why no place is left for a machine, of so many that are still to come.
func (d *reservedDecision) none(free []*place, missing int, hostname string) error {
	for _, p := range free {
		if p.hold.GetCount() > 0 {
			return apierror.New(codes.AlreadyExists, vmhostv1.ErrorReason_ALREADY_EXISTS,
				"something that is named %s is on every host where a place is left, such as vmHosts/%s", hostname, p.host.ID).
				With("hostname", hostname).WithField("hostname", "is taken on the hypervisor").WithHint("choose another hostname, or leave it out and have one made up")
		}
	}
	return usedUp(d.before.Value, len(d.placed), missing+len(d.placed))
}

// take makes a machine of a place.
func (d *reservedDecision) take(w *want, p *place, hostname string) {
	plan := placement.Plan{Host: p.host, Architecture: p.kind.GetArchitecture(), Pools: p.kind.GetStoragePools(), PinnedCores: p.kind.GetPinnedCores(), NUMANode: -1, Considered: 1, Load: p.host.Load()}
	for range plan.Pools {
		plan.PoolReasons = append(plan.PoolReasons, "as reserved")
	}
	for _, n := range p.kind.GetNetworks() {
		plan.Networks = append(plan.Networks, placement.Attachment{Source: n.GetSource(), Kind: n.GetKind(), VLAN: n.GetVlan(), Why: "as reserved"})
	}
	chosenBy := w.policy
	w.policy = &policy.Policy{ID: d.policy}
	machine := w.newMachine(&plan, hostname) // keeps the policy, for when it is moved
	w.policy = chosenBy
	machine.Commitment = proto.CloneOf(p.kind.GetCommitment()) // to the last bit what the ledger has
	op := w.record(machine, p.host.UID)
	d.putMachine(w, machine, op, hostname)
	for _, mac := range w.macs {
		d.taken.macs[mac] = true
	}
	d.placed = append(d.placed, placed{pending: &pending{want: w}, machine: machine, operation: op.GetResource()})
	d.plans = append(d.plans, plan)
	p.hold.Count--
	d.after.Resource.Used++
}

// write writes the reservation with fewer places, or its end.
func (d *reservedDecision) write(principal string) {
	d.tx.IfRevision(store.Reservations.Key(d.after.GetResource().GetUid()), d.before.Revision)
	d.after.Holds = slices.DeleteFunc(d.after.GetHolds(), func(h *storev1.StoredHold) bool { return h.GetCount() == 0 })
	putReservation(d.tx, d.after, principal)
}

// putReservation writes a reservation that has changed: without places it has
// ended.
func putReservation(tx *store.Txn, r *storev1.StoredReservation, principal string) {
	resource := r.GetResource()
	resource.UpdateTime = timestamppb.Now()
	if len(r.GetHolds()) == 0 && resource.GetState() == vmhostv1.ReservationState_RESERVATION_STATE_UNSPECIFIED {
		resource.State = vmhostv1.ReservationState_RESERVATION_STATE_USED
		reservationEvent(tx, resource, "used", principal, "", fmt.Sprintf("all its places are used: %d by machines, %d went with their hosts", resource.GetUsed(), resource.GetLost()))
	}
	if len(r.GetHolds()) == 0 {
		r.Kinds = nil
		tx.Delete(store.References.Key("pools", reservedPool(r), "reservations", resource.GetUid()))
	}
	store.Put(tx, store.Reservations, r, resource.GetUid())
}

// Usable refuses a reservation that has ended. What another region's clock takes
// for expired can end up to ExpiryMargin later; whoever is first decides.
func Usable(r *storev1.StoredReservation, now time.Time) error {
	resource := r.GetResource()
	switch {
	case resource.GetState() == vmhostv1.ReservationState_RESERVATION_STATE_USED:
		return usedUp(r, 0, 0)
	case resource.GetState() == vmhostv1.ReservationState_RESERVATION_STATE_EXPIRED, !now.Before(resource.GetExpireTime().AsTime()):
		at := resource.GetExpireTime().AsTime().UTC().Format(time.RFC3339)
		return apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_RESERVATION_EXPIRED, "%s expired at %s", resource.GetName(), at).
			With("resource", resource.GetName()).With("expire_time", at).WithHint("reserve again, for longer: at most %s", MaxReserveTTL)
	}
	return nil
}

// usedUp refuses to take more places than are left for the request, which can be
// fewer than are left.
func usedUp(r *storev1.StoredReservation, fit, asked int) error {
	resource, n := r.GetResource(), left(r)
	message := "no place is left"
	switch {
	case n > fit:
		message = fmt.Sprintf("%d of its %d places are where the request allows, and %d are asked for", fit, n, asked)
	case n > 0:
		message = fmt.Sprintf("%d places are left, and %d are asked for", n, asked)
	}
	return apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_RESERVATION_USED, "%s: %s", resource.GetName(), message).
		With("resource", resource.GetName()).With("left", strconv.Itoa(n)).
		With("used", strconv.Itoa(int(resource.GetUsed()))).With("lost", strconv.Itoa(int(resource.GetLost()))).
		WithHint("ask for no more than are left, or reserve again")
}
