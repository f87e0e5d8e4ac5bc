package operation

import (
	"strings"
	"testing"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// The copy would be the volume itself, and what is removed on the source the only
// one (P3).
func TestAMachineIsNotCopiedOntoItself_P3(t *testing.T) {
	w := newWorld(t)
	name := w.made()
	e := w.mover()
	pool := w.machine(name).GetDisks()[0].GetStoragePool()
	share := func(identity string) func(h *vmhostv1.VmHost) {
		return func(h *vmhostv1.VmHost) {
			h.SharedStoragePools = []*vmhostv1.SharedStoragePool{{StoragePool: pool, Identity: identity}}
		}
	}
	w.change("h", share("nfs://nas/vm"))
	w.change("h2", share("nfs://nas/vm"))
	_, err := e.Move(t.Context(), "alice", &moveRequest{Name: name})
	if apierror.Reason(err) != vmhostv1.ErrorReason_NO_CAPACITY || !strings.Contains(err.Error(), "storage pool "+pool) {
		t.Fatalf("moved into the pool that it is in: %v", err)
	}
	w.change("h2", share("nfs://nas/others"))
	if _, err := e.Move(t.Context(), "alice", &moveRequest{Name: name}); err != nil {
		t.Fatal(err)
	}
}
