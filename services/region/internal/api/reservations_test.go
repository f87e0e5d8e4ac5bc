package api_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

func (f *fixture) reservations() vmhostv1.ReservationServiceClient {
	return vmhostv1.NewReservationServiceClient(f.conn)
}

// userOf is what an error says that uses the resource.
func userOf(err error) string { return apierror.FromStatus(err).Metadata["users"] }

func extend(name string, ttl time.Duration) *vmhostv1.UpdateReservationRequest {
	return &vmhostv1.UpdateReservationRequest{
		Reservation: &vmhostv1.Reservation{Name: name, Expiration: &vmhostv1.Reservation_Ttl{Ttl: durationpb.New(ttl)}},
		UpdateMask:  &fieldmaskpb.FieldMask{Paths: []string{"ttl"}},
	}
}

func TestReservationsByTheContract(t *testing.T) {
	f := start(t)
	admin := f.admin()
	f.ready(f.addHost(admin, "h1"))
	ctx, api := f.as(storev1.Role_ROLE_COMPOSER), f.reservations()
	what := &vmhostv1.ComposeMachineRequest{Cores: 1, MemoryMib: 512}

	for name, tt := range map[string]struct {
		req   *vmhostv1.ReserveRequest
		field string
	}{
		"nothing":       {&vmhostv1.ReserveRequest{}, "machine"},
		"too many":      {&vmhostv1.ReserveRequest{Machine: what, Count: 1001}, "count"},
		"too short":     {&vmhostv1.ReserveRequest{Machine: what, Ttl: durationpb.New(time.Millisecond)}, "ttl"},
		"too long":      {&vmhostv1.ReserveRequest{Machine: what, Ttl: durationpb.New(25 * time.Hour)}, "ttl"},
		"a hostname":    {&vmhostv1.ReserveRequest{Machine: &vmhostv1.ComposeMachineRequest{Hostname: "x"}}, "machine.hostname"},
		"a reservation": {&vmhostv1.ReserveRequest{Machine: &vmhostv1.ComposeMachineRequest{Reservation: "reservations/x"}}, "machine.reservation"},
		"no such form":  {&vmhostv1.ReserveRequest{Machine: &vmhostv1.ComposeMachineRequest{Reservation: "x"}}, "machine.reservation"},
	} {
		_, err := api.Reserve(ctx, tt.req)
		wantReason(t, name, err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, tt.field)
	}
	_, err := api.Reserve(f.as(storev1.Role_ROLE_VIEWER), &vmhostv1.ReserveRequest{Machine: what})
	wantReason(t, "a viewer", err, codes.PermissionDenied, vmhostv1.ErrorReason_PERMISSION_DENIED)
	_, err = api.Reserve(ctx, &vmhostv1.ReserveRequest{Machine: &vmhostv1.ComposeMachineRequest{Zone: "zones/none"}})
	wantReason(t, "a zone that is not there", err, codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND, "machine.zone")

	var made []*vmhostv1.Reservation
	for range 3 {
		r, err := api.Reserve(ctx, &vmhostv1.ReserveRequest{Machine: what, Ttl: durationpb.New(time.Minute), RequestId: uuid.NewString()})
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, r)
	}
	host, err := f.hosts.GetVmHost(ctx, &vmhostv1.GetVmHostRequest{Name: "vmHosts/h1"})
	if err != nil || host.GetUsage().GetHeldMachines() != 3 || host.GetUsage().GetMachines() != 0 || host.GetUsage().GetCores().GetCommitted() != 3 {
		t.Errorf("the host shows %v, %v", host.GetUsage(), err)
	}
	got, err := api.GetReservation(ctx, &vmhostv1.GetReservationRequest{Name: made[1].GetName()})
	if err != nil || !proto.Equal(got, made[1]) || got.GetPrincipal() == "" {
		t.Errorf("get: %v, %v; made %v", got, err, made[1])
	}
	var names []string
	for token, first := "", true; token != "" || first; first = false {
		page, err := api.ListReservations(ctx, &vmhostv1.ListReservationsRequest{PageSize: 2, PageToken: token, Filter: `state = RESERVATION_STATE_ACTIVE AND machine.cores = 1`})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.GetReservations() {
			names = append(names, r.GetName())
		}
		token = page.GetNextPageToken()
	}
	if !slices.Equal(names, []string{made[0].GetName(), made[1].GetName(), made[2].GetName()}) {
		t.Errorf("listed %v", names)
	}
	// Composed against it over the API.
	op, err := f.mach.ComposeMachine(ctx, &vmhostv1.ComposeMachineRequest{Hostname: "web", Reservation: made[0].GetName()})
	if err != nil || op.GetVmHost() != "vmHosts/h1" {
		t.Errorf("compose: %v, %v", op, err)
	}
	_, err = f.mach.ComposeMachine(ctx, &vmhostv1.ComposeMachineRequest{Reservation: made[0].GetName()})
	wantReason(t, "used up", err, codes.FailedPrecondition, vmhostv1.ErrorReason_RESERVATION_USED)
	_, err = api.UpdateReservation(ctx, extend(made[0].GetName(), time.Hour))
	wantReason(t, "extend what is used up", err, codes.FailedPrecondition, vmhostv1.ErrorReason_RESERVATION_USED)

	remove := &vmhostv1.DeleteReservationRequest{Name: made[1].GetName(), Etag: "x", RequestId: uuid.NewString()}
	_, err = api.DeleteReservation(ctx, remove)
	wantReason(t, "delete of another version", err, codes.Aborted, vmhostv1.ErrorReason_ETAG_MISMATCH)
	remove.Etag = made[1].GetEtag()
	dry := proto.CloneOf(remove)
	dry.ValidateOnly, dry.RequestId = true, ""
	for i, req := range []*vmhostv1.DeleteReservationRequest{dry, remove, remove} {
		if _, err := api.DeleteReservation(ctx, req); err != nil {
			t.Errorf("delete %d: %v", i, err)
		}
	}
	_, err = api.GetReservation(ctx, &vmhostv1.GetReservationRequest{Name: made[1].GetName()})
	wantReason(t, "get after delete", err, codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND)
	_, err = api.DeleteReservation(ctx, &vmhostv1.DeleteReservationRequest{Name: made[1].GetName()})
	wantReason(t, "delete after delete", err, codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND)
}

