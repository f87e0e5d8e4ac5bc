package inventory

import (
	"iter"
	"maps"
	"math"
	"slices"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// foreign is what machines that are not ours use, running or not.
//
// Virtual functions are told per device of the host. One machine whose interface
// names no device of the host, and nothing is known of any of them.
func foreign(machines iter.Seq[*rackv1.MachineObservation], devices []*vmhostv1.SriovDevice) *vmhostv1.ForeignUsage {
	sum := tally{}
	pinned, functions := map[int32]bool{}, map[string]int32{}
	for _, d := range devices {
		functions[d.GetName()] = 0
	}
	for m := range machines {
		sum.add(m, 1)
		for _, core := range m.GetPinnedCores() {
			pinned[core] = true
		}
		for _, i := range m.GetInterfaces() {
			if i.GetKind() != vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV || functions == nil {
				continue
			}
			if _, ok := functions[i.GetSource()]; ok {
				functions[i.GetSource()]++
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

// tally is what can be added and taken away again.
type tally struct{ machines, cores, memory, hugepages int64 }

func (t *tally) add(m *rackv1.MachineObservation, sign int64) {
	t.machines += sign
	t.cores += sign * int64(m.GetCores())
	t.memory += sign * m.GetMemoryMib()
	if m.GetHugepages() {
		t.hugepages += sign * m.GetMemoryMib()
	}
}

func (t *tally) usage() *vmhostv1.ForeignUsage {
	clip := func(n int64) int32 { return int32(min(n, math.MaxInt32)) }
	return &vmhostv1.ForeignUsage{
		Machines: clip(t.machines), Cores: clip(t.cores), MemoryMib: t.memory, HugepagesMib: &t.hugepages,
	}
}

// swap is a machine before and after a change, as far as it is foreign; nil when
// it is not, or not there.
type swap struct{ before, after *rackv1.MachineObservation }

// changed is the foreign use after some machines changed. False when it cannot be
// told by these alone: what they let go of may be in use by others as well.
func changed(f *vmhostv1.ForeignUsage, swaps []swap) (*vmhostv1.ForeignUsage, bool) {
	if f.HugepagesMib == nil || f.GetCores() == math.MaxInt32 {
		return nil, false // of before there was any, or cut off
	}
	sum := tally{machines: int64(f.GetMachines()), cores: int64(f.GetCores()), memory: f.GetMemoryMib(), hugepages: f.GetHugepagesMib()}
	pinned := f.GetPinnedCores()
	for _, s := range swaps {
		if s.before != nil {
			sum.add(s.before, -1)
		}
		if s.after != nil {
			sum.add(s.after, 1)
		}
		if hasFunctions(s.before) || hasFunctions(s.after) {
			return nil, false
		}
		for _, core := range s.before.GetPinnedCores() {
			if !slices.Contains(s.after.GetPinnedCores(), core) {
				return nil, false
			}
		}
		pinned = append(pinned[:len(pinned):len(pinned)], s.after.GetPinnedCores()...)
	}
	if sum.machines < 0 || sum.cores < 0 || sum.memory < 0 || sum.hugepages < 0 {
		return nil, false
	}
	out := sum.usage()
	out.PinnedCores = slices.Compact(slices.Sorted(slices.Values(pinned)))
	out.SriovFunctions = f.GetSriovFunctions()
	return out, true
}

func hasFunctions(m *rackv1.MachineObservation) bool {
	return slices.ContainsFunc(m.GetInterfaces(), func(i *vmhostv1.MachineInterface) bool {
		return i.GetKind() == vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV
	})
}

// others are those of the machines that are not ours. One that is about to become
// ours is left out.
func others(v *store.View, h *vmhostv1.VmHost, taken string, machines iter.Seq[*rackv1.MachineObservation]) iter.Seq[*rackv1.MachineObservation] {
	return func(yield func(*rackv1.MachineObservation) bool) {
		for m := range machines {
			if m.GetUuid() == taken {
				continue
			}
			if _, ours := view.Ours(v, h, m); !ours && !yield(m) {
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
