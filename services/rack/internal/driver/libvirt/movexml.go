package libvirt

import (
	"encoding/xml"
	"errors"
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// arrival is how a domain is to be on the host that it is brought to. What is not
// said here stays to the letter.
type arrival struct {
	moved *vmhostv1.Machine
	disks []volumeSource // in the order of the domain's disks
	host  hostFacts
	// emulation changes: the domain is of the other kind, KVM or not, there.
	emulation bool
	// logs are paths of console logs, by what they are now.
	logs map[string]string
	// appendLogs: those logs are what they are now, and are gone on with.
	appendLogs bool
	// made: vmhost made the domain, so that its emulator is the host's usual one.
	made bool
}

// arrive is the definition of a domain on another host.
func arrive(text string, a arrival) (string, error) {
	x, err := readXMLText(text)
	if err != nil {
		return "", err
	}
	a.setMetadata(x)
	if a.emulation {
		a.setEmulation(x)
	}
	if a.made {
		x.replace(x.root.first("devices", "emulator"), "")
	}
	if err := a.setDisks(x); err != nil {
		return "", err
	}
	if err := a.setInterfaces(x); err != nil {
		return "", err
	}
	for _, kind := range []string{"serial", "console"} {
		for _, log := range x.root.all("devices", kind, "log") {
			if to := a.logs[log.attr("file")]; to != "" {
				log.setAttr("file", to)
				if a.appendLogs {
					log.setAttr("append", "on")
				}
			}
		}
	}
	if cores := a.moved.GetPinnedCores(); len(cores) > 0 {
		for i, pin := range x.root.all("cputune", "vcpupin") {
			if i < len(cores) {
				pin.setAttr("cpuset", decimal(cores[i]))
			}
		}
	}
	return x.String(), nil
}

// noteOf is our element of a domain.
func noteOf(x *xmlText) *xmlNode {
	for _, m := range x.root.all("metadata", "machine") {
		for _, a := range m.attrs {
			if a.Value == namespace && a.Name.Space == "xmlns" && a.Name.Local == m.prefix {
				return m
			}
		}
	}
	return nil
}

// setMetadata says which host it is on, where that was said before, and leaves the
// note of the move behind.
func (a arrival) setMetadata(x *xmlText) {
	m := noteOf(x)
	if m == nil {
		return // domain.is has seen it, so it is there
	}
	m.setAttr(movingAttr, "")
	if m.attr("host") != "" {
		m.setAttr("host", a.moved.GetVmHost())
	}
}

// setEmulation makes a domain of KVM one of emulation, or the other way round.
func (a arrival) setEmulation(x *xmlText) {
	kind := "qemu"
	if a.host.kvm {
		kind = "kvm"
	}
	x.root.setAttr("type", kind)
	cpu := ""
	if c := cpuOf(a.host); c != nil {
		cpu, _ = c.Marshal()
	}
	if old := x.root.first("cpu"); old != nil {
		x.replace(old, cpu)
	}
}

// diskNodes are the disks of a domain that hold data of its own.
func diskNodes(x *xmlText) []*xmlNode {
	var out []*xmlNode
	for _, k := range x.root.all("devices", "disk") {
		if device := k.attr("device"); device != "cdrom" && device != "floppy" {
			out = append(out, k)
		}
	}
	return out
}

func (a arrival) setDisks(x *xmlText) error {
	nodes := diskNodes(x)
	if len(nodes) != len(a.disks) {
		return fmt.Errorf("the domain has %d disks and not %d", len(nodes), len(a.disks))
	}
	for i, k := range nodes {
		to := a.disks[i]
		kind, source, err := diskSource(to)
		if err != nil {
			return err
		}
		was := k.attr("type")
		k.setAttr("type", kind)
		if driver := k.first("driver"); driver != nil {
			driver.setAttr("type", to.format)
		}
		switch old := k.first("source"); {
		case old == nil:
			return fmt.Errorf("disk %s has no source", k.first("target").attr("dev"))
		case to.stays && was == kind:
			to.rename(old) // what else is said of it, like its encryption, stays true
		default:
			x.replace(old, source)
		}
		// They are of the files of the host that it leaves.
		x.replace(k.first("backingStore"), "")
		x.replace(k.first("mirror"), "")
	}
	return nil
}

// rename has the source of a disk name the same volume as its host does.
func (v volumeSource) rename(source *xmlNode) {
	switch {
	case v.path == "":
		source.setAttr("pool", v.pool)
		source.setAttr("volume", v.volume)
	case v.block:
		source.setAttr("dev", v.path)
	default:
		source.setAttr("file", v.path)
	}
}

// setInterfaces attaches each interface to what it is to have, found by its MAC.
func (a arrival) setInterfaces(x *xmlText) error {
	to := map[string]*vmhostv1.MachineInterface{}
	for _, i := range a.moved.GetInterfaces() {
		to[strings.ToLower(i.GetMac())] = i
	}
	for _, n := range x.root.all("devices", "interface") {
		mac := strings.ToLower(n.first("mac").attr("address"))
		i := to[mac]
		if i == nil {
			return &hypervisor.Error{
				Class: hypervisor.ErrRefused, Op: opMove, Err: fmt.Errorf("the domain has an interface %s that its record has not", mac),
				Hint: "detach it, or attach it through vmhost",
			}
		}
		made, err := interfaceOf(i, a.host)
		if err != nil {
			return err
		}
		kind, source, err := interfaceSource(&made)
		if err != nil {
			return err
		}
		n.setAttr("type", kind)
		// A name that libvirt gave its device, and a tag that it needs on its host.
		if dev := n.first("target").attr("dev"); strings.HasPrefix(dev, "vnet") || strings.HasPrefix(dev, "macvtap") {
			x.replace(n.first("target"), "")
		}
		x.replace(n.first("vlan"), vlanText(made.VLan))
		old := n.first("source")
		if old == nil {
			return fmt.Errorf("interface %s has no source", mac)
		}
		if n.first("vlan") == nil {
			source += vlanText(made.VLan)
		}
		x.replace(old, source)
	}
	return nil
}

func vlanText(v *libvirtxml.DomainInterfaceVLan) string {
	if v == nil {
		return ""
	}
	return fmt.Sprintf("<vlan><tag id='%d'/></vlan>", v.Tags[0].ID)
}

// diskSource is where a disk is, as libvirt writes it.
func diskSource(v volumeSource) (kind, source string, err error) {
	made := diskOf("", 0, v)
	text, err := made.Marshal()
	if err != nil {
		return "", "", err
	}
	return sourceIn(text)
}

// interfaceSource is what an interface is attached to, as libvirt writes it.
func interfaceSource(i *libvirtxml.DomainInterface) (kind, source string, err error) {
	text, err := i.Marshal()
	if err != nil {
		return "", "", err
	}
	return sourceIn(text)
}

func sourceIn(text string) (kind, source string, err error) {
	x, err := readXMLText(text)
	if err != nil {
		return "", "", err
	}
	n := x.root.first("source")
	if n == nil {
		return "", "", errors.New("a device without a source")
	}
	return x.root.attr("type"), x.text[n.from:n.to], nil
}

// moving is our metadata element as libvirt wants to be given it, with every
// attribute that it has.
type moving struct {
	XMLName xml.Name   `xml:"machine"`
	Attrs   []xml.Attr `xml:",any,attr"`
}

// movingAttr names the operation that a domain was stopped for.
const movingAttr = "moving"

// noted answers our element with another note of the operation that moves it.
func noted(text, operation string) (element, was string, err error) {
	x, err := readXMLText(text)
	if err != nil {
		return "", "", err
	}
	m := noteOf(x)
	if m == nil {
		return "", "", errors.New("the domain has no metadata of ours")
	}
	was = m.attr(movingAttr)
	m.setAttr(movingAttr, operation)
	out := moving{}
	for _, a := range m.attrs {
		if a.Name.Space == "" && a.Name.Local != "xmlns" {
			out.Attrs = append(out.Attrs, a)
		}
	}
	raw, err := xml.Marshal(out)
	return string(raw), was, err
}
