package inventory

import (
	"maps"
	"slices"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// A machine that is being made, or brought here, has volumes before a domain has
// them. The rack cannot know whose they are and reports them by the uid in their
// names; the room for them is committed, so that they are ours and no foreign use.

// maxUnclaimed is how many machines a pool may have unclaimed volumes of.
const maxUnclaimed = 100

func cleanUnclaimed(in map[string]int64) map[string]int64 {
	var out map[string]int64
	for _, key := range slices.Sorted(maps.Keys(in)) {
		uid, ok := cleanUUID(key)
		if bytes := clamp(in[key], maxBytes); ok && bytes > 0 && len(out) < maxUnclaimed {
			if out == nil {
				out = map[string]int64{}
			}
			out[uid] = bytes
		}
	}
	return out
}

// claim counts as ours what volumes have allocated of machines that hold room on
// the host. It goes with the room (ledger.Books.Unsee).
func claim(v *store.View, host string, o *vmhostv1.VmHostObservation) {
	for _, p := range o.GetStoragePools() {
		for uid, bytes := range p.GetUnclaimedBytes() {
			if m, ok := store.Machines.Get(v, uid); ok && slices.Contains(ledger.HostsOf(m.Value), host) {
				p.OursBytes = min(p.GetOursBytes()+bytes, p.GetAllocationBytes())
			}
		}
	}
}
