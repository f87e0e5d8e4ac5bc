package view

import (
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// CountMissing is how many machines of ours should be on a host that is reached
// and does not show them: those with the condition Missing.
func CountMissing(v *store.View) int {
	reached := map[string]bool{}
	for host, r := range store.VmHosts.All(v) {
		reached[host] = hostReady(v, r.Value.GetResource(), observationOf(v, r.Value.GetResource()))
	}
	missing := 0
	for _, r := range store.Machines.All(v) {
		m := r.Value.GetResource()
		host := id(m.GetVmHost())
		if m.GetPhase() != vmhostv1.MachinePhase_MACHINE_PHASE_READY || !reached[host] || r.Value.GetMove() != nil { // what is moved may be on either host
			continue
		}
		if _, seen := store.Seen.Get(v, host, Domain(m)); !seen {
			missing++
		}
	}
	return missing
}
