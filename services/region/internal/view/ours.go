package view

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/vmhost-project/vmhost/pkg/units"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Ours is the record of a machine that was seen on a host: the one that is on
// that host, or is being moved there, and has the hypervisor's uuid of it. What
// has none is of others, whatever metadata it carries: a clone of one of our
// machines carries ours.
func Ours(v *store.View, host *vmhostv1.VmHost, o *rackv1.MachineObservation) (store.Record[*storev1.StoredMachine], bool) {
	// Where its record can be: composed machines have one uid everywhere, adopted
	// ones the uid that they were discovered with, unless they moved since.
	for i, uid := range [...]string{o.GetUuid(), o.GetUid(), ""} {
		if i == 2 {
			uid = DiscoveredUID(host.GetUid(), o.GetUuid())
		}
		if uid == "" || i == 1 && uid == o.GetUuid() {
			continue
		}
		m, ok := store.Machines.Get(v, uid)
		if r := m.Value.GetResource(); ok && (r.GetVmHost() == host.GetName() || goesTo(m.Value, host)) && Domain(r) == o.GetUuid() {
			return m, true
		}
	}
	return store.Record[*storev1.StoredMachine]{}, false
}

// goesTo says whether a machine is being moved to a host.
func goesTo(m *storev1.StoredMachine, host *vmhostv1.VmHost) bool {
	to := m.GetMove()
	return to != nil && to.GetVmHost() == id(host.GetName()) && to.GetVmHostUid() == host.GetUid()
}

// Domain is the hypervisor's uuid of a machine of ours.
func Domain(m *vmhostv1.Machine) string {
	if m.GetHypervisorUuid() != "" {
		return m.GetHypervisorUuid()
	}
	return m.GetUid()
}

// DiscoveredUID is the uid of a machine that was found: it stays the same as long
// as host and machine do, and when it is adopted.
func DiscoveredUID(hostUID, domain string) string {
	return uuid.NewSHA1(spaceOf(hostUID), []byte(domain)).String()
}

// spaceOf is the name space of what is discovered on a host.
func spaceOf(hostUID string) uuid.UUID {
	space, err := uuid.Parse(hostUID)
	if err != nil {
		return uuid.Nil
	}
	return space
}

// Changed is what was changed outside of vmhost of a machine of ours, in words;
// empty when nothing was. What the host could not read is not compared.
func Changed(m *vmhostv1.Machine, o *rackv1.MachineObservation) []string {
	if m.GetPhase() != vmhostv1.MachinePhase_MACHINE_PHASE_READY {
		return nil // still being made, or about to go
	}
	var out []string
	differs := func(what string, decided, seen any) {
		out = append(out, fmt.Sprintf("%s is %v, not %v", what, seen, decided))
	}
	if o.GetName() != "" && o.GetName() != m.GetHypervisorName() {
		differs("its name", m.GetHypervisorName(), o.GetName())
	}
	if o.GetProblem() != "" {
		return out
	}
	if o.GetCores() != 0 && o.GetCores() != m.GetCores() {
		differs("cores", m.GetCores(), o.GetCores())
	}
	if o.GetMemoryMib() != 0 && o.GetMemoryMib() != m.GetMemoryMib() {
		said := units.MiB.Say(units.Need(m.GetMemoryMib()), units.Room(o.GetMemoryMib()))
		differs("memory", said[0], said[1])
	}
	return append(append(out, changedInterfaces(m, o)...), changedDisks(m, o)...)
}

func changedInterfaces(m *vmhostv1.Machine, o *rackv1.MachineObservation) []string {
	var gone, added []string
	has := func(list []*vmhostv1.MachineInterface, mac string) bool {
		return slices.ContainsFunc(list, func(i *vmhostv1.MachineInterface) bool { return strings.EqualFold(i.GetMac(), mac) })
	}
	for _, i := range m.GetInterfaces() {
		if i.GetMac() != "" && !has(o.GetInterfaces(), i.GetMac()) {
			gone = append(gone, i.GetMac())
		}
	}
	for _, i := range o.GetInterfaces() {
		if i.GetMac() != "" && !has(m.GetInterfaces(), i.GetMac()) {
			added = append(added, i.GetMac())
		}
	}
	return goneAndAdded("the interface", gone, added)
}

// rounding is how much larger than asked for a hypervisor may make a disk: the
// extents of a volume group, the blocks of a pool.
const rounding = 256 << 20

func changedDisks(m *vmhostv1.Machine, o *rackv1.MachineObservation) []string {
	var out, gone, added []string
	left := slices.Clone(o.GetDisks())
	for _, d := range m.GetDisks() {
		i := slices.IndexFunc(left, func(seen *vmhostv1.MachineDisk) bool { return sameDisk(d, seen) })
		if i < 0 {
			gone = append(gone, diskWord(d))
			continue
		}
		if was, is := d.GetSizeBytes(), left[i].GetSizeBytes(); was != 0 && is != 0 && (is < was || is > was+rounding) {
			said := units.Bytes.Say(units.Need(was), units.Room(is))
			out = append(out, fmt.Sprintf("the disk %s has %s, not %s", diskWord(d), said[1], said[0]))
		}
		left = slices.Delete(left, i, i+1)
	}
	for _, d := range left {
		// A disk without a volume is no storage that was taken: an image file in a
		// drive, for example.
		if d.GetVolume() != "" {
			added = append(added, diskWord(d))
		}
	}
	return append(out, goneAndAdded("the disk", gone, added)...)
}

// sameDisk says whether a recorded disk is one that was seen: the volume of that
// name in its pool, or the device of that name, or the file of that path.
func sameDisk(d, seen *vmhostv1.MachineDisk) bool {
	switch {
	case d.GetVolume() != "" && d.GetVolume() == seen.GetVolume():
		return d.GetStoragePool() == seen.GetStoragePool()
	case d.GetName() != "" && d.GetName() == seen.GetName():
		return d.GetStoragePool() == seen.GetStoragePool()
	default:
		return d.GetVolume() == "" && seen.GetVolume() == "" && d.GetPath() == seen.GetPath() && d.GetDevice() == seen.GetDevice()
	}
}

func diskWord(d *vmhostv1.MachineDisk) string {
	for _, word := range []string{d.GetVolume(), d.GetPath(), d.GetName(), d.GetDevice()} {
		if word != "" {
			return word
		}
	}
	return "without a name"
}

func goneAndAdded(what string, gone, added []string) []string {
	var out []string
	for _, word := range gone {
		out = append(out, what+" "+word+" is not there")
	}
	for _, word := range added {
		out = append(out, what+" "+word+" was added")
	}
	return out
}
