package ledger

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

func TestWhatOnlyOneMachineCanHaveIsRefusedOfMany(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	for _, tc := range []struct {
		name, field string
		code        codes.Code
		change      func(r *vmhostv1.ComposeMachinesRequest)
	}{
		{"no count", "count", codes.InvalidArgument, func(r *vmhostv1.ComposeMachinesRequest) { r.Count = 0 }},
		{"negative", "count", codes.InvalidArgument, func(r *vmhostv1.ComposeMachinesRequest) { r.Count = -1 }},
		{"a million", "count", codes.InvalidArgument, func(r *vmhostv1.ComposeMachinesRequest) { r.Count = 1_000_000 }},
		{"a MAC", "machine.interfaces[0].mac", codes.InvalidArgument, func(r *vmhostv1.ComposeMachinesRequest) {
			r.Machine.Interfaces = []*vmhostv1.InterfaceRequest{{Mac: "52:54:00:00:00:01"}}
		}},
		{"an address", "machine.interfaces[0].ip_address", codes.InvalidArgument, func(r *vmhostv1.ComposeMachinesRequest) {
			r.Machine.Interfaces = []*vmhostv1.InterfaceRequest{{IpAddress: "10.0.0.1"}}
		}},
		{"pinned cores", "machine.pinned_cores", codes.InvalidArgument, func(r *vmhostv1.ComposeMachinesRequest) { r.Machine.PinnedCores = []int32{1} }},
		{"a long name", "machine.hostname", codes.InvalidArgument, func(r *vmhostv1.ComposeMachinesRequest) { r.Machine.Hostname = strings.Repeat("a", 60) }},
		{"disks and none", "machine.diskless", codes.InvalidArgument, func(r *vmhostv1.ComposeMachinesRequest) {
			r.Machine.Diskless, r.Machine.Disks = true, []*vmhostv1.DiskRequest{{SizeBytes: gb}}
		}},
		{"no such zone", "machine.zone", codes.NotFound, func(r *vmhostv1.ComposeMachinesRequest) { r.Machine.Zone = "zones/none" }},
		{"no such policy", "machine.placement_policy", codes.NotFound, func(r *vmhostv1.ComposeMachinesRequest) { r.Machine.PlacementPolicy = "placementPolicies/none" }},
	} {
		req := manyOf(2, all, small())
		tc.change(req)
		_, err := l.ComposeMany(t.Context(), "alice", req)
		if e := apierror.FromStatus(err); err == nil || e.Code != tc.code || len(e.Fields) != 1 || e.Fields[0].GetField() != tc.field {
			t.Errorf("%s: got %v, fields %v", tc.name, err, e.Fields)
		}
	}
}
