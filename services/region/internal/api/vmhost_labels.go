package api

import (
	"fmt"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// checkLabels refuses two labels of one network or storage pool, and two words for
// what is behind one: which of them is meant, nobody could say. What they name need not be there now.
func checkLabels(spec *vmhostv1.VmHost) error {
	networks := map[string]bool{}
	for i, l := range spec.GetNetworkLabels() {
		if networks[l.GetNetwork()] {
			return apierror.InvalidField(fmt.Sprintf("vm_host.network_labels[%d].network", i), "is given twice")
		}
		networks[l.GetNetwork()] = true
	}
	pools := map[string]bool{}
	for i, l := range spec.GetStoragePoolLabels() {
		if pools[l.GetStoragePool()] {
			return apierror.InvalidField(fmt.Sprintf("vm_host.storage_pool_labels[%d].storage_pool", i), "is given twice")
		}
		pools[l.GetStoragePool()] = true
	}
	shared := map[string]bool{}
	for i, p := range spec.GetSharedStoragePools() {
		if shared[p.GetStoragePool()] {
			return apierror.InvalidField(fmt.Sprintf("vm_host.shared_storage_pools[%d].storage_pool", i), "is given twice")
		}
		shared[p.GetStoragePool()] = true
	}
	return nil
}
