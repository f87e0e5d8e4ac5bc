package ctl

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

func hostColumns(now time.Time) []display.Column[*vmhostv1.VmHost] {
	type host = *vmhostv1.VmHost
	return []display.Column[host]{
		{Head: "NAME", Cell: func(h host) string { return display.ID(h.GetName()) }},
		{Head: "STATE", State: true, Cell: hostState},
		{Head: "ZONE", Cell: func(h host) string { return display.ID(h.GetZone()) }},
		{Head: "POOL", Cell: func(h host) string { return display.ID(h.GetResourcePool()) }},
		{Head: "CORES", Right: true, Cell: func(h host) string { return used(h.GetUsage().GetCores(), plainNumber) }},
		{Head: "MEMORY", Right: true, Cell: func(h host) string { return used(h.GetUsage().GetMemoryMib(), memory) }},
		{Head: "STORAGE", Right: true, Cell: func(h host) string { return used(allStorage(h), display.Bytes) }},
		{Head: "MACHINES", Right: true, Cell: machinesOn},
		{Head: "RACK", Cell: func(h host) string { return display.ID(h.GetAssignedRack()) }},
		{Head: "TAGS", Wide: true, Cell: func(h host) string { return strings.Join(h.GetTags(), ",") }},
		{Head: "OVERCOMMIT", Wide: true, Cell: ratios},
		{Head: "TYPE", Wide: true, Cell: hostTypeWord},
		{Head: "ADDRESS", Wide: true, Cell: host.GetAddress},
		{Head: "PROJECT", Wide: true, Cell: host.GetProject},
		{Head: "MEMBER", Wide: true, Cell: host.GetClusterMember},
		{Head: "VERSION", Wide: true, Cell: func(h host) string { return h.GetObservation().GetHypervisorVersion() }},
		{Head: "AGE", Wide: true, Right: true, Cell: func(h host) string { return display.Age(now, h.GetCreateTime()) }},
	}
}

// used is what is taken of a limit: `6/16`. Nothing while the host has not been
// seen.
func used(u *vmhostv1.ResourceUsage, format func(int64) string) string {
	if u.GetPhysical() == 0 {
		return ""
	}
	return format(u.GetCommitted()+u.GetForeign()) + "/" + format(u.GetLimit())
}

func plainNumber(n int64) string { return strconv.FormatInt(n, 10) }

func memory(mib int64) string { return display.MiB(mib) }

func allStorage(h *vmhostv1.VmHost) *vmhostv1.ResourceUsage {
	pools := h.GetUsage().GetStorageBytes()
	if len(pools) == 0 {
		return nil
	}
	sum := &vmhostv1.ResourceUsage{}
	for _, u := range pools {
		sum.Committed += u.GetCommitted()
		sum.Foreign += u.GetForeign()
		sum.Limit += u.GetLimit()
		sum.Physical += u.GetPhysical()
	}
	return sum
}

// machinesOn counts ours and, after a plus, those of others.
func machinesOn(h *vmhostv1.VmHost) string {
	if h.GetUsage() == nil && h.GetObservation() == nil {
		return ""
	}
	s := strconv.Itoa(int(h.GetUsage().GetMachines()))
	if n := h.GetObservation().GetForeign().GetMachines(); n > 0 {
		s += fmt.Sprintf("+%d", n)
	}
	return s
}

func ratios(h *vmhostv1.VmHost) string {
	ratio := func(p *float64) float64 {
		if p == nil {
			return 1
		}
		return *p
	}
	o := h.GetOvercommit()
	if o == nil {
		o = &vmhostv1.OvercommitRatios{}
	}
	return fmt.Sprintf("cores=%g,memory=%g,storage=%g", ratio(o.Cores), ratio(o.Memory), ratio(o.Storage)) //nolint:protogetter // presence matters: not set is 1
}

func (a *app) printHost(h *vmhostv1.VmHost) error {
	now := a.now()
	o := h.GetObservation()
	return a.printBlock(h, h.GetName(), func(b *display.Block) {
		b.Add("Name", display.ID(h.GetName()))
		b.Add("Display name", h.GetDisplayName())
		b.AddState("State", hostState(h), "")
		b.Add("Type", hostTypeWord(h))
		b.Add("Address", h.GetAddress())
		b.Add("Project", h.GetProject())
		b.Add("Cluster", clusterText(h))
		b.Add("Zone", display.ID(h.GetZone()))
		b.Add("Pool", display.ID(h.GetResourcePool()))
		b.Add("Tags", strings.Join(h.GetTags(), ", "))
		b.Add("Overcommit", ratios(h))
		b.Add("Reserved", reservedText(h))
		b.Add("Default storage", h.GetDefaultStoragePool())
		b.Add("Default macvlan", macvlanWord(h.GetDefaultMacvlanMode()))
		b.Add("Rack", rackOf(h))
		b.Add("Credential", h.GetCredentialKind())
		b.Add("Host key", h.GetHostKey())
		if o != nil {
			b.Add("Hypervisor", o.GetHypervisorVersion())
			b.Add("Host name", o.GetHostname())
			b.Add("Processor", processor(o))
			b.Add("Memory", memory(o.GetMemoryMib()))
			b.Add("Architectures", strings.Join(o.GetArchitectures(), ", "))
			b.Add("Capabilities", strings.Join(o.GetCapabilities(), ", "))
			b.Add("Profiles", strings.Join(o.GetProfiles(), ", "))
			b.Add("Machines", machinesText(h))
			b.Add("Seen", display.Time(now, o.GetObserveTime()))
		}
		b.Add("Added", display.Time(now, h.GetCreateTime()))
		b.Add("Uid", h.GetUid())
		display.AddTable(b, "Resources", usageRows(h), usageColumns())
		display.AddTable(b, "Storage pools", o.GetStoragePools(), storageColumns(h))
		display.AddTable(b, "Networks", o.GetNetworks(), networkColumns(h))
		b.AddNotes("Labels of what is not there", lostLabels(h))
		display.AddTable(b, "NUMA nodes", o.GetNumaNodes(), numaColumns())
		display.AddTable(b, "SR-IOV devices", o.GetSriovDevices(), sriovColumns())
		display.AddTable(b, "Cluster members", o.GetClusterMembers(), memberColumns())
		addImages(b, o.GetImages())
		b.AddNotes("Not read", problemNotes(o.GetProblems()))
		b.AddNotes("Conditions", notes(h.GetConditions(), func(c *vmhostv1.Condition) string { return display.Age(now, c.GetTransitionTime()) }))
	})
}

