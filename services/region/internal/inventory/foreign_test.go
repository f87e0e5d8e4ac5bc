package inventory

import (
	"testing"

	"google.golang.org/protobuf/proto"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// A machine of ours that somebody made larger on its hypervisor takes more than
// is committed for it: nobody asked whether there is room, so the rest counts as
// foreign as long as it is so, however it is reported.
func TestWhatAMachineTakesBeyondItsCommitmentIsForeign_P1(t *testing.T) {
	ours := func(cores int32, memory int64) *rackv1.MachineObservation {
		m := domain(1, "web", true)
		m.Cores, m.MemoryMib = cores, memory
		return m
	}
	huge, pinned, function := ours(2, 100), ours(2, 100), ours(2, 100)
	huge.Hugepages = true
	pinned.PinnedCores = []int32{4, 5}
	function.Interfaces = []*vmhostv1.MachineInterface{
		{Mac: "52:54:00:00:00:01", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV, Source: "eth0"},
		{Mac: "52:54:00:00:00:02", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV, Source: "eth0"},
	}
	others := domain(2, "legacy", false) // 2 cores, 100 MiB
	for _, test := range []struct {
		name string
		now  *rackv1.MachineObservation
		want *vmhostv1.ForeignUsage
	}{
		{"as committed", ours(2, 100), &vmhostv1.ForeignUsage{Machines: 1, Cores: 2, MemoryMib: 100}},
		{"more cores", ours(6, 100), &vmhostv1.ForeignUsage{Machines: 1, Cores: 6, MemoryMib: 100}},
		{"more memory", ours(2, 1124), &vmhostv1.ForeignUsage{Machines: 1, Cores: 2, MemoryMib: 1124}},
		{"less", ours(1, 50), &vmhostv1.ForeignUsage{Machines: 1, Cores: 2, MemoryMib: 100}},
		{"huge pages", huge, &vmhostv1.ForeignUsage{Machines: 1, Cores: 2, MemoryMib: 100, HugepagesMib: new(int64(100))}},
		{"pinned elsewhere", pinned, &vmhostv1.ForeignUsage{Machines: 1, Cores: 2, MemoryMib: 100, PinnedCores: []int32{5}}},
		{"another function", function, &vmhostv1.ForeignUsage{Machines: 1, Cores: 2, MemoryMib: 100, SriovFunctions: map[string]int32{"eth0": 1}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.want.HugepagesMib == nil {
				test.want.HugepagesMib = new(int64(0))
			}
			if test.want.SriovFunctions == nil {
				test.want.SriovFunctions = map[string]int32{"eth0": 0}
			}
			w := newWorld(t)
			w.put(func(tx *store.Txn) {
				store.Put(tx, store.Machines, &storev1.StoredMachine{
					Resource:   &vmhostv1.Machine{Name: "machines/" + id(1), Uid: id(1), HypervisorUuid: id(1), VmHost: "vmHosts/h", Phase: vmhostv1.MachinePhase_MACHINE_PHASE_READY},
					Commitment: &storev1.Commitment{Cores: 2, MemoryMib: 100, PinnedCores: []int32{4}, SriovFunctions: map[string]int32{"eth0": 1}},
				}, id(1))
			})
			is := func(how string, want *vmhostv1.ForeignUsage) {
				t.Helper()
				if got := w.foreign(); !proto.Equal(got, want) {
					t.Errorf("%s: foreign use is %v, want %v", how, got, want)
				}
			}
			none := &vmhostv1.ForeignUsage{Machines: 1, Cores: 2, MemoryMib: 100, HugepagesMib: new(int64(0)), SriovFunctions: map[string]int32{"eth0": 0}}
			device := []*vmhostv1.SriovDevice{{Name: "eth0", Functions: 8}}
			whole := func(m *rackv1.MachineObservation) {
				t.Helper()
				w.session = NewAssembler()
				o := observation()
				o.SriovDevices = device
				w.must(w.inv.Report(t.Context(), "r1", w.session.Add(&rackv1.HostInventory{
					VmHost: "vmHosts/h", Epoch: w.epoch, Last: true, Machines: []*rackv1.MachineObservation{m, others}, Observation: o,
				})))
			}
			whole(ours(2, 100))
			is("as it was decided", none)
			w.must(w.delta(nil, test.now))
			is("in a delta", test.want)
			w.must(w.delta(nil, ours(2, 100)))
			is("back again in a delta", none)
			w.must(w.inv.Change(t.Context(), "r1", &rackv1.MachineChange{VmHost: "vmHosts/h", Epoch: w.epoch, Change: &rackv1.MachineChange_Present{Present: test.now}}))
			is("in a change", test.want)
			whole(test.now)
			is("in a whole report", test.want)
			w.must(w.delta([]string{id(1)}))
			is("gone", none)
		})
	}
}
