package libvirt

import (
	"slices"

	"libvirt.org/go/libvirtxml"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// libvirt 7.2 knows features of firmware, by which it chooses one.
const firmwareFeaturesSince = 7_002_000

// setFirmware lets libvirt choose the firmware: which files there are differs
// from host to host.
func setFirmware(d *libvirtxml.Domain, m *vmhostv1.Machine, host hostFacts) {
	if m.GetFirmware() != vmhostv1.Firmware_FIRMWARE_UEFI && !m.GetSecureBoot() {
		d.OS.BIOS = &libvirtxml.DomainBIOS{UseSerial: "yes"}
		return
	}
	d.OS.Firmware = "efi"
	word := "no"
	if m.GetSecureBoot() {
		word = "yes"
		// What checks signatures must be out of the guest's reach.
		d.Features.SMM = &libvirtxml.DomainFeatureSMM{State: "on"}
		d.OS.Loader = &libvirtxml.DomainLoader{Secure: "yes"}
	}
	if host.libVersion >= firmwareFeaturesSince {
		d.OS.FirmwareInfo = &libvirtxml.DomainOSFirmwareInfo{Features: []libvirtxml.DomainOSFirmwareFeature{
			{Enabled: word, Name: "enrolled-keys"}, {Enabled: word, Name: "secure-boot"},
		}}
	}
}

// pinCores binds each core to one of the host's and memory to huge pages.
func pinCores(d *libvirtxml.Domain, m *vmhostv1.Machine) {
	if cores := m.GetPinnedCores(); len(cores) > 0 {
		d.CPUTune = &libvirtxml.DomainCPUTune{}
		for i, core := range cores {
			d.CPUTune.VCPUPin = append(d.CPUTune.VCPUPin, libvirtxml.DomainCPUTuneVCPUPin{VCPU: uint(i), CPUSet: decimal(core)})
		}
	}
	if m.GetHugepages() {
		d.MemoryBacking = &libvirtxml.DomainMemoryBacking{MemoryHugePages: &libvirtxml.DomainMemoryHugepages{}}
	}
}

// setBootOrder: the network decides what a machine does; where it says `exit`, or
// does not answer, a disk boots. Of each kind those that are marked, else the
// first.
func setBootOrder(d *libvirtxml.Domain, m *vmhostv1.Machine) {
	nic := slices.IndexFunc(m.GetInterfaces(), (*vmhostv1.MachineInterface).GetBoot)
	disk := slices.IndexFunc(m.GetDisks(), (*vmhostv1.MachineDisk).GetBoot)
	if nic < 0 && disk < 0 {
		d.OS.BootDevices = []libvirtxml.DomainBootDevice{{Dev: "network"}, {Dev: "hd"}}
		return
	}
	order := uint(0)
	next := func() *libvirtxml.DomainDeviceBoot {
		order++
		return &libvirtxml.DomainDeviceBoot{Order: order}
	}
	for i, n := range m.GetInterfaces() {
		if n.GetBoot() || nic < 0 && i == 0 {
			d.Devices.Interfaces[i].Boot = next()
		}
	}
	for i, k := range m.GetDisks() {
		if k.GetBoot() || disk < 0 && i == 0 {
			d.Devices.Disks[i].Boot = next()
		}
	}
}
