package libvirt

import (
	"encoding/xml"
	"fmt"
	"strconv"
	"strings"

	"libvirt.org/go/libvirtxml"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const (
	logFolder = "/var/log/libvirt/qemu/"
	// spareSlots are for devices that are plugged in later: q35 by itself leaves
	// one.
	spareSlots = 8
	// libvirt 7.1 knows <cpu mode='maximum'>.
	maximumCPUSince = 7_001_000
)

// machineTypes of the architectures that this package defines machines for.
var machineTypes = map[string]string{"x86_64": "q35", "i686": "q35"}

// metadata is our element on a domain. encoding/xml writes the prefix as it is
// given here; libvirt wants one for elements that are not its own.
type metadata struct {
	XMLName   xml.Name `xml:"vmhost:machine"`
	Namespace string   `xml:"xmlns:vmhost,attr"`
	UID       string   `xml:"uid,attr"`
	// UUID is the domain's, on one that was adopted: its uid is another.
	UUID      string `xml:"uuid,attr,omitempty"`
	Operation string `xml:"operation,attr,omitempty"`
	Host      string `xml:"host,attr,omitempty"`
}

// volumeSource is where a disk of a new domain is.
type volumeSource struct {
	pool, volume string
	path         string // empty: let libvirt find it by pool and volume
	block        bool   // path is a device
	format       string
	stays        bool // it is the disk's own, under the name that this host has for it
}

// host is what the definition of a domain depends on.
type hostFacts struct {
	kvm        bool
	libVersion uint64
	consoleLog string
	tagged     map[string]bool // MACs of interfaces with a VLAN tag
	// hostdevNetworks are the networks of libvirt that hand out virtual functions,
	// by the device whose functions they are.
	hostdevNetworks map[string]string
	// functions are addresses of free virtual functions, by device.
	functions map[string][]pciAddress
}

// defineXML is the definition of a machine. disks are in the machine's order.
func defineXML(m *rackv1.CreateMachine, disks []volumeSource, host hostFacts) (string, error) {
	machine := m.GetMachine()
	meta, err := xml.Marshal(metadata{
		Namespace: namespace, UID: machine.GetUid(), Operation: machine.GetOperation(), Host: machine.GetVmHost(),
	})
	if err != nil {
		return "", fmt.Errorf("write metadata: %w", err)
	}
	d := &libvirtxml.Domain{
		Type:     "qemu",
		Name:     domainName(machine),
		UUID:     machine.GetUid(),
		Metadata: &libvirtxml.DomainMetadata{XML: string(meta)},
		Memory:   &libvirtxml.DomainMemory{Value: uint(machine.GetMemoryMib()), Unit: "MiB"},
		VCPU:     &libvirtxml.DomainVCPU{Placement: "static", Value: uint(machine.GetCores())},
		OS: &libvirtxml.DomainOS{
			Type: &libvirtxml.DomainOSType{Arch: machine.GetArchitecture(), Machine: machineTypes[machine.GetArchitecture()], Type: "hvm"},
		},
		Features:   &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}, APIC: &libvirtxml.DomainFeatureAPIC{}},
		CPU:        cpuOf(host),
		Clock:      &libvirtxml.DomainClock{Offset: "utc"},
		OnPoweroff: "destroy",
		OnReboot:   "restart",
		OnCrash:    "destroy",
		Devices:    &libvirtxml.DomainDeviceList{},
	}
	if host.kvm {
		d.Type = "kvm"
	}
	setFirmware(d, machine, host)
	pinCores(d, machine)
	for i, s := range disks {
		if i >= 26 {
			return "", fmt.Errorf("a machine has at most 26 disks, not %d", len(disks))
		}
		d.Devices.Disks = append(d.Devices.Disks, diskOf(machine.GetUid(), i, s))
	}
	for _, i := range machine.GetInterfaces() {
		n, err := interfaceOf(i, host)
		if err != nil {
			return "", err
		}
		d.Devices.Interfaces = append(d.Devices.Interfaces, n)
	}
	setBootOrder(d, machine)
	addDevices(d.Devices, host.consoleLog)
	return d.Marshal()
}

// cpuOf shows the guest all that the host has; under emulation, all that QEMU
// can emulate.
func cpuOf(host hostFacts) *libvirtxml.DomainCPU {
	switch {
	case host.kvm:
		return &libvirtxml.DomainCPU{Mode: "host-passthrough", Check: "none"}
	case host.libVersion >= maximumCPUSince:
		return &libvirtxml.DomainCPU{Mode: "maximum", Check: "none"}
	default:
		return nil
	}
}

