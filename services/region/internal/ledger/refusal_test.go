package ledger

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// What is refused because of another of its batch is refused only when that one
// was committed: otherwise there may have been room all the time.
func TestARefusalForWhatWasNotCommittedIsDecidedAgain_P1(t *testing.T) {
	client := storetest.Client(t)
	mine, meddler := storetest.Meddle(t, client)
	s, other := storetest.On(t, mine), storetest.On(t, client)
	l, faster := open(t, s), open(t, other)
	addHost(t, s, "h", 4, 1<<20)
	waiting := func(cores int32, refused bool) *pending {
		w, err := newWant("alice", &vmhostv1.ComposeMachineRequest{Cores: cores, MemoryMib: 1, Diskless: true})
		if err != nil {
			t.Fatal(err)
		}
		p := newPending(w)
		p.refused = refused
		l.enqueue(p)
		return p
	}
	large, small := waiting(4, false), waiting(1, true)
	meddler.Before(func() {
		if _, err := faster.Compose(t.Context(), "bob", &vmhostv1.ComposeMachineRequest{Cores: 1, MemoryMib: 1, Diskless: true}); err != nil {
			t.Error(err)
		}
	})
	for range 10 {
		l.turn <- struct{}{}
		l.lead(t.Context())
	}
	for _, p := range []*pending{large, small} {
		select {
		case <-p.done:
		default:
			t.Fatal("not answered after ten batches")
		}
	}
	if apierror.Reason(large.err) != vmhostv1.ErrorReason_NO_CAPACITY || small.err != nil {
		t.Errorf("4 cores of 3: %v; 1 core of 3: %v", large.err, small.err)
	}
	checkBooks(t, s, "h")
}

// What refused a host is in the metadata in integers, whichever filter it was: of
// one that takes nothing new, what it has too much of.
func TestNoCapacityHasTheNumbersOfEachHost_P9(t *testing.T) {
	for _, tt := range []struct {
		name string
		host func(*vmhostv1.VmHost, *vmhostv1.VmHostObservation)
		req  *vmhostv1.ComposeMachineRequest
		want string
	}{
		{
			"too few cores", func(*vmhostv1.VmHost, *vmhostv1.VmHostObservation) {}, &vmhostv1.ComposeMachineRequest{Cores: 5, MemoryMib: 1, Diskless: true},
			"vm_host=h filter=cores requested=5 free=4 limit=4 ratio=1",
		},
		{
			"too small a pool", func(*vmhostv1.VmHost, *vmhostv1.VmHostObservation) {}, &vmhostv1.ComposeMachineRequest{Cores: 1, MemoryMib: 1, Disks: []*vmhostv1.DiskRequest{{SizeBytes: 10_001 * gb}}},
			"vm_host=h filter=storage requested=10001000000000 free=10000000000000 limit=10000000000000 ratio=1 storage_pool=default",
		},
		{
			"cordoned", func(h *vmhostv1.VmHost, _ *vmhostv1.VmHostObservation) { h.Cordoned = true }, small(),
			"vm_host=h filter=cordon",
		},
		{
			"too many cores in use", func(h *vmhostv1.VmHost, o *vmhostv1.VmHostObservation) {
				h.Overcommit, o.Foreign = &vmhostv1.OvercommitRatios{Cores: proto.Float64(1.5)}, &vmhostv1.ForeignUsage{Cores: 7}
			}, small(),
			"vm_host=h filter=overcommitted resource=cores used=7 limit=6 ratio=1.5",
		},
		{
			"too much memory in use", func(_ *vmhostv1.VmHost, o *vmhostv1.VmHostObservation) {
				o.Foreign = &vmhostv1.ForeignUsage{MemoryMib: 1025}
			}, small(),
			"vm_host=h filter=overcommitted resource=memory_mib used=1025 limit=1024 ratio=1",
		},
		{
			"too much storage in use", func(_ *vmhostv1.VmHost, o *vmhostv1.VmHostObservation) {
				o.StoragePools = append(o.GetStoragePools(), &vmhostv1.StoragePool{Name: "ssd", CapacityBytes: 10 * gb, AllocationBytes: 10*gb + 1, Active: true})
			}, small(),
			"vm_host=h filter=overcommitted resource=storage_bytes used=10000000001 limit=10000000000 ratio=1 storage_pool=ssd",
		},
		{
			"a zone has as many of the group as it may", func(*vmhostv1.VmHost, *vmhostv1.VmHostObservation) {}, &vmhostv1.ComposeMachineRequest{Cores: 1, MemoryMib: 1, Diskless: true, Group: "g", MaxPerZone: 1},
			"vm_host=h filter=spread",
		},
	} {
		s := storetest.New(t)
		l := open(t, s)
		spec, observed := hostRecord("h", 4, 1024)
		tt.host(spec.GetResource(), observed.GetObservation())
		tx := store.NewTxn()
		store.Put(tx, store.VmHosts, spec, "h")
		store.Put(tx, store.Observed, observed, "h")
		commit(t, s, tx)
		var err error
		for range tt.req.GetMaxPerZone() + 1 { // those that the zone may have are made
			_, err = l.Compose(t.Context(), "alice", tt.req)
		}
		if got := apierror.FromStatus(err).Metadata["refusal_1"]; got != tt.want {
			t.Errorf("%s: %v\n%q, want\n%q", tt.name, err, got, tt.want)
		}
	}
}
