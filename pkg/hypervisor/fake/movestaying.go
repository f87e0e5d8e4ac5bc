package fake

import (
	"fmt"
	"slices"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// copied are the disks of either half that do not stay where they are.
func (m *move) copied(half *vmhostv1.Machine) []*vmhostv1.MachineDisk {
	var out []*vmhostv1.MachineDisk
	for i, k := range half.GetDisks() {
		if !m.stays(i) {
			out = append(out, k)
		}
	}
	return out
}

func (m *move) stays(disk int) bool { return slices.Contains(m.what.GetStayingDisks(), int32(disk)) }

// checkPools refuses, before anything is touched, a disk that is to stay in a pool that
// is another one on the destination, or is not there, and one that would be copied onto
// itself.
func (m *move) checkPools() error {
	no := func(format string, args ...any) error {
		return &hypervisor.Error{Class: hypervisor.ErrRefused, Op: opMove, Err: fmt.Errorf(format, args...), AtDestination: true}
	}
	from, to := m.what.GetMachine().GetDisks(), m.what.GetMoved().GetDisks()
	for _, i := range m.what.GetStayingDisks() {
		if i < 0 || int(i) >= len(from) || int(i) >= len(to) {
			return no("disk %d is to stay where it is, and the machine has none of that number", i)
		}
	}
	for i := range min(len(from), len(to)) {
		here, there := m.from.host.identityOf(from[i].GetStoragePool()), m.to.host.identityOf(to[i].GetStoragePool())
		same := here != "" && here == there
		switch {
		case same && !m.stays(i):
			return no("storage pool %q of the source and %q of the destination are the same: disk %d would be copied onto itself", from[i].GetStoragePool(), to[i].GetStoragePool(), i)
		case m.stays(i) && !same:
			return no("storage pool %q of the source and %q of the destination are not the same, and disk %d is to stay", from[i].GetStoragePool(), to[i].GetStoragePool(), i)
		case m.stays(i) && (from[i].GetVolume() != to[i].GetVolume() || !m.to.host.has(to[i].GetStoragePool(), to[i].GetVolume())):
			return no("disk %d is to stay, and storage pool %q has no volume %q", i, to[i].GetStoragePool(), to[i].GetVolume())
		default:
		}
	}
	return nil
}

// identityOf is identity without h.mu held.
func (h *Host) identityOf(pool string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.identity(pool)
}

// has says whether a volume is in a pool.
func (h *Host) has(pool, name string) bool {
	_, there := h.Read(pool, name)
	return there
}