func diskOf(uid string, index int, s volumeSource) libvirtxml.DomainDisk {
	source := &libvirtxml.DomainDiskSource{}
	switch {
	case s.path == "":
		source.Volume = &libvirtxml.DomainDiskSourceVolume{Pool: s.pool, Volume: s.volume}
	case s.block:
		source.Block = &libvirtxml.DomainDiskSourceBlock{Dev: s.path}
	default:
		// Disks by file, not by volume: libvirt has statistics of those while the
		// machine is off, and can snapshot them.
		source.File = &libvirtxml.DomainDiskSourceFile{File: s.path}
	}
	return libvirtxml.DomainDisk{
		Device: "disk",
		Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: s.format, Discard: "unmap"},
		Source: source,
		Target: &libvirtxml.DomainDiskTarget{Dev: "vd" + string(rune('a'+index)), Bus: "virtio"},
		Serial: diskSerial(uid, index),
	}
}

// diskSerial lets a guest tell its disks apart, in virtio's 20 bytes.
func diskSerial(uid string, index int) string {
	id := strings.ReplaceAll(uid, "-", "")
	return id[max(0, len(id)-12):] + "-" + strconv.Itoa(index)
}

func interfaceOf(i *vmhostv1.MachineInterface, host hostFacts) (libvirtxml.DomainInterface, error) {
	source := &libvirtxml.DomainInterfaceSource{}
	switch i.GetKind() {
	case vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK:
		source.Network = &libvirtxml.DomainInterfaceSourceNetwork{Network: i.GetSource()}
	case vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE:
		source.Bridge = &libvirtxml.DomainInterfaceSourceBridge{Bridge: i.GetSource()}
	case vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN:
		source.Direct = &libvirtxml.DomainInterfaceSourceDirect{Dev: i.GetSource(), Mode: macvlanWord(i.GetMacvlanMode())}
	case vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV:
		return functionOf(i, host)
	default:
		return libvirtxml.DomainInterface{}, fmt.Errorf("interface %s is attached to nothing", i.GetMac())
	}
	return libvirtxml.DomainInterface{
		MAC:    &libvirtxml.DomainInterfaceMAC{Address: i.GetMac()},
		Source: source,
		Model:  &libvirtxml.DomainInterfaceModel{Type: "virtio"},
		VLan:   vlanOf(i, host),
	}, nil
}

// vlanOf is the tag that an interface's frames get.
func vlanOf(i *vmhostv1.MachineInterface, host hostFacts) *libvirtxml.DomainInterfaceVLan {
	if !host.tagged[i.GetMac()] {
		return nil
	}
	return &libvirtxml.DomainInterfaceVLan{Tags: []libvirtxml.DomainInterfaceVLanTag{{ID: uint(i.GetVlan())}}}
}

// addDevices adds what every machine has.
func addDevices(list *libvirtxml.DomainDeviceList, consoleLog string) {
	root := uint(0)
	list.Controllers = append(list.Controllers,
		libvirtxml.DomainController{Type: "usb", Model: "none"},
		libvirtxml.DomainController{Type: "pci", Index: &root, Model: "pcie-root"})
	// Each disk and interface takes one, and so do balloon and rng.
	for range spareSlots + len(list.Disks) + len(list.Interfaces) + 2 {
		list.Controllers = append(list.Controllers, libvirtxml.DomainController{Type: "pci", Model: "pcie-root-port"})
	}
	port := uint(0)
	list.Serials = append(list.Serials, libvirtxml.DomainSerial{
		Source: &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}},
		Target: &libvirtxml.DomainSerialTarget{Port: &port},
		Log:    &libvirtxml.DomainChardevLog{File: consoleLog, Append: "off"},
	})
	list.MemBalloon = &libvirtxml.DomainMemBalloon{Model: "virtio", Stats: &libvirtxml.DomainMemBalloonStats{Period: 10}}
	list.RNGs = append(list.RNGs, libvirtxml.DomainRNG{
		Model: "virtio", Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}},
	})
}

// logFileOf is the log's path where no storage pool can have it.
func logFileOf(m *vmhostv1.Machine) string { return logFolder + domainName(m) + "-serial.log" }

func domainName(m *vmhostv1.Machine) string { return firstOf(m.GetHypervisorName(), m.GetHostname()) }
