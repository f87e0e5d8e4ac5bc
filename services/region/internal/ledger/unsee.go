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
	next := b.hosts[host]
	if next == nil {
		record, ok := store.Observed.Get(b.v, host)
		if !ok || record.Value.GetObservation().GetForeign() == nil {
			return
		}
		b.tx.IfRevision(store.Observed.Key(host), record.Revision)
		next = proto.CloneOf(record.Value)
		b.hosts[host] = next
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
