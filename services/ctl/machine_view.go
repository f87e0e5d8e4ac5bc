package ctl

import (
	"fmt"
	"strings"
	"time"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

func machineColumns(now time.Time) []display.Column[*vmhostv1.Machine] {
	type machine = *vmhostv1.Machine
	return []display.Column[machine]{
		{Head: "MACHINE", Cell: machineTitle},
		{Head: "POWER", State: true, Cell: powerWord},
		{Head: "PHASE", State: true, Cell: machinePhaseWord},
		{Head: "HOST", Cell: func(m machine) string { return display.ID(m.GetVmHost()) }},
		{Head: "POOL", Cell: func(m machine) string { return display.ID(m.GetResourcePool()) }},
		{Head: "CORES", Right: true, Cell: func(m machine) string { return plainNumber(int64(m.GetCores())) }},
		{Head: "MEMORY", Right: true, Cell: func(m machine) string { return memory(m.GetMemoryMib()) }},
		{Head: "DISKS", Right: true, Cell: diskSizes},
		{Head: "ADDRESSES", Cell: func(m machine) string { return strings.Join(m.GetAddresses(), ",") }},
		{Head: "ORIGIN", Cell: originWord},
		{Head: "TYPE", Wide: true, Cell: func(m machine) string { return machineTypeWord(m.GetType()) }},
		{Head: "ZONE", Wide: true, Cell: func(m machine) string { return display.ID(m.GetZone()) }},
		{Head: "TAGS", Wide: true, Cell: func(m machine) string { return strings.Join(m.GetTags(), ",") }},
		{Head: "OPERATION", Wide: true, Cell: func(m machine) string { return display.ID(m.GetOperation()) }},
		{Head: "AGE", Wide: true, Right: true, Cell: func(m machine) string { return display.Age(now, m.GetCreateTime()) }},
		{Head: "UID", Wide: true, Cell: machine.GetUid},
	}
}

func diskSizes(m *vmhostv1.Machine) string {
	sizes := make([]string, len(m.GetDisks()))
	for i, d := range m.GetDisks() {
		sizes[i] = display.Bytes(d.GetSizeBytes())
	}
	return strings.Join(sizes, "+")
}

func (a *app) printMachine(m *vmhostv1.Machine) error {
	now := a.now()
	return a.printBlock(m, m.GetName(), func(b *display.Block) {
		b.Add("Machine", machineTitle(m))
		b.AddState("Power", powerWord(m), seen(m, now))
		b.AddState("Phase", machinePhaseWord(m), operationOn(m))
		b.AddList("Addresses", m.GetAddresses())
		b.Add("Host", display.ID(m.GetVmHost()))
		b.Add("Zone", display.ID(m.GetZone()))
		b.Add("Pool", display.ID(m.GetResourcePool()))
		b.Add("Type", machineTypeWord(m.GetType()))
		b.Add("Cores", coresText(m))
		b.Add("Memory", memoryText(m))
		b.Add("Architecture", m.GetArchitecture())
		b.Add("Firmware", firmwareText(m))
		b.Add("Image", m.GetImage())
		b.Add("Profiles", strings.Join(m.GetProfiles(), ", "))
		b.Add("Project", m.GetProject())
		if m.GetAutostart() {
			b.Add("Autostart", "whenever its host boots")
		}
		b.Add("Tags", strings.Join(m.GetTags(), ", "))
		b.Add("Origin", originText(m))
		b.Add("On the host", onTheHost(m))
		b.Add("Console log", m.GetConsoleLogPath())
		b.Add("Created", display.Time(now, m.GetCreateTime()))
		b.Add("Uid", m.GetUid())
		display.AddTable(b, "Disks", m.GetDisks(), diskColumns())
		display.AddTable(b, "Interfaces", m.GetInterfaces(), interfaceColumns())
		b.AddNotes("Conditions", notes(m.GetConditions(), func(c *vmhostv1.Condition) string { return display.Age(now, c.GetTransitionTime()) }))
	})
}

func coresText(m *vmhostv1.Machine) string {
	s := plainNumber(int64(m.GetCores()))
	if len(m.GetPinnedCores()) > 0 {
		s += ", pinned to " + ranges(m.GetPinnedCores())
	}
	return s
}

func memoryText(m *vmhostv1.Machine) string {
	s := memory(m.GetMemoryMib())
	if m.GetHugepages() {
		s += " of huge pages"
	}
	return s
}

func firmwareText(m *vmhostv1.Machine) string {
	if m.GetFirmware() == vmhostv1.Firmware_FIRMWARE_UNSPECIFIED {
		return ""
	}
	s := display.Word(m.GetFirmware(), "FIRMWARE_")
	if m.GetSecureBoot() {
		s += ", secure boot"
	}
	return s
}

func seen(m *vmhostv1.Machine, now time.Time) string {
	if !m.GetObserveTime().IsValid() {
		return "not seen yet"
	}
	return "seen " + display.Age(now, m.GetObserveTime()) + " ago"
}

func operationOn(m *vmhostv1.Machine) string {
	if m.GetOperation() == "" {
		return ""
	}
	return "under way: " + m.GetOperation()
}

func originText(m *vmhostv1.Machine) string {
	if m.GetOrigin() == vmhostv1.MachineOrigin_MACHINE_ORIGIN_DISCOVERED {
		return "discovered: counted and shown, never changed"
	}
	return originWord(m)
}

// onTheHost is how to find the machine there; said where it differs.
func onTheHost(m *vmhostv1.Machine) string {
	s := m.GetHypervisorName()
	if m.GetHypervisorUuid() != "" && m.GetHypervisorUuid() != m.GetUid() {
		s += " " + m.GetHypervisorUuid()
	}
	return s
}

func diskColumns() []display.Column[*vmhostv1.MachineDisk] {
	type disk = *vmhostv1.MachineDisk
	return []display.Column[disk]{
		{Head: "DEVICE", Cell: func(d disk) string { return first(d.GetDevice(), d.GetName()) }},
		{Head: "SIZE", Right: true, Cell: func(d disk) string { return display.Bytes(d.GetSizeBytes()) }},
		{Head: "POOL", Cell: disk.GetStoragePool},
		{Head: "VOLUME", Cell: disk.GetVolume},
		{Head: "BOOT", Cell: func(d disk) string { return onlyYes(d.GetBoot()) }},
		{Head: "PATH", Cell: disk.GetPath},
	}
}

func interfaceColumns() []display.Column[*vmhostv1.MachineInterface] {
	type nic = *vmhostv1.MachineInterface
	return []display.Column[nic]{
		{Head: "MAC", Cell: nic.GetMac},
		{Head: "ATTACHED TO", Cell: attachedTo},
		{Head: "BOOT", Cell: func(i nic) string { return onlyYes(i.GetBoot()) }},
		{Head: "ADDRESSES", Cell: func(i nic) string { return strings.Join(i.GetAddresses(), ", ") }},
		{Head: "FIXED", Cell: nic.GetFixedAddress},
	}
}

func onlyYes(b bool) string {
	if !b {
		return ""
	}
	return "yes"
}

func attachedTo(i *vmhostv1.MachineInterface) string {
	s := fmt.Sprintf("%s %s", strings.ToLower(display.Word(i.GetKind(), "INTERFACE_KIND_")), i.GetSource())
	if mode := macvlanWord(i.GetMacvlanMode()); mode != "" {
		s += " (" + mode + ")"
	}
	if i.GetVlan() != 0 {
		s += fmt.Sprintf(", VLAN %d", i.GetVlan())
	}
	return s
}
