package libvirt

import (
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// No UEFI firmware and no device with virtual functions is to be had on every
// machine that runs these tests: what is asked of libvirt is compared to files.
func TestDefinitionOfSpecialHardware(t *testing.T) {
	sriov := func(mac, device string, vlan int32) *vmhostv1.MachineInterface {
		return &vmhostv1.MachineInterface{Mac: mac, Source: device, Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV, Vlan: vlan}
	}
	for name, change := range map[string]func(m *vmhostv1.Machine, host *hostFacts){
		"define-uefi.xml":        func(m *vmhostv1.Machine, _ *hostFacts) { m.Firmware = vmhostv1.Firmware_FIRMWARE_UEFI },
		"define-secure-boot.xml": func(m *vmhostv1.Machine, _ *hostFacts) { m.SecureBoot = true },
		"define-pinned.xml": func(m *vmhostv1.Machine, _ *hostFacts) {
			m.PinnedCores, m.Hugepages = []int32{3, 1}, true
			m.Disks[1].Boot, m.Interfaces[1].Boot = true, true
		},
		"define-sriov.xml": func(m *vmhostv1.Machine, host *hostFacts) {
			m.Interfaces = []*vmhostv1.MachineInterface{
				sriov("52:54:00:00:00:01", "ens1f0", 42), sriov("52:54:00:00:00:02", "ens1f0", 0), sriov("52:54:00:00:00:03", "ens2f0", 7),
			}
			host.tagged = map[string]bool{"52:54:00:00:00:01": true, "52:54:00:00:00:03": true}
			host.functions = map[string][]pciAddress{"ens1f0": {{0, 3, 16, 0}, {0, 3, 16, 2}}}
			host.hostdevNetworks = map[string]string{"ens2f0": "passthrough"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, host := goldenMachine(), hostFacts{libVersion: 9_000_000, kvm: true, consoleLog: goldenLog}
			change(m.GetMachine(), &host)
			got, err := defineXML(m, goldenSources(), host)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name, got+"\n")
			x, err := parseDomain(got)
			if err != nil {
				t.Fatal(err)
			}
			want := m.GetMachine()
			if !cmp.Equal(x.pinned, want.GetPinnedCores()) || x.hugepages != want.GetHugepages() || x.secureBoot != want.GetSecureBoot() ||
				(x.firmware == vmhostv1.Firmware_FIRMWARE_UEFI) != (want.GetSecureBoot() || want.GetFirmware() == vmhostv1.Firmware_FIRMWARE_UEFI) {
				t.Errorf("made %v, seen %+v", want, x)
			}
		})
	}
	m := goldenMachine()
	m.Machine.Interfaces = []*vmhostv1.MachineInterface{sriov("52:54:00:00:00:01", "ens1f0", 0)}
	_, err := defineXML(m, goldenSources(), hostFacts{functions: map[string][]pciAddress{}})
	if !errors.Is(err, hypervisor.ErrCapacity) {
		t.Errorf("a function that is not there: %v", err)
	}
}

func TestTagsAreRefusedWhereNobodyGivesThem(t *testing.T) {
	networks := []network{
		{name: "nat", bridge: "virbr0"},
		{name: "ovs", bridge: "ovs0", bridged: true, switched: true},
		{name: "own", bridge: "br1", bridged: true, vlan: 5},
		{name: "plain", bridge: "br0", bridged: true},
	}
	links := []*vmhostv1.HostNetwork{{Name: "eth0.5", Vlan: 5}}
	const nets, bridge, macvlan = vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK, vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE, vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN
	for _, c := range []struct {
		kind    vmhostv1.InterfaceKind
		source  string
		version uint64
		tagged  bool
		refused bool
	}{
		{nets, "nat", 11_000_000, false, true},
		{nets, "ovs", 9_000_000, true, false},
		{nets, "own", 9_000_000, false, false},
		{nets, "plain", 9_000_000, false, true},
		{nets, "plain", 11_000_000, true, false},
		{bridge, "br0", 9_000_000, false, true},
		{bridge, "br0", 11_000_000, true, false},
		{macvlan, "eth0", 11_000_000, false, true},
		{macvlan, "eth0.5", 9_000_000, false, false},
	} {
		i := &vmhostv1.MachineInterface{Mac: "52:54:00:00:00:01", Kind: c.kind, Source: c.source, Vlan: 5}
		got, err := tags(&vmhostv1.Machine{Interfaces: []*vmhostv1.MachineInterface{i}}, networks, links, c.version)
		if (err != nil) != c.refused || got[i.GetMac()] != c.tagged {
			t.Errorf("%v %s, libvirt %d: tagged %v, error %v", c.kind, c.source, c.version, got, err)
		}
		if err != nil && (!errors.Is(err, hypervisor.ErrUnsupported) || !strings.Contains(err.Error(), c.source)) {
			t.Errorf("%v %s: %v, want it unsupported and named", c.kind, c.source, err)
		}
	}
}

