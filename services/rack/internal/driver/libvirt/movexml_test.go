package libvirt

import (
	"errors"
	"strings"
	"testing"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const leaving = `<domain type='kvm' id='3'>
  <metadata>
    <vmhost:machine xmlns:vmhost="https://vmhost.dev/xmlns/libvirt/1" uid="u" operation="operations/1" host="vmHosts/h1" moving="operations/2"/>
    <their:note xmlns:their='urn:x'>kept</their:note>
  </metadata>
  <cpu mode='host-passthrough' check='none'><feature name='x'/></cpu>
  <cputune><vcpupin vcpu='0' cpuset='1'/><vcpupin vcpu='1' cpuset='2'/></cputune>
  <devices>
    <emulator>/usr/libexec/qemu-kvm</emulator>
    <disk type='file' device='cdrom'><target dev='sda'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/><source file='/pool/a' index='1'/><backingStore/><target dev='vda'/><unknown x='1'/></disk>
    <interface type='network'><mac address='52:54:00:00:00:01'/><source network='default' portid='p' bridge='virbr0'/><target dev='vnet7'/><model type='virtio'/></interface>
    <interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='br0'/><vlan><tag id='7'/></vlan><target dev='mine'/></interface>
    <serial type='pty'><log file='/pool/vmhost-u-serial0.log' append='off'/></serial>
    <console type='pty'><log file='/pool/vmhost-u-serial0.log' append='off'/></console>
  </devices>
</domain>`

func TestADefinitionChangesOnlyInWhatIsOtherOnItsNewHost(t *testing.T) {
	nic := func(mac, source string, kind vmhostv1.InterfaceKind) *vmhostv1.MachineInterface {
		return &vmhostv1.MachineInterface{Mac: mac, Source: source, Kind: kind}
	}
	const network, bridge = vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK, vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE
	a := arrival{
		moved: &vmhostv1.Machine{
			Uid: "u", VmHost: "vmHosts/h2", PinnedCores: []int32{5, 6},
			Interfaces: []*vmhostv1.MachineInterface{nic("52:54:00:00:00:01", "br9", bridge), nic("52:54:00:00:00:02", "lab", network)},
		},
		disks: []volumeSource{{path: "/dev/vg/a&b", block: true, format: "raw"}},
		host:  hostFacts{libVersion: maximumCPUSince}, emulation: true, made: true,
		logs: map[string]string{"/pool/vmhost-u-serial0.log": "/other/vmhost-u-serial0.log"},
	}
	got, err := arrive(leaving, a)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`<domain type='qemu' id='3'>`, `host='vmHosts/h2'`, `<their:note xmlns:their='urn:x'>kept</their:note>`, `operation='operations/1'`,
		`cpuset='5'`, `cpuset='6'`, `<disk type='file' device='cdrom'><target dev='sda'/></disk>`, `<disk type='block' device='disk'>`,
		`<driver name='qemu' type='raw' discard='unmap'/>`, `dev="/dev/vg/a&amp;b"`, `<target dev='vda'/><unknown x='1'/>`,
		`<interface type='bridge'><mac address='52:54:00:00:00:01'/>`, `bridge="br9"`, `network="lab"`, `<target dev='mine'/>`, `mode="maximum"`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("it has no %s:\n%s", want, got)
		}
	}
	for _, gone := range []string{"moving", "vnet7", "portid", "backingStore", "emulator", "<vlan>", "host-passthrough", "/pool/"} {
		if strings.Contains(got, gone) {
			t.Errorf("it still has %s:\n%s", gone, got)
		}
	}
	if strings.Count(got, "/other/vmhost-u-serial0.log") != 2 {
		t.Errorf("the log is not that of the new host:\n%s", got)
	}
	a.moved.Interfaces = a.moved.GetInterfaces()[:1]
	if _, err := arrive(leaving, a); !errors.Is(err, hypervisor.ErrRefused) {
		t.Errorf("an interface that no record has: %v", err)
	}
}

func TestTheNoteOfAMoveKeepsEverythingElseOfOurMetadata(t *testing.T) {
	element, was, err := noted(leaving, "operations/3")
	if err != nil || was != "operations/2" {
		t.Fatalf("noted was %q, error %v", was, err)
	}
	if want := `<machine uid="u" operation="operations/1" host="vmHosts/h1" moving="operations/3"></machine>`; element != want {
		t.Errorf("got %s, want %s", element, want)
	}
	if element, _, _ = noted(leaving, ""); strings.Contains(element, "moving") {
		t.Errorf("without a note it is %s", element)
	}
	if _, _, err := noted("<domain><metadata><machine xmlns='urn:other' uid='u'/></metadata></domain>", "o"); err == nil {
		t.Error("metadata of others are taken for ours")
	}
}
