package ledger

import (
	"google.golang.org/protobuf/proto"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Unsee forgets that a host was seen with a machine of ours, which held so much
// there and is known to be gone. What it took beyond that counted as foreign use
// of the host, and does not any more: the host's next report would not tell of it,
// since the machine is in nothing that it could be compared with.
//
// The host's record is compared and written only where there is such use; then all
// its machines are counted anew with the next report, which brings what is not told
// here (pinned cores, which others may have as well).
func (b *Books) Unsee(host, uuid string, c *storev1.Commitment) {
	b.tx.Delete(store.Seen.Key(host, uuid))
	seen, ok := store.Seen.Get(b.v, host, uuid)
	if !ok || !exceeds(seen.Value.GetObservation(), c) {
		return
	}
	next := b.observed(host)
	if next.GetObservation().GetForeign() == nil {
		return
	}
	o, f := seen.Value.GetObservation(), next.GetObservation().GetForeign()
	f.Cores = max(f.GetCores()-max(o.GetCores()-c.GetCores(), 0), 0)
	f.MemoryMib = max(f.GetMemoryMib()-max(o.GetMemoryMib()-c.GetMemoryMib(), 0), 0)
	if o.GetHugepages() && f.HugepagesMib != nil {
		f.HugepagesMib = new(max(f.GetHugepagesMib()-max(o.GetMemoryMib()-c.GetHugepagesMib(), 0), 0))
	}
	for device, n := range functionsOf(o) {
		if had, known := f.GetSriovFunctions()[device]; known {
			f.SriovFunctions[device] = max(had-max(n-c.GetSriovFunctions()[device], 0), 0)
		}
	}
}

// Disclaim takes out of what is ours on a host the volumes of a machine that it has
// no domain of, as that machine holds no room there any more. They are gone in the
// next report, or others' use from now on.
func (b *Books) Disclaim(host, uid string) {
	record, _ := store.Observed.Get(b.v, host)
	for i, p := range record.Value.GetObservation().GetStoragePools() {
		if bytes := p.GetUnclaimedBytes()[uid]; bytes > 0 {
			next := b.observed(host).GetObservation().GetStoragePools()[i]
			next.OursBytes = max(next.GetOursBytes()-bytes, 0)
		}
	}
}

// observed is what is recorded of a host, to be changed.
func (b *Books) observed(host string) *storev1.StoredVmHostObservation {
	next := b.hosts[host]
	if next == nil {
		record, ok := store.Observed.Get(b.v, host)
		if !ok {
			return nil
		}
		b.tx.IfRevision(store.Observed.Key(host), record.Revision)
		next = proto.CloneOf(record.Value)
		b.hosts[host] = next
	}
	return next
}

// exceeds says whether a machine takes more than it holds.
func exceeds(o *rackv1.MachineObservation, c *storev1.Commitment) bool {
	if o.GetCores() > c.GetCores() || o.GetMemoryMib() > c.GetMemoryMib() || o.GetHugepages() && o.GetMemoryMib() > c.GetHugepagesMib() {
		return true
	}
	held := map[int32]bool{}
	for _, core := range c.GetPinnedCores() {
		held[core] = true
	}
	for _, core := range o.GetPinnedCores() {
		if !held[core] {
			return true
		}
	}
	for device, n := range functionsOf(o) {
		if n > c.GetSriovFunctions()[device] {
			return true
		}
	}
	return false
}

// functionsOf are the virtual functions that a machine has, by device.
func functionsOf(o *rackv1.MachineObservation) map[string]int32 {
	var out map[string]int32
	for _, i := range o.GetInterfaces() {
		if i.GetKind() == vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV {
			if out == nil {
				out = map[string]int32{}
			}
			out[i.GetSource()]++
		}
	}
	return out
}