func TestWhenAReservationExpiresCanBeChanged(t *testing.T) {
	f := start(t)
	ctx, api := f.admin(), f.reservations()
	f.ready(f.addHost(ctx, "h1"))
	r, err := api.Reserve(ctx, &vmhostv1.ReserveRequest{Machine: &vmhostv1.ComposeMachineRequest{}})
	if err != nil {
		t.Fatal(err)
	}
	longer, err := api.UpdateReservation(ctx, extend(r.GetName(), 2*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Until(longer.GetExpireTime().AsTime()); d < 119*time.Minute || d > 2*time.Hour || longer.GetTtl() != nil || longer.GetEtag() == r.GetEtag() {
		t.Errorf("extended: %v", longer)
	}
	until := timestamppb.New(time.Now().Add(time.Hour).Truncate(time.Second))
	at := &vmhostv1.UpdateReservationRequest{
		Reservation: &vmhostv1.Reservation{Name: r.GetName(), Etag: longer.GetEtag(), Expiration: &vmhostv1.Reservation_ExpireTime{ExpireTime: until}},
		UpdateMask:  &fieldmaskpb.FieldMask{Paths: []string{"expire_time"}},
	}
	if got, err := api.UpdateReservation(ctx, at); err != nil || !proto.Equal(got.GetExpireTime(), until) {
		t.Errorf("until then: %v, %v", got, err)
	}
	_, err = api.UpdateReservation(ctx, at)
	wantReason(t, "the etag of before", err, codes.Aborted, vmhostv1.ErrorReason_ETAG_MISMATCH)
	for name, tt := range map[string]struct {
		change func(*vmhostv1.UpdateReservationRequest)
		field  string
	}{
		"longer than a day": {func(u *vmhostv1.UpdateReservationRequest) {
			u.Reservation.Expiration = &vmhostv1.Reservation_ExpireTime{ExpireTime: timestamppb.New(time.Now().Add(25 * time.Hour))}
			u.UpdateMask.Paths = []string{"expire_time"}
		}, "reservation.expire_time"},
		"in the past": {func(u *vmhostv1.UpdateReservationRequest) {
			u.Reservation.Expiration = &vmhostv1.Reservation_ExpireTime{ExpireTime: timestamppb.New(time.Now())}
			u.UpdateMask.Paths = []string{"expire_time"}
		}, "reservation.expire_time"},
		"not said":      {func(u *vmhostv1.UpdateReservationRequest) { u.Reservation.Expiration = nil }, "reservation.ttl"},
		"twice":         {func(u *vmhostv1.UpdateReservationRequest) { u.UpdateMask.Paths = []string{"ttl", "expire_time"} }, "update_mask"},
		"another field": {func(u *vmhostv1.UpdateReservationRequest) { u.UpdateMask.Paths = []string{"count"} }, "update_mask"},
		"no name":       {func(u *vmhostv1.UpdateReservationRequest) { u.Reservation.Name = "" }, "reservation.name"},
	} {
		u := extend(r.GetName(), time.Hour)
		tt.change(u)
		_, err := api.UpdateReservation(ctx, u)
		wantReason(t, name, err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, tt.field)
	}
	// One that has expired, and was not given back yet.
	rec, _ := store.Reservations.Get(f.store.Cached(), r.GetUid())
	late := proto.CloneOf(rec.Value)
	late.Resource.Expiration = &vmhostv1.Reservation_ExpireTime{ExpireTime: timestamppb.Now()}
	tx := store.NewTxn()
	store.Put(tx, store.Reservations, late, r.GetUid())
	f.commit(tx)
	_, err = api.UpdateReservation(ctx, extend(r.GetName(), time.Hour))
	wantReason(t, "extend an expired one", err, codes.FailedPrecondition, vmhostv1.ErrorReason_RESERVATION_EXPIRED)
	if got, err := api.GetReservation(ctx, &vmhostv1.GetReservationRequest{Name: r.GetName()}); err != nil || got.GetState() != vmhostv1.ReservationState_RESERVATION_STATE_EXPIRED {
		t.Errorf("it is shown as %v, %v", got, err)
	}
}

func TestWhatIsReservedKeepsItsPoolAndItsHost(t *testing.T) {
	f := start(t)
	ctx, api := f.admin(), f.reservations()
	if _, err := f.pools.CreateResourcePool(ctx, &vmhostv1.CreateResourcePoolRequest{ResourcePoolId: "lab", ResourcePool: &vmhostv1.ResourcePool{}}); err != nil {
		t.Fatal(err)
	}
	h, err := f.hosts.CreateVmHost(ctx, &vmhostv1.CreateVmHostRequest{VmHostId: "h1", VmHost: &vmhostv1.VmHost{Address: "fake://h1", ResourcePool: "resourcePools/lab"}})
	if err != nil {
		t.Fatal(err)
	}
	f.ready(h)
	r, err := api.Reserve(ctx, &vmhostv1.ReserveRequest{Machine: &vmhostv1.ComposeMachineRequest{ResourcePool: "resourcePools/lab"}, Count: 2})
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.hosts.DeleteVmHost(ctx, &vmhostv1.DeleteVmHostRequest{Name: "vmHosts/h1"})
	wantReason(t, "delete of the host", err, codes.FailedPrecondition, vmhostv1.ErrorReason_IN_USE)
	if got := userOf(err); got != r.GetName() {
		t.Errorf("the host is used by %q", got)
	}
	if _, err := f.hosts.DeleteVmHost(ctx, &vmhostv1.DeleteVmHostRequest{Name: "vmHosts/h1", Forget: true, Etag: h.GetEtag()}); err != nil {
		t.Errorf("forget: %v", err)
	}
	got, err := api.GetReservation(ctx, &vmhostv1.GetReservationRequest{Name: r.GetName()})
	if err != nil || got.GetLost() != 2 || got.GetState() != vmhostv1.ReservationState_RESERVATION_STATE_USED || len(got.GetPlaces()) != 0 {
		t.Errorf("it is %v, %v", got, err)
	}
	// With its places went what kept the pool.
	if _, err := f.pools.DeleteResourcePool(ctx, &vmhostv1.DeleteResourcePoolRequest{Name: "resourcePools/lab"}); err != nil {
		t.Errorf("delete of the pool: %v", err)
	}
}

func TestAPoolWithAReservationStays(t *testing.T) {
	f := start(t)
	ctx, api := f.admin(), f.reservations()
	f.ready(f.addHost(ctx, "h1"))
	if _, err := f.pools.CreateResourcePool(ctx, &vmhostv1.CreateResourcePoolRequest{ResourcePoolId: "lab", ResourcePool: &vmhostv1.ResourcePool{}}); err != nil {
		t.Fatal(err)
	}
	move := func(to string) {
		if _, err := f.hosts.UpdateVmHost(ctx, &vmhostv1.UpdateVmHostRequest{
			VmHost: &vmhostv1.VmHost{Name: "vmHosts/h1", ResourcePool: to}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"resource_pool"}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	move("resourcePools/lab")
	r, err := api.Reserve(ctx, &vmhostv1.ReserveRequest{Machine: &vmhostv1.ComposeMachineRequest{ResourcePool: "resourcePools/lab"}})
	if err != nil {
		t.Fatal(err)
	}
	move("resourcePools/default")
	_, err = f.pools.DeleteResourcePool(ctx, &vmhostv1.DeleteResourcePoolRequest{Name: "resourcePools/lab"})
	wantReason(t, "delete of the pool", err, codes.FailedPrecondition, vmhostv1.ErrorReason_IN_USE)
	if got := userOf(err); got != r.GetName() {
		t.Errorf("the pool is used by %q", got)
	}
	// The promise was given: the place is good in a host that left the pool.
	if _, err := f.mach.ComposeMachine(ctx, &vmhostv1.ComposeMachineRequest{Reservation: r.GetName()}); err != nil {
		t.Errorf("compose: %v", err)
	}
}
