package operation

import (
	"slices"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// toDelete is the machine as a rack removes it: with the disks that go with it.
// A composed machine's are all ours. Of an adopted one's, whoever decided to
// delete the machine has not looked at every disk: only volumes go that are
// nobody else's, as far as can be seen. The driver looks again for users on the
// host before it removes one.
func toDelete(v *store.View, r *vmhostv1.Machine) *vmhostv1.Machine {
	out := wireMachine(r)
	if r.GetOrigin() != vmhostv1.MachineOrigin_MACHINE_ORIGIN_ADOPTED {
		out.Interfaces = r.GetInterfaces() // their fixed addresses are given back
		return out
	}
	host := idOf(r.GetVmHost())
	pools := map[string]bool{}
	observed, _ := store.Observed.Get(v, host)
	for _, p := range observed.Value.GetObservation().GetStoragePools() {
		pools[p.GetName()] = slices.Contains(ledger.LocalPools(), p.GetType())
	}
	out.Disks = nil
	for _, d := range r.GetDisks() {
		if d.GetVolume() != "" && pools[d.GetStoragePool()] && !usedByOthers(v, r, d) {
			out.Disks = append(out.Disks, d)
		}
	}
	return out
}

// usedByOthers says whether another machine on the host, seen or recorded, has the
// disk.
func usedByOthers(v *store.View, r *vmhostv1.Machine, d *vmhostv1.MachineDisk) bool {
	same := func(o *vmhostv1.MachineDisk) bool {
		return o.GetStoragePool() == d.GetStoragePool() && o.GetVolume() == d.GetVolume() || d.GetPath() != "" && o.GetPath() == d.GetPath()
	}
	for uuid, seen := range store.Seen.All(v, idOf(r.GetVmHost())) {
		if uuid != r.GetHypervisorUuid() && slices.ContainsFunc(seen.Value.GetObservation().GetDisks(), same) {
			return true
		}
	}
	for uid, m := range store.Machines.All(v) {
		other := m.Value.GetResource()
		if uid != r.GetUid() && other.GetVmHost() == r.GetVmHost() && slices.ContainsFunc(other.GetDisks(), same) {
			return true
		}
	}
	return false
}
