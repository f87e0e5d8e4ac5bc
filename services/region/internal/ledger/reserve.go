package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/backoff"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/policy"
	"github.com/vmhost-project/vmhost/services/region/internal/request"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

const (
	// reserveTTL is how long a reservation is good when its request does not say.
	reserveTTL = 15 * time.Minute
	// MaxReserveTTL is how long it can be good, from when that is set.
	MaxReserveTTL = 24 * time.Hour
	// reserveTries is how often a change of a reservation is decided on anew when
	// others changed it, or its hosts, meanwhile.
	reserveTries = 64

	reservations = "reservations/"
)

// Reserve chooses hosts for machines that are alike and takes the capacity, of
// hosts and quota, in one transaction: all or nothing. The machines are made by
// composes that name the reservation. Errors: NO_CAPACITY, QUOTA_EXCEEDED,
// NOT_FOUND, INVALID_FIELD, REQUEST_ID_REUSED, CONFLICT, STORE_UNAVAILABLE.
func (l *Ledger) Reserve(ctx context.Context, principal string, req *vmhostv1.ReserveRequest) (*vmhostv1.Reservation, error) {
	id, err := request.New(principal, "Reserve", req)
	if err != nil {
		return nil, err
	}
	w, n, err := newReserve(principal, req)
	if err != nil {
		return nil, err
	}
	if req.GetValidateOnly() {
		v, err := l.store.View(ctx)
		if err != nil {
			return nil, unavailable(err)
		}
		_, stored, err := l.decideReserve(v, w, n)
		if err != nil {
			return nil, err
		}
		w.date(stored, req)
		out := view.Reservation(store.Record[*storev1.StoredReservation]{Value: stored}, w.now)
		out.Name, out.Uid, out.Etag = "", "", ""
		return out, nil
	}
	var out *vmhostv1.Reservation
	err = l.again(ctx, "reserve", func() (int64, error) {
		v, err := l.store.View(ctx)
		if err != nil {
			return 0, unavailable(err)
		}
		if out, err = reservedBefore(v, id); err != nil || out != nil {
			return 0, err
		}
		d, stored, err := l.decideReserve(v, w, n)
		if err != nil {
			return 0, err
		}
		w.date(stored, req)
		if err := l.bindReserve(d, w, stored, id); err != nil {
			return 0, err
		}
		revision, err := l.store.Submit(ctx, d.tx)
		l.settle(d.decision, revision, err)
		if err != nil {
			return 0, err
		}
		out = view.Reservation(store.Record[*storev1.StoredReservation]{Value: stored, Revision: revision}, w.now)
		return revision, nil
	})
	return out, err
}

// again does something by turns until nothing came in between, and waits until
// this process sees what was done.
func (l *Ledger) again(ctx context.Context, what string, once func() (int64, error)) error {
	wait := backoff.Backoff{Min: time.Millisecond, Max: 50 * time.Millisecond}
	for range reserveTries {
		var revision int64
		err := l.WithTurn(ctx, func() (err error) {
			revision, err = once()
			return err
		})
		switch {
		case err == nil && revision == 0:
			return nil
		case err == nil:
			if err := l.store.Wait(ctx, revision); err != nil {
				return unavailable(err)
			}
			return nil
		case !errors.Is(err, store.ErrConflict):
			if apierror.Reason(err) == vmhostv1.ErrorReason_ERROR_REASON_UNSPECIFIED && ctx.Err() == nil {
				return unavailable(err)
			}
			return err
		}
		l.conflicts.Add(1)
		if err := backoff.Wait(ctx, wait.Next()); err != nil {
			return err
		}
	}
	return apierror.New(codes.Aborted, vmhostv1.ErrorReason_CONFLICT, "others changed what this depends on %d times meanwhile: %s", reserveTries, what).
		WithHint("try again")
}

// newReserve reads what is to be held, and how many times.
func newReserve(principal string, in *vmhostv1.ReserveRequest) (*want, int, error) {
	one, n := in.GetMachine(), int(max(in.GetCount(), 1))
	if n > maxMany {
		return nil, 0, apierror.InvalidField("count", "is %d, and must be 1 to %d", n, maxMany)
	}
	for _, f := range []struct {
		field string
		given bool
	}{
		{"hostname", one.GetHostname() != ""},
		{"request_id", one.GetRequestId() != ""},
		{"validate_only", one.GetValidateOnly()},
		{"reservation", one.GetReservation() != ""},
	} {
		if f.given {
			return nil, 0, apierror.InvalidField("machine."+f.field, "is for the compose, and cannot be reserved").WithHint("leave it out here")
		}
	}
	if n > 1 {
		if err := onlyOne(one); err != nil {
			return nil, 0, err
		}
	}
	for i, nic := range one.GetInterfaces() {
		if nic.GetMac() != "" {
			return nil, 0, apierror.InvalidField(fmt.Sprintf("machine.interfaces[%d].mac", i), "is for the compose, and cannot be reserved").WithHint("leave it out here")
		}
	}
	w, err := newWant(principal, one)
	if err != nil {
		return nil, 0, below("machine.", err)
	}
	uid, err := uuid.NewV7()
	if err != nil {
		return nil, 0, fmt.Errorf("choose a reservation uid: %w", err)
	}
	w.uid = uid.String()
	return w, n, nil
}

