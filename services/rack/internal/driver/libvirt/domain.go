package libvirt

import (
	"encoding/xml"
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// namespace of our metadata element on a domain.
const namespace = "https://vmhost.dev/xmlns/libvirt/1"

// domain is what this package reads of a domain's XML.
type domain struct {
	name, uuid   string
	uid          string // in our metadata, whatever UUID it is on
	adopted      string // in our metadata: the UUID that it was put on; empty on what we made
	bare         bool   // in our metadata: it had no metadata before
	hasMetadata  bool
	operation    string
	architecture string
	cores        int32
	memoryMiB    int64
	disks        []disk
	interfaces   []*vmhostv1.MachineInterface
	consoleLog   string
	functions    []pciAddress // virtual functions of the host that it has
	pinned       []int32
	hugepages    bool
	firmware     vmhostv1.Firmware
	secureBoot   bool
}

// ours says whether vmhost made the domain or adopted it. A clone carries a copy
// of our metadata and a UUID of its own.
func (d *domain) ours() bool {
	return d != nil && d.uid != "" && strings.EqualFold(firstOf(d.adopted, d.uid), d.uuid)
}

// is says whether the domain is the machine of a uid.
func (d *domain) is(uid string) bool { return d.ours() && strings.EqualFold(d.uid, uid) }

// disk is one disk of a domain: by volume, or by a file or device.
type disk struct {
	pool, volume string
	path         string
	backing      []string // what it is laid over, where libvirt shows that
	device       string
	boot         bool
}

// domainXML is the few parts of a domain's XML that are read. Everything is text
// and optional, so that a part that is unknown or strange never hides the rest:
// with a full model of the format, one attribute that a later libvirt writes
// differently would make the whole domain unreadable.
type domainXML struct {
	XMLName  xml.Name `xml:"domain"`
	Name     string   `xml:"name"`
	UUID     string   `xml:"uuid"`
	Metadata *struct {
		Machines []struct {
			XMLName   xml.Name
			UID       string `xml:"uid,attr"`
			UUID      string `xml:"uuid,attr"`
			Bare      string `xml:"bare,attr"`
			Operation string `xml:"operation,attr"`
		} `xml:",any"`
	} `xml:"metadata"`
	MaxMemory struct {
		Value string `xml:",chardata"`
		Unit  string `xml:"unit,attr"`
	} `xml:"maxMemory"`
	Memory struct {
		Value string `xml:",chardata"`
		Unit  string `xml:"unit,attr"`
	} `xml:"memory"`
	VCPU string `xml:"vcpu"`
	Pins []struct {
		VCPU string `xml:"vcpu,attr"`
		Set  string `xml:"cpuset,attr"`
	} `xml:"cputune>vcpupin"`
	HugePages *struct{} `xml:"memoryBacking>hugepages"`
	OS        struct {
		Firmware string `xml:"firmware,attr"`
		Type     struct {
			Arch string `xml:"arch,attr"`
		} `xml:"type"`
		Loader struct {
			Type   string `xml:"type,attr"`
			Secure string `xml:"secure,attr"`
			Path   string `xml:",chardata"`
		} `xml:"loader"`
		Features []struct {
			Name    string `xml:"name,attr"`
			Enabled string `xml:"enabled,attr"`
		} `xml:"firmware>feature"`
		Boot []bootDevXML `xml:"boot"`
	} `xml:"os"`
	Disks []struct {
		Device string `xml:"device,attr"`
		Source struct {
			File   string `xml:"file,attr"`
			Dev    string `xml:"dev,attr"`
			Pool   string `xml:"pool,attr"`
			Volume string `xml:"volume,attr"`
			Name   string `xml:"name,attr"`
			Dir    string `xml:"dir,attr"`
		} `xml:"source"`
		Target struct {
			Dev string `xml:"dev,attr"`
		} `xml:"target"`
		Boot    *bootXML    `xml:"boot"`
		Backing *backingXML `xml:"backingStore"`
	} `xml:"devices>disk"`
	Interfaces []struct {
		Type string `xml:"type,attr"`
		MAC  struct {
			Address string `xml:"address,attr"`
		} `xml:"mac"`
		Source struct {
			Network string `xml:"network,attr"`
			Bridge  string `xml:"bridge,attr"`
			Dev     string `xml:"dev,attr"`
			Mode    string `xml:"mode,attr"`
			// Of a device of the host that it is handed.
			Address pciAddressXML `xml:"address"`
		} `xml:"source"`
		VLAN struct {
			Tags []struct {
				ID string `xml:"id,attr"`
			} `xml:"tag"`
		} `xml:"vlan"`
		Boot *bootXML `xml:"boot"`
	} `xml:"devices>interface"`
	Serials []struct {
		Log struct {
			File string `xml:"file,attr"`
		} `xml:"log"`
	} `xml:"devices>serial"`
}

// bootDevXML is a kind of device that a domain boots from.
type bootDevXML struct {
	Dev string `xml:"dev,attr"`
}

// bootXML is the order of a device among those that a domain boots from.
type bootXML struct {
	Order string `xml:"order,attr"`
}

// parseDomain reads a domain's XML. What can be read of it is answered also when
// something cannot; err then says what.
func parseDomain(text string) (*domain, error) {
	var x domainXML
	if err := xml.Unmarshal([]byte(text), &x); err != nil {
		return nil, fmt.Errorf("read the domain's XML: %w", err)
	}
	var errs []error
	d := &domain{name: strings.TrimSpace(x.Name), uuid: strings.ToLower(strings.TrimSpace(x.UUID)), architecture: x.OS.Type.Arch}
	if x.Metadata != nil {
		d.hasMetadata = true
		for _, m := range x.Metadata.Machines {
			if m.XMLName.Space == namespace && m.XMLName.Local == "machine" && d.uid == "" {
				d.uid, d.adopted, d.operation, d.bare = strings.ToLower(m.UID), strings.ToLower(m.UUID), m.Operation, m.Bare == "true"
			}
		}
	}
	cores, err := strconv.ParseInt(strings.TrimSpace(x.VCPU), 10, 32)
	if err != nil || cores < 1 {
		errs = append(errs, fmt.Errorf("no number of virtual cores: %q", x.VCPU))
	} else {
		d.cores = int32(cores)
	}
	// With memory hotplug <maxMemory> is what the domain can be given from outside
	// only; <memory> is what it has and may use.
	if d.memoryMiB, err = mebibytes(x.Memory.Value, x.Memory.Unit); err != nil {
		errs = append(errs, err)
	}
	for _, k := range x.Disks {
		if k.Device == "cdrom" || k.Device == "floppy" {
			continue
		}
		s := k.Source
		d.disks = append(d.disks, disk{
			pool: s.Pool, volume: s.Volume, device: k.Target.Dev, path: firstOf(s.File, s.Dev, s.Name, s.Dir), boot: k.Boot != nil,
			backing: k.Backing.paths(),
		})
	}
	d.readPlacement(&x)
	for _, i := range x.Interfaces {
		out := &vmhostv1.MachineInterface{Mac: strings.ToLower(i.MAC.Address)}
		if hw, err := net.ParseMAC(i.MAC.Address); err == nil {
			out.Mac = hw.String()
		}
		switch i.Type {
		case "network":
			out.Kind, out.Source = vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK, i.Source.Network
		case "bridge":
			out.Kind, out.Source = vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE, i.Source.Bridge
		case "direct":
			out.Kind, out.Source, out.MacvlanMode = vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN, i.Source.Dev, macvlanModes[i.Source.Mode]
		case "hostdev":
			out.Kind = vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV
			if at, ok := i.Source.Address.read(); ok {
				d.functions = append(d.functions, at)
			}
		default:
			out.Source = firstOf(i.Source.Network, i.Source.Bridge, i.Source.Dev)
		}
		out.Boot = i.Boot != nil
		if len(i.VLAN.Tags) == 1 {
			if tag, err := strconv.ParseInt(i.VLAN.Tags[0].ID, 10, 16); err == nil {
				out.Vlan = int32(tag)
			}
		}
		d.interfaces = append(d.interfaces, out)
	}
	for _, s := range x.Serials {
		d.consoleLog = firstOf(d.consoleLog, s.Log.File)
	}
	return d, errors.Join(errs...)
}

var macvlanModes = map[string]vmhostv1.MacvlanMode{
	"bridge": vmhostv1.MacvlanMode_MACVLAN_MODE_BRIDGE, "private": vmhostv1.MacvlanMode_MACVLAN_MODE_PRIVATE,
	"vepa": vmhostv1.MacvlanMode_MACVLAN_MODE_VEPA, "passthrough": vmhostv1.MacvlanMode_MACVLAN_MODE_PASSTHRU,
}

func macvlanWord(mode vmhostv1.MacvlanMode) string {
	for word, m := range macvlanModes {
		if m == mode {
			return word
		}
	}
	return "bridge"
}

func firstOf(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}

// sizeUnits are libvirt's, in bytes; the default of memory is KiB.
var sizeUnits = map[string]uint64{
	"b": 1, "byte": 1, "bytes": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
	"": 1 << 10, "k": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mib": 1 << 20, "g": 1 << 30, "gib": 1 << 30, "t": 1 << 40, "tib": 1 << 40,
}

// mebibytes rounds up: what counts against a limit must not vanish.
func mebibytes(value, unit string) (int64, error) {
	factor, known := sizeUnits[strings.ToLower(unit)]
	n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
	if err != nil || !known || n > math.MaxInt64/factor {
		return 0, fmt.Errorf("no amount of memory: %q %q", value, unit)
	}
	bytes := n * factor
	mib := bytes >> 20
	if bytes%(1<<20) != 0 {
		mib++
	}
	return int64(mib), nil
}

// volumeOf finds the pool and volume of a disk that is given by a path.
func volumeOf(d disk, pools []pool) (poolName, volume string) {
	if d.volume != "" || d.path == "" {
		return d.pool, d.volume
	}
	cut := strings.LastIndexByte(d.path, '/')
	for _, p := range pools {
		if p.path != "" && cut >= 0 && d.path[:cut] == p.path {
			return p.name, d.path[cut+1:]
		}
	}
	return "", ""
}
