package inventory

import (
	"fmt"
	"testing"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// What a host of 500 machines costs that does not change: a whole report, once
// in a session, and a delta, every minute.
func BenchmarkAHostOfFiveHundredMachinesThatDoesNotChange(b *testing.B) {
	w := newWorld(b)
	var machines []*rackv1.MachineObservation
	for n := range 500 {
		m := domain(n, fmt.Sprintf("machine-%03d", n), n%2 == 0)
		m.Architecture, m.ConsoleLogPath = "x86_64", fmt.Sprintf("/var/log/libvirt/qemu/machine-%03d.log", n)
		m.Disks = []*vmhostv1.MachineDisk{{StoragePool: "default", Volume: m.GetName(), SizeBytes: 1 << 30, Device: "vda", Path: "/var/lib/libvirt/images/" + m.GetName()}}
		m.Interfaces = []*vmhostv1.MachineInterface{{Mac: fmt.Sprintf("52:54:00:00:%02x:%02x", n>>8, n&255), Source: "default", Addresses: []string{"192.168.122.7"}}}
		machines = append(machines, m)
	}
	for n := range 250 { // half of them are ours
		w.put(func(tx *store.Txn) {
			store.Put(tx, store.Machines, &storev1.StoredMachine{Resource: &vmhostv1.Machine{
				Uid: id(n), HypervisorUuid: id(n), VmHost: "vmHosts/h", HypervisorName: machines[n].GetName(), Disks: machines[n].GetDisks(), Interfaces: machines[n].GetInterfaces(),
			}}, id(n))
		})
	}
	w.report(w.epoch, machines...)
	revision := w.store.Cached().Revision
	b.Run("whole", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w.report(w.epoch, machines...)
		}
	})
	b.Run("delta", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w.must(w.delta(nil))
		}
	})
	b.Run("one changed", func(b *testing.B) {
		on := false
		for b.Loop() {
			on = !on
			w.must(w.delta(nil, domain(400, "machine-400", on)))
		}
	})
	if w.store.Cached().Revision == revision {
		b.Error("a change was not recorded")
	}
}