// filledIn is the request with what it left out, so that a compose can be compared
// with it.
func (w *want) filledIn() *vmhostv1.ComposeMachineRequest {
	req := proto.CloneOf(w.req)
	req.Type, req.Cores, req.MemoryMib = w.place.Type, w.place.Cores, w.place.MemoryMiB
	req.ResourcePool = "resourcePools/" + w.place.ResourcePool
	req.PlacementPolicy = cmp.Or(req.GetPlacementPolicy(), policy.Collection+policy.Default)
	if len(req.GetDisks()) == 0 && !req.GetDiskless() {
		req.Disks = []*vmhostv1.DiskRequest{{}}
	}
	for i, d := range req.GetDisks() {
		d.SizeBytes = w.place.Disks[i].SizeBytes
	}
	return req
}

// date says until when a reservation is good, from now on.
func (w *want) date(stored *storev1.StoredReservation, req *vmhostv1.ReserveRequest) {
	ttl := reserveTTL
	if req.GetTtl() != nil {
		ttl = req.GetTtl().AsDuration()
	}
	r, now := stored.GetResource(), time.Now()
	r.CreateTime, r.UpdateTime = timestamppb.New(now), timestamppb.New(now)
	r.Expiration = &vmhostv1.Reservation_ExpireTime{ExpireTime: timestamppb.New(now.Add(ttl))}
}

// decideReserve finds places one after the other, each on what those before it
// left.
func (l *Ledger) decideReserve(v *store.View, w *want, n int) (*manyDecision, *storev1.StoredReservation, error) {
	if err := named(v, w); err != nil {
		return nil, nil, below("machine.", err)
	}
	if err := l.resolve(v, w); err != nil {
		return nil, nil, below("machine.", err)
	}
	d := &manyDecision{decision: l.newDecision(v)}
	if err := l.within(v, d.decision, w); err != nil {
		return nil, nil, err
	}
	if err := d.withinAll(&many{wants: slices.Repeat([]*want{w}, n)}); err != nil {
		return nil, nil, err
	}
	var places holder
	for i := range n {
		req := w.place
		plan := d.fleet.Choose(&req)
		if err := addressTaken(&plan, &req); err != nil {
			return nil, nil, below("machine.", err)
		}
		switch {
		case plan.Host == nil && n == 1:
			return nil, nil, noCapacity(&plan)
		case plan.Host == nil:
			return nil, nil, noCapacityFor(&plan, i, n)
		}
		c := w.commitment(&plan)
		host := plan.Host.ID
		add(l.of(d.decision, host), c)
		l.share(d.decision, host, c)
		d.charge(w.place.ResourcePool, c)
		d.fleet.Take(host, c, "")
		if err := places.add(&plan, c); err != nil {
			return nil, nil, err
		}
	}
	return d, &storev1.StoredReservation{
		Resource: &vmhostv1.Reservation{
			Name: reservations + w.uid, Uid: w.uid, Principal: w.principal, Machine: w.filledIn(), Count: int32(n),
		},
		Holds: places.holds(), Kinds: places.kinds,
	}, nil
}

// bindReserve makes the transaction depend on all that it was decided on, and
// writes the reservation.
func (l *Ledger) bindReserve(d *manyDecision, w *want, stored *storev1.StoredReservation, id request.ID) error {
	v, tx, pool := d.view, d.tx, w.place.ResourcePool
	record, _ := store.ResourcePools.Get(v, pool)
	tx.IfRevision(store.ResourcePools.Key(pool), record.Revision)
	w.bindPolicy(tx)
	l.bindGroups(d.decision, w)
	l.bindHosts(d)
	if !l.bindTaken(v, d.decision) {
		return store.ErrConflict
	}
	d.putUsage()
	for host, led := range d.ledgers {
		store.Give(tx, store.Ledgers, led, host)
	}
	store.Put(tx, store.Reservations, stored, w.uid)
	store.Put(tx, store.References, &storev1.StoredReference{}, "pools", pool, "reservations", w.uid)
	r := stored.GetResource()
	reservationEvent(tx, r, "made", w.principal, "", fmt.Sprintf("places for %d machines are held", r.GetCount()))
	if err := id.RecordResponse(tx, &vmhostv1.Reservation{Name: r.GetName(), Uid: r.GetUid()}); err != nil {
		return err
	}
	if n := tx.Bytes(); n > store.MaxBytes {
		return apierror.InvalidField("count", "is too much at once: what changes for %d machines are %d bytes, and one transaction takes %d", r.GetCount(), n, store.MaxBytes).
			WithHint("reserve about %d at a time", int(r.GetCount())*store.MaxBytes/n*9/10)
	}
	return nil
}

// reservedBefore is the reservation that the request_id made, as it is now; nil
// when the id is new.
func reservedBefore(v *store.View, id request.ID) (*vmhostv1.Reservation, error) {
	used, err := id.Lookup(v)
	if err != nil || used == nil {
		return nil, err
	}
	out := &vmhostv1.Reservation{}
	if err := used.GetResponse().UnmarshalTo(out); err != nil {
		return nil, fmt.Errorf("read the recorded answer: %w", err)
	}
	if r, ok := store.Reservations.Get(v, out.GetUid()); ok {
		return view.Reservation(r, time.Now()), nil
	}
	return out, nil
}

// reservationEvent tells of a reservation.
func reservationEvent(tx *store.Txn, r *vmhostv1.Reservation, what, principal, host, message string) {
	store.AddEvent(tx, &vmhostv1.Event{
		Type: "reservation." + what, Resource: r.GetName(), VmHost: host, Principal: principal, Message: r.GetName() + ": " + message,
	})
}

func reservedPool(r *storev1.StoredReservation) string {
	return strings.TrimPrefix(r.GetResource().GetMachine().GetResourcePool(), "resourcePools/")
}
