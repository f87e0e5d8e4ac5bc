package placement

import vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"

// Identity is what is behind a storage pool of a host, the same on every host that
// has it; empty for one that is the host's alone. The operator knows best; else it
// is what the hypervisor tells, detected.
func Identity(spec *vmhostv1.VmHost, pool, detected string) string {
	for _, s := range spec.GetSharedStoragePools() {
		if s.GetStoragePool() == pool {
			return s.GetIdentity()
		}
	}
	return detected
}