func TestVirtualFunctionsOfAHost(t *testing.T) {
	var devices []nodeDeviceXML
	for _, text := range []string{
		`<device><name>net_ens1f0_aa</name><parent>pci_0000_03_00_0</parent><capability type='net'><interface>ens1f0</interface></capability></device>`,
		`<device><name>net_br0_bb</name><parent>computer</parent><capability type='net'><interface>br0</interface></capability></device>`,
		`<device><name>pci_0000_03_00_0</name><parent>computer</parent><capability type='pci'><domain>0</domain><bus>3</bus><slot>0</slot><function>0</function>
		 <capability type='virt_functions' maxCount='63'><address domain='0x0000' bus='0x03' slot='0x10' function='0x0'/>
		 <address domain='0x0000' bus='0x03' slot='0x10' function='0x2'/><address domain='0x0000' bus='0x03' slot='0x10' function='0x4'/></capability>
		 <numa node='1'/></capability></device>`,
	} {
		var x nodeDeviceXML
		if err := xml.Unmarshal([]byte(text), &x); err != nil {
			t.Fatal(err)
		}
		devices = append(devices, x)
	}
	x, err := parseDomain(`<domain><vcpu>1</vcpu><memory>1024</memory><devices>
	 <interface type='hostdev' managed='yes'><source><address type='pci' domain='0x0000' bus='0x03' slot='0x10' function='0x2'/></source></interface>
	 <interface type='network'><source network='passthrough'/></interface></devices></domain>`)
	if err != nil {
		t.Fatal(err)
	}
	got := observedSriov(sriovDevices(devices), []network{{name: "passthrough", functionsOf: "ens1f0"}}, []*seen{{record: &record{domain: x}}})
	want := []*vmhostv1.SriovDevice{{Name: "ens1f0", Functions: 3, Free: 1, NumaNode: 1}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
}

func TestSecureBootNeedsAFirmwareThatChecks(t *testing.T) {
	const caps = `<domainCapabilities><os supported='yes'><enum name='firmware'>EFI</enum><loader supported='yes'>
	 <enum name='type'><value>rom</value></enum><enum name='secure'><value>no</value>SECURE</enum></loader></os></domainCapabilities>`
	for _, c := range []struct {
		efi, secure string
		want        bool
	}{{"<value>efi</value>", "<value>yes</value>", true}, {"", "<value>yes</value>", false}, {"<value>bios</value><value>efi</value>", "", false}} {
		if got := canSecureBoot(strings.NewReplacer("EFI", c.efi, "SECURE", c.secure).Replace(caps)); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	if canSecureBoot("<domain") {
		t.Error("what cannot be read has secure boot")
	}
}

// libvirtd sends the messages of a stream in strange orders.
func TestStreamsArePutRightBeforeTheyAreRead(t *testing.T) {
	message := func(kind, serial, status uint32, payload string) []byte {
		return append(words32(uint32(28+len(payload)), 0, 1, 209, kind, serial, status), payload...)
	}
	reply, other := message(typeReply, 3, 0, ""), message(typeReply, 4, 0, "ab")
	data, end := message(typeStream, 3, statusContinue, "data"), message(typeStream, 3, statusContinue, "")
	for name, c := range map[string]struct{ sent, want [][]byte }{
		"as it should be":       {[][]byte{reply, data, end, other}, [][]byte{reply, data, end, other}},
		"data before the reply": {[][]byte{data, reply, end, other}, [][]byte{reply, data, end, other}},
		"the end twice":         {[][]byte{reply, data, end, end, other}, [][]byte{reply, data, end, other}},
		"both":                  {[][]byte{data, end, reply, end, other}, [][]byte{reply, data, end, other}},
	} {
		client, server := net.Pipe()
		go func() {
			_, _ = server.Write(bytes.Join(c.sent, nil))
			_ = server.Close()
		}()
		got, err := io.ReadAll(newStreamWire(client))
		if err != nil || !bytes.Equal(got, bytes.Join(c.want, nil)) {
			t.Errorf("%s: %d bytes, error %v:\n%x", name, len(got), err, got)
		}
		_ = client.Close()
	}
	if binary.BigEndian.Uint32(end) != messageMin {
		t.Error("an empty message is not the shortest there is")
	}
}
