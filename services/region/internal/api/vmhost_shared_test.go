package api_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
)

func TestAPoolThatTheOperatorCallsSharedIsShownAndCountedOnce_P1(t *testing.T) {
	f := start(t)
	for _, id := range []string{"h1", "h2"} {
		f.ready(f.addHost(f.admin(), id))
	}
	name := "vmHosts/h1"
	h, err := f.hosts.GetVmHost(f.admin(), &vmhostv1.GetVmHostRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	pool := h.GetObservation().GetStoragePools()[0].GetName()
	share := func(host, identity string) *vmhostv1.VmHost {
		t.Helper()
		out, err := f.hosts.UpdateVmHost(f.admin(), &vmhostv1.UpdateVmHostRequest{
			VmHost:     &vmhostv1.VmHost{Name: "vmHosts/" + host, SharedStoragePools: []*vmhostv1.SharedStoragePool{{StoragePool: pool, Identity: identity}}},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"shared_storage_pools"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	share("h1", "nfs://nas/vm")
	share("h2", "nfs://nas/vm")
	op := f.compose(f.admin(), "web")
	for _, host := range []string{"h1", "h2"} {
		h, err := f.hosts.GetVmHost(f.admin(), &vmhostv1.GetVmHostRequest{Name: "vmHosts/" + host})
		if err != nil {
			t.Fatal(err)
		}
		if s := h.GetUsage().GetSharedStorage()[pool]; s.GetIdentity() != "nfs://nas/vm" || s.GetVmHosts() != 2 {
			t.Errorf("%s: shared %v", host, s)
		}
		if h.GetUsage().GetStorageBytes()[pool].GetCommitted() == 0 {
			t.Errorf("%s does not show what %s holds on %s", host, op.GetTarget(), op.GetVmHost())
		}
	}
	other := "h1"
	if op.GetVmHost() == name {
		other = "h2"
	}
	share(other, "")
	if h, err = f.hosts.GetVmHost(f.admin(), &vmhostv1.GetVmHostRequest{Name: "vmHosts/" + other}); err != nil {
		t.Fatal(err)
	}
	if u := h.GetUsage(); u.GetStorageBytes()[pool].GetCommitted() != 0 || len(u.GetSharedStorage()) != 0 {
		t.Errorf("still shared: %v", u)
	}
	v := f.store.Cached()
	if held := ledger.SharedNow(v); len(held) != 1 || held["nfs://nas/vm"] != ledger.RecountShared(v)["nfs://nas/vm"] {
		t.Errorf("held %v", held)
	}
	for _, bad := range []string{"has a space", strings.Repeat("x", 256), "ä"} {
		_, err := f.hosts.UpdateVmHost(f.admin(), &vmhostv1.UpdateVmHostRequest{
			VmHost:     &vmhostv1.VmHost{Name: name, SharedStoragePools: []*vmhostv1.SharedStoragePool{{StoragePool: pool, Identity: bad}}},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"shared_storage_pools"}},
		})
		wantReason(t, bad, err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "vm_host.shared_storage_pools[0].identity")
	}
}
