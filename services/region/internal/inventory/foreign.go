package inventory

import (
	"iter"
	"maps"
	"math"
	"slices"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// taken is what a machine takes that is not committed: all of a machine of
// others, and of one of ours what somebody gave it beyond what was decided.
type taken struct {
	machines, cores, memory, hugepages int64
	pinned                             []int32
	functions                          []string // the devices of its virtual functions
}

// byOthers is what a machine of others takes.
func byOthers(m *rackv1.MachineObservation) *taken {
	out := &taken{machines: 1, cores: int64(m.GetCores()), memory: m.GetMemoryMib(), pinned: m.GetPinnedCores(), functions: functionsOf(m)}
	if m.GetHugepages() {
		out.hugepages = m.GetMemoryMib()
	}
	return out
}

// beyond is what a machine of ours takes that is not committed for it; nil when
// it takes no more. Nobody asked whether there is room for that (P1).
func beyond(c *storev1.Commitment, m *rackv1.MachineObservation) *taken {
	all := byOthers(m)
	out := &taken{
		cores: max(all.cores-int64(c.GetCores()), 0), memory: max(all.memory-c.GetMemoryMib(), 0), hugepages: max(all.hugepages-c.GetHugepagesMib(), 0),
	}
	for _, core := range all.pinned {
		if !slices.Contains(c.GetPinnedCores(), core) {
			out.pinned = append(out.pinned, core)
		}
	}
	had := maps.Clone(c.GetSriovFunctions())
	for _, device := range all.functions {
		if had[device] > 0 {
			had[device]--
			continue
		}
		out.functions = append(out.functions, device)
	}
	if out.cores == 0 && out.memory == 0 && out.hugepages == 0 && len(out.pinned) == 0 && len(out.functions) == 0 {
		return nil
	}
	return out
}

func functionsOf(m *rackv1.MachineObservation) []string {
	var out []string
	for _, i := range m.GetInterfaces() {
		if i.GetKind() == vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV {
			out = append(out, i.GetSource())
		}
	}
	return out
}

// foreign is what is taken and not committed, of machines that run or not.
//
// Virtual functions are told per device of the host. One machine whose interface
// names no device of the host, and nothing is known of any of them.
func foreign(all iter.Seq[*taken], devices []*vmhostv1.SriovDevice) *vmhostv1.ForeignUsage {
	sum := taken{}
	pinned, functions := map[int32]bool{}, map[string]int32{}
	for _, d := range devices {
		functions[d.GetName()] = 0
	}
	for t := range all {
		sum.add(t, 1)
		for _, core := range t.pinned {
			pinned[core] = true
		}
		for _, device := range t.functions {
			if functions == nil {
				break
			}
			if _, ok := functions[device]; ok {
				functions[device]++
			} else {
				functions = nil
			}
		}
	}
	out := sum.usage()
	out.PinnedCores = slices.Sorted(maps.Keys(pinned))
	if len(functions) > 0 {
		out.SriovFunctions = functions
	}
	return out
}

// add adds what can be added and taken away again.
func (t *taken) add(o *taken, sign int64) {
	t.machines += sign * o.machines
	t.cores += sign * o.cores
	t.memory += sign * o.memory
	t.hugepages += sign * o.hugepages
}

func (t *taken) usage() *vmhostv1.ForeignUsage {
	clip := func(n int64) int32 { return int32(min(n, math.MaxInt32)) }
	return &vmhostv1.ForeignUsage{
		Machines: clip(t.machines), Cores: clip(t.cores), MemoryMib: t.memory, HugepagesMib: &t.hugepages,
	}
}

// swap is what a machine takes before and after a change; nil: nothing.
type swap struct{ before, after *taken }

// changed is the foreign use after some machines changed. False when it cannot be
// told by these alone: what they let go of may be in use by others as well.
func changed(f *vmhostv1.ForeignUsage, swaps []swap) (*vmhostv1.ForeignUsage, bool) {
	if f.HugepagesMib == nil || f.GetCores() == math.MaxInt32 {
		return nil, false // of before there was any, or cut off
	}
	sum := taken{machines: int64(f.GetMachines()), cores: int64(f.GetCores()), memory: f.GetMemoryMib(), hugepages: f.GetHugepagesMib()}
	pinned := f.GetPinnedCores()
	for _, s := range swaps {
		var before, after taken
		if s.before != nil {
			before = *s.before
		}
		if s.after != nil {
			after = *s.after
		}
		sum.add(&before, -1)
		sum.add(&after, 1)
		if len(before.functions) > 0 || len(after.functions) > 0 {
			return nil, false
		}
		for _, core := range before.pinned {
			if !slices.Contains(after.pinned, core) {
				return nil, false
			}
		}
		pinned = append(pinned[:len(pinned):len(pinned)], after.pinned...)
	}
	if sum.machines < 0 || sum.cores < 0 || sum.memory < 0 || sum.hugepages < 0 {
		return nil, false
	}
	out := sum.usage()
	out.PinnedCores = slices.Compact(slices.Sorted(slices.Values(pinned)))
	out.SriovFunctions = f.GetSriovFunctions()
	return out, true
}

// takes is what a machine takes on a host that is not committed there; nil for
// none.
func takes(v *store.View, h *vmhostv1.VmHost, m *rackv1.MachineObservation) *taken {
	if m == nil {
		return nil
	}
	if r, ours := view.Ours(v, h, m); ours {
		if r.Value.GetResource().GetVmHost() != h.GetName() { // it is being moved here
			return beyond(r.Value.GetMove().GetCommitment(), m)
		}
		return beyond(r.Value.GetCommitment(), m)
	}
	return byOthers(m)
}

// uncommitted is what machines take that is not committed. Of one that is about to
// become ours, comes is the record.
func uncommitted(v *store.View, h *vmhostv1.VmHost, comes *storev1.StoredMachine, machines iter.Seq[*rackv1.MachineObservation]) iter.Seq[*taken] {
	return func(yield func(*taken) bool) {
		for m := range machines {
			t := takes(v, h, m)
			if comes != nil && m.GetUuid() == view.Domain(comes.GetResource()) {
				t = beyond(comes.GetCommitment(), m)
			}
			if t != nil && !yield(t) {
				return
			}
		}
	}
}

// after are the machines of a host as a view has them, after some changed; nil is
// one that is gone.
func after(v *store.View, host string, changes map[string]*rackv1.MachineObservation) iter.Seq[*rackv1.MachineObservation] {
	return func(yield func(*rackv1.MachineObservation) bool) {
		for uuid, m := range store.Seen.All(v, host) {
			if _, named := changes[uuid]; !named && !yield(m.Value.GetObservation()) {
				return
			}
		}
		for _, m := range changes {
			if m != nil && !yield(m) {
				return
			}
		}
	}
}