// reservedText is what is kept for the host itself.
func reservedText(h *vmhostv1.VmHost) string {
	var parts []string
	if n := h.GetReservedCores(); n > 0 {
		parts = append(parts, count(int(n), "core"))
	}
	if n := h.GetReservedMemoryMib(); n > 0 {
		parts = append(parts, memory(n))
	}
	return strings.Join(parts, ", ")
}

func rackOf(h *vmhostv1.VmHost) string {
	assigned, wanted := display.ID(h.GetAssignedRack()), display.ID(h.GetRack())
	switch {
	case wanted == "" || wanted == assigned:
		return assigned
	case assigned == "":
		return "none; must be " + wanted
	default:
		return assigned + "; must be " + wanted
	}
}

func processor(o *vmhostv1.VmHostObservation) string {
	s := fmt.Sprintf("%d cores", o.GetCores())
	if o.GetCpuModel() != "" {
		s += ", " + o.GetCpuModel()
	}
	if o.GetCpuMhz() > 0 {
		s += fmt.Sprintf(", %d MHz", o.GetCpuMhz())
	}
	switch {
	case o.GetKvm():
	case slices.Contains(o.GetCapabilities(), "virtual-machines"):
		s += ", no KVM: guests are emulated"
	default:
		s += ", no KVM: no virtual machines"
	}
	return s
}

func machinesText(h *vmhostv1.VmHost) string {
	s := fmt.Sprintf("%d of ours", h.GetUsage().GetMachines())
	if n := h.GetUsage().GetHeldMachines(); n > 0 {
		s += fmt.Sprintf(", %d held by reservations", n)
	}
	if f := h.GetObservation().GetForeign(); f.GetMachines() > 0 {
		s += fmt.Sprintf(", %d of others (%s, %s)", f.GetMachines(), count(int(f.GetCores()), "core"), memory(f.GetMemoryMib()))
	}
	return s
}

// usageRow is one resource of a host against its limit.
type usageRow struct {
	what   string
	usage  *vmhostv1.ResourceUsage
	format func(int64) string
}

func usageRows(h *vmhostv1.VmHost) []usageRow {
	var rows []usageRow
	add := func(what string, u *vmhostv1.ResourceUsage, format func(int64) string) {
		if u.GetPhysical() > 0 { // else the host has not been seen
			rows = append(rows, usageRow{what, u, format})
		}
	}
	add("cores", h.GetUsage().GetCores(), plainNumber)
	add("memory", h.GetUsage().GetMemoryMib(), memory)
	var pools []string
	for name := range h.GetUsage().GetStorageBytes() {
		pools = append(pools, name)
	}
	slices.Sort(pools)
	for _, name := range pools {
		add("storage "+name, h.GetUsage().GetStorageBytes()[name], display.Bytes)
	}
	return rows
}

func usageColumns() []display.Column[usageRow] {
	number := func(head string, get func(*vmhostv1.ResourceUsage) int64) display.Column[usageRow] {
		return display.Column[usageRow]{Head: head, Right: true, Cell: func(r usageRow) string { return r.format(get(r.usage)) }}
	}
	return []display.Column[usageRow]{
		{Head: "RESOURCE", Cell: func(r usageRow) string { return r.what }},
		number("FREE", (*vmhostv1.ResourceUsage).GetFree),
		number("COMMITTED", (*vmhostv1.ResourceUsage).GetCommitted),
		number("OTHERS", (*vmhostv1.ResourceUsage).GetForeign),
		number("LIMIT", (*vmhostv1.ResourceUsage).GetLimit),
		number("RESERVED", (*vmhostv1.ResourceUsage).GetReserved),
		number("PHYSICAL", (*vmhostv1.ResourceUsage).GetPhysical),
		{Head: "RATIO", Right: true, Cell: func(r usageRow) string { return fmt.Sprintf("%g", r.usage.GetRatio()) }},
	}
}
